"""The rows of the counters that a chart can show: added as they come, kept as long as the chart's window reaches back.

A chart reads only what is new in the ring. What it needs of a row is kept in the units of its panes, rates among it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ctlab.apart import ready
from ctlab.metrics.frame import rate
from ctlab.notebook.chart_panes import COLUMNS, CPU, MEMORY, PANES, RECEIVED, SENT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ctlab.metrics.ring import Ring, Snapshot

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

MOST_ROWS = 1 << 18  # that are kept, whatever the window is: 25 MB
CLOSE = 0.6  # of an interval: rows so near behind one another belong to one moment


class Means(NamedTuple):
    """What the rows say of one container: means, the most, and the newest. NaN where nothing is known.

    What has ended has no newest: others have been sampled since, twice.
    """

    name: str
    cpu_mean: float  # cores
    cpu_max: float  # cores
    memory_mib: float  # newest
    received: float  # bit/s, mean
    sent: float  # bit/s, mean
    processes: float  # newest
    ended: bool


class Rows:
    """Rows in the order of time: `time_ms` (since 1970), `key`, `values` (a row of it for each of `PANES`)."""

    def __init__(self, seconds: float | None = None) -> None:
        """`seconds`: how far back from the newest row they are kept; None: all of them."""
        ready("numpy")
        import numpy as np

        self.seconds = seconds
        self.interval_ms = 0.0  # between two samples of a container
        self.next_row: int | None = None  # of the ring
        self.time_ms: Floats = np.empty(0)
        self.key: Ints = np.empty(0, np.int64)
        self.values: Floats = np.empty((len(PANES), 0))
        self._tail: dict[str, Any] = {}  # of each container the newest row as the ring had it

    def __len__(self) -> int:
        return len(self.key)

    def read(self, ring: Ring) -> None:
        """Add what is new in a ring of containers."""
        first = self.next_row
        if first is None or first > ring.head:
            newest = ring.snapshot(max(0, ring.head - 1), ["time_ns"]).columns["time_ns"]
            start = int(newest[-1] - self.seconds * 1e9) if newest and self.seconds is not None else 0
            first = ring.row_at("time_ns", start) if start > 0 else 0
        self.interval_ms = float(ring.state()["interval_seconds"]) * 1e3
        self.add(ring.snapshot(first, COLUMNS))

    def add(self, rows: Snapshot) -> None:
        """Add rows that come after all those that are there."""
        ready("numpy")
        import numpy as np

        self.next_row = rows.end_row
        new: dict[str, Any] = {
            name: np.frombuffer(rows.columns[name], np.int64 if rows.columns[name].typecode == "q" else np.float64)
            for name in COLUMNS
        }
        count = len(new["time_ns"])
        if not count:
            return
        before = len(self._tail["time_ns"]) if self._tail else 0
        both = {name: np.concatenate([self._tail[name], new[name]]) if before else new[name] for name in COLUMNS}
        with np.errstate(all="ignore"):  # what comes from inside may be any number
            values = np.vstack([_values(pane, both) for pane in PANES])[:, before:]
        values[~np.isfinite(values)] = math.nan
        time = np.concatenate([self.time_ms, new["time_ns"] / 1e6])
        key = np.concatenate([self.key, new["container_key"]])
        values = np.concatenate([self.values, values], axis=1)
        if (np.diff(time[-count - 1 :]) < 0).any():
            order = np.argsort(time, kind="stable")
            time, key, values = time[order], key[order], values[:, order]
        first = 0 if self.seconds is None else int(np.searchsorted(time, time[-1] - self.seconds * 1e3))
        first = max(first, len(time) - MOST_ROWS)
        self.time_ms, self.key, self.values = time[first:], key[first:], values[:, first:]
        self._keep_tail(both)

    def _keep_tail(self, rows: Mapping[str, Any]) -> None:
        ready("numpy")
        import numpy as np

        _, last = np.unique(rows["container_key"][::-1], return_index=True)
        last = len(rows["container_key"]) - 1 - last
        last = np.sort(last[np.isin(rows["container_key"][last], self.key)])
        self._tail = {name: values[last] for name, values in rows.items()}

    def named(self, names: Mapping[int, str]) -> tuple[list[str], Ints]:
        """The containers in the order of their first rows, and for each row the number of its own.

        A name may have had several keys.
        """
        ready("numpy")
        import numpy as np

        keys, first, inverse = np.unique(self.key, return_index=True, return_inverse=True)
        numbers: dict[str, int] = {}
        number = np.zeros(len(keys), np.int64)
        for at in np.argsort(first, kind="stable"):
            name = names.get(int(keys[at]), f"container-{keys[at]}")
            number[at] = numbers.setdefault(name, len(numbers))
        return list(numbers), number[inverse]

    def moments(self) -> tuple[Floats, Ints]:
        """The moments at which was sampled (ms since 1970), and for each row the number of its own.

        A container's last row is written when it ends, between two samples of the others; it belongs to one of them.
        """
        ready("numpy")
        import numpy as np

        begins = np.diff(self.time_ms, prepend=-math.inf) > CLOSE * self.interval_ms
        return self.time_ms[begins], np.cumsum(begins) - 1

    def means(self, names: Mapping[int, str]) -> list[Means]:
        """What there is to say about each container, in the order of their first rows."""
        ready("numpy")
        import numpy as np

        found, number = self.named(names)
        count = len(found)
        known = ~np.isnan(self.values)
        with np.errstate(all="ignore"):
            mean = [
                np.bincount(number[there], values[there], count) / np.bincount(number[there], minlength=count)
                for values, there in zip(self.values, known, strict=True)
            ]
        most = np.full(count, -math.inf)
        np.maximum.at(most, number[known[CPU]], self.values[CPU][known[CPU]])
        newest = np.full((len(PANES), count), math.nan)
        for pane, there in enumerate(known):
            newest[pane, number[there]] = self.values[pane][there]
        most[np.isinf(most)] = math.nan
        moment = self.moments()[1]
        last = np.zeros(count, np.int64)
        np.maximum.at(last, number, moment)
        ended = last < (moment[-1] if len(moment) else 0) - 1
        newest[:, ended] = math.nan
        values = mean[CPU], most, newest[MEMORY], mean[RECEIVED], mean[SENT], newest[-1]
        rows = zip(found, zip(*values, strict=True), ended, strict=True)
        return [Means._make((name, *map(float, row), bool(gone))) for name, row, gone in rows]


def _values(pane: Any, rows: Mapping[str, Any]) -> Floats:
    """A pane's values of rows of the ring, in the pane's unit; where a column says nothing, the next one does."""
    ready("numpy")
    import numpy as np

    values = np.full(len(rows["time_ns"]), math.nan)
    for name in pane.columns:
        column = rate(rows[name], rows["read_ns"], rows["container_key"]) if pane.rate else rows[name]
        values = np.where(np.isnan(values), column, values)
    return np.asarray(values * pane.factor)
