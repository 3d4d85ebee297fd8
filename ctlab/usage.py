"""What each container uses now: `%container stats`, with docker's columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import units
from .handles import Handles
from .values import Values

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab

_RATE_SECONDS = 1.0  # over which CPU is averaged: a single interval is noise
_MEMORY = ("memory_working_set_bytes", "memory_bytes", "memory_rss_bytes")  # the first that is known
_COUNTED = (
    "memory_limit_bytes", "rx_bytes_total", "tx_bytes_total", "io_read_bytes_total", "io_written_bytes_total", "pids",
)  # fmt: skip
_UNKNOWN = "--"  # as docker writes it


@dataclass(frozen=True)
class Usage:
    """One container's latest values: bytes, cores (1.0 = one), NaN where it isn't known, infinity for no limit."""

    name: str
    cpu_cores: float
    memory_bytes: float
    """Without page cache that can be given back at once, as docker counts; without a cgroup, resident pages."""
    memory_limit_bytes: float
    rx_bytes_total: float
    tx_bytes_total: float
    io_read_bytes_total: float
    io_written_bytes_total: float
    pids: float

    @property
    def memory_share(self) -> float:
        """Of its limit; NaN without one."""
        return self.memory_bytes / self.memory_limit_bytes if math.isfinite(self.memory_limit_bytes) else math.nan


def usage(lab: Lab, containers: Sequence[Container], note: str = "") -> Handles[Usage]:
    """A row for each of those containers, in their order; what hasn't been sampled yet isn't known."""
    last = max(_RATE_SECONDS, 2.5 * lab.interval_seconds)
    names = [one.name for one in containers]
    metrics = ("cpu_seconds_total", *_MEMORY, *_COUNTED)
    frame = lab.stats(containers=names, metrics=metrics, last=last, rates=False)
    found = {}
    for name, rows in frame.groupby("container", observed=True, sort=False):
        latest = rows.iloc[-1]
        seconds = (rows.index[-1] - rows.index[0]).total_seconds()
        used = latest["cpu_seconds_total"] - rows["cpu_seconds_total"].iloc[0]
        known = (latest[column] for column in _MEMORY)
        found[str(name)] = Usage(
            name=str(name),
            cpu_cores=float(used / seconds) if seconds > 0 and used >= 0 else math.nan,
            memory_bytes=next((float(value) for value in known if not math.isnan(value)), math.nan),
            **{column: float(latest[column]) for column in _COUNTED},
        )
    nothing = dict.fromkeys(_COUNTED, math.nan)
    unknown = [Usage(one.name, math.nan, math.nan, **nothing) for one in containers if one.name not in found]
    known_or_not = {**{one.name: one for one in unknown}, **found}
    return Handles([known_or_not[one.name] for one in containers], _row, "running container", note, values=VALUES)


def _row(one: Usage) -> dict[str, Any]:
    limit = "no limit" if math.isinf(one.memory_limit_bytes) else _size(one.memory_limit_bytes)
    return {
        "NAME": one.name,
        "CPU %": _percent(one.cpu_cores),
        "MEM USAGE / LIMIT": f"{_size(one.memory_bytes)} / {limit}",
        "MEM %": _percent(one.memory_share),
        "NET I/O": f"{_size(one.rx_bytes_total)} / {_size(one.tx_bytes_total)}",
        "BLOCK I/O": f"{_size(one.io_read_bytes_total)} / {_size(one.io_written_bytes_total)}",
        "PIDS": _UNKNOWN if math.isnan(one.pids) else f"{one.pids:.0f}",
    }


def _size(count: float) -> str:
    return units.format_size(int(count), 3) if math.isfinite(count) else _UNKNOWN


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%" if math.isfinite(share) else _UNKNOWN


def _value(name: str) -> Callable[[Usage], Any]:
    return lambda one: getattr(one, name)


VALUES: Values = {
    "container": ("object", lambda one: one.name),
    **{
        name: ("float64", _value(name))
        for name in (
            "cpu_cores", "memory_bytes", "memory_limit_bytes", "memory_share", "rx_bytes_total", "tx_bytes_total",
            "io_read_bytes_total", "io_written_bytes_total",
        )
    },
    "pids": ("Int64", lambda one: None if math.isnan(one.pids) else int(one.pids)),
}  # fmt: skip
