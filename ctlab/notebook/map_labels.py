"""Where the addresses on the wires stand, so that none lies on another, on a box or on a name. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from ctlab.notebook.map_boxes import HEIGHT, WIDTH, Box, Point
from ctlab.notebook.map_model import World
from ctlab.notebook.map_obstacles import Obstacles, Wire, crosses
from ctlab.notebook.text_width import pixels, shorten

ROOM = 124.0  # the widest label
SIZE = 10.5
TALL = 15.0
LEVEL = 0.35  # a wire that is less steep would strike its label through: the label stands above or below the wire
LIFT = 9.0  # of a label from a wire that is level


class Label(NamedTuple):
    """A label's text, cut to its room, and the middle of its box."""

    text: str
    at: Point

    @property
    def box(self) -> Box:
        """What it takes at most."""
        wide = pixels(self.text, SIZE, mono=True)
        return Box(self.at[0] - wide / 2, self.at[1] - TALL / 2, self.at[0] + wide / 2, self.at[1] + TALL / 2)


def labels(world: World, wires: Mapping[str, Wire], blocked: Obstacles) -> dict[str, Label]:
    """Of each edge with a label: the first of its places that is free, if possible one that no other wire runs through.

    Where there is no free one, the label is left out: it is in the wire's tip and in the details.
    """
    found: dict[str, Label] = {}
    taken: list[Box] = []
    for key, wire in wires.items():
        if not world.elements[key].get("label"):
            continue
        text = shorten(world.label(key), ROOM, SIZE, mono=True)
        best: tuple[int, Label] | None = None
        for at in _places(wire, pixels(text, SIZE, mono=True), link=world.ends(key)[1] not in world.networks):
            label = Label(text, at)
            room = label.box.grown(1.5)
            if blocked.meets(room) or any(room.meets(other) for other in taken):
                continue
            struck = sum(
                crosses(start, end, label.box)
                for other, way in wires.items()
                if other != key
                for start, end in pairwise(way)
            )
            if best is None or struck < best[0]:
                best = struck, label
            if not struck:
                break
        if best is not None:
            found[key] = best[1]
            taken.append(best[1].box)
    return found


def _places(wire: Wire, wide: float, *, link: bool) -> Iterator[Point]:
    """Points for a label's middle, best first: just off its container on a network's wire, in the middle of a link."""
    lengths = [abs(x - to_x) + abs(y - to_y) for (x, y), (to_x, to_y) in pairwise(wire)]
    if link:
        yield from _on(wire, lengths, sum(lengths) / 2, wide)
    else:
        yield from _beside_box(wire, wide)
    steps = int(sum(lengths) // 8)
    for index in range(3, steps - 2):
        yield from _on(wire, lengths, index * 8.0, wide)


def _on(wire: Wire, lengths: list[float], distance: float, wide: float) -> Iterator[Point]:
    """On the wire, so far along it (both directions added); above and below it where it runs level."""
    for ((x, y), (to_x, to_y)), length in zip(pairwise(wire), lengths, strict=True):
        if distance <= length and length:
            part = distance / length
            at = x + (to_x - x) * part, y + (to_y - y) * part
            lift = _lift(to_x - x, to_y - y, wide)
            yield at[0], at[1] - lift
            if lift:
                yield at[0], at[1] + lift
            elif to_x == x:
                yield at[0] + wide / 2 + 4, at[1]
                yield at[0] - wide / 2 - 4, at[1]
            return
        distance -= length


def _beside_box(wire: Wire, wide: float) -> Iterator[Point]:
    """Where a label is just clear of the container's box, if the wire goes on from there."""
    (x, y), (to_x, to_y) = wire[:2]
    dx, dy = to_x - x, to_y - y
    room_x, room_y = WIDTH / 2 + wide / 2 + 3, HEIGHT / 2 + 13
    part = min(room_x / abs(dx) if dx else 1.0, room_y / abs(dy) if dy else 1.0)
    if len(wire) == 2 or part < 0.9:
        part = min(part, 0.5) if len(wire) == 2 else part
        yield x + dx * part, y + dy * part - _lift(dx, dy, wide)


def _lift(dx: float, dy: float, wide: float) -> float:
    """How far from its wire a label so wide has to stand; 0 on a steep one, which it interrupts."""
    return LIFT + abs(dy / dx) * wide / 2 if dx and abs(dy / dx) < LEVEL else 0.0
