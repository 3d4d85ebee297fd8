"""Rows of a ring as a DataFrame: windows, names, rates, resampling, sums over nodes.

One granularity per frame, so that nothing is repeated over rows and sums are right. The index ``time`` is the
tick's time (UTC, nanoseconds, the same for all rows of a tick, so not unique); rates come from the monotonic time
at which each row was read. NaN means not sampled at that tick; nothing is ever filled.

pandas and numpy are imported when a frame is built, not when this module is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from ctlab import units
from ctlab.apart import ready
from ctlab.errors import BadInput, NotFound, Unsupported
from ctlab.metrics.columns import CONTAINER, NETWORK, SCHEMA_VERSION, SOURCES, Column, rate_name
from ctlab.metrics.ring import Ring, Snapshot
from ctlab.names import nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

GRANULARITIES = ("container", "endpoint", "node")
NOT_YET = ("device", "connection", "qdisc")
# Sums over the containers of a node would mean nothing.
_NOT_ADDITIVE = ("memory_peak_bytes",)


class Names(NamedTuple):
    """What the numbers in the rings are called; objects that were removed stay in, as long as their rows may be."""

    containers: Mapping[int, str]  # container key -> name
    endpoints: Mapping[int, tuple[str, str, str]] = {}  # endpoint key -> (container, network, interface)
    nodes: Mapping[int, str] = {}  # container key -> node


def check_by(by: str) -> str:
    """`by` if there is such a granularity; Unsupported or BadInput otherwise."""
    if by in GRANULARITIES:
        return by
    there = "there are by='container', 'endpoint' and 'node'"
    if by in NOT_YET:
        raise Unsupported(f"by={by!r} is not in this version; {there}")
    raise BadInput(f"no granularity {by!r}; {there}")


def select(by: str, metrics: str | Iterable[str] | None, rates: bool) -> list[tuple[str, Column]]:
    """The columns of a frame: (name, the column of the ring it comes from), in the order of the table.

    `metrics`: names or globs, a text may hold several with commas between. NotFound for one that matches nothing.
    """
    table: Sequence[Column] = NETWORK if by == "endpoint" else CONTAINER
    if by == "node":
        table = [column for column in table if column.name not in _NOT_ADDITIVE]
    offered = [(column.name, column) for column in table]
    added = [(rate_name(column.name), column) for column in table if column.kind == "counter"]
    if rates:
        offered += added
    if metrics is None:
        return offered
    wanted = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    chosen: set[str] = set()
    for pattern in (word.strip() for word in wanted):
        found = {name for name, _ in offered if fnmatchcase(name, pattern)}
        if not found:
            raise NotFound(_no_metric(pattern, by, [name for name, _ in offered], [name for name, _ in added]))
        chosen |= found
    return [(name, column) for name, column in offered if name in chosen]


def _no_metric(pattern: str, by: str, offered: list[str], added: list[str]) -> str:
    if pattern in added:
        return f"metric {pattern!r} is a rate: it needs rates=True"
    if any(column.name == pattern or rate_name(column.name) == pattern for column in CONTAINER):
        return f"metric {pattern!r} is not in frames by {by!r}"
    near = nearest(pattern, offered)
    return f"no metric {pattern!r}; " + (f"did you mean {near!r}? " if near else "") + "all: ctlab.columns()"


def check_names(containers: str | Iterable[str], names: Names) -> set[int]:
    """The keys of the named containers; NotFound for a name that no container has or had."""
    wanted = [containers] if isinstance(containers, str) else [str(one) for one in containers]
    keys: set[int] = set()
    for name in wanted:
        found = {key for key, other in names.containers.items() if other.lower() == name.lower()}
        if not found:
            near = nearest(name, names.containers.values())
            raise NotFound(f"no container {name!r} has been sampled" + (f"; did you mean {near!r}?" if near else ""))
        keys |= found
    return keys


def instant(since: Any) -> int:
    """Nanoseconds since 1970 of a datetime, Timestamp, ISO text or seconds; without a zone: local time."""
    ready("pandas")
    import pandas as pd

    if isinstance(since, (int, float)) and not isinstance(since, bool):
        return int(since * 1e9)
    try:
        stamp = pd.Timestamp(since)
        if stamp.tzinfo is None:
            stamp = pd.Timestamp(stamp.to_pydatetime(warn=False).astimezone())
        return int(stamp.as_unit("ns").value)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(f"since={since!r} is not a time: a datetime, ISO text or seconds since 1970 is") from error


def window(newest_ns: int, last: str | float | timedelta | None, since: datetime | str | float | None) -> int:
    """The first time_ns of the rows that are asked for; `since` goes before `last`; neither: everything."""
    if since is not None:
        return instant(since)
    return 0 if last is None else newest_ns - round(units.parse_duration(last) * 1e9)


OPTIONS = ("since", "rates", "resample")  # of `lab.stats`, beside what it names itself


def read_frame(
    containers_ring: Ring,
    endpoints_ring: Ring,
    names: Names,
    *,
    containers: str | Iterable[str] | None = None,
    metrics: str | Iterable[str] | None = None,
    last: str | float | timedelta | None = "30s",
    since: datetime | str | float | None = None,
    rates: bool = True,
    resample: str | float | timedelta | None = None,
    by: str = "container",
    lab: str = "",
) -> pd.DataFrame:
    """`lab.stats()`: copies from the ring only the columns and rows that are asked for, then `build_frame`.

    `last` counts back from the newest row, which is now unless sampling is paused or the lab has ended.
    """
    ready("numpy", "pandas")
    import numpy as np
    import pandas as pd

    ring = endpoints_ring if check_by(by) == "endpoint" else containers_ring
    needed = {column.name for _, column in select(by, metrics, rates)}
    stamps = [name for name, kind in ring.schema.columns if kind == "q"]
    newest = ring.snapshot(max(0, ring.head - 1), ["time_ns"]).columns["time_ns"]
    start = window(int(newest[-1]) if newest else 0, last, since)
    first = ring.row_at("time_ns", start) if start > 0 else 0
    rows = ring.snapshot(first, [*stamps, *(name for name in ring.schema.names if name in needed)])
    lost = rows.overwritten
    if not lost and rows.first_row and len(rows) and rows.first_row <= rows.end_row - ring.capacity + 1:
        lost = rows.first_row  # the window reaches back beyond the oldest row: so many at most were in it
    state = ring.state()
    attrs = {
        "lab": lab,
        "interval_seconds": float(state["interval_seconds"]),
        "overwritten_samples": int(lost),
    }
    with np.errstate(all="ignore"):  # what comes from inside may be any number: the wrong ones give inf, and no warning
        return build_frame(
            rows, names, by=by, containers=containers, metrics=metrics, rates=rates, resample=resample,
            last=None, since=pd.Timestamp(start, unit="ns", tz="UTC") if start > 0 else None, attrs=attrs,
        )  # fmt: skip


def build_frame(
    rows: Snapshot,
    names: Names,
    *,
    by: str = "container",
    containers: str | Iterable[str] | None = None,
    metrics: str | Iterable[str] | None = None,
    rates: bool = True,
    resample: str | float | timedelta | None = None,
    last: str | float | timedelta | None = "30s",
    since: datetime | str | float | None = None,
    attrs: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """A frame of copied rows (of the endpoints ring for ``by="endpoint"``, else of the containers ring).

    `resample`: a duration; counters take the last value of each such piece of time, gauges the mean, rates are
    computed from what results; pieces without a sample have no row. ``by="node"`` adds up the containers of a node;
    a container whose value is unknown doesn't add. `attrs`: scalars that go into ``df.attrs``.
    Raises NotFound (metric, container), BadInput, Unsupported.
    """
    ready("numpy", "pandas")
    import numpy as np
    import pandas as pd

    chosen = select(check_by(by), metrics, rates)
    data: dict[str, Any] = {
        name: np.frombuffer(values, dtype=np.int64 if values.typecode == "q" else np.float64)
        for name, values in rows.columns.items()
    }
    time = data["time_ns"]
    keep = time >= window(int(time.max()) if len(time) else 0, last, since)
    if containers is not None:
        keep &= np.isin(data["container_key"], sorted(check_names(containers, names)))
    data = {name: values[keep] for name, values in data.items()}
    group = data["endpoint_key" if by == "endpoint" else "container_key"]
    base = {column.name: column for _, column in chosen}
    stamps = [name for name, kind in rows.schema.columns if kind == "q"]
    data = {name: data[name] for name in (*stamps, *base)}
    if resample is not None:
        data, group = _resample(data, group, base, round(units.parse_duration(resample) * 1e9))
    values = {
        name: data[name] if name == column.name else rate(data[column.name], data["read_ns"], group)
        for name, column in chosen
    }
    time = data["time_ns"]
    keys: dict[str, list[str]]
    if by == "node":
        node = [names.nodes.get(int(key), "host") for key in data["container_key"]]
        summed = pd.DataFrame({"time_ns": time, "node": node, **values})
        summed = summed.groupby(["time_ns", "node"], sort=True).sum(min_count=1).reset_index()
        time, keys = summed["time_ns"].to_numpy(np.int64), {"node": list(summed["node"])}
        values = {name: summed[name].to_numpy(np.float64) for name in values}
    elif by == "endpoint":
        unnamed = ("", "", "")
        known = [names.endpoints.get(int(key), unnamed) for key in data["endpoint_key"]]
        keys = {
            word: [one[number] for one in known] for number, word in enumerate(("container", "network", "interface"))
        }
    else:
        keys = {
            "container": [names.containers.get(int(key), f"container-{key}") for key in data["container_key"]],
            "source": [SOURCES.get(int(code), "") for code in data["source"]],
        }
    index = pd.DatetimeIndex(np.asarray(time, dtype="datetime64[ns]"), name="time").tz_localize("UTC")
    frame = pd.DataFrame(
        {**{word: pd.Categorical(known, categories=_unique(known)) for word, known in keys.items()}, **values},
        index=index,
    )
    frame.attrs.update({"schema": SCHEMA_VERSION, "overwritten_samples": rows.overwritten, **(attrs or {})})
    return frame


def _unique(words: Sequence[str]) -> pd.Index[str]:
    """Categories in the order of their first appearance; of type str also when there are none."""
    ready("pandas")
    import pandas as pd

    return pd.Index(list(dict.fromkeys(words)), dtype="str")


def rate(values: Floats, read_ns: Ints, group: Ints) -> Floats:
    """Increase a second since the row before of the same group in which the counter is known.

    NaN in each group's first row, where the counter is unknown and where it fell.
    """
    ready("numpy")
    import numpy as np

    order = np.argsort(group, kind="stable")
    order = order[~np.isnan(values[order])]
    ordered, times, groups = values[order], read_ns[order], group[order]
    result = np.full(len(values), np.nan)
    if len(order) > 1:
        seconds = np.diff(times) / 1e9
        increase = np.diff(ordered)
        good = (np.diff(groups) == 0) & (seconds > 0) & (increase >= 0)
        steps = np.full(len(increase), np.nan)
        steps[good] = increase[good] / seconds[good]
        result[order[1:]] = steps
    return result


def _resample(data: dict[str, Any], group: Ints, base: Mapping[str, Column], step: int) -> tuple[dict[str, Any], Ints]:
    """One row for each group and piece of `step` nanoseconds that has samples, in the order of time."""
    ready("pandas")
    import pandas as pd

    if step <= 0:
        raise BadInput("resample needs a duration longer than nothing, such as 1s")
    frame = pd.DataFrame({**data, "group": group})
    frame["time_ns"] = frame["time_ns"] // step * step
    how = {
        name: "mean" if name in base and base[name].kind == "gauge" else "last" for name in data if name != "time_ns"
    }
    merged = frame.groupby(["time_ns", "group"], sort=True).agg(how).reset_index()
    return {name: merged[name].to_numpy() for name in data}, merged["group"].to_numpy()
