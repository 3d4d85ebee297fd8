"""All of a map's geometry, computed once: the live map and the picture draw the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ctlab.notebook.map_boxes import Box, Point, around, extent, node_boxes
from ctlab.notebook.map_labels import Label, labels
from ctlab.notebook.map_model import World, few
from ctlab.notebook.map_obstacles import Wire
from ctlab.notebook.map_wires import obstacles, wires


class Geometry(NamedTuple):
    """Where everything is, in pixels at zoom 1; all keys are element ids."""

    places: dict[str, Point]
    """The middle of each network, container and empty node."""
    nodes: dict[str, Box]
    wires: dict[str, Wire]
    """The corners of each edge, source first; its ends lie inside of their boxes."""
    labels: dict[str, Label]
    """The addresses, where the map is small enough for them."""
    whole: Box
    """What holds all of it."""


def measure(world: World, places: Mapping[str, Point]) -> Geometry:
    """The geometry of a world whose elements stand at those places (see `map_layout.place`)."""
    nodes = node_boxes(world, places)
    blocked = obstacles(world, places, nodes)
    ways = wires(world, places, nodes, blocked)
    shown = labels(world, ways, blocked) if few(world) else {}
    points = [Box(x, y, x, y) for way in ways.values() for x, y in way]
    parts = [*nodes.values(), *(label.box for label in shown.values()), *points]
    whole = around([extent(world, places), *parts]) if places else None
    return Geometry(dict(places), nodes, ways, shown, whole or Box(0.0, 0.0, 240.0, 40.0))
