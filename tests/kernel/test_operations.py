"""Operations on the kernel: the unknown is refused with nothing done, what fails or is taken back leaves nothing."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from kernel_help import wait_until

from ctlab.errors import CtlabError, KernelError
from ctlab.plan import network, ops, start
from ctlab.runtime import messages
from ctlab.spec import NetworkSpec

pytestmark = pytest.mark.kernel
RED = NetworkSpec("red", "bridge", ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1/24", "fd77::1/64"))


class Elsewhere(NamedTuple):
    """An operation that nobody knows."""

    place: str


def perform(lab: Any, operations: list[Any]) -> None:
    lab._call(messages.Perform(ops.encode(operations)), messages.Ok)


def node(eye: Any) -> Any:
    """All links of the node (but spare ones) with their addresses, and who listens for names there."""
    links = json.loads(eye.exec(["ip", "-j", "addr"]).check().stdout)
    kept = [one for one in links if not one["ifname"].startswith("spare")]
    return [(one["ifname"], one["addr_info"]) for one in kept], eye.exec(["ss", "-Hulpn"]).check().stdout


@pytest.fixture
def eye(lab: Any) -> Any:
    """A container that sees the node."""
    return lab.run(name="eye", network="host")


def test_a_plan_forward_and_back_is_nothing(lab: Any, eye: Any) -> None:
    before = node(eye)
    perform(lab, network.create(RED))
    between = node(eye)
    assert "br-red" in dict(between[0]) and "10.77.0.1:53" in between[1]
    perform(lab, network.remove(RED))
    assert node(eye) == before != between


def test_an_unknown_operation_of_a_node_is_refused_with_nothing_done(lab: Any, eye: Any) -> None:
    before = node(eye)
    with pytest.raises(
        CtlabError, match=r"^UnknownOperation: a plan takes no operation tuple: \('Elsewhere', 'there'\)$"
    ):
        perform(lab, [*network.create(RED), Elsewhere("there")])
    with pytest.raises(CtlabError, match=r"^UnknownOperation: a node takes no operation Hostname: "):
        perform(lab, [*network.create(RED), ops.Hostname("x")])
    assert node(eye) == before
    lab.run(["true"]).wait()


def test_an_unknown_order_of_a_container_is_refused_with_nothing_left(
    lab: Any, eye: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run(name="web")
    # Its link has a spare's name for some milliseconds more.
    assert wait_until(lambda: any(name.startswith("v") for name, _ in node(eye)[0]))
    before, orders = node(eye), start.inside
    for foreign in (ops.PivotRoot(), ops.Overlay("/usr", "/usr"), ops.MakeBridge("b", "", 1500)):
        monkeypatch.setattr(start, "inside", lambda *given, foreign=foreign: [foreign, *orders(*given)])
        with pytest.raises(
            CtlabError, match=f"UnknownOperation: a container takes no operation {type(foreign).__name__}"
        ):
            lab.run(name="odd")
    monkeypatch.undo()
    assert [one.name for one in lab.containers] == ["eye", "web"]
    assert wait_until(lambda: node(eye) == before), node(eye)  # links go with their namespace, in the background
    assert lab.run(name="odd").exec(["hostname"]).check().stdout == "odd\n"


def test_a_root_takes_what_no_container_has_asked_for_yet(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that the product doesn't give today, performed by the table alone."""
    orders = start.inside
    shm = [ops.Mount("tmpfs", "/dev/shm", ["nosuid"], "mode=1777,size=5m"), ops.SymbolicLink("/tmp/here", "/dev/shm")]
    monkeypatch.setattr(start, "inside", lambda *given: [*shm, *orders(*given)])
    said = lab.run().exec(["sh", "-c", "df -k /tmp/here/ | tail -1"]).check().stdout.split()
    assert (said[1], said[-1]) == ("5120", "/dev/shm")


def test_what_fails_is_taken_back_and_what_was_there_stays(lab: Any, eye: Any) -> None:
    perform(lab, network.create(RED))
    before = node(eye)
    blue = NetworkSpec("blue", "bridge", ("10.78.0.0/24",), ("10.78.0.1/24",))
    with pytest.raises(KernelError, match="EEXIST"):
        perform(lab, [*network.create(blue), ops.MakeBridge("br-red", "02:00:00:00:00:01", 1500)])
    assert node(eye) == before  # br-blue and its name service are gone, br-red is as it was
    with pytest.raises(KernelError, match="ENODEV"):
        perform(lab, [*network.create(blue), ops.AddAddress("nowhere", "10.0.0.1/24")])
    assert node(eye) == before
    perform(lab, network.remove(RED))
