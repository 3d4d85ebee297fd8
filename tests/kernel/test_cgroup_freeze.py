"""Control groups on the real kernel: freezing, thawing, killing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cgroup_world import World, apply, wait_until

from ctlab.kernel import cgroup_v1
from ctlab.plan import limits as lim
from ctlab.plan.limits import Limits

pytestmark = pytest.mark.kernel


def counter(path: str) -> Callable[[], None]:
    def count() -> None:
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(b".")
                time.sleep(0.002)

    return count


def test_freeze_stops_and_thaw_goes_on_and_kill_ends_a_frozen_one(world: World, tmp_path: Path) -> None:
    cgroup, path = world.container(), str(tmp_path / "ticks")
    pid = world.child(cgroup, counter(path))
    wait_until(lambda: os.path.exists(path))
    cgroup.freeze()
    assert cgroup.frozen()
    size = os.path.getsize(path)
    time.sleep(0.1)
    assert os.path.getsize(path) == size
    cgroup.thaw()
    assert not cgroup.frozen()
    wait_until(lambda: os.path.getsize(path) > size)
    cgroup.freeze()
    cgroup.kill()
    assert os.waitstatus_to_exitcode(world.wait(pid)) == -signal.SIGKILL
    assert cgroup.remove()


def test_version_1_freezer_holds_the_dying_until_thawed(world_v1: World, tmp_path: Path) -> None:
    cgroup, path = world_v1.container(), str(tmp_path / "ticks")
    assert cgroup.clone_fd is None
    pid = world_v1.child(cgroup, counter(path))
    wait_until(lambda: os.path.exists(path))
    cgroup.freeze()
    assert cgroup.frozen()
    os.kill(pid, signal.SIGKILL)
    assert world_v1.alive(pid), "a frozen process of version 1 died: the trap is gone, and this code can be simpler"
    cgroup.kill()
    assert os.waitstatus_to_exitcode(world_v1.wait(pid)) == -signal.SIGKILL
    assert cgroup.remove()


def test_kill_ends_a_family_that_forks(world_v1: World) -> None:
    cgroup = world_v1.container()
    apply(cgroup, lim.plan(Limits(pids_limit=30), "v1"))

    def bomb() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            with contextlib.suppress(OSError):
                if os.fork() == 0:
                    time.sleep(0.005)
                    continue
            time.sleep(0.002)

    pid = world_v1.child(cgroup, bomb)
    wait_until(lambda: len(cgroup.pids()) > 3)
    cgroup.kill()
    world_v1.wait(pid)
    assert cgroup.remove()


def test_a_freeze_that_does_not_come_true_is_taken_back(world: World) -> None:
    if world.lab.version != "v1" or world.folders.unified is None:
        pytest.skip(f"needs a hybrid machine to hold a process still; this one has {world.lab.version}")
    # What the freezer of version 1 holds can't reach the point at which version 2 counts it as frozen.
    cgroup = world.folders.make("held", ["freezer"])
    pid = world.sleeper(cgroup)
    cgroup_v1.set_frozen(cgroup.controllers["freezer"], cgroup.id, True)
    with pytest.raises(TimeoutError, match=r"freeze: not done after 0\.05 s"):
        cgroup.freeze(timeout=0.05)
    assert cgroup.read("unified", "cgroup.freeze") == "0"
    cgroup_v1.set_frozen(cgroup.controllers["freezer"], cgroup.id, False)
    cgroup.freeze()
    cgroup.thaw()
    assert world.alive(pid, 0.01)
