"""Slots made in advance: more starts than there are slots, a nursery that hangs or is gone, what is put off."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import helpers, patient, seen, wait_until

from ctlab.errors import ProgramNotFound
from ctlab.runtime import pool

pytestmark = pytest.mark.kernel


def nursery_of(lab: Any) -> int:
    """The nursery's pid: the oldest, since what it has just borne, a slot, is still called as it is."""
    return min(seen(lambda: helpers(lab, "nursery"), bool))


def links(host: Any) -> list[str]:
    """The node's links, by the kernel's own names at this moment."""
    return list(host.exec(["ls", "/sys/class/net"]).check().stdout.split())


def spares(host: Any) -> int:
    return sum(name.startswith("spare") for name in links(host))


def test_a_batch_larger_than_the_pool_gets_its_slots_and_their_names(fresh_lab: Any) -> None:
    host = fresh_lab.run(name="outside", networks="host")
    made = fresh_lab.run(count=40, name="w{n:02}")
    assert {c.state for c in made} == {"running"}
    assert made["w01"].exec(["ping", "-c", "1", "-W", "5", "w40"]).returncode == 0
    assert wait_until(lambda: sum(name.startswith("v") for name in links(host)) == 40), links(host)
    assert wait_until(lambda: spares(host) <= pool.MOST_SLOTS)
    for container in made:
        container.remove()
    assert wait_until(lambda: not any(name.startswith("v") for name in links(host)), 20), links(host)


def test_a_batch_that_fails_leaves_no_slots_that_nobody_wanted(fresh_lab: Any) -> None:
    host = fresh_lab.run(name="outside", networks="host")
    for _ in range(3):
        with pytest.raises(ProgramNotFound):
            fresh_lab.run(["/no/such/program"], count=30, name="w{n:02}")
    assert wait_until(lambda: 0 < spares(host) <= pool.MOST_SLOTS)
    time.sleep(0.2)
    assert wait_until(lambda: spares(host) <= pool.MOST_SLOTS)  # those nobody wants would stay for 20 s
    assert len(fresh_lab.containers) == 1 and fresh_lab.run().exec(["true"]).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_without_a_nursery_that_answers_containers_are_made_when_asked_for(fresh_lab: Any, number: int) -> None:
    nursery = nursery_of(fresh_lab)
    os.kill(nursery, number)
    made = [fresh_lab.run(name=f"one{n}") for n in range(9)]
    made += fresh_lab.run(count=9, name="many{n}")
    assert all(container.exec(["true"]).returncode == 0 for container in made)
    if number == signal.SIGSTOP:
        with contextlib.suppress(ProcessLookupError):  # stopped in the copy of the system, it has been replaced
            os.kill(nursery, signal.SIGCONT)
        host = fresh_lab.run(name="outside", networks="host")
        assert wait_until(lambda: spares(host) >= 6)


def test_a_nursery_that_hangs_holds_nobody_up(fresh_lab: Any) -> None:
    """More burials and names than its socket takes: who can't ask it does it himself."""
    nursery = nursery_of(fresh_lab)
    os.kill(nursery, signal.SIGSTOP)
    try:
        for _ in range(200):
            container = fresh_lab.run(["true"])
            assert container.wait(patient(5)) == 0
            container.remove()
        kept = fresh_lab.run(name="kept")
        host = fresh_lab.run(name="outside", networks="host")
    finally:
        with contextlib.suppress(ProcessLookupError):  # one that has been silent for too long was ended
            os.kill(nursery, signal.SIGCONT)
    assert wait_until(lambda: sum(name.startswith("v") for name in links(host)) == 1), links(host)
    assert kept.exec(["true"]).returncode == 0
    assert wait_until(lambda: spares(host) >= 6)


def test_housekeeping_that_is_put_off_is_done(fresh_lab: Any) -> None:
    """Ends that follow one another at once, more than are put off; then nobody calls."""
    fresh_lab.run(["true"]).wait(patient(5))
    folders = [Path(path) for path in fresh_lab._client.facts["cgroup_paths"]]

    def kept() -> list[str]:
        walked = (step for path in folders for step in os.walk(path))
        return [f"{base}/{name}" for base, names, _ in walked for name in names if name.startswith("c")]

    for _ in range(100):
        container = fresh_lab.run(["true"])
        container.wait(patient(5))
        container.remove()
        if folders:
            assert len(kept()) < 100 * len(folders)
    most = (pool.MOST_SLOTS + 2) * len(folders)  # a ready slot has its folders already
    assert wait_until(lambda: len(kept()) <= most, 20), kept()
    supervisor = f"/proc/{fresh_lab._client.facts['supervisor']}/fd"
    assert wait_until(lambda: len(os.listdir(supervisor)) < 40 + 7 * pool.MOST_SLOTS, 20)
