"""The counters of containers that have no cgroup, added up from /proc over their processes.

A process belongs to a container if its PID namespace is that of the container's first process, or else if its
parent belongs to it (a container may make PID namespaces of its own). One `ProcessTable` per /proc serves all
containers, so that a tick lists /proc once. Descriptors are kept: one that was opened for a process which has
ended answers ESRCH, whoever has that number now.

What it can't see: the time of children that are reaped unread (SIGCHLD ignored) within one tick. Processes seen
at an earlier tick are not lost: whatever leaves the sum is kept in a remainder, so that counters never fall.
CPU time comes in clock ticks (10 ms).
"""

from __future__ import annotations

import errno
import math
import os
import resource

FIELDS = (
    "cpu_seconds_total", "cpu_user_seconds_total", "cpu_system_seconds_total",
    "memory_rss_bytes", "pids", "io_read_bytes_total", "io_written_bytes_total",
)  # fmt: skip

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
_GONE = (errno.ESRCH, errno.ENOENT)


class _Process:
    """One process: its group (the PID namespace of its container, 0 = nobody's) and its kept descriptors."""

    __slots__ = ("group", "io", "parent", "stat")

    def __init__(self, group: int, parent: int, stat: int, io: int) -> None:
        self.group, self.parent, self.stat, self.io = group, parent, stat, io

    def close(self) -> None:
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


def parse_stat(text: bytes) -> tuple[int, int, int, int]:
    """(parent pid, user ticks, system ticks, resident pages) of a /proc/PID/stat line.

    Times include those of children that were waited for. The command name, in parentheses, may hold anything.
    """
    words = text[text.rindex(b")") + 2 :].split(None, 22)  # words[0] is field 3, the state
    return int(words[1]), int(words[11]) + int(words[13]), int(words[12]) + int(words[14]), int(words[21])


class ProcessTable:
    """All processes that one /proc shows, sorted into containers."""

    def __init__(self, proc: int) -> None:
        """`proc`: descriptor of a mounted /proc; this object owns it. Pids are those of that /proc."""
        self._proc = proc
        self._processes: dict[int, _Process] = {}
        self._groups: dict[int, _Group] = {}
        self._hidden: dict[int, int] = {}  # first processes that don't tell their namespace -> their group
        self.errors = 0

    def watch(self, pid: int, namespace: int | None = None) -> int:
        """Begin to count the container whose first process is `pid`; returns its group. Raises OSError.

        `namespace`: the inode of its PID namespace, where the process isn't dumpable and so hides it.
        """
        group = os.stat(f"{pid}/ns/pid", dir_fd=self._proc).st_ino if namespace is None else namespace
        if namespace is not None:
            self._hidden[pid] = namespace
        self._groups.setdefault(group, _Group())
        for known in [number for number, process in self._processes.items() if process.group == 0]:
            self._processes.pop(known).close()  # decided before the container was known: look again
        return group

    def forget(self, group: int) -> None:
        """Stop counting a group."""
        self._groups.pop(group, None)
        for pid in [number for number, hidden in self._hidden.items() if hidden == group]:
            del self._hidden[pid]
        for pid in [number for number, process in self._processes.items() if process.group == group]:
            self._processes.pop(pid).close()

    def refresh(self) -> None:
        """Look for new and ended processes: once a tick, before `read`."""
        present = {int(name) for name in os.listdir(self._proc) if name[0].isdigit()}
        for pid in self._processes.keys() - present:
            self._processes.pop(pid).close()
        for pid in sorted(present - self._processes.keys()):  # parents mostly come before their children
            process = self._classify(pid)
            if process is not None:
                self._processes[pid] = process

    def _classify(self, pid: int) -> _Process | None:
        try:
            try:
                group = os.stat(f"{pid}/ns/pid", dir_fd=self._proc).st_ino
            except PermissionError:
                group = self._hidden.get(pid, 0)
            stat = os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError as error:
            if error.errno not in _GONE:
                self.errors += 1
            return None
        process = _Process(group if group in self._groups else 0, 0, stat, -1)
        try:
            process.parent = parse_stat(os.pread(stat, 1024, 0))[0]
            if process.group == 0 and (parent := self._processes.get(process.parent)) is not None:
                process.group = parent.group
            if process.group:
                process.io = os.open(f"{pid}/io", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            else:
                process.close()  # somebody else's: remembered as such, without a descriptor
        except PermissionError:
            pass  # io of a process that changed its identity: its bytes stay unknown
        except (OSError, ValueError):
            process.close()
            return None
        return process

    def read(self, group: int) -> list[float] | None:
        """The group's counters in the order of `FIELDS`, NaN where unknown; None if no process of it is left."""
        members = [(pid, process) for pid, process in self._processes.items() if process.group == group]
        for _ in range(3):
            sums, pages, io_known, ended = self._sum(members)
            if not ended:
                break
            # One ended between being listed and being read: its parent may have been read before it took
            # over the time of its child. Read again, so that the time is neither missing nor counted twice.
            for pid in ended:
                self._processes.pop(pid).close()
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
                process.parent, own_user, own_system, own_pages = parse_stat(os.pread(process.stat, 1024, 0))
            except (OSError, ValueError):
                ended.add(pid)
                continue
            user, system, pages = user + own_user, system + own_system, pages + own_pages
            try:
                if process.io < 0:
                    io_known = False
                else:
                    words = os.pread(process.io, 512, 0).split()  # ... read_bytes: N write_bytes: N ...
                    read += int(words[words.index(b"read_bytes:") + 1])
                    written += int(words[words.index(b"write_bytes:") + 1])
            except OSError as error:
                if error.errno in _GONE:
                    ended.add(pid)
                else:
                    io_known = False
        return [user, system, read, written], pages, io_known, ended

    def close(self) -> None:
        """Close every descriptor, that of /proc too."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()
        os.close(self._proc)
