"""Where things stand on a map: a deterministic layout that never moves what has a place already. Pure.

A network stands in the middle of its containers, which fill rows above and below it. What is on two
neighbouring networks stands between them, what is on others between their rows. Nodes are boxes side
by side. `place` lays out what is new only; with nothing known it lays out everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from ctlab.notebook.map_boxes import APART, HEIGHT, NETWORK_WIDTH, PADDING, Point, box_at, extent
from ctlab.notebook.map_model import OUTSIDE, Element, World, read
from ctlab.notebook.map_places import (
    CLOSE_FIRST_ROW,
    CLOSE_PITCH,
    CLOSE_ROW,
    FEW,
    FIRST_ROW,
    PITCH,
    ROW,
    Places,
)

BETWEEN = 300.0  # between two networks if containers stand between them: room for the box and both wires' labels
MAX_ROW_WIDTH = 1700.0  # wider than this, networks or nodes go on in a new row


def place(elements: Iterable[Element], known: Mapping[str, Point] | None = None) -> dict[str, Point]:
    """A position for each network, container and empty node; those of ``known`` keep theirs.

    ``known`` may hold ids that exist no longer; they are passed over.
    """
    world = read(elements)
    leaves = [key for group in world.groups() for key in leaves_of(world, group)]
    kept = {key: known[key] for key in leaves if key in known} if known else {}
    places = Places(world, kept)
    fresh = [group for group in world.groups() if not any(key in kept for key in leaves_of(world, group))]
    blocks = [_block(world, group) for group in fresh]
    if kept:
        for block in blocks:
            places.beside(block)
    else:
        for block, (x, y) in zip(blocks, _in_rows(world, fresh, blocks), strict=True):
            places.add({key: (at[0] + x, at[1] + y) for key, at in block.items()})
    for key in leaves:
        if key not in places.at:
            places.near(key)
    return {key: places.at[key] for key in leaves}


def leaves_of(world: World, group: str) -> list[str]:
    """What has a position of its own in a node: its content, or itself if it is empty."""
    return world.children(group) or ([group] if group != OUTSIDE else [])


def _rows(count: int) -> list[int]:
    """How many containers stand in each row around one network, top to bottom; the network is in the middle."""
    if count <= 3:
        return [0, count]
    if count <= FEW:
        return [count // 2, count - count // 2]
    columns = max(6, 2 * math.ceil(math.sqrt(count) / 2))  # even: the wires' trunk runs between two columns
    full, rest = divmod(count, columns)
    return [columns] * full + ([rest] if rest else [])


def _cluster(network: str, members: Sequence[str]) -> dict[str, Point]:
    """A network at (0, 0) and the containers that are on it alone, around it."""
    places: dict[str, Point] = {network: (0.0, 0.0)}
    rows = _rows(len(members))
    wide = len(members) <= FEW
    pitch, row, first = (PITCH, ROW, FIRST_ROW) if wide else (CLOSE_PITCH, CLOSE_ROW, CLOSE_FIRST_ROW)
    above = len(rows) // 2
    left = iter(members)
    for index, count in enumerate(rows):
        y = -(first + (above - 1 - index) * row) if index < above else first + (index - above) * row
        columns = count if wide else max(rows)
        for column in range(count):
            places[next(left)] = ((column - (columns - 1) / 2) * pitch, y)
    return places


def _in_order(world: World, networks: Sequence[str]) -> list[str]:
    """Networks so that those with containers in common are neighbours, as far as a greedy chain gets there."""
    left, chain = list(networks[1:]), list(networks[:1])
    shared = [found for found in world.networks_of.values() if len(found) > 1]
    while left:
        last = chain[-1]
        chain.append(max(left, key=lambda key: sum(last in found and key in found for found in shared)))
        left.remove(chain[-1])
    return chain


def _block(world: World, group: str) -> dict[str, Point]:
    """The layout of one node's content (or of what is outside of nodes), anywhere."""
    inside = world.children(group)
    if not inside:
        return {group: (0.0, 0.0)}
    networks = _in_order(world, [key for key in inside if key in set(world.networks)])
    alone: dict[str, list[str]] = {network: [] for network in networks}
    shared: dict[frozenset[str], list[str]] = {frozenset(pair): [] for pair in pairwise(networks)}
    others: list[str] = []
    for key in inside:
        if key in alone:
            continue
        here = frozenset(network for network in world.networks_of[key] if network in alone)
        if len(here) == 1:
            alone[next(iter(here))].append(key)
        else:
            shared.get(here, others).append(key)
    rows = list(_network_rows(world, [_cluster(network, alone[network]) for network in networks], shared))
    hubs = [key for key in others if any(network in alone for network in world.networks_of[key])]
    between = _slots(world, rows, hubs)
    places: dict[str, Point] = {}
    top = 0.0
    for index, members in enumerate(between):
        for line in _hub_lines(world, members, rows):
            places.update({key: (x, top + HEIGHT / 2) for key, x in line.items()})
            top += ROW
        top += APART - (ROW - HEIGHT) if members else 0.0
        if index < len(rows):
            # One height for all networks of a row, so that what is between them has a straight way.
            box = extent(world, rows[index])
            places.update({key: (at[0], at[1] - box.top + top) for key, at in rows[index].items()})
            top += box.height + APART
    _bridges(world, places, shared)
    _rest(world, places, [key for key in others if key not in places])
    return places


def _slots(world: World, rows: Sequence[Mapping[str, Point]], hubs: Sequence[str]) -> list[list[str]]:
    """Containers on several networks, by where they stand: above each row of networks, and below the last one."""
    found: list[list[str]] = [[] for _ in range(len(rows) + 1)]
    row_of = {network: index for index, row in enumerate(rows) for network in row if network in world.networks}
    for key in hubs:
        mine = [row_of[network] for network in world.networks_of[key] if network in row_of]
        index = math.ceil(sum(mine) / len(mine))
        # On networks of one row it stands on the side where there is nothing in between, as a rule.
        if len(set(mine)) == 1 and any(at[1] < 0 for at in rows[index].values()):
            index += 1
        found[index].append(key)
    return found


def _hub_lines(world: World, hubs: Sequence[str], rows: Sequence[Mapping[str, Point]]) -> Iterator[dict[str, float]]:
    """Lines of containers on several networks, each with its x: as near the middle of its networks as there is room."""
    x_of = {network: at[0] for row in rows for network, at in row.items() if network in world.networks}
    wanted = {
        key: sum(found) / len(found)
        for key in hubs
        for found in ([x_of[network] for network in world.networks_of[key] if network in x_of],)
    }
    widest = max((extent(world, row).width for row in rows), default=0.0)
    columns = max(4, int(widest / PITCH))
    lines = math.ceil(len(hubs) / columns)
    order = sorted(hubs, key=lambda key: (wanted[key], hubs.index(key)))
    for number in range(lines):
        line = order[number::lines]
        # Pushed apart from left to right, then all of it back by what the last one went too far.
        xs: list[float] = []
        for key in line:
            xs.append(max(wanted[key], xs[-1] + PITCH) if xs else wanted[key])
        back = (sum(xs) - sum(wanted[key] for key in line)) / len(line)
        yield {key: x - back for key, x in zip(line, xs, strict=True)}


def _network_rows(
    world: World, clusters: Sequence[dict[str, Point]], shared: Mapping[frozenset[str], Sequence[str]]
) -> Iterator[dict[str, Point]]:
    """Clusters side by side, their networks all at y = 0, in rows that aren't too wide."""
    row: dict[str, Point] = {}
    previous: str | None = None
    for cluster in clusters:
        network, box = next(iter(cluster)), extent(world, cluster)
        x = 0.0
        if previous is not None:
            whole = extent(world, row)
            linked = bool(shared[frozenset((previous, network))])
            x = whole.right + APART - box.left
            if linked:
                x = max(x, row[previous][0] + NETWORK_WIDTH + BETWEEN)
            elif x + box.right - whole.left > MAX_ROW_WIDTH:
                yield row
                row, x = {}, 0.0
        row.update({key: (at[0] + x, at[1]) for key, at in cluster.items()})
        previous = network
    if row:
        yield row


def _bridges(world: World, places: dict[str, Point], shared: Mapping[frozenset[str], Sequence[str]]) -> None:
    """Containers on two neighbouring networks, in between; higher or lower where a box is in the way."""
    boxes = [box_at(world, key, at) for key, at in places.items()]
    for pair, members in shared.items():
        for key in members:
            ends = [places[network] for network in pair]
            x, y = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
            for step in _outwards():
                box = box_at(world, key, (x, y + step))
                if not any(box.grown(6).meets(other) for other in boxes):
                    places[key] = (x, y + step)
                    boxes.append(box)
                    break


def _outwards() -> Iterator[float]:
    """0, then ever farther up and down."""
    yield 0.0
    index = 1
    while True:
        yield -index * ROW / 2
        yield index * ROW / 2
        index += 1


def _rest(world: World, places: dict[str, Point], others: Sequence[str]) -> None:
    """Rows below everything for containers that are on no network of the node."""
    columns = max(4, min(10, math.ceil(math.sqrt(len(others)) * 1.4)))
    box = extent(world, places)
    middle, top = (box.middle[0], box.bottom + APART + HEIGHT / 2) if places else (0.0, 0.0)
    for index, key in enumerate(others):
        count = min(columns, len(others) - index // columns * columns)
        places[key] = (middle + (index % columns - (count - 1) / 2) * PITCH, top + index // columns * ROW)


def _in_rows(world: World, groups: Sequence[str], blocks: Sequence[Mapping[str, Point]]) -> list[Point]:
    """How far to shift each block, so that nodes stand side by side, in rows, and what is outside below them."""
    shifts: list[Point] = []
    x = y = lowest = widest = 0.0
    for group, block in zip(groups, blocks, strict=True):
        box = extent(world, block).grown(PADDING)
        if shifts and group == OUTSIDE:
            shifts.append(((widest - box.width) / 2 - box.left, lowest + APART - box.top))
            break
        if shifts and x + box.width > MAX_ROW_WIDTH:
            x, y = 0.0, lowest + APART
        shifts.append((x - box.left, y - box.top))
        widest = max(widest, x + box.width)
        lowest = max(lowest, y + box.height)
        x += box.width + APART
    return shifts
