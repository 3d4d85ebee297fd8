"""cgroup version 2: one folder of the unified tree, reached by a directory descriptor and a relative name.

Also the few file helpers that both versions need. The supervisor has pivoted away from every path below
/sys/fs/cgroup, so nothing here takes an absolute path: a folder is (`directory`, `folder`), where
`directory` is a descriptor of the lab's folder and `folder` a name below it (``.`` is the lab's folder itself).

Every function raises `OSError`; its text names the file and what was to be written.
Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import select
import time


def read_at(directory: int, path: str) -> str:
    """The whole text of a control file (at most 64 KiB, which no file that is read here reaches)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(descriptor, 65536).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def write_at(directory: int, path: str, value: str) -> None:
    """Write `value` in one call, as the kernel wants it; the same as ``echo value > path``.

    Raises OSError with ``path`` as file name and the value in its text.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, f"write {value!r}: {os.strerror(number)}", path) from None


def exists_at(directory: int, path: str) -> bool:
    """Whether a file or folder is there."""
    try:
        os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def counters(text: str) -> dict[str, int]:
    """The flat keyed format (``KEY VALUE`` a line) as a mapping; lines of another shape are left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def processes(directory: int, folder: str) -> list[int]:
    """The processes in a folder, numbered as the reader's PID namespace sees them (not seen there: left out)."""
    pids: list[int] = []
    descriptor = os.open(f"{folder}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        # Page by page: a container may hold more processes than one read gives.
        rest = b""
        while chunk := os.read(descriptor, 65536):
            rest += chunk
    finally:
        os.close(descriptor)
    for word in rest.split():
        if (pid := int(word)) > 0:
            pids.append(pid)
    return pids


def join(directory: int, folder: str) -> None:
    """Move the calling process into a folder. Costs 6-14 ms after an idle pause: CLONE_INTO_CGROUP costs nothing."""
    write_at(directory, f"{folder}/cgroup.procs", "0")


def is_frozen(directory: int, folder: str) -> bool:
    """Whether every process of the folder is frozen."""
    return counters(read_at(directory, f"{folder}/cgroup.events")).get("frozen", 0) == 1


def set_frozen(directory: int, folder: str, frozen: bool, timeout: float = 2.0) -> None:
    """Freeze or thaw, and wait until cgroup.events says so (seconds).

    Raises TimeoutError when a process doesn't stop (one in uninterruptible sleep can't be frozen);
    the folder is thawed again then, so that nothing is left half-frozen.
    """
    until = time.monotonic() + timeout
    events = os.open(f"{folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        write_at(directory, f"{folder}/cgroup.freeze", "1" if frozen else "0")
        waiter = select.poll()
        waiter.register(events, select.POLLPRI)
        while True:
            # The state is read after each wake-up and once before the first wait: a change that came
            # between the write and the poll has no event left to give.
            now = counters(os.pread(events, 4096, 0).decode("ascii", "replace")).get("frozen", 0) == 1
            if now == frozen:
                return
            left = until - time.monotonic()
            if left <= 0:
                break
            waiter.poll(min(left, 0.05) * 1000)
    finally:
        os.close(events)
    if frozen:
        write_at(directory, f"{folder}/cgroup.freeze", "0")
    raise TimeoutError(errno.ETIMEDOUT, f"{'freeze' if frozen else 'thaw'}: not done after {timeout:g} s", folder)


def kill(directory: int, folder: str) -> None:
    """SIGKILL to every process of the folder and of those below, at once (cgroup.kill, Linux 5.14).

    A frozen folder dies too. Where the file is absent raises FileNotFoundError: the caller signals one by one.
    """
    write_at(directory, f"{folder}/cgroup.kill", "1")


def oom_kills(directory: int, folder: str) -> int:
    """How many processes were killed for memory since the folder was made.

    With memory.oom.group one event may count twice (seen on 6.12), so only "grew" means something.
    """
    return counters(read_at(directory, f"{folder}/memory.events")).get("oom_kill", 0)


def usage_bytes(directory: int, folder: str) -> int:
    """The memory charged to the folder now, in bytes, page cache included."""
    return int(read_at(directory, f"{folder}/memory.current"))


def squeeze(directory: int, folder: str, limit_bytes: int) -> int:
    """Ask the kernel to reclaim what is above `limit_bytes`; returns the usage after that, in bytes.

    Version 1 reclaims by itself and refuses a limit that stays below the usage; version 2 takes any limit
    and then kills. So the caller squeezes, compares, and refuses before it writes memory.max.
    """
    usage = usage_bytes(directory, folder)
    if usage > limit_bytes:
        try:
            write_at(directory, f"{folder}/memory.reclaim", str(usage - limit_bytes))
        except OSError as error:
            # EAGAIN: less was reclaimed than asked for. ENOENT: before Linux 5.19; then the figure is the answer.
            if error.errno not in (errno.EAGAIN, errno.ENOENT):
                raise
        usage = usage_bytes(directory, folder)
    return usage


def enable(directory: int, folder: str, controllers: list[str]) -> list[str]:
    """Turn controllers on for the children of a folder; returns those of them that are on afterwards.

    To be called before a process is below the folder: then no task has to be moved (and no RCU wait paid).
    Nothing is tried while a process is in the folder itself, unless it is the root of the tree: the kernel would take
    cpu and pids, but make a threaded domain of it, whose children can hold no process of their own.
    """
    file = f"{folder}/cgroup.subtree_control"
    on = read_at(directory, file).split()
    wanted = [name for name in controllers if name not in on]
    is_root = not exists_at(directory, f"{folder}/cgroup.type")
    if wanted and (is_root or not processes(directory, folder)):
        try:
            write_at(directory, file, " ".join(f"+{name}" for name in wanted))
        except OSError:
            # One of them can't be had (cpu: EINVAL while a real-time process is somewhere): the others still can.
            for name in wanted:
                try:
                    write_at(directory, file, f"+{name}")
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EBUSY, errno.EINVAL, errno.EOPNOTSUPP):
                        raise
        on = read_at(directory, file).split()
    return [name for name in controllers if name in on]
