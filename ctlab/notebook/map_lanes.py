"""Wires of several networks that run in one gap, side by side instead of on top of each other. Pure.

What belongs to one network keeps to one lane, as a trunk; what another network's wire would hide gets a lane beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ctlab.notebook.map_boxes import Box, Point
from ctlab.notebook.map_grid import CLEARANCE, FAR
from ctlab.notebook.map_obstacles import Obstacles, Wire

LANE = 6.0  # from lane to lane, where there is room
CORNER_ROOM = 18.0  # of a box's side: so far from its corners a wire ends


class _Run(NamedTuple):
    """A straight piece of a wire: upright at x = ``at`` (or level at y) from ``start`` to ``end``."""

    edge: str
    piece: int
    upright: bool
    at: float
    start: float
    end: float


def side_by_side(
    wires: Mapping[str, Wire], trunks: Mapping[str, str], ends: Mapping[str, Sequence[str]], obstacles: Obstacles
) -> dict[str, Wire]:
    """Rectangular wires with lanes. ``trunks``: of each edge what it shares a lane with; ``ends``: its boxes' keys."""
    moved: dict[tuple[str, int], float] = {}
    lines: dict[tuple[bool, float], list[_Run]] = {}
    for edge, wire in wires.items():
        for run in _runs(edge, wire):
            lines.setdefault((run.upright, run.at), []).append(run)
    for runs in lines.values():
        for together in _overlapping(runs):
            owners = sorted(
                {trunks[run.edge] for run in together}, key=lambda owner: _leaning(owner, together, wires, trunks)
            )
            if len(owners) == 1:
                continue
            low, high = -1e9, 1e9
            for run in together:
                room = _room(run, len(wires[run.edge]) - 2, ends[run.edge], obstacles)
                low, high = max(low, room[0]), min(high, room[1])
            pitch = min(LANE, max(0.0, high - low) / (len(owners) - 1))
            half = pitch * (len(owners) - 1) / 2
            middle = min(max(together[0].at, low + half), high - half)
            for run in together:
                moved[run.edge, run.piece] = round(middle - half + owners.index(trunks[run.edge]) * pitch, 1)
    return {
        edge: changed if not obstacles.hit(changed := _shifted(edge, wire, moved), ends[edge], CLEARANCE / 2) else wire
        for edge, wire in wires.items()
    }


def _runs(edge: str, wire: Wire) -> list[_Run]:
    found = []
    for index, ((x, y), (to_x, to_y)) in enumerate(pairwise(wire)):
        if x == to_x:
            found.append(_Run(edge, index, True, x, min(y, to_y), max(y, to_y)))
        elif y == to_y:
            found.append(_Run(edge, index, False, y, min(x, to_x), max(x, to_x)))
    return found


def _overlapping(runs: list[_Run]) -> list[list[_Run]]:
    """Runs of one line in groups that have a part of it in common, directly or through others."""
    groups: list[list[_Run]] = []
    reach = 0.0
    for run in sorted(runs, key=lambda run: run.start):
        if groups and run.start < reach:
            groups[-1].append(run)
            reach = max(reach, run.end)
        else:
            groups.append([run])
            reach = run.end
    return groups


def _leaning(
    owner: str, runs: Sequence[_Run], wires: Mapping[str, Wire], trunks: Mapping[str, str]
) -> tuple[float, str]:
    """To which side what shares a lane goes on: lanes in that order cross each other less."""
    axis = 0 if runs[0].upright else 1
    far = [point[axis] for run in runs if trunks[run.edge] == owner for point in wires[run.edge]]
    return sum(far) / len(far), owner


def _room(run: _Run, last: int, ends: Sequence[str], obstacles: Obstacles) -> tuple[float, float]:
    """From where to where a run may be moved sideways."""
    low, high = run.at - FAR / 2, run.at + FAR / 2
    inside = [ends[0]] * (run.piece == 0) + [ends[1]] * (run.piece == last)
    for key in inside:  # it ends in there, and so it has to stay on that side
        box = obstacles.boxes.get(key)
        if box is not None:
            sides = (box.left, box.right) if run.upright else (box.top, box.bottom)
            edge = min(CORNER_ROOM, (sides[1] - sides[0]) / 3)
            low, high = max(low, sides[0] + edge), min(high, sides[1] - edge)
    strip = (
        Box(run.at - FAR, run.start - LANE, run.at + FAR, run.end + LANE)
        if run.upright
        else Box(run.start - LANE, run.at - FAR, run.end + LANE, run.at + FAR)
    )
    for key, box in obstacles.near(strip):
        if key in inside or not box.meets(strip):
            continue
        sides = (box.left, box.right) if run.upright else (box.top, box.bottom)
        if sides[1] <= run.at:
            low = max(low, sides[1] + CLEARANCE)
        elif sides[0] >= run.at:
            high = min(high, sides[0] - CLEARANCE)
        else:
            low = high = run.at
    return (low, high) if low <= high else (run.at, run.at)


def _shifted(edge: str, wire: Wire, moved: Mapping[tuple[str, int], float]) -> Wire:
    points = [list(point) for point in wire]
    for run in _runs(edge, wire):
        at = moved.get((edge, run.piece))
        if at is not None:
            for point in points[run.piece : run.piece + 2]:
                point[0 if run.upright else 1] = at
    return tuple((x, y) for x, y in points)


__all__ = ["Point", "side_by_side"]
