"""A container of ctlab reaches no more than one of podman, found by doing, on every leg; exceptions have a reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import wall_table
from kernel_help import uses
from wall_exceptions import EXCEPTIONS, OF_A_VM, OF_THE_SYSTEM
from wall_reports import LEGS, Reports, call_names, in_a_vm

pytestmark = pytest.mark.kernel
WAYS = ("run", "exec", "bridge")
KNOWN = [row.facts for row in EXCEPTIONS]


def pairs(reports: Reports, legs: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
    """What ctlab reaches beyond podman: which leg and way, and the facts."""
    for leg in legs:
        theirs = reports[leg]["podman"]
        for way in WAYS:
            if way in reports[leg]["ctlab"]:
                ours = reports[leg]["ctlab"][way]
                yield f"{leg}, {way}", wall_table.excess(ours, theirs.get(way, theirs["run"]), call_names())


@pytest.mark.parametrize("leg", LEGS)
def test_ctlab_reaches_no_more_than_podman(reports: Reports, leg: str) -> None:
    more = {where: wall_table.unexplained(facts, KNOWN) for where, facts in pairs(reports, (leg,))}
    assert {where: facts for where, facts in more.items() if facts} == {}
    uses("beside podman")


def test_every_known_difference_is_there(reports: Reports) -> None:
    """An exception that isn't needed is taken out, and what was shut doesn't come back unseen."""
    found = {fact for _, facts in pairs(reports, tuple(LEGS)) for fact in facts}
    assert wall_table.unused(found, KNOWN) == []


@pytest.mark.parametrize("leg", LEGS)
def test_what_the_system_image_adds(reports: Reports, leg: str) -> None:
    ours = reports[leg]["ctlab"]
    more = wall_table.excess(ours["system"], ours["run"], call_names())
    patterns = [row.facts for row in OF_THE_SYSTEM]
    assert (wall_table.unexplained(more, patterns), wall_table.unused(more, patterns)) == ([], [])


def test_the_probe_sees_what_is_there_to_be_seen(reports: Reports) -> None:
    """What it would say of a weak wall: the other sides are one, here and there."""
    facts, names = wall_table.facts, call_names()
    if "root" in reports:
        rootful = facts(reports["root"]["podman"]["run"], names)
        assert {"user ids are the machine's", "reads the notebook's secret by its serial"} <= rootful
    rootless = facts(reports["ids"]["podman"]["run"], names)
    assert {"clone user", "mounts tmpfs, in a user namespace of its own", "joins a session of keys"} <= rootless
    bubblewrap = facts(reports["ids"]["bubblewrap"]["run"], names)
    assert {"no filter of system calls", "sees the process bwrap", "makes an io_uring", "call bpf"} <= bubblewrap
    assert {"reads the secret in its session of keys", "looks into the parent: mem"} <= bubblewrap
    for leg in reports.values():
        for side in leg.values():
            for report in side.values():
                assert len(report["calls"]) > 400 and len(report["reach"]) > 500
                assert "call getpid" in facts(report, names), "what everybody may"


def test_a_wall_that_is_lower_is_noticed() -> None:
    """The comparison itself, on reports that are made up."""
    low = {"calls": {"1": "ok", "2": "EINVAL", "3": "EPERM"}, "reach": ["a", "b"], "amounts": {"x": 2, "y": 1},
           "mounts": {"/": ["write"], "/dev": ["execute"], "/tmp": ["write"]}}  # fmt: skip
    high = {"calls": {"1": "ok", "2": "ENOSYS", "3": "EFAULT"}, "reach": ["b", "c"], "amounts": {"x": 1, "y": 1},
            "mounts": {"/": ["write"], "/dev": []}}  # fmt: skip
    names = {1: "one", 2: "two", 3: "three"}
    more = wall_table.excess(low, high, names)
    assert more == {"a", "call two", "mount /dev allows: execute", "more of x"}
    assert wall_table.excess(high, low, names) == {"c", "call three"}
    assert wall_table.excess(low, low, names) == set()
    assert wall_table.unexplained(more, ["mount * allows: execute", "call *"]) == ["a", "more of x"]
    assert wall_table.unused(more, ["call *", "call three", "a"]) == ["call three"]
    assert wall_table.matches("reads [x] (y)", "reads [x] (*") and not wall_table.matches("reads x", "reads [x]")


# -- in a VM: another kernel, and the VM's wall behind the container's -------------------------------------------------
@pytest.fixture(scope="module")
def of_a_vm() -> dict[str, Any]:
    """Made once: a machine is booted for it."""
    from ctlab.errors import CtlabError
    from ctlab.vm import prepare, programs

    try:
        programs.find()
    except CtlabError as error:
        pytest.skip(str(error))
    prepare.prepare()
    return in_a_vm()


@pytest.mark.long  # a boot of its own; the wall is the one of all labs
@pytest.mark.vm
def test_in_a_vm_it_reaches_no_more(reports: Reports, of_a_vm: dict[str, Any]) -> None:
    more = wall_table.excess(of_a_vm, reports["ids"]["podman"]["run"], call_names())
    own = [row.facts for row in OF_A_VM]
    assert wall_table.unexplained(more, [*own, *KNOWN]) == []
    assert wall_table.unused(more, own) == []


@pytest.mark.long  # a boot of its own; the wall is the one of all labs
@pytest.mark.vm
def test_what_is_the_machines_is_out_of_its_sight(of_a_vm: dict[str, Any]) -> None:
    """Neither its namespaces nor its sockets, files and the port through which the VM is spoken to."""
    reached = [fact for fact in of_a_vm["reach"] if "the machine's" in fact or fact.endswith("of the machine")]
    assert [fact for fact in reached if "namespace time" not in fact] == []
    assert "talks to the host of a virtual machine" not in of_a_vm["reach"]
    devices = {fact.split()[-1].partition(":")[0] for fact in of_a_vm["reach"] if " device " in fact}
    assert devices <= {"c1", "c5"}, "memory's harmless ones and terminals, no port"
