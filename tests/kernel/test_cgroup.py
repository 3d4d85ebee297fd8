"""Control groups on the real kernel: folders, joins, limits, freezing, killing, pruning; as root and as a user."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctlab.errors import KernelError
from ctlab.kernel import cgroup_discover as discover_module
from ctlab.kernel import cgroup_v1, cgroup_v2, syscalls
from ctlab.kernel.cgroup import ContainerCgroup, LabCgroup, LabFolders, _leave, make_lab, prune
from ctlab.kernel.cgroup_discover import Delegation, discover
from ctlab.plan import limits as lim
from ctlab.plan.limits import Limits

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
MAPPED = 3_900_000_000  # an id that no account has, to be the lab's root


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes folders in hierarchies that belong to root")


class World:
    """A lab with folders, its descriptors, and the children that a test starts; all gone afterwards."""

    def __init__(self, delegation: Delegation) -> None:
        self.delegation = delegation
        self.lab: LabCgroup = make_lab(delegation, f"test-{os.getpid()}-{time.monotonic_ns()}", 0, 0)
        self.fds = self.lab.open()
        self.folders = LabFolders(self.fds, self.lab.version)
        self.children: list[int] = []
        self.number = 0

    def container(self) -> ContainerCgroup:
        self.number += 1
        return self.folders.make(f"c{self.number}")

    def child(self, cgroup: ContainerCgroup, body: Callable[[], None]) -> int:
        """Fork; the child joins and then runs `body`. Returns once it has joined."""
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                cgroup.join()
                os.write(go, b"j")
                body()
                status = 0
            finally:
                os._exit(status)
        self.children.append(pid)
        os.close(go)
        assert os.read(ready, 1) == b"j", "the child could not join"
        os.close(ready)
        return pid

    def sleeper(self, cgroup: ContainerCgroup) -> int:
        return self.child(cgroup, lambda: time.sleep(60))

    def wait(self, pid: int, timeout: float = 5.0) -> int:
        """The child's wait status; fails if it does not end in time."""
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            assert poll.poll(timeout * 1000), f"{pid} is still alive after {timeout} s"
        finally:
            os.close(fd)
        self.children.remove(pid)
        return os.waitpid(pid, 0)[1]

    def alive(self, pid: int, seconds: float = 0.1) -> bool:
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return not poll.poll(seconds * 1000)
        finally:
            os.close(fd)

    def close(self) -> None:
        left = prune(self.lab.paths(), 0.0)  # sends the signals; the children still have to be reaped
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        left = self.lab.remove()
        for fd in self.fds.values():
            os.close(fd)
        assert left == []
        assert not [path for path in self.lab.paths() if os.path.exists(path)]


@pytest.fixture(scope="module")
def delegation() -> Iterator[Delegation]:
    need_root()
    found = discover()
    if found.version == "none":
        pytest.skip(f"no cgroup for limits here: {found.reason}")
    # Every test makes a lab of its own from it; a keeper has one, and leaves its leaf with that.
    yield found._replace(leaf=None)
    if found.leaf is not None:
        _leave(found.leaf)
        assert not os.path.exists(found.leaf)


@pytest.fixture
def world(delegation: Delegation) -> Iterator[World]:
    it = World(delegation)
    yield it
    it.close()


@pytest.fixture
def world_v1(delegation: Delegation) -> Iterator[World]:
    """Version 1 alone, as on a machine without a version 2 tree."""
    if delegation.version != "v1":
        pytest.skip(f"needs cgroup v1 controllers, this machine has {delegation.version}")
    it = World(delegation._replace(unified=None))
    yield it
    it.close()


def apply(cgroup: ContainerCgroup, writes: list[lim.WriteCgroup]) -> None:
    for write in writes:
        try:
            cgroup.write(write.controller, write.file, write.value)
        except FileNotFoundError:
            if not write.optional:
                raise


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def eat(size: int) -> None:
    """Touch `size` bytes and keep them."""
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    time.sleep(60)


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"did not come true within {timeout:g} s"
        time.sleep(0.005)


def folder_tree() -> set[str]:
    """The folders that this process has made to probe, in all hierarchies, for "nothing is left"."""
    found = set()
    for mount in discover_module.mounts(Path("/proc/self/mountinfo").read_text()):
        for base, names, _ in os.walk(mount.point):
            found |= {os.path.join(base, name) for name in names if name.startswith(f"ctlab-probe-{os.getpid()}-")}
    return found


# -- discovery ---------------------------------------------------------------------------------------------------------


def test_discover_as_root_finds_writable_parents_and_leaves_nothing() -> None:
    need_root()
    before = Path("/proc/self/cgroup").read_text()
    found = discover(probe=True)
    assert folder_tree() == set()
    assert Path("/proc/self/cgroup").read_text() == before
    assert found.version in ("v1", "v2"), found.reason
    assert {"cpu", "memory", "pids"} <= set(found.controllers)
    assert all(os.path.isdir(path) for path in found.parents.values()) or found.how == "scope"
    if found.version == "v1":
        own = discover_module.own_paths(before)
        assert found.parents["memory"].endswith(own["memory"].rstrip("/"))


def test_discovery_reads_the_texts_of_other_machines() -> None:
    # systemd's version 2, a hybrid with controllers mounted together, and a container's read-only view.
    unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
    both = "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    inside = "40 39 0:28 /docker/ab /sys/fs/cgroup/my\\040memory ro,nosuid - cgroup cgroup rw,memory\n"
    one, two, three = discover_module.mounts("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + unified + both + inside)
    assert (one.version, one.point, one.controllers, one.read_only) == (2, "/sys/fs/cgroup", frozenset(), False)
    assert two.controllers == {"cpu", "cpuacct"}
    assert (three.point, three.read_only) == ("/sys/fs/cgroup/my memory", True)
    own = discover_module.own_paths("4:cpu,cpuacct:/a\n3:memory:/docker/ab/x\n0::/user.slice/s.scope\n")
    assert own == {"cpu": "/a", "cpuacct": "/a", "memory": "/docker/ab/x", "": "/user.slice/s.scope"}
    assert discover_module.folders(one, own[""]) == [
        "/sys/fs/cgroup/user.slice/s.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup",
    ]  # fmt: skip
    assert discover_module.folders(three, own["memory"]) == [three.point + "/x", three.point]
    assert discover_module.folders(three, "/elsewhere") == [three.point]
    assert discover_module.folders(one, "/../x") == ["/sys/fs/cgroup"]


def test_discover_says_why_there_is_none_in_a_mount_namespace_without_cgroups() -> None:
    need_root()
    script = (
        "import os; from ctlab.kernel import syscalls as s; s.unshare(s.CLONE_NEWNS);"
        "s.mount(None, '/', None, s.MS_REC | s.MS_PRIVATE); s.umount2('/sys/fs/cgroup', s.MNT_DETACH);"
        "from ctlab.kernel.cgroup_discover import discover; print(discover().reason)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "no cgroup file system is mounted here\n", done.stderr


def test_discover_says_read_only() -> None:
    need_root()
    script = (
        "import os, ctypes; from ctlab.kernel import syscalls as s; s.unshare(s.CLONE_NEWNS)\n"
        "from ctlab.kernel.cgroup_discover import discover, mounts\n"
        "s.mount(None, '/', None, s.MS_REC | s.MS_PRIVATE)\n"
        "for m in mounts(open('/proc/self/mountinfo').read()):\n"
        "    s.mount(None, m.point, None, s.MS_REMOUNT | s.MS_BIND | s.MS_RDONLY)\n"
        "d = discover(); print(d.version, '|', d.reason, '|', d.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("none | "), done.stderr
    assert "EROFS (Read-only file system)" in done.stdout
    assert "read-only here (a container)" in done.stdout


def test_a_scope_is_had_from_systemd_and_the_process_stays_where_it_is() -> None:
    need_root()
    if not os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd is not running here, so there is no one to ask for a scope")
    before = Path("/proc/self/cgroup").read_text()
    found, why = discover_module.scope(probe=True)
    assert found is not None, why
    assert (found.version, found.how) == ("v2", "scope")
    assert {"cpu", "memory", "pids"} <= set(found.controllers)
    assert Path("/proc/self/cgroup").read_text() == before


def test_a_session_bus_without_systemd_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real bus with no one on it: the call is well-formed as far as the bus can tell, and refused by name."""
    if shutil.which("dbus-daemon") is None or shutil.which("busctl") is None:
        pytest.skip("dbus-daemon (package dbus-daemon) or busctl (package systemd) isn't installed")
    address = f"unix:path={tmp_path}/bus"
    config = tmp_path / "bus.conf"
    config.write_text(
        f"<busconfig><type>session</type><listen>{address}</listen><policy context='default'>"
        "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>"
    )
    bus = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"],
                           stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert bus.stdout is not None and bus.stdout.readline()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        why = discover_module._start_scope("--user", "ctlab-test.scope", os.getpid(), dict(os.environ))
        assert why.startswith("refused a scope: "), why
        assert "org.freedesktop.systemd1" in why
    finally:
        bus.terminate()
        bus.wait()
        if bus.stdout is not None:
            bus.stdout.close()


# -- one container -----------------------------------------------------------------------------------------------------


def test_join_puts_a_child_in_every_hierarchy(world: World) -> None:
    cgroup = world.container()
    pid = world.sleeper(cgroup)
    own = discover_module.own_paths(Path(f"/proc/{pid}/cgroup").read_text())
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
    own = discover_module.own_paths(Path(f"/proc/{pid}/cgroup").read_text())
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
    assert text.startswith("--memory 8M is below what the container uses: 4")
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
    # Asked for before the join, the child is born into it.
    early = world.container()
    early.want("cpuset")
    apply(early, lim.plan(Limits(cpuset_cpus=str(online[-1])), world.lab.version))
    assert os.sched_getaffinity(world.sleeper(early)) == {online[-1]}


# -- freezing and killing ----------------------------------------------------------------------------------------------


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


# -- the lab's folders -------------------------------------------------------------------------------------------------


def test_prune_removes_a_dead_labs_frozen_rest_and_touches_nothing_else(delegation: Delegation, tmp_path: Path) -> None:
    world = World(delegation)
    controllers = ["memory", "pids", "freezer"] if world.lab.version == "v1" else None
    cgroup = world.folders.make("left", controllers)
    pid = world.sleeper(cgroup)
    if "freezer" in cgroup.controllers:
        cgroup_v1.set_frozen(cgroup.controllers["freezer"], cgroup.id, True)
    else:
        cgroup.freeze()
    stranger = os.path.join(next(iter(delegation.parents.values())), f"stranger-{os.getpid()}")
    os.mkdir(stranger)
    link = tmp_path / "ctlab-link"
    link.symlink_to(world.lab.paths()[0])
    (tmp_path / "ctlab-plain" / "below").mkdir(parents=True)
    try:
        skipped = [stranger, str(link), str(tmp_path / "ctlab-plain"), "/sys/fs/cgroup", "/proc/ctlab-none"]
        assert prune(skipped) == []
        assert world.alive(pid, 0.05)
        assert os.path.isdir(stranger)
        reaper = os.fork()  # stands in for the init that reaps a dead lab's processes: here we are the parent
        if reaper == 0:
            os._exit(1 if prune(skipped + world.lab.paths()) else 0)
        world.wait(pid)
        assert os.waitpid(reaper, 0)[1] == 0
        assert [path for path in world.lab.paths() if os.path.exists(path)] == []
        assert os.path.isdir(stranger) and os.path.isdir(tmp_path / "ctlab-plain" / "below") and link.is_symlink()
    finally:
        os.rmdir(stranger)
        world.close()


def test_a_used_up_quota_is_named_and_leaves_nothing(world: World) -> None:
    if world.folders.unified is None:
        pytest.skip("no cgroup v2 tree on this machine: version 1 has no quota of folders")
    cgroup_v2.write_at(world.fds["unified"], "cgroup.max.descendants", "1")  # the leaf is there already
    with pytest.raises(KernelError, match=r"cgroup folder c1: EAGAIN .*quota of cgroups \(cgroup.max.descendants\)"):
        world.container()
    assert [path for path in world.lab.paths() if os.path.exists(f"{path}/c1")] == []
    cgroup_v2.write_at(world.fds["unified"], "cgroup.max.descendants", "max")
    assert world.container().pids() == []


def test_bad_ids_never_reach_the_file_system(world: World) -> None:
    for bad in ("", ".", "..", "a/b", "lab", "-x", "x" * 200):
        with pytest.raises(ValueError, match="not a container id"):
            world.folders.make(bad)
    with pytest.raises(ValueError, match="not a lab id"):
        make_lab(world.delegation, "../x", 0, 0)


def test_make_lab_undoes_what_it_did_when_it_fails(delegation: Delegation) -> None:
    broken = delegation._replace(parents=dict(delegation.parents, zz="/proc/1"), unified=None)
    with pytest.raises(KernelError, match="can't make the cgroup folder /proc/1/ctlab-test-broken"):
        make_lab(broken, "test-broken", 0, 0)
    assert [path for path in delegation.parents.values() if os.path.exists(f"{path}/ctlab-test-broken")] == []


def test_the_sampler_gets_directories(world: World) -> None:
    cgroup = world.container()
    pid = world.child(cgroup, lambda: spin(0.05))
    world.wait(pid)
    source, fds = cgroup.stat_fds()
    try:
        assert source == f"cgroup-{world.lab.version}"
        if source == "cgroup-v1":
            assert set(fds) >= {"cpu", "cpuacct", "memory", "pids", "blkio"}
            assert int(cgroup_v2.read_at(fds["cpuacct"], "cpuacct.usage")) > 1_000_000
        if "unified" in fds:
            assert cgroup_v2.counters(cgroup_v2.read_at(fds["unified"], "cpu.stat"))["usage_usec"] > 1_000
    finally:
        for fd in fds.values():
            os.close(fd)


def test_the_labs_root_in_a_user_namespace_does_it_all_by_descriptors(delegation: Delegation) -> None:
    """As the supervisor does: mapped ids, no path, born in the leaf; containers made, limited, joined, ended."""
    lab = make_lab(delegation, f"test-userns-{os.getpid()}", MAPPED, MAPPED)
    fds = lab.open()
    leaf = lab.open_leaf()
    mapped, go = os.pipe()
    answer, say = os.pipe()
    try:
        if leaf is None:
            pid = os.fork()
        else:
            pid, pidfd = syscalls.clone3_python(syscalls.CLONE_NEWUSER, leaf)
        if pid == 0:
            try:
                if leaf is None:
                    syscalls.unshare(syscalls.CLONE_NEWUSER)
                    os.write(say, b"u")
                os.close(go)
                os.read(mapped, 1)
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
                os.write(say, json.dumps(inside_the_lab(LabFolders(fds, lab.version))).encode())
            except BaseException as error:
                os.write(say, json.dumps({"error": repr(error)}).encode())
            finally:
                os._exit(0)
        if leaf is None:
            assert os.read(answer, 1) == b"u"
        else:
            os.close(pidfd)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {MAPPED} 1000\n")
        os.write(go, b"g")
        os.close(say)
        said = json.loads(os.read(answer, 65536))
        assert os.waitpid(pid, 0)[1] == 0
        expected = {"oom": True, "signal": signal.SIGKILL, "frozen": True, "removed": True, "lab_limit": errno.EACCES}
        assert said == expected
    finally:
        for fd in (mapped, go, answer, *fds.values(), *([leaf] if leaf is not None else [])):
            os.close(fd)
        assert lab.remove() == []


def inside_the_lab(folders: LabFolders) -> dict[str, object]:
    cgroup = folders.make("inner")
    apply(cgroup, lim.plan(Limits(cpus=0.9, memory_bytes=24 * MIB, pids_limit=20), folders.version))
    said: dict[str, object] = {}

    def run(body: Callable[[], None]) -> int:
        target = cgroup.clone_fd
        pid = os.fork() if target is None else syscalls.clone3_python(0, target)[0]
        if pid == 0:
            try:
                cgroup.join(cloned=target is not None)
                body()
            finally:
                os._exit(3)
        return pid

    status = os.waitpid(run(lambda: eat(64 * MIB)), 0)[1]
    said["signal"] = -os.waitstatus_to_exitcode(status)
    said["oom"] = bool(cgroup.oom_kills())
    pid = run(lambda: time.sleep(60))
    cgroup.freeze()
    said["frozen"] = cgroup.frozen()
    cgroup.kill()
    os.waitpid(pid, 0)
    said["removed"] = cgroup.remove()
    file = "memory.limit_in_bytes" if folders.version == "v1" else "memory.max"
    try:  # the lab's own limit belongs to who gave it
        top = folders.v1["memory"] if folders.version == "v1" else folders.unified
        cgroup_v2.write_at(top or -1, file, "1000000000")
        said["lab_limit"] = 0
    except OSError as error:
        said["lab_limit"] = error.errno
    return said


# -- an ordinary user --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def user() -> Iterator[tuple[int, int]]:
    """(uid, gid) of an account made for the test."""
    need_root()
    name = f"ctlabcg{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    try:
        import pwd

        entry = pwd.getpwnam(name)
        yield entry.pw_uid, entry.pw_gid
    finally:
        subprocess.run(["userdel", name], check=True)


USER_SCRIPT = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from ctlab.kernel.cgroup_discover import discover
from ctlab.kernel.cgroup import LabFolders, make_lab
from ctlab.plan import limits as lim
found = discover()
said = {"delegation": found._asdict()}
if found.version != "none":
    lab = make_lab(found, f"test-user-{os.getpid()}", os.getuid(), os.getgid())
    folders = LabFolders(lab.open(), lab.version)
    leaf = lab.open_leaf()
    if leaf is not None:
        lab.place(os.getpid())
    cgroup = folders.make("mine")
    for write in lim.plan(lim.Limits(cpus=0.5, memory_bytes=24 << 20, pids_limit=20), lab.version):
        try:
            cgroup.write(write.controller, write.file, write.value)
        except FileNotFoundError:
            if not write.optional: raise
    def run(body):
        pid = os.fork()
        if pid == 0:
            try:
                cgroup.join(); body()
            finally:
                os._exit(3)
        return pid
    eater = run(lambda: [bytearray(b"x" * (64 << 20)), time.sleep(60)])
    said["eater"] = os.waitstatus_to_exitcode(os.waitpid(eater, 0)[1])
    said["oom"] = bool(cgroup.oom_kills())
    sleeper = run(lambda: time.sleep(60))
    while sleeper not in cgroup.pids(): time.sleep(0.005)
    cgroup.freeze(); said["frozen"] = cgroup.frozen()
    cgroup.kill()
    said["sleeper"] = os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1])
    said["removed"] = cgroup.remove()
    if leaf is not None:
        with open(os.path.join(found.leaf or sys.argv[2], "cgroup.procs"), "w") as procs: procs.write("0")
    said["left"] = lab.remove()
    said["there"] = [path for path in lab.paths() if os.path.exists(path)]
print(json.dumps(said))
"""


def run_as(user: tuple[int, int], joins: list[str]) -> dict[str, object]:
    """Run USER_SCRIPT as the user, in the given cgroup folders."""

    def become() -> None:
        for folder in joins:
            file = os.path.join(folder, "tasks")
            with open(file if os.path.exists(file) else os.path.join(folder, "cgroup.procs"), "w") as out:
                out.write("0")
        os.setgroups([])
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])

    done = subprocess.run(
        [sys.executable, "-I", "-c", USER_SCRIPT, str(ROOT), joins[-1] if joins else ""],
        preexec_fn=become, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.user
@pytest.mark.parametrize("inside", ["the given folder", "a folder below"])
def test_a_user_with_delegated_folders_has_limits(delegation: Delegation, user: tuple[int, int], inside: str) -> None:
    given: list[str] = []
    joins: list[str] = []
    parents = {name: path for name, path in delegation.parents.items() if name != "cpuset"}
    if delegation.unified is not None:
        parents["unified"] = delegation.unified
    try:
        for parent in dict.fromkeys(parents.values()):
            folder = os.path.join(parent, f"ctlab-test-given-{os.getpid()}")
            os.mkdir(folder)
            given.append(folder)
            for file in ("", "tasks", "cgroup.procs", "cgroup.subtree_control"):
                if os.path.exists(os.path.join(folder, file)):
                    os.chown(os.path.join(folder, file), *user)
            joins.append(folder if inside == "the given folder" else os.path.join(folder, "inner"))
            os.makedirs(joins[-1], exist_ok=True)
            os.chown(os.path.join(joins[-1], "cgroup.procs"), *user)
        joins.sort(key=lambda folder: folder.startswith(parents.get("unified", "-")))
        said = run_as(user, joins)
        found = said.pop("delegation")
        assert isinstance(found, dict)
        assert found["version"] == delegation.version
        assert set(found["parents"].values()) <= set(given)
        assert said == {
            "eater": -signal.SIGKILL, "oom": True, "frozen": True, "sleeper": -signal.SIGKILL, "removed": True,
            "left": [], "there": [],
        }  # fmt: skip
        if delegation.version == "v1":
            assert set(found["controllers"]) == set(delegation.controllers) - {"cpuset"}
            assert found["reason"].startswith("cgroup v1: no folder can be made for cpuset: ")
            assert "EACCES (Permission denied)" in found["reason"]
        else:
            assert found["how"] == ("own" if inside == "the given folder" else "above")
        for folder in {*given, *joins}:
            assert [name for name in os.listdir(folder) if name.startswith("ctlab")] == []
    finally:
        assert prune(given) == []


@pytest.mark.user
def test_a_user_without_is_told_why_and_what_to_do(delegation: Delegation, user: tuple[int, int]) -> None:
    said = run_as(user, [])
    found = said["delegation"]
    assert isinstance(found, dict)
    assert (found["version"], found["parents"], found["controllers"]) == ("none", {}, [])
    assert "EACCES (Permission denied)" in found["reason"]
    if delegation.version == "v1":
        assert found["remedy"].startswith("cgroup v1 gives an ordinary user nothing; ask root to make and chown")
    else:
        assert "session" in found["remedy"]


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
        assert cgroup.read("cpuset", "cpuset.cpus") == "0-7"
        assert cgroup.read("memory", "memory.max") == "max"
        assert (cgroup.has("memory"), cgroup.has("io")) == (True, False)
        assert (cgroup.usage_bytes(), cgroup.oom_kills()) == (50_000_000, 2)
        assert cgroup.squeeze(40_000_000) == 50_000_000
        assert (tmp_path / "c" / "memory.reclaim").read_text() == "10000000"
        with pytest.raises(OSError, match="write '5'") as caught:
            cgroup.write("io", "io.max", "5")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "c/io.max")
        source, fds = cgroup.stat_fds()
        assert (source, list(fds)) == ("cgroup-v2", ["unified"])
        os.close(fds["unified"])
    finally:
        os.close(fd)
