"""Sizes of what stands on a map, and rectangles. Pure.

Lengths are pixels at zoom 1; x grows to the right, y downwards; a position is the centre of a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ctlab.notebook.map_model import World
from ctlab.notebook.text_width import pixels

Point = tuple[float, float]

WIDTH, HEIGHT = 116.0, 34.0  # of a container's box
NETWORK_WIDTH, NETWORK_HEIGHT = 132.0, 50.0
EMPTY_WIDTH, EMPTY_HEIGHT = 150.0, 60.0  # a node without content
NODE_NAME_SIZE = 13.0
PADDING = 26.0  # between a node's border and its content
APART = 50.0  # between nodes, and between the containers of two networks


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def middle(self) -> Point:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def grown(self, by: float) -> Box:
        """This box with ``by`` added on each side."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def meets(self, other: Box) -> bool:
        """Whether the two have area in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def joined(self, other: Box) -> Box:
        """The smallest box around both."""
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


def size(world: World, key: str) -> Point:
    """Width and height of an element that isn't a node with content."""
    kind = world.elements[key].get("kind")
    if kind == "network":
        return NETWORK_WIDTH, NETWORK_HEIGHT
    return (EMPTY_WIDTH, EMPTY_HEIGHT) if kind == "node" else (WIDTH, HEIGHT)


def box_at(world: World, key: str, at: Point) -> Box:
    """The box of an element that stands at a position."""
    width, height = size(world, key)
    return Box(at[0] - width / 2, at[1] - height / 2, at[0] + width / 2, at[1] + height / 2)


def node_name_box(world: World, key: str, box: Box) -> Box:
    """Where a node's name stands, in its upper left corner."""
    wide = min(pixels(world.label(key), NODE_NAME_SIZE), box.width - 20)
    return Box(box.left + 10, box.top + 6, box.left + 10 + wide, box.top + 20)


def around(boxes: Iterable[Box]) -> Box | None:
    """The smallest box around boxes; None around none."""
    found: Box | None = None
    for box in boxes:
        found = box if found is None else found.joined(box)
    return found


def extent(world: World, places: Mapping[str, Point]) -> Box:
    """The smallest box around elements; an empty one at the origin around none."""
    return around(box_at(world, key, at) for key, at in places.items()) or Box(0.0, 0.0, 0.0, 0.0)


def node_boxes(world: World, places: Mapping[str, Point]) -> dict[str, Box]:
    """The border of each node, padding included."""
    boxes = {}
    for node in world.nodes:
        inner = around(box_at(world, key, places[key]) for key in world.children(node))
        boxes[node] = box_at(world, node, places[node]) if inner is None else inner.grown(PADDING)
    return boxes
