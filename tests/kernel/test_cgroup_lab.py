"""A lab's own cgroup folders on the real kernel: made, handed over, pruned; what its root may do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cgroup_world import MIB, World, apply, eat, spin

from ctlab.errors import KernelError
from ctlab.kernel import cgroup_mounts, cgroup_v1, cgroup_v2, syscalls
from ctlab.kernel.cgroup import LabFolders
from ctlab.kernel.cgroup_discover import Delegation
from ctlab.kernel.cgroup_outside import LabCgroup, make_lab, prune
from ctlab.plan import limits as lim
from ctlab.plan.limits import Limits
from ctlab.runtime import base_folder, runtime_folder
from ctlab.runtime import prune as prune_room

pytestmark = pytest.mark.kernel
MAPPED = 3_900_000_000  # an id that no account has, to be the lab's root


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
    source, folders = world.folders.stat_folders()
    fds = {name: os.open(cgroup.id, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder) for name, folder in folders.items()
           if cgroup_v2.exists_at(folder, cgroup.id)}  # fmt: skip
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


def test_what_no_note_names_goes_when_nobody_is_in_it(
    delegation: Delegation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed for ever: only what a note names was looked at."""
    lab_id = os.urandom(6).hex()
    hierarchies = {*delegation.parents.values(), *([delegation.unified] if delegation.unified else [])}
    parents = [f"{path}/forsaken-{os.getpid()}" for path in sorted(hierarchies)]
    monkeypatch.setattr(cgroup_mounts, "candidates", lambda: parents)  # what others have on this machine is theirs
    monkeypatch.setattr(base_folder, "_SHARED", str(tmp_path))
    monkeypatch.setattr(base_folder, "_LOGIN", str(tmp_path / "nowhere"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folders = [f"{parent}/ctlab-{lab_id}" for parent in parents]
    others = [f"{parent}/ctlab-probe-1-2" for parent in parents] + [f"{parents[0]}/ctlab-{'f' * 12}"]
    try:
        for path in [*parents, *folders, *(f"{folder}/c1" for folder in folders), *others]:
            os.mkdir(path)
        os.chown(others[-1], 12345, 12345)

        def stays() -> bool:
            return prune_room.everything() == [] and all(os.path.exists(f"{folder}/c1") for folder in folders)

        inside = subprocess.Popen(["sleep", "60"])
        Path(f"{folders[-1]}/c1/cgroup.procs").write_text(str(inside.pid))  # the others are empty
        assert stays() and inside.poll() is None
        inside.kill()
        inside.wait()
        living = LabCgroup("v1", {str(number): path for number, path in enumerate(folders)}).open()
        assert stays()
        for descriptor in living.values():
            os.close(descriptor)
        noted = runtime_folder.create(lab_id, "noted", os.getpid())
        assert stays()
        noted.remove()
        assert prune_room.prune() == [] and os.path.exists(folders[0])  # not at each start of a lab
        (line,) = prune_room.everything()
        assert line.startswith(f"lab {lab_id}: ") and not any(map(os.path.exists, folders))
        assert all(map(os.path.exists, others))
    finally:
        for path in [*(f"{folder}/c1" for folder in folders), *folders, *others, *parents]:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)


def test_prune_removes_folders_however_deep(delegation: Delegation) -> None:
    """Whoever has become the lab's root can make them deeper than a path is long."""
    lab = make_lab(delegation, f"test-deep-{os.getpid()}", MAPPED, MAPPED)
    paths = lab.paths()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(paths[0])
            for _ in range(60):
                os.mkdir("d" * 100)
                os.chdir("d" * 100)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert prune(paths) == []
    assert not any(os.path.exists(path) for path in paths)


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
