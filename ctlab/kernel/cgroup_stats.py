"""The counters of one cgroup, from descriptors that stay open where there is room for them.

`pread` on a kept descriptor costs well under 1 µs for most files, `open` and `read` about 6 µs; so files are
opened once and read for as long as the group lives, or, where too many would be open (`kept_files`), opened each time.
A file that a kernel or layout doesn't have gives NaN.

Layouts: ``v1`` has a folder per controller; ``v2`` one folder. A hybrid machine has v1 folders and, where the
container was also put into a v2 group, that folder under the name ``unified``: its ``cpu.stat`` is exact in
microseconds where ``cpuacct.stat`` counts ticks, and it has the pressure files.

Reading costs 1 µs a file in a tight loop and 4 to 5 µs when the caches have gone cold between ticks; `memory.stat`
several times that (a hundred lines; on a busy machine also a flush of per-CPU counters, which the kernel does by
itself every 2 s). So some files are slow ones (`SLOW`), and the caller says when those are to be read.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping

from .kept_files import Room

FIELDS = (
    "cpu_seconds_total", "cpu_user_seconds_total", "cpu_system_seconds_total",
    "cpu_periods_total", "cpu_throttled_periods_total", "cpu_throttled_seconds_total",
    "memory_bytes", "memory_working_set_bytes", "memory_peak_bytes", "memory_limit_bytes", "oom_kills_total",
    "pids", "io_read_bytes_total", "io_written_bytes_total",
    "cpu_pressure_seconds_total", "memory_pressure_seconds_total", "io_pressure_seconds_total",
)  # fmt: skip

_AT = {name: number for number, name in enumerate(FIELDS)}
_NAN = math.nan
_TICKS = os.sysconf("SC_CLK_TCK")
# v1 writes "no limit" as the largest multiple of the page size that fits int64.
_V1_NO_LIMIT = float(1 << 62)

CPU, CPU_USER, CPU_SYSTEM = _AT["cpu_seconds_total"], _AT["cpu_user_seconds_total"], _AT["cpu_system_seconds_total"]
PERIODS, THROTTLED, THROTTLED_SECONDS = CPU_SYSTEM + 1, CPU_SYSTEM + 2, CPU_SYSTEM + 3
MEMORY, WORKING_SET = _AT["memory_bytes"], _AT["memory_working_set_bytes"]
PEAK, LIMIT, OOM_KILLS = _AT["memory_peak_bytes"], _AT["memory_limit_bytes"], _AT["oom_kills_total"]
PIDS, IO_READ, IO_WRITTEN = _AT["pids"], _AT["io_read_bytes_total"], _AT["io_written_bytes_total"]
CPU_PRESSURE, MEMORY_PRESSURE, IO_PRESSURE = (_AT[f"{name}_pressure_seconds_total"] for name in ("cpu", "memory", "io"))

# Files that are read only when the caller says so. Peak and limit are cheap but need no tenth of a second.
SLOW = (
    "memory.stat", "memory.max_usage_in_bytes", "memory.peak", "memory.limit_in_bytes", "memory.max",
    "cpu.pressure", "memory.pressure", "io.pressure",
)  # fmt: skip

Parser = Callable[[bytes, list[float]], None]


def _number(position: int, divisor: float = 1.0) -> Parser:
    def parse(text: bytes, out: list[float]) -> None:
        out[position] = float(text) / divisor

    return parse


def _limit(text: bytes, out: list[float]) -> None:
    """Unlimited is infinity, in v1 (a huge number) as in v2 (``max``)."""
    value = math.inf if text[:3] == b"max" else float(text)
    out[LIMIT] = math.inf if value >= _V1_NO_LIMIT else value


def _keyed(text: bytes) -> dict[bytes, bytes]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=False))


def _cpuacct_stat(text: bytes, out: list[float]) -> None:
    words = text.split()  # user TICKS system TICKS
    out[CPU_USER] = int(words[1]) / _TICKS
    out[CPU_SYSTEM] = int(words[3]) / _TICKS


def _cpu_stat_v1(text: bytes, out: list[float]) -> None:
    values = _keyed(text)
    out[PERIODS] = float(values.get(b"nr_periods", _NAN))
    out[THROTTLED] = float(values.get(b"nr_throttled", _NAN))
    out[THROTTLED_SECONDS] = float(values.get(b"throttled_time", _NAN)) / 1e9


def _cpu_usage_v2(text: bytes, out: list[float]) -> None:
    words = text.split(None, 6)  # usage_usec N user_usec N system_usec N ...
    out[CPU] = int(words[1]) / 1e6
    out[CPU_USER] = int(words[3]) / 1e6
    out[CPU_SYSTEM] = int(words[5]) / 1e6


def _cpu_stat_v2(text: bytes, out: list[float]) -> None:
    _cpu_usage_v2(text, out)
    if b"nr_periods" in text:  # only where the cpu controller is enabled
        values = _keyed(text)
        out[PERIODS] = float(values[b"nr_periods"])
        out[THROTTLED] = float(values.get(b"nr_throttled", _NAN))
        out[THROTTLED_SECONDS] = float(values.get(b"throttled_usec", _NAN)) / 1e6


def _after(text: bytes, key: bytes) -> float:
    """The number after `key` (which begins a line and ends in a space), or NaN: without splitting a long text."""
    start = text.find(key)
    while start > 0 and text[start - 1 : start] != b"\n":  # the end of a longer key
        start = text.find(key, start + 1)
    if start < 0:
        return _NAN
    start += len(key)
    end = text.find(b"\n", start)
    return float(text[start : end if end > 0 else len(text)])


def _working_set(key: bytes) -> Parser:
    """What can't be reclaimed easily: usage (which has been read before) without the inactive page cache."""

    def parse(text: bytes, out: list[float]) -> None:
        out[WORKING_SET] = max(0.0, out[MEMORY] - _after(text, key))

    return parse


def _oom_kills(text: bytes, out: list[float]) -> None:
    out[OOM_KILLS] = _after(text, b"oom_kill ")


def _blkio(text: bytes, out: list[float]) -> None:
    words = text.split()  # MAJOR:MINOR Read N ... Total N
    read = written = 0
    for number, word in enumerate(words):
        if word == b"Read":
            read += int(words[number + 1])
        elif word == b"Write":
            written += int(words[number + 1])
    out[IO_READ], out[IO_WRITTEN] = float(read), float(written)


def _io_stat(text: bytes, out: list[float]) -> None:
    read = written = 0
    for word in text.split():  # MAJOR:MINOR rbytes=N wbytes=N rios=N ...
        if word.startswith(b"rbytes="):
            read += int(word[7:])
        elif word.startswith(b"wbytes="):
            written += int(word[7:])
    out[IO_READ], out[IO_WRITTEN] = float(read), float(written)


def _pressure(position: int) -> Parser:
    def parse(text: bytes, out: list[float]) -> None:
        end = text.find(b"\n")  # the first line: some avg10=F avg60=F avg300=F total=MICROSECONDS
        start = text.find(b"total=", 0, end) + 6
        out[position] = int(text[start:end]) / 1e6

    return parse


# (controller whose folder has the file, file, bytes to read, parser); usage comes before what is computed from it.
_V1: tuple[tuple[str, str, int, Parser], ...] = (
    ("cpuacct", "cpuacct.usage", 32, _number(CPU, 1e9)),
    ("cpuacct", "cpuacct.stat", 128, _cpuacct_stat),
    ("cpu", "cpu.stat", 256, _cpu_stat_v1),
    ("memory", "memory.usage_in_bytes", 32, _number(MEMORY)),
    ("memory", "memory.max_usage_in_bytes", 32, _number(PEAK)),
    ("memory", "memory.limit_in_bytes", 32, _limit),
    ("memory", "memory.stat", 8192, _working_set(b"total_inactive_file ")),
    ("memory", "memory.oom_control", 128, _oom_kills),
    ("pids", "pids.current", 32, _number(PIDS)),
    ("blkio", "blkio.throttle.io_service_bytes_recursive", 16384, _blkio),
)
_PRESSURE: tuple[tuple[str, int, Parser], ...] = (
    ("cpu.pressure", 256, _pressure(CPU_PRESSURE)),
    ("memory.pressure", 256, _pressure(MEMORY_PRESSURE)),
    ("io.pressure", 256, _pressure(IO_PRESSURE)),
)
_V2: tuple[tuple[str, int, Parser], ...] = (
    ("cpu.stat", 512, _cpu_stat_v2),
    ("memory.current", 32, _number(MEMORY)),
    ("memory.peak", 32, _number(PEAK)),
    ("memory.max", 32, _limit),
    ("memory.stat", 8192, _working_set(b"inactive_file ")),
    ("memory.events", 256, _oom_kills),
    ("pids.current", 32, _number(PIDS)),
    ("io.stat", 16384, _io_stat),
    *_PRESSURE,
)


class _File:
    """A file of a group. `descriptor`: -1 where it is opened each time."""

    __slots__ = ("descriptor", "directory", "parser", "path", "size")

    def __init__(self, directory: int, path: str, size: int, parser: Parser) -> None:
        self.directory = directory
        self.path = path
        self.size = size
        self.parser = parser
        self.descriptor = -1

    def open(self) -> int:
        """A descriptor of it."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.directory)

    def read_once(self) -> bytes:
        """Its text. OSError ENOENT: the group was removed."""
        descriptor = self.open()
        try:
            return os.pread(descriptor, self.size, 0)
        finally:
            os.close(descriptor)


class CgroupReader:
    """One container's counters; `read` gives them in the order of `FIELDS`."""

    def __init__(self, layout: str, folders: Mapping[str, int], group: str = ".", room: Room | None = None) -> None:
        """`layout`: ``v1`` or ``v2``. `group`: its name. `room`: for the descriptors; None: any number.

        `folders`: controller name -> descriptor of a folder in which the group's is; for v2 the one folder under any
        name, for v1 also ``unified``. They stay the caller's, and open.
        """
        self._files: list[_File] = []
        self._slow: list[_File] = []
        self._room = Room(1 << 20) if room is None else room
        self._group = group
        self._kept = False
        self._limit = _NAN
        self.errors = 0
        if layout == "v1":
            for controller, name, size, parser in _V1:
                if controller in folders and not (controller == "cpuacct" and "unified" in folders):
                    self._open(folders[controller], name, size, parser)
            if "unified" in folders:
                self._open(folders["unified"], "cpu.stat", 512, _cpu_usage_v2)
                for name, size, parser in _PRESSURE:
                    self._open(folders["unified"], name, size, parser)
        elif layout == "v2":
            for name, size, parser in _V2:
                self._open(next(iter(folders.values())), name, size, parser)
        else:
            raise ValueError(f"no cgroup layout {layout!r}")
        self._keep()

    def _open(self, folder: int, name: str, size: int, parser: Parser) -> None:
        """Know a file, if it is there."""
        file = _File(folder, f"{self._group}/{name}", size, parser)
        try:
            os.stat(file.path, dir_fd=folder)
        except OSError:
            return
        (self._slow if name in SLOW else self._files).append(file)

    def _keep(self) -> None:
        """Open all of them, if there is room."""
        files = [*self._files, *self._slow]
        if not self._room.take(len(files)):
            return
        self._kept = True
        for file in files:
            try:
                file.descriptor = file.open()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):  # more is open than the room knows of
                    self._release()
                    return

    def read(self, *, slow: bool = True) -> list[float] | None:
        """Counters in the order of `FIELDS`, NaN where unknown; None once the group is gone.

        Without `slow` the files in `SLOW` are left out and their columns are NaN, but for the memory limit:
        a setting, not a measurement, which is held until it is read again.
        """
        out = [_NAN] * len(FIELDS)
        out[LIMIT] = self._limit
        alive = False
        if slow and not self._kept:
            self._keep()
        for file in [*self._files, *self._slow] if slow else self._files:
            try:
                descriptor = file.descriptor
                file.parser(file.read_once() if descriptor < 0 else os.pread(descriptor, file.size, 0), out)
                alive = True
            except OSError as error:
                # ENODEV, ENOENT: the group was removed. EOPNOTSUPP: pressure accounting is switched off.
                if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EOPNOTSUPP):
                    self.errors += 1
            except (ValueError, IndexError, KeyError):
                self.errors += 1  # a format this kernel writes differently: the column stays NaN
        self._limit = out[LIMIT]
        return out if alive else None

    def close(self) -> None:
        """Close all descriptors."""
        self._release()
        self._files.clear()
        self._slow.clear()

    def _release(self) -> None:
        if not self._kept:
            return
        self._kept = False
        files = [*self._files, *self._slow]
        for file in files:
            if file.descriptor >= 0:
                os.close(file.descriptor)
                file.descriptor = -1
        self._room.give(len(files))
