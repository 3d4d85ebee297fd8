"""One picture of a chart: the busiest containers, the others together, thinned to the points that a pane can show.

All lines of a picture share their moments, so it is two arrays, whoever draws them: a page, an SVG, a figure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ctlab.apart import ready
from ctlab.notebook.chart_panes import (
    BUSIEST,
    COLOURS,
    CPU,
    GREY,
    MAX_CONTAINERS,
    MIN_SECONDS,
    PANES,
    RECEIVED,
    SENT,
    others,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ctlab.notebook.chart_rows import Rows

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]
    Line = tuple[Floats, Floats]  # x: ms since 1970, y: in the pane's unit

RECENT_MS = 10_000.0  # what "busy" looks back on
NOISE = (0.05, 1000.0)  # cores, bit/s: of all containers together, at which none is busier than another
CLEARLY = 1.5  # so many times as busy is who takes another's line
BRIDGED = 10  # of the usual distance between two samples: what is longer is a gap


class Picture(NamedTuple):
    """`names`, `colours`: of the lines. `x`: ms since 1970; `y`: by line, pane and moment, NaN where nothing is known.

    `window`: ms since 1970, what the time axis shows; `said`: about what has no line of its own.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]
    x: Floats
    y: Floats
    window: tuple[float, float]
    said: str

    def lines(self) -> dict[str, list[Line]]:
        """For each name a line for each of `PANES`."""
        return {name: [(self.x, y) for y in self.y[index]] for index, name in enumerate(self.names)}


class Chosen:
    """Who has a line of its own. A place keeps its colour, and a container its place while it is busy enough."""

    def __init__(self, containers: Collection[str] | None = None) -> None:
        """`containers`: who is asked for, all of whom are drawn; None: the busiest."""
        self.wanted = None if containers is None else {name.lower() for name in containers}
        self.most = BUSIEST if containers is None else MAX_CONTAINERS
        self.places: list[str] = []  # names; empty where nobody is

    def update(self, scores: Mapping[str, float]) -> None:
        """`scores`: of all that there are, in the order of their first samples."""
        busy = scores.__getitem__
        order = {name: at for at, name in enumerate(scores)}
        most = self.most if len(scores) > self.most + 1 else self.most + 1  # one alone needs no line for the others
        places = [name if name in scores else "" for name in self.places]
        inside = sorted(filter(None, places), key=busy)
        for name in inside[: max(0, len(inside) - most)]:
            places[places.index(name)] = ""
        waiting = sorted(scores.keys() - set(places), key=lambda name: (-busy(name), order[name]))
        free = most - len(places) + places.count("")
        for name in sorted(waiting[:free], key=order.__getitem__):
            if "" in places:
                places[places.index("")] = name
            else:
                places.append(name)
        for name in waiting[free:]:
            idlest = min(filter(None, places), key=busy)
            if busy(name) <= CLEARLY * busy(idlest) + 0.02:
                break
            places[places.index(idlest)] = name
        self.places = places


def scores(rows: Rows, names: Sequence[str], number: Ints) -> dict[str, float]:
    """Of each container its share of the CPU time and of the traffic lately, 0 to 2."""
    ready("numpy")
    import numpy as np

    recent = rows.time_ms >= rows.time_ms[-1] - RECENT_MS if len(rows) else np.zeros(0, np.bool_)
    number = number[recent]
    counts = np.maximum(1, np.bincount(number, minlength=len(names)))
    values = np.nan_to_num(rows.values[:, recent])
    total = np.zeros(len(names))
    for column, noise in zip((values[CPU], values[RECEIVED] + values[SENT]), NOISE, strict=True):
        mean = np.bincount(number, column, len(names)) / counts
        total += mean / max(noise, float(mean.sum()))
    # Rounded: who does next to nothing does as much as others who do.
    return dict(zip(names, np.round(total, 2).tolist(), strict=True))


def take(rows: Rows, names: Mapping[int, str], chosen: Chosen, seconds: float | None, points: int) -> Picture:
    """A picture of the rows as they are now. `names`: of their keys; `seconds`: of the window; `points`: at most."""
    ready("numpy")
    import numpy as np

    found, number = rows.named(names)
    if chosen.wanted is not None:
        inside = np.array([name.lower() in chosen.wanted for name in found], np.bool_)
        found, there = [name for name in found if name.lower() in chosen.wanted], inside[number]
        number = (np.cumsum(inside) - 1)[number]
    else:
        there = np.ones(len(rows), np.bool_)
    busy = scores(rows, found, number) if chosen.wanted is None else dict.fromkeys(found, 0.0)
    chosen.update(busy)
    shown = [name for name in chosen.places if name]
    rest = [name for name in found if name not in set(shown)]
    line_of = {name: line for line, name in enumerate(shown)}
    lines = np.array([line_of.get(name, len(shown)) for name in found], np.int64)
    x, moment = rows.moments()
    y = np.full((len(shown) + bool(rest), len(PANES), len(x)), math.nan)
    line = lines[number] if len(found) else number
    own = np.flatnonzero(there & (line < len(shown)))
    y[line[own], :, moment[own]] = rows.values[:, own].T
    if rest:
        together = np.flatnonzero(there & (line == len(shown)))
        y[-1] = _sums(rows.values[:, together], number[together], moment[together], len(found), len(x))
    bridge(x, y)
    x, y = thin(x, y, points)
    return Picture(
        tuple(shown) + ((others(len(rest)),) if rest else ()),
        tuple(COLOURS[place % len(COLOURS)] for place, name in enumerate(chosen.places) if name)
        + ((GREY,) if rest else ()),
        x, y, window(x, seconds),
        f"busiest {len(shown)} of {len(found)} containers: name those to show" if rest else "",
    )  # fmt: skip


def _sums(values: Floats, number: Ints, moment: Ints, containers: int, moments: int) -> Floats:
    """For each pane what all containers have together at each moment: of each its newest row there."""
    ready("numpy")
    import numpy as np

    # The last row of a container that ends may fall into a moment in which it has one already.
    where = moment * containers + number
    if len(where) > 1:
        _, last = np.unique(where[::-1], return_index=True)
        keep = len(where) - 1 - last
        values, moment = values[:, keep], moment[keep]
    result = np.empty((len(PANES), moments))
    for pane, row in enumerate(values):
        known = ~np.isnan(row)
        result[pane] = np.bincount(moment[known], row[known], moments)
        result[pane][np.bincount(moment[known], minlength=moments) == 0] = math.nan
    return result


def window(x: Floats, seconds: float | None) -> tuple[float, float]:
    """The first and the last moment to show: of a lab that is younger than the window, its life."""
    if not len(x):
        return 0.0, MIN_SECONDS * 1000
    oldest, newest = float(x[0]), float(x[-1])
    if seconds is None:
        return oldest, max(newest, oldest + 1.0)
    return max(newest - seconds * 1000, min(oldest, newest - MIN_SECONDS * 1000)), newest


def bridge(x: Floats, y: Floats) -> None:
    """Fill, in place, what is unknown between two samples that aren't far apart: a line goes straight there."""
    ready("numpy")
    import numpy as np

    if len(x) < 3:
        return
    longest = BRIDGED * float(np.median(np.diff(x)))
    for row in y.reshape(-1, len(x)):
        known = np.flatnonzero(~np.isnan(row))
        if len(known) < 2 or known[-1] - known[0] + 1 == len(known):
            continue
        between = np.flatnonzero((np.diff(known) > 1) & (np.diff(x[known]) <= longest))
        for before, after in zip(known[between].tolist(), known[between + 1].tolist(), strict=True):
            ends = [before, after]
            row[before + 1 : after] = np.interp(x[before + 1 : after], x[ends], row[ends])


def thin(x: Floats, y: Floats, limit: int) -> Line:
    """At most `limit` moments, in which every line keeps its peaks: of each piece of time the lowest and the highest.

    `y`: its last axis is that of `x`. The pieces lie on a fixed grid of time, so that a moving window doesn't make the
    lines flicker. Of two values in a piece the one that a line comes from stands first.
    """
    ready("numpy")
    import numpy as np

    if len(x) <= limit:
        return x, y
    # A power of two, or the grid would shift with every small change of the range; the range may touch one piece
    # more than its length says.
    width = 2.0 ** math.ceil(math.log2((x[-1] - x[0]) / max(1, limit // 2 - 1)))
    piece = np.floor_divide(x, width)
    starts = np.flatnonzero(np.r_[True, piece[1:] != piece[:-1]])
    low, high = np.fmin.reduceat(y, starts, axis=-1), np.fmax.reduceat(y, starts, axis=-1)
    falls = y[..., np.r_[starts[1:] - 1, len(x) - 1]] < y[..., starts]
    thinned = np.empty((*y.shape[:-1], 2 * len(starts)))
    thinned[..., ::2], thinned[..., 1::2] = np.where(falls, high, low), np.where(falls, low, high)
    moments = np.empty(2 * len(starts))
    moments[::2], moments[1::2] = (piece[starts] + 0.25) * width, (piece[starts] + 0.75) * width
    # The line's ends are where they are, not somewhere in their pieces.
    moments[0], moments[1] = x[0], max(moments[1], x[0])
    moments[-2], moments[-1] = min(moments[-2], x[-1]), x[-1]
    return moments, thinned
