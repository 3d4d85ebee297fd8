"""One container's cgroup on the real kernel: joins, limits, out of memory, throttling; version 2's files."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cgroup_world import MIB, World, apply, eat, spin, wait_until

from ctlab.kernel import cgroup_mounts, cgroup_v2, syscalls
from ctlab.kernel.cgroup import ContainerCgroup, LabFolders
from ctlab.plan import limits as lim
from ctlab.plan.limits import Limits

pytestmark = pytest.mark.kernel


def test_join_puts_a_child_in_every_hierarchy(world: World) -> None:
    cgroup = world.container()
    pid = world.sleeper(cgroup)
    own = cgroup_mounts.own_paths(Path(f"/proc/{pid}/cgroup").read_text())
    for name, path in world.lab.folders.items():
        joined = own["" if name == "unified" else name].endswith(f"/{os.path.basename(path)}/{cgroup.id}")
        assert joined == (name not in ("cpuset", "freezer")), (name, own)
    assert cgroup.pids() == [pid]
    assert cgroup.remove(0) is False  # a process is inside: nothing is forced
    cgroup.kill()
    assert os.waitstatus_to_exitcode(world.wait(pid)) == -signal.SIGKILL
    assert cgroup.remove() is True


def test_a_child_is_born_in_the_version_2_folder(world: World) -> None:
    cgroup = world.container()
    if cgroup.clone_fd is None:
        pytest.skip("no cgroup v2 tree on this machine")
    pid, pidfd = syscalls.clone3(0, cgroup.clone_fd)
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.close(pidfd)
    world.children.append(pid)
    cgroup.close()
    own = cgroup_mounts.own_paths(Path(f"/proc/{pid}/cgroup").read_text())
    assert own[""].endswith(f"/{cgroup.id}")
    assert cgroup.pids() == [pid]


def test_limits_are_what_the_files_say(world: World) -> None:
    cgroup = world.container()
    version = world.lab.version
    wanted = Limits(cpus=0.25, cpu_shares=512, cpuset_cpus="0", memory_bytes=64 * MIB, pids_limit=50)
    writes = lim.plan(wanted, version)
    apply(cgroup, writes)
    for write in writes:
        assert cgroup.read(write.controller, write.file) == write.value, write
    for step in (
        Limits(memory_bytes=32 * MIB, cpus=1.5),
        Limits(memory_bytes=128 * MIB, pids_limit=7),
        Limits(),
    ):
        apply(cgroup, lim.changes(wanted, step, version))
        wanted = step
        for write in lim.plan(step, version):
            assert cgroup.read(write.controller, write.file) == write.value, write
    if version == "v1":
        assert cgroup.read("cpu", "cpu.cfs_quota_us") == "-1"
        assert int(cgroup.read("memory", "memory.memsw.limit_in_bytes")) > 1 << 60
        above = Path(world.lab.folders["cpuset"], "cpuset.cpus").read_text().strip()
        assert cgroup.read("cpuset", "cpuset.cpus") == above


def test_the_printed_commands_do_the_same(world: World) -> None:
    by_us, by_hand = world.container(), world.container()
    writes = lim.plan(Limits(cpus=0.3, cpu_shares=100, memory_bytes=48 * MIB, pids_limit=9), world.lab.version)
    apply(by_us, writes)
    for write in writes:
        parent = world.lab.folders[write.controller if world.lab.version == "v1" else "unified"]
        subprocess.run(["sh", "-ec", lim.command(write, f"{parent}/{by_hand.id}")], check=True)
    for write in writes:
        assert by_us.read(write.controller, write.file) == by_hand.read(write.controller, write.file) == write.value


def test_a_child_is_killed_for_memory(world: World) -> None:
    cgroup, other = world.container(), world.container()
    apply(cgroup, lim.plan(Limits(memory_bytes=24 * MIB), world.lab.version))
    assert cgroup.oom_kills() == 0
    pid = world.child(cgroup, lambda: eat(64 * MIB))
    assert os.waitstatus_to_exitcode(world.wait(pid, 10)) == -signal.SIGKILL
    grown = cgroup.oom_kills()
    assert grown is not None and grown > 0
    assert other.oom_kills() == 0


def test_the_quota_throttles(world: World) -> None:
    cgroup = world.container()
    apply(cgroup, lim.plan(Limits(cpus=0.1), world.lab.version))
    start = time.monotonic()
    pid = world.child(cgroup, lambda: spin(0.6))
    world.wait(pid, 10)
    stat = cgroup_v2.counters(cgroup.read("cpu", "cpu.stat"))
    assert stat["nr_throttled"] > 0
    if world.lab.version == "v1":
        used = int(cgroup.read("cpuacct", "cpuacct.usage")) / 1e9
    else:
        used = stat["usage_usec"] / 1e6
    assert 0.01 < used < 0.5 * (time.monotonic() - start)


def test_the_number_of_processes_is_limited(world: World) -> None:
    cgroup = world.container()
    apply(cgroup, lim.plan(Limits(pids_limit=2), world.lab.version))

    def fork_twice() -> None:
        if os.fork() == 0:
            time.sleep(60)
        try:
            os.fork()
        except OSError as error:
            os._exit(10 if error.errno == errno.EAGAIN else 11)
        os._exit(12)

    pid = world.child(cgroup, fork_twice)
    assert os.waitstatus_to_exitcode(world.wait(pid)) == 10


def test_a_memory_limit_below_the_usage_is_refused(world: World) -> None:
    cgroup = world.container()
    before = Limits(memory_bytes=128 * MIB)
    apply(cgroup, lim.plan(before, world.lab.version))
    world.child(cgroup, lambda: eat(40 * MIB))
    wait_until(lambda: (cgroup.usage_bytes() or 0) >= 40 * MIB)
    writes = lim.changes(before, Limits(memory_bytes=8 * MIB), world.lab.version)
    if (usage := cgroup.squeeze(8 * MIB)) is not None:
        assert usage > 39 * MIB  # version 2: the caller compares and doesn't write
        text = str(lim.below_usage(8 * MIB, usage))
    else:
        with pytest.raises(OSError) as caught:
            apply(cgroup, writes)
        assert caught.value.errno == errno.EBUSY
        text = str(lim.refused(writes[0], caught.value.errno, cgroup.usage_bytes()))
        assert int(cgroup.read("memory", "memory.limit_in_bytes")) == 128 * MIB
    assert re.match(r"memory='8M' is below what the container uses: (39|4\d)", text), text
    assert cgroup.oom_kills() == 0


def test_a_late_cpuset_moves_what_runs(world: World) -> None:
    cgroup = world.container()
    pid = world.sleeper(cgroup)
    if not (cgroup.has("cpuset")):
        pytest.skip(f"no cpuset controller in this {world.lab.version} lab")
    online = sorted(os.sched_getaffinity(0))
    apply(cgroup, lim.plan(Limits(cpuset_cpus=str(online[0])), world.lab.version))
    assert os.sched_getaffinity(pid) == {online[0]}
    apply(cgroup, lim.changes(Limits(cpuset_cpus=str(online[0])), Limits(), world.lab.version))
    assert os.sched_getaffinity(pid) == set(online)
    # Written before the join, the child is born into it.
    early = world.container()
    apply(early, lim.plan(Limits(cpuset_cpus=str(online[-1])), world.lab.version))
    assert os.sched_getaffinity(world.sleeper(early)) == {online[-1]}


# -- version 2's files, on a plain folder: they are right also where the kernel has no controllers ---------------------


def test_version_2_writes_the_right_files(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    limits = Limits(cpus=0.5, cpu_shares=1024, cpuset_cpus="0", memory_bytes=64 * MIB, pids_limit=10)
    for write in lim.plan(limits, "v2"):
        (tmp_path / "c" / write.file).write_text("something longer than what is written\n")
    (tmp_path / "cpuset.cpus.effective").write_text("0-7\n")
    (tmp_path / "c" / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    (tmp_path / "c" / "memory.current").write_text("50000000\n")
    (tmp_path / "c" / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n")
    (tmp_path / "c" / "memory.reclaim").write_text("")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        cgroup = ContainerCgroup(LabFolders({"unified": fd}, "v2"), "c")
        cgroup.in_unified = True
        apply(cgroup, lim.plan(limits, "v2"))
        files = {write.file: cgroup.read(write.controller, write.file) for write in lim.plan(limits, "v2")}
        assert files == {
            "cpuset.cpus": "0", "cpu.weight": "100", "cpu.max": "50000 100000", "memory.swap.max": "0",
            "memory.oom.group": "1", "memory.max": "67108864", "pids.max": "10",
        }  # fmt: skip
        apply(cgroup, lim.undo(Limits(), limits, "v2"))
        assert {write.file: cgroup.read(write.controller, write.file) for write in lim.plan(limits, "v2")} == {
            "cpuset.cpus": "0-7", "cpu.weight": "100", "cpu.max": "max 100000", "memory.swap.max": "max",
            "memory.oom.group": "0", "memory.max": "max", "pids.max": "max",
        }  # fmt: skip
        assert (cgroup.has("memory"), cgroup.has("io")) == (True, False)
        assert (cgroup.usage_bytes(), cgroup.oom_kills()) == (50_000_000, 2)
        assert cgroup.squeeze(40_000_000) == 50_000_000
        assert (tmp_path / "c" / "memory.reclaim").read_text() == "10000000"
        with pytest.raises(OSError, match="write '5'") as caught:
            cgroup.write("io", "io.max", "5")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "c/io.max")
        assert cgroup.lab.stat_folders() == ("cgroup-v2", {"unified": fd})
    finally:
        os.close(fd)
