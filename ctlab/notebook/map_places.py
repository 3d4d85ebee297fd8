"""Free places on a map that is in use: what is there stays, what is new comes as near as it can. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache

from ctlab.notebook.map_boxes import APART, PADDING, Box, Point, around, box_at, extent
from ctlab.notebook.map_model import OUTSIDE, World, few
from ctlab.notebook.map_obstacles import crosses

LEVEL_ROOM = 220.0  # between the middles of a network and a container beside it: the address needs room
FARTHEST = 50_000.0  # from the middle: wires are laid cell by cell
TRIES = 60  # free places looked at for one from which straight wires lead
FEW = 12  # up to so many containers on a network: wide rows, straight wires, labels
PITCH, ROW, FIRST_ROW = 140.0, 68.0, 108.0  # from column to column, row to row, network to first row
CLOSE_PITCH, CLOSE_ROW, CLOSE_FIRST_ROW = 124.0, 46.0, 72.0  # the same where there are more than `FEW`


@cache
def _spots(close: bool) -> tuple[Point, ...]:
    """Offsets from a network at which a container may stand, best first: near, and rather beside than above."""
    pitch, row, first = (CLOSE_PITCH, CLOSE_ROW, CLOSE_FIRST_ROW) if close else (PITCH, ROW, FIRST_ROW)
    # Many stand in columns beside the network's own, which is left to the wires' trunk; few wherever there is room.
    columns = range(-23, 24, 2) if close else range(-24, 25)
    spots = [
        (column / 2 * pitch, side * (first + index * row))
        for column in columns
        for index in range(16)
        for side in (1, -1)
    ]

    def cost(at: Point) -> tuple[float, float, float]:
        # Few stand around the network; many fill a block that is twice as wide as it is high.
        x, y = abs(at[0]), abs(at[1])
        far = max(x, 2.0 * y) + (x + y) / 100 if close else math.hypot(x, 2.6 * y)
        return round(far), -at[1], at[0]

    return tuple(sorted(spots, key=cost))


def believed(world: World, sent: object) -> dict[str, Point]:
    """Of what a page says, where elements that there are have been dragged to: places that a map can have."""
    found = {}
    for key, at in sent.items() if isinstance(sent, Mapping) else ():
        if key in world.elements and isinstance(at, (list, tuple)) and len(at) == 2:
            x, y = at
            if all(type(number) in (int, float) and -FARTHEST <= number <= FARTHEST for number in at):
                found[key] = (float(x), float(y))
    return found


def still_free(world: World, kept: Mapping[str, Point], wanted: Mapping[str, Point]) -> dict[str, Point]:
    """Of ``wanted``, the positions of elements that exist and whose boxes meet nothing that is kept."""
    places = Places(world, {key: at for key, at in kept.items() if key in world.elements})
    free = {}
    for key, at in wanted.items():
        if key in world.elements and key not in places.at and places.is_free(box_at(world, key, at)):
            free[key] = at
            places.add({key: at})
    return free


class Places:
    """The taken positions, with a coarse grid to ask quickly whether a box is free."""

    CELL = 150.0  # at least the size of any box, so that nine cells hold all that can be met

    def __init__(self, world: World, at: Mapping[str, Point]) -> None:
        self.world = world
        self.at: dict[str, Point] = {}
        self._cells: dict[tuple[int, int], list[Box]] = {}
        self._extents: dict[str, Box] = {}  # of each node's content
        self.add(at)

    def add(self, places: Mapping[str, Point]) -> None:
        """Take positions, free or not."""
        for key, at in places.items():
            box = box_at(self.world, key, at)
            group = self.world.parent.get(key, key)
            self.at[key] = at
            self._cells.setdefault(self._cell(at), []).append(box)
            self._extents[group] = box.joined(self._extents.get(group, box))

    def near(self, key: str) -> None:
        """Give one element the best free position near what it hangs on, out of other nodes' boxes if possible."""
        group = self.world.parent.get(key, key)
        here = self._extents.get(group)
        others = [box.grown(2 * PADDING) for name, box in self._extents.items() if name not in (group, OUTSIDE)]
        x, y = self._anchor(key, here)
        best: tuple[int, Point] | None = None
        seen = 0
        for dx, dy in self._offsets(key):
            at = (x + dx, y + dy)
            box = box_at(self.world, key, at)
            if not self.is_free(box):
                continue
            whole = box if here is None else box.joined(here)
            outside = group != OUTSIDE and any(whole.meets(other) for other in others)
            troubles = (100 if outside else 0) + self._troubles(key, at, box)
            if best is None or troubles < best[0]:
                best = troubles, at
            seen += not outside
            if not troubles or seen > TRIES:
                break
        self.add({key: best[1] if best else (x, y + 20 * ROW)})

    def _troubles(self, key: str, at: Point, box: Box) -> int:
        """How many straight wires would be in need of a way round, or too short for an address, with a box there."""
        if not few(self.world):
            return 0
        mine = [self.at[network] for network in self.world.networks_of.get(key, ()) if network in self.at]
        short = sum(abs(y - at[1]) < ROW / 2 and abs(x - at[0]) < LEVEL_ROOM for x, y in mine)
        behind = sum(
            crosses(at, end, other.grown(4))
            for end in mine
            for other in (box_at(self.world, name, place) for name, place in self.at.items() if place != end)
        )
        below = sum(
            crosses(self.at[source], self.at[target], box.grown(4))
            for source, target in map(self.world.ends, self.world.edges)
            if source in self.at and target in self.at and target != key
        )
        return short + behind + below

    def beside(self, block: Mapping[str, Point]) -> None:
        """Put a whole node's content to the right of everything."""
        box, whole = extent(self.world, block), around(self._extents.values())
        x = (whole.right + 2 * PADDING + APART if whole else 0.0) - box.left
        y = (whole.middle[1] if whole else 0.0) - box.middle[1]
        self.add({key: (at[0] + x, at[1] + y) for key, at in block.items()})

    def _anchor(self, key: str, here: Box | None) -> Point:
        """The point that an element should be near: the middle of its networks, else a side of its node."""
        networks = [self.at[network] for network in self.world.networks_of.get(key, ()) if network in self.at]
        if networks:
            return sum(at[0] for at in networks) / len(networks), sum(at[1] for at in networks) / len(networks)
        if here is None:
            whole = around(self._extents.values()) or Box(0.0, 0.0, 0.0, 0.0)
            return whole.right + 3 * APART, whole.middle[1]
        if key in self.world.networks:
            return here.right + PITCH, here.middle[1]
        return here.middle[0], here.bottom - FIRST_ROW + ROW

    def _offsets(self, key: str) -> Iterable[Point]:
        networks = self.world.networks_of.get(key, ())
        if len(networks) == 1:
            return _spots(sum(networks[0] in found for found in self.world.networks_of.values()) > FEW)
        return ((0.0, 0.0), *_spots(False))

    def _cell(self, at: Point) -> tuple[int, int]:
        return math.floor(at[0] / self.CELL), math.floor(at[1] / self.CELL)

    def is_free(self, box: Box) -> bool:
        """Whether a box meets none of those that are taken."""
        column, row = self._cell(box.middle)
        room = box.grown(3)
        return not any(
            room.meets(other)
            for x in range(column - 1, column + 2)
            for y in range(row - 1, row + 2)
            for other in self._cells.get((x, y), ())
        )
