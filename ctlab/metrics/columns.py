"""The one table of metrics: names, units, kinds, where they come from, and the schemas of the rings.

Names carry base units; counters end in ``_total``. Everything else about metrics is derived from this table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctlab.metrics.ring import Schema

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

# Rows that the rings hold by default: 100 containers at 10 Hz for a bit more than two minutes, one for 3.6 hours.
RING_ROWS = 1 << 17

# source codes of the containers ring
SOURCES: dict[int, str] = {1: "cgroup-v1", 2: "cgroup-v2", 3: "proc"}
SOURCE_CODES = {name: code for code, name in SOURCES.items()}


class Column(NamedTuple):
    """One metric. `v1`, `v2`, `proc`: the file it is read from in that layout, empty where it can't be known."""

    name: str
    unit: str
    kind: str  # gauge | counter
    v1: str
    v2: str
    proc: str
    description: str


_LINK = "netlink RTM_GETSTATS"


def _network(direction: str, verb: str) -> tuple[Column, ...]:
    return tuple(
        Column(f"{direction}_{what}_total", unit, "counter", _LINK, _LINK, _LINK, text)
        for what, unit, text in (
            ("bytes", "bytes", f"bytes {verb}, link headers included"),
            ("packets", "packets", f"packets {verb}"),
            ("errors", "packets", f"packets that were not {verb} because of an error"),
            ("dropped", "packets", f"packets that were dropped before they were {verb}"),
        )
    )


NETWORK = (*_network("rx", "received"), *_network("tx", "sent"))

CONTAINER = (
    Column(
        "cpu_seconds_total", "seconds", "counter", "cpuacct.usage", "cpu.stat usage_usec",
        "stat utime+stime+cutime+cstime", "CPU time used",
    ),
    Column(
        "cpu_user_seconds_total", "seconds", "counter", "cpuacct.stat user", "cpu.stat user_usec", "stat utime+cutime",
        "CPU time used in user mode (v1 and proc: in steps of 10 ms)",
    ),
    Column(
        "cpu_system_seconds_total", "seconds", "counter", "cpuacct.stat system", "cpu.stat system_usec",
        "stat stime+cstime", "CPU time used in the kernel (v1 and proc: in steps of 10 ms)",
    ),
    Column(
        "cpu_periods_total", "periods", "counter", "cpu.stat nr_periods", "cpu.stat nr_periods", "",
        "enforcement periods in which the container wanted to run; counted only under a CPU limit",
    ),
    Column(
        "cpu_throttled_periods_total", "periods", "counter", "cpu.stat nr_throttled", "cpu.stat nr_throttled", "",
        "periods in which the CPU limit stopped it",
    ),
    Column(
        "cpu_throttled_seconds_total", "seconds", "counter", "cpu.stat throttled_time", "cpu.stat throttled_usec", "",
        "time for which the CPU limit stopped it, added up over CPUs",
    ),
    Column(
        "memory_bytes", "bytes", "gauge", "memory.usage_in_bytes", "memory.current", "",
        "memory charged to the container, page cache included",
    ),
    Column(
        "memory_working_set_bytes", "bytes", "gauge", "memory.usage_in_bytes - memory.stat total_inactive_file",
        "memory.current - memory.stat inactive_file", "",
        "memory_bytes without page cache that can be reclaimed at once; sampled about once a second",
    ),
    Column(
        "memory_rss_bytes", "bytes", "gauge", "", "", "stat rss",
        "resident pages added up over processes; shared pages count once for each process",
    ),
    Column(
        "memory_peak_bytes", "bytes", "gauge", "memory.max_usage_in_bytes", "memory.peak", "",
        "largest memory_bytes since the container began; sampled about once a second",
    ),
    Column(
        "memory_limit_bytes", "bytes", "gauge", "memory.limit_in_bytes", "memory.max", "",
        "the limit in force, infinity if there is none; looked up about once a second",
    ),
    Column(
        "oom_kills_total", "processes", "counter", "memory.oom_control oom_kill", "memory.events oom_kill", "",
        "processes that the kernel killed for lack of memory",
    ),
    Column(
        "pids", "processes", "gauge", "pids.current", "pids.current", "count",
        "processes and threads (proc: processes only)",
    ),
    Column(
        "io_read_bytes_total", "bytes", "counter", "blkio.throttle.io_service_bytes_recursive", "io.stat rbytes",
        "io read_bytes", "bytes read from block devices",
    ),
    Column(
        "io_written_bytes_total", "bytes", "counter", "blkio.throttle.io_service_bytes_recursive", "io.stat wbytes",
        "io write_bytes", "bytes written to block devices",
    ),
    *(
        Column(
            f"{what}_pressure_seconds_total", "seconds", "counter", f"{what}.pressure of the v2 folder",
            f"{what}.pressure", "", f"time in which at least one task waited for {text}; sampled about once a second",
        )
        for what, text in (("cpu", "a CPU"), ("memory", "memory"), ("io", "input or output"))
    ),
    *NETWORK,
)  # fmt: skip

# Every row: the tick's realtime (the index of frames, shared by all rows of a tick), the monotonic time at which this
# row's counters were read (what rates are computed from), the key.
_STAMPS = (("time_ns", "q"), ("read_ns", "q"), ("container_key", "q"))
CONTAINERS_SCHEMA = Schema("containers", (*_STAMPS, ("source", "q"), *((column.name, "d") for column in CONTAINER)))
ENDPOINTS_SCHEMA = Schema("endpoints", (*_STAMPS, ("endpoint_key", "q"), *((column.name, "d") for column in NETWORK)))


def rate_name(counter: str) -> str:
    """The name of a counter's rate: ``rx_bytes_total`` -> ``rx_bytes_per_second``; CPU seconds a second are cores."""
    if counter == "cpu_seconds_total":
        return "cpu_cores"
    return counter.removesuffix("_total") + "_per_second"


def columns() -> pd.DataFrame:
    """All metrics, rates too, one row each: index ``metric``; unit, kind, source for each layout, granularities.

    ``by`` says in which frames the metric occurs (`lab.stats(by=...)`).
    """
    from ctlab.apart import ready

    ready("pandas")
    import pandas as pd

    network = {column.name for column in NETWORK}
    rows: list[tuple[str, ...]] = []
    for column in CONTAINER:
        by = "container, node, endpoint" if column.name in network else "container, node"
        rows.append((*column, by))
        if column.kind == "counter":
            unit = "cores" if column.name == "cpu_seconds_total" else f"{column.unit}/second"
            text = f"increase of {column.name} a second since the row before"
            sources = tuple("computed" if source else "" for source in column[3:6])
            rows.append((rate_name(column.name), unit, "rate", *sources, text, by))
    frame = pd.DataFrame(
        rows, columns=["metric", "unit", "kind", "cgroup_v1", "cgroup_v2", "proc", "description", "by"]
    )
    return frame.set_index("metric")
