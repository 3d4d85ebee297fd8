"""What a wire must not run through: rectangles, asked for quickly. Pure; pixels, as in `map_boxes`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from ctlab.notebook.map_boxes import Box, Point

Wire = tuple[Point, ...]
"""The corners of a wire, from within its source's box to within its target's."""

CELL = 160.0
NAME = "name of "  # begins the keys of nodes' names


def crosses(start: Point, end: Point, box: Box) -> bool:
    """Whether a straight line runs through the inside of a box (Liang and Barsky's clipping)."""
    first, last = 0.0, 1.0
    for at, way, low, high in (
        (start[0], end[0] - start[0], box.left, box.right),
        (start[1], end[1] - start[1], box.top, box.bottom),
    ):
        if way == 0:
            if not low < at < high:
                return False
            continue
        into, out = sorted(((low - at) / way, (high - at) / way))
        first, last = max(first, into), min(last, out)
        if first >= last:
            return False
    return True


class Obstacles:
    """Boxes by key, and which of them a line meets."""

    def __init__(self, boxes: Mapping[str, Box]) -> None:
        self.boxes = dict(boxes)
        self._cells: dict[tuple[int, int], list[str]] = {}
        for key, box in self.boxes.items():
            for cell in _cells(box):
                self._cells.setdefault(cell, []).append(key)

    def near(self, box: Box) -> Iterator[tuple[str, Box]]:
        """Boxes that may meet a box, each once; boxes in the cells it touches."""
        seen: set[str] = set()
        for cell in _cells(box):
            for key in self._cells.get(cell, ()):
                if key not in seen:
                    seen.add(key)
                    yield key, self.boxes[key]

    def meets(self, box: Box) -> bool:
        """Whether a box has area in common with any."""
        return any(box.meets(other) for _, other in self.near(box))

    def hit(self, wire: Wire, ends: Sequence[str], clearance: float) -> bool:
        """Whether a wire comes closer than that to a box other than those it hangs on, or that lie under these."""
        own = [self.boxes[end] for end in ends if end in self.boxes]
        for start, end in pairwise(wire):
            around = Box(
                min(start[0], end[0]), min(start[1], end[1]), max(start[0], end[0]), max(start[1], end[1])
            ).grown(clearance)
            for key, box in self.near(around):
                if key in ends or not crosses(start, end, box.grown(clearance)):
                    continue
                if key.startswith(NAME) and any(box.meets(one) for one in own):
                    continue  # a person has dropped a box on it
                return True
        return False


def _cells(box: Box) -> Iterator[tuple[int, int]]:
    for x in range(math.floor(box.left / CELL), math.floor(box.right / CELL) + 1):
        for y in range(math.floor(box.top / CELL), math.floor(box.bottom / CELL) + 1):
            yield x, y
