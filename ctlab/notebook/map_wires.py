"""The ways of a map's wires: none runs behind a box that it doesn't hang on. Pure.

A wire is straight, in a large map a branch of its network's trunk. Where a box would be in the way, it goes round it
through the gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ctlab.notebook.map_boxes import (
    HEIGHT,
    PADDING,
    Box,
    Point,
    box_at,
    node_name_box,
)
from ctlab.notebook.map_grid import CLEARANCE, Grid
from ctlab.notebook.map_lanes import side_by_side
from ctlab.notebook.map_model import World, few
from ctlab.notebook.map_obstacles import NAME, Obstacles, Wire

STRAIGHT_CLEARANCE = 4.0  # of a straight wire from a box that it passes


def obstacles(world: World, places: Mapping[str, Point], nodes: Mapping[str, Box]) -> Obstacles:
    """All that a wire must not run behind: boxes by their element's key, and the nodes' names."""
    boxes = {key: box_at(world, key, at) for key, at in places.items()}
    names = {f"{NAME}{key}": node_name_box(world, key, box) for key, box in nodes.items() if key not in places}
    return Obstacles({**boxes, **names})


def wires(world: World, places: Mapping[str, Point], nodes: Mapping[str, Box], blocked: Obstacles) -> dict[str, Wire]:
    """Of each edge, its corners from its source to its target."""
    found: dict[str, Wire] = {}
    ends = {key: world.ends(key) for key in world.edges}
    around: dict[str, list[str]] = {}
    for key, (source, target) in ends.items():
        start, end = (_middle(one, places, nodes) for one in (source, target))
        found[key] = _direct(world, target, start, end)
        clearance = STRAIGHT_CLEARANCE if len(found[key]) == 2 else CLEARANCE
        if source != target and blocked.hit(found[key], (source, target), clearance):
            around.setdefault(target, []).append(key)
    if around:
        going_round = {key for keys in around.values() for key in keys}
        direct = {key: wire for key, wire in found.items() if key not in going_round}
        found.update(_around(ends, around, places, nodes, blocked, _busy_sides(direct, ends, blocked)))
    level = {key: wire for key, wire in found.items() if _is_rectangular(wire)}
    trunks = {key: ends[key][1] if ends[key][1] in world.networks else key for key in level}
    return {**found, **side_by_side(level, trunks, ends, blocked)}


def _middle(key: str, places: Mapping[str, Point], nodes: Mapping[str, Box]) -> Point:
    """Where a wire ends: the middle of its element, or of the upper border of a node with content."""
    return places[key] if key in places else (nodes[key].middle[0], nodes[key].top)


def _direct(world: World, target: str, start: Point, end: Point) -> Wire:
    (x, y), (to_x, to_y) = start, end
    if few(world) or target not in world.networks or abs(to_y - y) < HEIGHT / 2 + PADDING or x == to_x:
        return (start, end)
    # A trunk with branches: a hundred straight lines would be a fan nobody can follow.
    turn = y + (1 if to_y > y else -1) * (HEIGHT / 2 + 6)
    return ((x, y), (x, turn), (to_x, turn), (to_x, to_y))


def _around(
    ends: Mapping[str, tuple[str, str]],
    wanted: Mapping[str, list[str]],
    places: Mapping[str, Point],
    nodes: Mapping[str, Box],
    blocked: Obstacles,
    busy: set[tuple[str, str]],
) -> dict[str, Wire]:
    """Ways through the gaps, for the edges of each target. Where boxes lie on each other there may be none."""
    found: dict[str, Wire] = {}
    borders = {
        key: Box(x, y, x, y)
        for pair in ends.values()
        for key in pair
        if key not in places
        for x, y in (_middle(key, places, nodes),)
    }
    boxes = {**blocked.boxes, **borders}
    for exact in (False, True):
        left = {
            target: open_keys
            for target, keys in wanted.items()
            if (open_keys := [key for key in keys if key not in found])
        }
        if not left:
            break
        grid = Grid(boxes, exact=exact)
        for target, keys in left.items():
            ways = grid.ways(target, {ends[key][0] for key in keys}, busy)
            for key in keys:
                way = ways.get(ends[key][0])
                if way is not None and not blocked.hit(way, ends[key], CLEARANCE / 2):
                    found[key] = way[::-1]
    return found


def _busy_sides(
    wires: Mapping[str, Wire], ends: Mapping[str, tuple[str, str]], blocked: Obstacles
) -> set[tuple[str, str]]:
    """The sides of boxes through which wires come from their sources: (key, side)."""
    found = set()
    for key, wire in wires.items():
        box = blocked.boxes.get(ends[key][0])
        if box is not None:
            (x, y), (to_x, to_y) = wire[:2]
            level = abs(to_x - x) * box.height > abs(to_y - y) * box.width
            side = ("right" if to_x > x else "left") if level else ("bottom" if to_y > y else "top")
            found.add((ends[key][0], side))
    return found


def _is_rectangular(wire: Wire) -> bool:
    return all(x == to_x or y == to_y for (x, y), (to_x, to_y) in pairwise(wire))
