"""The map never lies: no wire behind a box that isn't its end, no text on another, everything there once and inside."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_worlds import Elements, container, endpoint, link, network, node, routed, star

from ctlab.notebook.map_boxes import Box, Point, box_at, node_name_box
from ctlab.notebook.map_geometry import Geometry, measure
from ctlab.notebook.map_layout import place
from ctlab.notebook.map_model import STATES, World, few, read
from ctlab.notebook.map_obstacles import crosses
from ctlab.notebook.map_svg import map_svg

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def any_world(draw: st.DrawFn, *, most: int = 80) -> Elements:
    """A lab: up to 80 containers on up to 8 networks, some on several, some linked to each other; one or two nodes."""
    nodes = [f"n{index}" for index in range(draw(st.integers(1, 2)))]
    elements = [node(name) for name in nodes]
    networks = [f"net{index}" for index in range(draw(st.integers(0, 8)))]
    elements += [network(name, draw(st.sampled_from([*nodes, None] if len(nodes) > 1 else nodes))) for name in networks]
    count = draw(st.integers(0, most))
    most_of_one = draw(st.integers(1, 5))
    for index in range(count):
        name = f"c{index}"
        elements.append(container(name, draw(st.sampled_from(STATES)), draw(st.sampled_from(nodes))))
        if networks:
            on = draw(st.lists(st.sampled_from(networks), max_size=draw(st.integers(1, most_of_one)), unique=True))
            elements += [endpoint(name, other, f"10.{networks.index(other)}.{index}.254") for other in on]
    if count > 1:
        for number in range(draw(st.integers(0, 3))):
            ends = draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
            elements.append(link(f"l{number}", f"c{ends[0]}", f"c{ends[1]}", "20ms 1%"))
    return elements


def boxes_of(world: World, drawn: Geometry) -> dict[str, Box]:
    return {key: box_at(world, key, at) for key, at in drawn.places.items()}


def lies(world: World, drawn: Geometry) -> list[tuple[str, str]]:
    """Pairs of a wire and a box that it runs behind without hanging on it."""
    boxes = boxes_of(world, drawn)
    return [
        (edge, key)
        for edge, wire in drawn.wires.items()
        for key, box in boxes.items()
        if key not in world.ends(edge)
        for start, end in itertools.pairwise(wire)
        if crosses(start, end, box)
    ]


def texts_on_texts(world: World, drawn: Geometry) -> list[tuple[str, str]]:
    """Pairs of a label and what it overlaps: another label, a box, a node's name."""
    others = boxes_of(world, drawn)
    others |= {f"name of {key}": node_name_box(world, key, box) for key, box in drawn.nodes.items()}
    labels = {f"label of {key}": label.box for key, label in drawn.labels.items()}
    return [
        (one, other)
        for one, box in labels.items()
        for other, taken in {**others, **labels}.items()
        if one != other and box.meets(taken)
    ]


def check(elements: Elements, positions: dict[str, Point] | None = None) -> Geometry:
    world = read(elements)
    drawn = measure(world, place(elements, positions))
    assert lies(world, drawn) == []
    assert texts_on_texts(world, drawn) == []
    assert sorted(drawn.wires) == sorted(world.edges)
    boxes = boxes_of(world, drawn)
    for edge, wire in drawn.wires.items():
        for end, (x, y) in zip(world.ends(edge), (wire[0], wire[-1]), strict=True):
            box = boxes[end]
            assert box.left < x < box.right and box.top < y < box.bottom, (edge, end)
    whole = drawn.whole.grown(0.1)
    inside = [*boxes.values(), *drawn.nodes.values(), *(label.box for label in drawn.labels.values())]
    inside += [Box(x, y, x, y) for wire in drawn.wires.values() for x, y in wire]
    assert all(whole.joined(box) == whole for box in inside)
    return drawn


@given(any_world())
@settings(deadline=None, max_examples=60)
def test_no_wire_runs_behind_a_box_and_no_text_lies_on_another(elements: Elements) -> None:
    check(elements)


@given(any_world(most=30), st.data())
@settings(deadline=None, max_examples=40)
def test_so_it_is_when_things_come_one_after_the_other(elements: Elements, data: st.DataObject) -> None:
    half = data.draw(st.integers(0, len(elements)))
    check(elements, check(elements[:half]).places)


@given(any_world(most=25), st.data())
@settings(deadline=None, max_examples=40)
def test_a_box_that_is_dragged_away_is_gone_round(elements: Elements, data: st.DataObject) -> None:
    """What a person drops on something else may lie on it; all others still tell the truth."""
    places = place(elements)
    if not places:
        return
    moved = data.draw(st.sampled_from(sorted(places)))
    left, right = min(x for x, _ in places.values()), max(x for x, _ in places.values())
    top, bottom = min(y for _, y in places.values()), max(y for _, y in places.values())
    places[moved] = data.draw(st.floats(left - 200, right + 200)), data.draw(st.floats(top - 200, bottom + 200))
    world = read(elements)
    box = box_at(world, moved, places[moved])
    if any(box.grown(3).meets(box_at(world, key, at)) for key, at in places.items() if key != moved):
        return
    check(elements, places)


@given(any_world())
@settings(deadline=None, max_examples=25)
def test_the_picture_draws_the_geometry_and_everything_once(elements: Elements) -> None:
    world = read(elements)
    drawn = measure(world, place(elements))
    root = ElementTree.fromstring(map_svg(elements))
    kinds = Counter(word for element in root.iter() for word in element.get("class", "").split())
    assert kinds["container"] == len(world.containers)
    assert kinds["network"] == len(world.networks)
    assert kinds["node"] == len(world.nodes)
    assert kinds["wire"] == len(world.edges)
    assert kinds["address"] == len(drawn.labels)
    paths = [element.get("d", "") for element in root.iter(f"{SVG}path") if "wire" in element.get("class", "")]
    assert [len(re.findall("[MLHV]", path)) for path in paths] == [len(wire) for wire in drawn.wires.values()]
    left, top, wide, high = map(float, root.get("viewBox", "").split())
    frame = Box(left, top, left + wide, top + high)
    assert frame.joined(drawn.whole) == frame


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_a_router_on_three_networks_stands_between_them_and_all_its_addresses_are_read(count: int) -> None:
    elements = routed(count)
    drawn = check(elements)
    xs = sorted(drawn.places[f"network:{name}"][0] for name in ("blue", "green", "dmz"))
    assert xs[0] < drawn.places["container:router"][0] < xs[-1]
    assert len(drawn.labels) == len(drawn.wires)
    assert few(read(elements))


@pytest.mark.parametrize("count", [3, 7])
def test_the_same_router_made_last_on_a_live_map(count: int) -> None:
    elements = routed(count)
    drawn = check(elements, place(elements[:-4]))
    assert {edge for edge in drawn.wires if edge.startswith("endpoint:router:")} <= set(drawn.labels)


def test_two_networks_that_share_a_gap_have_a_lane_each() -> None:
    """On top of each other one wire would hide the other."""
    elements = [node("host")]
    for name in ("a", "b", "c", "d"):
        elements.append(network(name))
        for number in range(8):
            elements += [container(f"{name}{number}"), endpoint(f"{name}{number}", name)]
    elements += [container("far"), *(endpoint("far", name) for name in ("a", "b", "c", "d"))]
    drawn = check(elements)
    wires = {name: drawn.wires[f"endpoint:far:{name}"] for name in ("a", "b", "c", "d")}
    for one, other in itertools.combinations(wires.values(), 2):
        for (start, end), (first, last) in itertools.product(itertools.pairwise(one), itertools.pairwise(other)):
            for axis in (0, 1):  # x, for upright pieces; y, for level ones
                if start[axis] == end[axis] == first[axis] == last[axis]:
                    along = 1 - axis
                    low, high = sorted((start[along], end[along])), sorted((first[along], last[along]))
                    inside = box_at(read(elements), "container:far", drawn.places["container:far"])
                    shared = max(low[0], high[0]), min(low[1], high[1])
                    border = (inside.left, inside.right) if along == 0 else (inside.top, inside.bottom)
                    assert shared[1] <= shared[0] or (border[0] <= shared[0] and shared[1] <= border[1]), (one, other)


def test_a_hundred_containers_of_one_network_are_branches_of_a_trunk() -> None:
    drawn = check(star(100))
    assert {len(wire) for wire in drawn.wires.values()} == {4}
    assert {wire[-1] for wire in drawn.wires.values()} == {drawn.places["network:blue"]}


def test_a_box_dropped_on_a_nodes_name_has_its_wires_around_all_others() -> None:
    """Whatever way they take, they begin where the name was."""
    nodes = [{"id": f"node:n{n}", "kind": "node", "label": f"n{n}"} for n in range(2)]
    networks = [
        {
            "id": f"network:net{n}",
            "kind": "network",
            "label": f"net{n}",
            "driver": "bridge",
            "parent": "node:n0",
            "subnets": ["10.10.0.0/24"],
        }
        for n in range(5)
    ]
    containers = [
        {
            "id": f"container:c{n}",
            "kind": "container",
            "label": f"c{n}",
            "parent": f"node:n{n == 0:d}",
            "state": "running",
        }
        for n in range(8)
    ]
    link = {"id": "link:l0", "kind": "link", "source": "container:c0", "target": "container:c1", "label": "20ms 1%"}
    elements: Elements = [*nodes, *networks, *containers, link]
    places = place(elements)
    places["container:c0"] = (0.0, 6.0)
    assert node_name_box(read(elements), "node:n0", measure(read(elements), places).nodes["node:n0"]).meets(
        box_at(read(elements), "container:c0", (0.0, 6.0))
    )
    check(elements, places)
