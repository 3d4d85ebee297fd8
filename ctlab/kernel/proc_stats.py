"""The counters of containers that have no cgroup, added up from /proc over their processes.

A process belongs to a container if its PID namespace is that of the container's first process, or else if its
parent belongs to it (a container may make PID namespaces of its own). One `ProcessTable` per /proc serves all
containers, so that a tick lists /proc once. Descriptors are kept: one that was opened for a process which has
ended answers ESRCH, whoever has that number now. Where too many would be open (`kept_files`) they are opened each time,
and the time at which the process began says whether it is still the same.

What it can't see: the time of children that are reaped unread (SIGCHLD ignored) within one tick. Processes seen
at an earlier tick are not lost: whatever leaves the sum is kept in a remainder, so that counters never fall.
CPU time comes in clock ticks (10 ms).
"""

from __future__ import annotations

import errno
import math
import os
import resource

from .kept_files import Room

FIELDS = (
    "cpu_seconds_total", "cpu_user_seconds_total", "cpu_system_seconds_total",
    "memory_rss_bytes", "pids", "io_read_bytes_total", "io_written_bytes_total",
)  # fmt: skip

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
_GONE = (errno.ESRCH, errno.ENOENT)
_FULL = (errno.EMFILE, errno.ENFILE)
_STAT_BYTES, _IO_BYTES = 1024, 512


class _Process:
    """One process: its group (the PID namespace of its container, 0 = nobody's), where its counters are read."""

    __slots__ = ("began", "group", "io", "io_is_ours", "kept", "parent", "stat")

    def __init__(self, group: int) -> None:
        self.group = group
        self.parent = self.began = 0
        self.stat = self.io = -1
        self.kept = False  # whether the descriptors stay open
        self.io_is_ours = False  # whether we may read its io

    def close(self) -> None:
        """Close what is open of it."""
        for descriptor in (self.stat, self.io):
            if descriptor >= 0:
                os.close(descriptor)
        self.stat = self.io = -1


class _Group:
    """A container: sums of counters, and what processes that ended took out of them."""

    __slots__ = ("last", "remainder")

    def __init__(self) -> None:
        self.last = [0, 0, 0, 0]  # user ticks, system ticks, bytes read, bytes written
        self.remainder = [0, 0, 0, 0]


_DESCRIPTORS = 2  # of a process


def parse_stat(text: bytes) -> tuple[int, int, int, int, int]:
    """(parent pid, user ticks, system ticks, resident pages, ticks at which it began) of a /proc/PID/stat line.

    Times include those of children that were waited for. The command name, in parentheses, may hold anything.
    """
    words = text[text.rindex(b")") + 2 :].split(None, 22)  # words[0] is field 3, the state
    user, system = int(words[11]) + int(words[13]), int(words[12]) + int(words[14])
    return int(words[1]), user, system, int(words[21]), int(words[19])


class ProcessTable:
    """All processes that one /proc shows, sorted into containers."""

    def __init__(self, proc: int, room: Room | None = None) -> None:
        """`proc`: descriptor of a mounted /proc; this object owns it. Pids are those of that /proc.

        `room`: for the descriptors; None: any number.
        """
        self._proc = proc
        self._room = Room(1 << 20) if room is None else room
        self._processes: dict[int, _Process] = {}
        self._groups: dict[int, _Group] = {}
        self.errors = 0

    def watch(self, pid: int, namespace: int | None = None) -> int:
        """Begin to count the container whose first process is `pid`; returns its group.

        `namespace`: the inode of its PID namespace, from who has looked already: the process may have ended since, and
        that is no failure. Without it, OSError for a process that has ended.
        """
        group = os.stat(f"{pid}/ns/pid", dir_fd=self._proc).st_ino if namespace is None else namespace
        self._groups.setdefault(group, _Group())
        for known in [number for number, process in self._processes.items() if process.group == 0]:
            self._drop(known)  # decided before the container was known: look again
        return group

    def forget(self, group: int) -> None:
        """Stop counting a group."""
        self._groups.pop(group, None)
        for pid in [number for number, process in self._processes.items() if process.group == group]:
            self._drop(pid)

    def _drop(self, pid: int) -> None:
        process = self._processes.pop(pid)
        process.close()
        if process.kept:
            self._room.give(_DESCRIPTORS)

    def refresh(self) -> None:
        """Look for new and ended processes: once a tick, before `read`."""
        present = {int(name) for name in os.listdir(self._proc) if name[0].isdigit()}
        for pid in self._processes.keys() - present:
            self._drop(pid)
        for pid in sorted(present - self._processes.keys()):  # parents mostly come before their children
            process = self._classify(pid)
            if process is not None:
                self._processes[pid] = process

    def _classify(self, pid: int) -> _Process | None:
        try:
            try:
                group = os.stat(f"{pid}/ns/pid", dir_fd=self._proc).st_ino
            except PermissionError:  # its program may not be read, and lies outside: it is its parent's
                group = 0
            process = _Process(group if group in self._groups else 0)
            process.stat = self._open(pid, "stat")
        except OSError as error:
            if error.errno not in _GONE:
                self.errors += 1
            return None
        try:
            process.parent, _, _, _, process.began = parse_stat(os.pread(process.stat, _STAT_BYTES, 0))
            if process.group == 0 and (parent := self._processes.get(process.parent)) is not None:
                process.group = parent.group
            if process.group:
                process.io = self._open(pid, "io")
                process.io_is_ours = True
        except PermissionError:
            pass  # io of a process that changed its identity: its bytes stay unknown
        except (OSError, ValueError):
            process.close()
            return None
        process.kept = bool(process.group) and self._room.take(_DESCRIPTORS)
        if not process.kept:  # somebody else's is remembered as such
            process.close()
        return process

    def _open(self, pid: int, name: str) -> int:
        return os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)

    def _read(self, pid: int, process: _Process) -> tuple[bytes, bytes | None]:
        """(Its stat, its io; None where we may not read that.) OSError ESRCH or ENOENT: it has ended."""
        if process.kept:
            stat = os.pread(process.stat, _STAT_BYTES, 0)
        else:
            stat = self._read_once(pid, "stat", _STAT_BYTES)
            if parse_stat(stat)[4] != process.began:
                raise ProcessLookupError(errno.ESRCH, "another process has its number")
        if not process.io_is_ours:
            return stat, None
        try:
            return stat, os.pread(process.io, _IO_BYTES, 0) if process.kept else self._read_once(pid, "io", _IO_BYTES)
        except OSError as error:
            if error.errno in (*_GONE, *_FULL):
                raise
            return stat, None

    def _read_once(self, pid: int, name: str, size: int) -> bytes:
        descriptor = self._open(pid, name)
        try:
            return os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)

    def read(self, group: int) -> list[float] | None:
        """The group's counters in the order of `FIELDS`, NaN where unknown; None if no process of it is left."""
        members = [(pid, process) for pid, process in self._processes.items() if process.group == group]
        for _ in range(3):
            try:
                sums, pages, io_known, ended = self._sum(members)
            except OSError:  # too many files are open: what isn't known must not be taken for gone
                self.errors += 1
                return None
            if not ended:
                break
            # One ended between being listed and being read: its parent may have been read before it took
            # over the time of its child. Read again, so that the time is neither missing nor counted twice.
            for pid in ended:
                self._drop(pid)
            members = [item for item in members if item[0] not in ended]
        if not members:
            return None
        state = self._groups[group]
        if not io_known:
            sums[2:] = state.last[2:]
        for number in range(4):
            state.remainder[number] += max(0, state.last[number] - sums[number])
        state.last = sums
        user, system, read, written = (value + rest for value, rest in zip(sums, state.remainder, strict=True))
        return [
            (user + system) / _TICKS,
            user / _TICKS,
            system / _TICKS,
            float(pages * _PAGE),
            float(len(members)),
            float(read) if io_known else math.nan,
            float(written) if io_known else math.nan,
        ]

    def _sum(self, members: list[tuple[int, _Process]]) -> tuple[list[int], int, bool, set[int]]:
        """([user ticks, system ticks, bytes read, written], resident pages, all io was readable, ended pids)."""
        user = system = read = written = pages = 0
        io_known = True
        ended: set[int] = set()
        for pid, process in members:
            try:
                stat, io = self._read(pid, process)
                process.parent, own_user, own_system, own_pages, _ = parse_stat(stat)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise
                ended.add(pid)
                continue
            user, system, pages = user + own_user, system + own_system, pages + own_pages
            if io is None:
                io_known = False
            else:
                words = io.split()  # ... read_bytes: N write_bytes: N ...
                read += int(words[words.index(b"read_bytes:") + 1])
                written += int(words[words.index(b"write_bytes:") + 1])
        return [user, system, read, written], pages, io_known, ended

    def close(self) -> None:
        """Close every descriptor, that of /proc too."""
        for pid in list(self._processes):
            self._drop(pid)
        os.close(self._proc)
