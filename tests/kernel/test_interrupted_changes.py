"""Changes interrupted at any moment: what the owner says afterwards is what the kernel has."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_controller, need_freezer, open_descriptors, patient, tries, wait_until

from ctlab import sampled_names
from ctlab.errors import CtlabError, StateError
from ctlab.plan.network import bridge_name, veth_name

# An interrupt inside of the library's socketpair, or of an import, leaves what nobody has a name of; its end closes it.
pytestmark = [pytest.mark.kernel, pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")]

Change = Callable[[], object]


def interrupted(change: Change, within: float) -> bool:
    """Make a change while an interrupt comes within so many seconds; whether the change returned before it came."""
    delay = random.random() * within
    told, tell = os.pipe()

    def interrupt() -> None:
        os.read(told, 1)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    returned = False
    try:
        os.write(tell, b"x")  # no lock of Python's is held here, which an interrupt could leave taken
        change()
        returned = True
        for _ in range(3000):  # a signal that comes just before a wait doesn't end it
            time.sleep(0.01)
    except KeyboardInterrupt:
        thread.join()
        os.close(told)
        os.close(tell)
        return returned
    raise AssertionError("the interrupt never came")


class Turns:
    """Numbers of turns: so many in the short form, or in the long, and more of them until an interrupt came in time.

    `returned` is for the caller to count the changes that were done before theirs came.
    """

    def __init__(self, short: int, long: int) -> None:
        self.returned = 0
        self._least, self._most = tries(short, long), 3 * long

    def __iter__(self) -> Iterator[int]:
        for number in range(self._most):
            if number >= self._least and self.returned < number:
                return
            yield number
        raise AssertionError("no interrupt came in time")


def agree(lab: Any) -> None:
    """Everything that the owner knows of containers, networks and addresses, against the kernel inside."""
    links = [link for link in lab.nodes["host"].links() if link["name"] != "lo"]
    bridges = {link["name"] for link in links if str(link["name"]).startswith("br-")}
    assert bridges == {bridge_name(network.name) for network in lab.networks}
    alive = [c for c in lab.containers if c.state in ("running", "paused")]
    wires = {link["name"] for link in links if link["name"] not in bridges}
    assert wires == {veth_name(c._instance, e.number) for c in alive for e in c.endpoints}
    for container in lab.containers:
        try:
            found = json.loads(container.exec(["ip", "-j", "addr"]).check().stdout)
        except StateError:
            assert container.state in ("exited", "paused")
            continue
        assert container.state == "running"
        inside = {
            entry["ifname"]: {f"{a['local']}/{a['prefixlen']}" for a in entry["addr_info"] if a["scope"] == "global"}
            for entry in found
        }
        assert inside == {"lo": set()} | {e.interface: set(e.addresses) for e in container.endpoints}
    for network in lab.networks:
        for pool in network.pools:
            handed_out = {f"{address}/{pool.subnet.prefixlen}" for address in pool.owners}
            taken = {a for c in lab.containers for e in c.endpoints if e.network == network.name for a in e.addresses}
            assert handed_out == {a for a in taken if (":" in a) == (pool.subnet.version == 6)}


def agree_soon(lab: Any) -> None:
    """`agree`, once links of what has just ended are gone."""

    wrong: list[AssertionError] = []

    def agrees() -> bool:
        try:
            agree(lab)
        except AssertionError as error:
            wrong[:] = [error]
            return False
        return True

    if not wait_until(agrees):
        raise wrong[0]


@pytest.fixture
def small(lab: Any) -> tuple[Any, Any]:
    """A lab with two networks, and a container on one of them."""
    lab.network("blue", subnet="10.60.0.0/24")
    lab.network("green", subnet="10.61.0.0/29")
    return lab, lab.run(["sleep", "600"], name="web", networks=["blue"])


def test_connect_and_disconnect(small: tuple[Any, Any]) -> None:
    lab, web = small
    green = lab.networks["green"]
    turns = Turns(15, 60)
    for _ in turns:
        change = green.disconnect if web in green.containers else green.connect
        turns.returned += interrupted(partial(change, web), 0.004)
        agree_soon(lab)


def test_networks_made_and_removed(small: tuple[Any, Any]) -> None:
    lab, web = small
    turns = Turns(16, 60)
    for number in turns:
        there = "red" in lab.networks
        change: Change = lab.networks["red"].remove if there else lambda: lab.network("red", ipv6=True)
        turns.returned += interrupted(change, 0.004)
        agree_soon(lab)
        if number % 2:  # whatever came of it, it can be made and used
            red = lab.networks["red"] if "red" in lab.networks else lab.network("red")
            red.connect(web)
            agree(lab)
            red.disconnect(web)


def test_start_stop_and_restart(small: tuple[Any, Any]) -> None:
    lab, web = small
    turns = Turns(12, 40)
    for _ in turns:
        change = web.restart if web.state == "running" else web.start
        turns.returned += interrupted(change, 0.025)
        if web.state == "running":  # a signal may be under way
            wait_until(lambda: web.state == "exited", 0.1)
        agree_soon(lab)
    web.start()
    assert web.kill().wait(patient(5)) == 137


def test_run_and_remove(small: tuple[Any, Any]) -> None:
    """An interrupted `run` leaves no container; an interrupted `remove` has removed it."""
    lab, _ = small
    numbers = itertools.count()
    began = time.monotonic()
    for name in ("a", "b", "c", "d"):
        lab.run(["sleep", "600"], name=name, networks=["green"])
    usual = (time.monotonic() - began) / 4  # so that about half of the interrupts come in time, on any machine
    for name in ("a", "b", "c", "d"):
        lab[name].remove()
    returned = 0
    for number in itertools.count():
        if number >= tries(12, 40) and 0 < returned < number:
            break
        assert number < 200, "the interrupts all came in time, or none did"
        name = f"x{next(numbers)}"

        def make(name: str = name) -> None:
            lab.run(["sleep", "600"], name=name, networks=["green"])

        returned += interrupted(make, (2 + number // 40) * usual)
        agree_soon(lab)
        if name in lab:
            interrupted(lab[name].remove, 0.01)
            agree_soon(lab)
            assert name not in lab or lab[name].state == "running"
            if name in lab:
                lab[name].remove()


def test_batches(small: tuple[Any, Any]) -> None:
    lab, _ = small
    for _ in range(tries(4, 8)):
        interrupted(lambda: lab.run(["sleep", "600"], count=6, name="b{n}", networks=["blue"]), 0.1)
        assert sum(c.name.startswith("b") for c in lab.containers) in (0, 6)
        agree_soon(lab)
        for container in list(lab.containers):
            if container.name.startswith("b"):
                container.remove()


def test_pause_and_rename(small: tuple[Any, Any]) -> None:
    lab, web = small
    need_freezer(lab)
    for number in range(tries(12, 30)):
        interrupted(web.unpause if web.state == "paused" else web.pause, 0.002)
        agree(lab)
        if web.state == "running":
            interrupted(partial(web.rename, f"web{number}"), 0.002)
            assert lab.networks["blue"].pools[0].owner(web.addresses["blue"]) == web.name
            agree(lab)


def test_copies(small: tuple[Any, Any], tmp_path: Path) -> None:
    """Neither a thread nor a descriptor stays here, nor a process in the container."""
    _, web = small
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(20):
        (folder / f"f{number}").write_bytes(os.urandom(10_000))
    web.copy_in(folder, "/srv")
    copies: tuple[Change, ...] = (
        lambda: web.copy_in(folder, "/srv/again"), lambda: web.copy_out("/srv/folder", tmp_path / "out"),
        lambda: web.write("/srv/written", "x" * 300_000),
    )  # fmt: skip
    usual = []
    for copy in copies:
        began = time.monotonic()
        copy()
        usual.append(time.monotonic() - began)
    threads, descriptors = threading.active_count(), open_descriptors()  # one of them may be a connection's, kept open
    returned = turns = 0
    for turns in range(tries(120, 900)):
        returned += interrupted(copies[turns % 3], 1.5 * usual[turns % 3])
    assert 0 < returned <= turns
    assert wait_until(lambda: threading.active_count() <= threads and open_descriptors() <= descriptors)
    assert wait_until(lambda: [process["command"] for process in web.top()] == ["sleep 600"]), web.top()
    for copy in copies:
        copy()


def memory_limit(container: Any) -> int:
    version = container.lab._client.facts["cgroup"]
    for line in Path(f"/proc/{container.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if version == "v1" and "memory" in controllers.split(","):
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
        if version == "v2" and not controllers:
            return int(Path(f"/sys/fs/cgroup{path}/memory.max").read_text())
    raise AssertionError("no memory controller")


def test_limits(small: tuple[Any, Any]) -> None:
    lab, web = small
    need_controller(lab, "memory")
    for megabytes in range(64, 64 + tries(12, 30)):
        interrupted(partial(web.update, memory=f"{megabytes}M"), 0.002)
        if web.limits.memory_bytes is not None:  # the first one may have been undone
            assert memory_limit(web) == web.limits.memory_bytes
        agree(lab)


def test_a_supervisor_that_is_stuck_holds_no_interrupt_up_for_ever(small: tuple[Any, Any], monkeypatch: Any) -> None:
    """The wait for it ends; what was begun is undone, or done, once it goes on."""
    from ctlab.whole import Deferred

    lab, web = small
    green, supervisor = lab.networks["green"], lab._client.facts["supervisor"]
    monkeypatch.setattr(Deferred, "LIMIT_SECONDS", 0.3)
    changes: list[tuple[Change, Callable[[], bool]]] = [
        (lambda: green.connect(web), lambda: web in green.containers),
        (lambda: lab.network("red"), lambda: "red" in lab.networks),
        (lambda: lab.run(["sleep", "600"], name="new", networks=["green"]), lambda: "new" in lab),
        (lambda: lab.run(["sleep", "600"], name="n{n}", count=3, networks=["green"]), lambda: "n1" in lab),
    ]
    for change, there in changes:
        almost_swept(lab)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            began = time.monotonic()
            # The second one is for what takes it back, which waits as well: it comes when that has long begun.
            threading.Timer(patient(1.5), os.kill, (os.getpid(), signal.SIGINT)).start()
            woken = threading.Timer(patient(8), os.kill, (supervisor, signal.SIGCONT))  # a failure, and no hanging
            woken.start()
            assert not interrupted(change, 0.1)
            assert time.monotonic() - began < patient(4)
            woken.cancel()
            wait_for_timers()
        finally:
            os.kill(supervisor, signal.SIGCONT)
        assert not there()
        agree_soon(lab)
        change()
        assert there()
        agree_soon(lab)
    for change, there in (
        (lambda: green.disconnect(web), lambda: web in green.containers),
        (lambda: lab.networks["red"].remove(), lambda: "red" in lab.networks),
        (lambda: lab["new"].remove(), lambda: "new" in lab),
    ):
        almost_swept(lab)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            assert not interrupted(change, 0.1)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        assert not there()
        agree_soon(lab)


def almost_swept(lab: Any) -> None:
    """One more name of a counter that goes, and those without a row are looked for, which asks the inside."""
    for kind in lab._removed:
        kind.add(range(1_000_000, 1_000_000 + sampled_names.SWEEP_AFTER - 1 - len(kind)))


def wait_for_timers() -> None:
    """Let interrupts that were ordered come, if they have not yet."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            try:
                thread.join()
                time.sleep(0.01)
            except KeyboardInterrupt:
                pass


def test_a_start_that_fails_leaves_it_as_it_was(lab: Any, tmp_path: Path) -> None:
    """A mount's source that is gone by the next start."""
    source = tmp_path / "source"
    source.mkdir()
    tmp_path.chmod(0o755)
    ended = lab.run(["sh", "-c", "exit 7"], mounts=[f"{source}:/mnt/here"])
    assert ended.wait(patient(5)) == 7
    source.rmdir()
    with pytest.raises(CtlabError):
        ended.start()
    assert (ended.state, ended.returncode, ended.wait(patient(5))) == ("exited", 7, 7)
    source.mkdir()
    assert ended.start().wait(patient(5)) == 7
