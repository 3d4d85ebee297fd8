"""cgroup version 1: one folder name in several hierarchies, each reached by a directory descriptor.

As in `cgroup_v2`, a folder is (`directory`, `folder`): a descriptor of the lab's folder in one hierarchy
and a name below it. Every function raises `OSError`.
Source: Documentation/admin-guide/cgroup-v1/ of the kernel, and what trying showed where it is silent.
"""

from __future__ import annotations

import errno
import os
import time

from .cgroup_tree import Tree
from .cgroup_v2 import counters, processes, read_at, write_at
from .lean import signal, suppress

# One folder per container in each of these. cpuset is made only when asked for: it refuses every process
# until its cpus and mems are filled, and costs a rebuild of the scheduling domains.
DEFAULT_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer", "blkio")
ALL_CONTROLLERS = (*DEFAULT_CONTROLLERS, "cpuset")


def join(directory: int, folder: str) -> None:
    """Move the calling thread, to be called by a single-threaded process for itself, before any setuid.

    By ``tasks`` with ``0``: 8-25 us. The same by ``cgroup.procs`` takes the threadgroup lock and costs
    6-14 ms after 20 ms of idling. The kernel compares the writer's user id with the moved task's.
    """
    descriptor = task_file(directory, folder)
    try:
        enter(descriptor)
    finally:
        os.close(descriptor)


def task_file(directory: int, folder: str) -> int:
    """A folder's ``tasks``, opened for `enter`; the caller closes it."""
    return os.open(f"{folder}/tasks", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)


def enter(descriptor: int) -> None:
    """What `join` does, by an opened ``tasks``."""
    os.write(descriptor, b"0")


def fill_cpuset(directory: int, folder: str, parent: str = ".") -> None:
    """Give a fresh cpuset folder its parent's memory nodes and CPUs; without both a join is ENOSPC."""
    for name in ("cpuset.mems", "cpuset.cpus"):
        if not read_at(directory, f"{folder}/{name}").strip():
            write_at(directory, f"{folder}/{name}", read_at(directory, f"{parent}/{name}").strip())


def is_frozen(directory: int, folder: str) -> bool:
    """Whether the freezer folder is FROZEN (not merely FREEZING)."""
    return read_at(directory, f"{folder}/freezer.state").strip() == "FROZEN"


def set_frozen(directory: int, folder: str, frozen: bool, timeout: float = 2.0) -> None:
    """Freeze or thaw and wait for it (seconds).

    A frozen process of version 1 doesn't die from SIGKILL: who kills must thaw.
    Raises TimeoutError when it stays FREEZING; it is thawed again then.
    """
    wanted = "FROZEN" if frozen else "THAWED"
    until = time.monotonic() + timeout
    pause = 0.0005
    while True:
        # Written again on every round: FREEZING can stick when a process forked meanwhile.
        write_at(directory, f"{folder}/freezer.state", wanted)
        if read_at(directory, f"{folder}/freezer.state").strip() == wanted:
            return
        if time.monotonic() >= until:
            break
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    if frozen:
        write_at(directory, f"{folder}/freezer.state", "THAWED")
    raise TimeoutError(errno.ETIMEDOUT, f"{'freeze' if frozen else 'thaw'}: not done after {timeout:g} s", folder)


def end_below(directory: int, folder: str, most: int) -> None:
    """SIGKILL to all in a freezer folder and in what was made in it (from inside, where it was mounted), and thaw it.

    Who is frozen dies only thawed, and who freezes again and again must not be quicker. `most`: so many folders.
    """
    tree = Tree(directory, folder, most=most)
    try:
        for base, path in tree.folders:
            with suppress(OSError):
                signal_all(base, path)
        for base, path in tree.folders:
            with suppress(OSError):  # it has just been removed
                write_at(base, f"{path}/freezer.state", "THAWED")
    finally:
        tree.close()


def signal_all(directory: int, folder: str, number: int = signal.SIGKILL) -> int:
    """One round of signals to what is in the folder, never to the caller; returns how many there were."""
    found = 0
    for pid in processes(directory, folder):
        if pid == os.getpid():
            continue
        found += 1
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return found


def kill(directory: int, folder: str, freezer: int | None = None, rounds: int = 20) -> None:
    """SIGKILL to every process of a folder of any hierarchy.

    With the freezer's `directory` they are stopped first, so that one round gets them all even while they
    fork; then thawed, since only a thawed process dies. Without it: rounds until no process is left
    (dead but unreaped ones don't show), at most `rounds`, 1 ms apart.
    """
    if freezer is not None:
        try:
            set_frozen(freezer, folder, True, timeout=0.2)
        except (TimeoutError, FileNotFoundError):
            pass  # the rounds below do it
        signal_all(directory, folder)
        try:
            set_frozen(freezer, folder, False, timeout=1.0)
        except FileNotFoundError:
            pass
    for _ in range(rounds):
        if not signal_all(directory, folder):
            return
        time.sleep(0.001)


def oom_kills(directory: int, folder: str) -> int:
    """How many processes of this folder were killed for memory; the folder's own count, not its parent's."""
    return counters(read_at(directory, f"{folder}/memory.oom_control")).get("oom_kill", 0)


def usage_bytes(directory: int, folder: str) -> int:
    """The memory charged to the folder now, in bytes, page cache included."""
    return int(read_at(directory, f"{folder}/memory.usage_in_bytes"))
