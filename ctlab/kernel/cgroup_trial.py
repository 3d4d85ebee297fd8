"""Try one cgroup folder: make a folder in it, put a process there, remove it; what the kernel said."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Any, NamedTuple

from ..errors import describe
from . import cgroup_v2 as v2
from . import syscalls

LIMITS_V2 = ("cpu", "memory", "pids", "cpuset", "io")


class Attempt(NamedTuple):
    """What one folder of version 2 answered: usable or not, the controllers, and why not more."""

    usable: bool
    controllers: list[str]
    trouble: str
    offered: tuple[str, ...] = ()  # what could be turned on there
    leaf: str | None = None


def _name() -> str:
    return f"ctlab-probe-{os.getpid()}-{time.monotonic_ns()}"


def try_v1(folder: str) -> OSError | None:
    """Make a folder, see that a process could join it, remove it; what the kernel said, None when all went well."""
    path = os.path.join(folder, _name())
    try:
        os.mkdir(path, 0o755)
        try:
            os.close(os.open(os.path.join(path, "tasks"), os.O_WRONLY | os.O_CLOEXEC))
        finally:
            os.rmdir(path)
    except OSError as error:
        return error
    return None


def bystander() -> int:
    """A process that does nothing, to be moved about in place of ourselves; it ends by itself when we are killed."""
    reading, writing = os.pipe()
    try:
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, reading, 0)]
        actions += [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (1, 2)]
        pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=actions)
    except OSError:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    _leash[pid] = writing
    return pid


_leash: dict[int, int] = {}  # bystander -> our end of its standard input


def end(pid: int) -> None:
    """End a bystander."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(_leash.pop(pid))


def _put_in(directory: int, folder: str, subject: int | None, back: str, single_threaded: bool) -> None:
    """Have a process in `folder`: `subject`, which is moved to `back` after that, or a fresh child of ours."""
    if subject is not None:
        v2.write_at(directory, f"{folder}/cgroup.procs", str(subject))
        v2.write_at(directory, f"{back}/cgroup.procs", str(subject))
        return
    if single_threaded:
        # Born there, as the lab's processes will be: no wait for RCU, which makes a move cost 6-14 ms.
        target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            pid, pidfd = syscalls.clone3(0, target)
            if pid == 0:
                os._exit(0)
            os.close(pidfd)
            os.waitpid(pid, 0)
            return
        except OSError as error:
            if error.errno != errno.ENOSYS:  # clone3 is hidden by a seccomp filter; moving may still work
                raise OSError(error.errno, os.strerror(error.errno or 0), folder) from None
        finally:
            os.close(target)
    pid = bystander()
    try:
        v2.write_at(directory, f"{folder}/cgroup.procs", str(pid))
    finally:
        end(pid)


def try_v2(folder: str, movable: int | None = None, keep: bool = True, subject: int | None = None) -> Attempt:
    """Make a folder in a version 2 folder, turn controllers on for it, move a process into it; then remove it.

    `movable`: a process that may be moved into a leaf if it alone stands in the way of turning controllers on.
    `keep`: leave the controllers on (and the process in the leaf), for a keeper, which has one thread; otherwise
    everything is as it was before.
    Where some are on already they are taken as they are: a folder that others use too isn't widened.
    `subject`: the process to move in; the default is a fresh child of ours. The kernel asks for the right to write to
    the common ancestor of where it is and where it goes, so it must be where the lab's processes would be born.
    """
    path, leaf = os.path.join(folder, _name()), None
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # first: it can fail (EMFILE)
    except OSError as error:
        return Attempt(False, [], f"{folder}: {describe(error)}")
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        os.close(directory)
        return Attempt(False, [], f"{folder}: {describe(error)}")
    before: list[str] = []
    trouble = ""
    try:
        offered = v2.read_at(directory, "cgroup.controllers").split()
        before = v2.read_at(directory, "cgroup.subtree_control").split()
        wanted = [name for name in LIMITS_V2 if name in offered]
        on = [name for name in wanted if name in before] or v2.enable(directory, ".", wanted)
        if not on and wanted and movable is not None and v2.processes(directory, ".") == [movable]:
            leaf = os.path.join(folder, f"ctlab-keeper-{movable}")
            os.mkdir(leaf, 0o755)
            v2.write_at(directory, f"{os.path.basename(leaf)}/cgroup.procs", str(movable))
            on = v2.enable(directory, ".", wanted)
        if not offered:
            trouble = f"{folder} has no controllers"
        elif wanted and not on:
            trouble = f"other processes are in {folder}, so the kernel turns no controllers on below it (EBUSY)"
        _put_in(directory, os.path.basename(path), subject, os.path.basename(leaf or "."), single_threaded=keep)
        return Attempt(True, on, trouble, tuple(wanted), leaf)
    except OSError as error:
        keep = False
        return Attempt(False, [], f"{folder}: {error.filename or ''}: {describe(error)}")
    finally:
        if not keep:
            _put_back(directory, before, leaf, movable)
        _rmdir_soon(path)
        os.close(directory)


def _put_back(directory: int, before: list[str], leaf: str | None, movable: int | None) -> None:
    for name in v2.read_at(directory, "cgroup.subtree_control").split():
        if name not in before:
            v2.write_at(directory, "cgroup.subtree_control", f"-{name}")
    if leaf is not None and os.path.isdir(leaf):
        if movable is not None:
            v2.write_at(directory, "cgroup.procs", str(movable))
        _rmdir_soon(leaf)


def _rmdir_soon(path: str) -> None:
    """rmdir; a process that was just reaped may keep the folder busy for a moment."""
    for _ in range(200):
        try:
            os.rmdir(path)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.002)
    os.rmdir(path)
