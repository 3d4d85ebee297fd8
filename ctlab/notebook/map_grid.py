"""Ways around boxes: the shortest rectangular ones through the gaps between them, with few corners. Pure.

The lines of the grid run in the middle of each gap beside a box and through each box's middle; its points are where
two of them cross. One search from a box finds the ways to all others, so what is on one network shares a trunk.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise

from ctlab.notebook.map_boxes import Box, Point
from ctlab.notebook.map_obstacles import Wire

CLEARANCE = 1.0  # of a wire from a box at least: boxes may stand 3 apart
FAR = 26.0  # a gap is as wide as this at most: outside of everything a wire still runs along the boxes
COMFORT = 7.0  # a wire that has this much room on both sides costs what it is long, else `TIGHT` times that
TIGHT = 3.0
BUSY = 150.0  # what it costs to end where another wire ends
CORNER = 60.0  # what a corner costs, as pixels of wire

_UPRIGHT, _LEVEL = 0, 1


class Grid:
    """The gaps between boxes. ``exact``: lines along every side of every box, so that any way there is, is found."""

    def __init__(self, boxes: Mapping[str, Box], *, exact: bool = False) -> None:
        self.boxes = dict(boxes)
        rows = [(box.left, box.right, box.top, box.bottom) for box in self.boxes.values()]
        columns = [(box.top, box.bottom, box.left, box.right) for box in self.boxes.values()]
        self.xs = _lines(rows, exact)
        self.ys = _lines(columns, exact)
        self._upright = _steps(self.xs, self.ys, rows)  # [x][y]: what the step from y to y + 1 costs, or None
        self._level = _steps(self.ys, self.xs, columns)  # [y][x]: likewise to x + 1

    def ways(self, source: str, targets: Iterable[str], busy: Container[tuple[str, str]] = ()) -> dict[str, Wire]:
        """Of each target that can be reached: the corners from the source's middle to the target's.

        ``busy``: (key, side) where other wires end, which those of the targets rather keep away from.
        """
        before, cost, start = self._search(source)
        found = {}
        for target in targets:
            doors = [
                (cost[door] + (BUSY if (target, side) in busy else 0.0), door)
                for side, door in self._doors(target)
                if door in cost
            ]
            if doors:
                way = [min(doors)[1]]
                while way[-1] not in start:
                    way.append(before[way[-1]])
                found[target] = _corners([self._middle(source), *map(self._at, reversed(way)), self._middle(target)])
        return found

    def _at(self, state: int) -> Point:
        x, y = divmod(state >> 1, len(self.ys))
        return self.xs[x], self.ys[y]

    def _middle(self, key: str) -> Point:
        x, y = self.boxes[key].middle
        return round(x, 1), round(y, 1)

    def _doors(self, key: str) -> list[tuple[str, int]]:
        """Of each side of a box: the grid's point just outside, with the direction of a wire that goes in there."""
        box, (at, height) = self.boxes[key], self._middle(key)
        x, y = bisect_left(self.xs, at), bisect_left(self.ys, height)
        high, wide = len(self.ys), len(self.xs)
        above, below = bisect_right(self.ys, box.top - CLEARANCE) - 1, bisect_left(self.ys, box.bottom + CLEARANCE)
        before, after = bisect_right(self.xs, box.left - CLEARANCE) - 1, bisect_left(self.xs, box.right + CLEARANCE)
        rows = (("top", above), ("bottom", below))
        columns = (("left", before), ("right", after))
        return [(side, ((x * high + row) << 1) | _UPRIGHT) for side, row in rows if 0 <= row < high] + [
            (side, ((column * high + y) << 1) | _LEVEL) for side, column in columns if 0 <= column < wide
        ]

    def _search(self, source: str) -> tuple[dict[int, int], dict[int, float], set[int]]:
        high, wide = len(self.ys), len(self.xs)
        cost: dict[int, float] = dict.fromkeys((door for _, door in self._doors(source)), 0.0)
        before: dict[int, int] = {}
        start = set(cost)
        queue = [(0.0, door) for door in sorted(start)]
        done: set[int] = set()
        while queue:
            spent, state = heapq.heappop(queue)
            if state in done:
                continue
            done.add(state)
            way = state & 1
            x, y = divmod(state >> 1, high)
            steps = [(state ^ 1, CORNER)]
            if way == _UPRIGHT:
                line = self._upright[x]
                if y + 1 < high and (price := line[y]) is not None:
                    steps.append((state + 2, price))
                if y > 0 and (price := line[y - 1]) is not None:
                    steps.append((state - 2, price))
            else:
                line = self._level[y]
                if x + 1 < wide and (price := line[x]) is not None:
                    steps.append((state + 2 * high, price))
                if x > 0 and (price := line[x - 1]) is not None:
                    steps.append((state - 2 * high, price))
            for other, price in steps:
                total = spent + price
                if other not in done and total < cost.get(other, total + 1):
                    cost[other] = total
                    before[other] = state
                    heapq.heappush(queue, (total, other))
        return before, cost, start


# A box as a line sees it that runs past: from where to where across the line, and along it.
_Seen = tuple[float, float, float, float]


def _lines(boxes: Sequence[_Seen], exact: bool) -> list[float]:
    """Where lines run: through the middle of each box and of the gap on either side of it."""
    found = set()
    for low, high, start, end in boxes:
        found.add(round((low + high) / 2, 1))
        before = after = FAR
        for other_low, other_high, other_start, other_end in boxes:
            if other_start < end + FAR / 2 and start - FAR / 2 < other_end:
                if other_low >= high:
                    after = min(after, other_low - high)
                elif other_high <= low:
                    before = min(before, low - other_high)
        found |= {round(low - before / 2, 1), round(high + after / 2, 1)}
        if exact:
            found |= {round(low - 1.2 * CLEARANCE, 1), round(high + 1.2 * CLEARANCE, 1)}
    return sorted(found)


def _steps(lines: Sequence[float], stops: Sequence[float], boxes: Sequence[_Seen]) -> list[list[float | None]]:
    """Of each line, what each step between two stops costs; None where a box is in the way."""
    lengths = [after - before for before, after in pairwise(stops)]
    found: list[list[float | None]] = []
    for line in lines:
        prices: list[float | None] = list(lengths)
        for clearance, closed in ((COMFORT, False), (CLEARANCE, True)):
            for low, high, start, end in boxes:
                if low - clearance < line < high + clearance:
                    first = max(0, bisect_right(stops, start - clearance) - 1)
                    last = bisect_left(stops, end + clearance)
                    for index in range(first, min(last, len(lengths))):
                        prices[index] = None if closed else lengths[index] * TIGHT
        found.append(prices)
    return found


def _corners(points: Iterable[Point]) -> Wire:
    """A line without its points that are no corners."""
    found: list[Point] = []
    for point in points:
        if found and point == found[-1]:
            continue
        if len(found) > 1 and (found[-2][0] == found[-1][0] == point[0] or found[-2][1] == found[-1][1] == point[1]):
            found.pop()
        found.append(point)
    return tuple(found)
