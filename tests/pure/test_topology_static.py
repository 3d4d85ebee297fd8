"""The map without a browser: layout, picture, text, and what a saved notebook holds."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_worlds import Elements, container, endpoint, network, node, star

from ctlab.errors import LabGone
from ctlab.notebook import theme
from ctlab.notebook.coalesce import Coalesced
from ctlab.notebook.map_boxes import WIDTH, box_at, node_boxes
from ctlab.notebook.map_layout import place
from ctlab.notebook.map_model import SIGNS, STATES, read
from ctlab.notebook.map_places import believed
from ctlab.notebook.map_svg import map_svg
from ctlab.notebook.map_text import map_text
from ctlab.notebook.text_width import pixels, shorten
from ctlab.notebook.topology import Topology

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def worlds(draw: st.DrawFn) -> Elements:
    """Any lab: several nodes, networks on them or across, containers on none, one or many networks."""
    nodes = [f"n{index}" for index in range(draw(st.integers(1, 4)))]
    elements = [node(name) for name in nodes]
    networks = [f"net{index}" for index in range(draw(st.integers(0, 6)))]
    elements += [network(name, draw(st.sampled_from([*nodes, None]))) for name in networks]
    for index in range(draw(st.integers(0, 40))):
        name = f"c{index}"
        elements.append(container(name, draw(st.sampled_from(STATES)), draw(st.sampled_from(nodes))))
        if networks:
            for other in draw(st.lists(st.sampled_from(networks), max_size=3, unique=True)):
                elements.append(endpoint(name, other))
    return elements


# --- layout


@given(worlds())
@settings(deadline=None, max_examples=60)
def test_nothing_overlaps_and_the_same_lab_looks_the_same(elements: Elements) -> None:
    world, places = read(elements), place(elements)
    assert places == place([dict(element) for element in elements])
    boxes = {key: box_at(world, key, at) for key, at in places.items()}
    for one, other in itertools.combinations(boxes, 2):
        assert not boxes[one].meets(boxes[other]), (one, other)
    for one, other in itertools.combinations(node_boxes(world, places).values(), 2):
        assert not one.meets(other)


@given(worlds(), st.data())
@settings(deadline=None, max_examples=60)
def test_what_is_known_stays_and_what_is_new_finds_a_free_place(elements: Elements, data: st.DataObject) -> None:
    gone = set(data.draw(st.lists(st.sampled_from([str(element["id"]) for element in elements]), unique=True)))
    before = place([element for element in elements if element["id"] not in gone])
    after = place(elements, before)
    world = read(elements)
    assert {key: at for key, at in after.items() if key in before} == {
        key: at for key, at in before.items() if key in after
    }
    new = [key for key in after if key not in before]
    for key, other in itertools.product(new, after):
        if key != other:
            assert not box_at(world, key, after[key]).meets(box_at(world, other, after[other])), (key, other)


def test_of_what_a_page_says_only_places_that_a_map_can_have_are_believed() -> None:
    world = read(star(2))
    known = next(key for key in world.elements if key.startswith("container:"))
    assert believed(world, {known: [1, -2.5]}) == {known: (1.0, -2.5)}
    for nonsense in (
        {"container:nobody": [1, 2]}, {known: [1e12, 0]}, {known: [0, float("nan")]}, {known: [0, float("inf")]},
        {known: [10**400, 0]}, {known: [True, 0]}, {known: ["1", 2]}, {known: [1]}, {known: None}, [known], None,
    ):  # fmt: skip
        assert believed(world, nonsense) == {}


def test_a_new_container_stands_beside_its_network() -> None:
    elements = [*star(5), network("green", subnet="10.20.0.0/24"), container("g"), endpoint("g", "green")]
    before = place(elements)
    after = place([*elements, container("new"), endpoint("new", "green")], before)
    x, y = after["container:new"]
    to_green, to_blue = (abs(x - at[0]) + abs(y - at[1]) for at in (before["network:green"], before["network:blue"]))
    assert to_green < to_blue


def test_a_router_stands_between_its_networks() -> None:
    router = [container("router"), endpoint("router", "blue"), endpoint("router", "green")]
    elements = [*star(4), network("green"), *router]
    places = place(elements)
    (left, height), (x, y), (right, _) = (places[key] for key in ("network:blue", "container:router", "network:green"))
    assert left < x < right
    assert y == height


# --- picture


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@given(st.text(min_size=1, max_size=80), st.text(max_size=40))
@settings(deadline=None)
def test_any_name_gives_a_well_formed_picture(name: str, label: str) -> None:
    elements = [node("host"), network("blue"), container("x"), endpoint("x", "blue", label)]
    for element in elements[:3]:
        element["label"] = name
    svg = map_svg(elements, caption=name)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert not [element for element in root.iter() if element.tag in (f"{SVG}script", f"{SVG}foreignObject")]
    assert len(list(root.iter(f"{SVG}rect"))) == 2  # the node and the container: no name became markup


@given(st.text(max_size=80), st.floats(20, 200))
def test_shortened_text_fits_its_room(text: str, room: float) -> None:
    short = shorten(text, room)
    assert pixels(short) <= room + 12.0 * 1.0
    assert short == text or any(
        text.startswith(short[:at]) and text.endswith(short[at + 1 :]) for at, sign in enumerate(short) if sign == "…"
    )


def test_names_that_begin_alike_differ_on_the_map() -> None:
    drawn = texts(map_svg([node("host"), *(container(f"worker-number-{index:02}") for index in range(30))]))
    names = [text for text in drawn if text.startswith("● wor") and "…" in text]
    assert len(set(names)) == 30 and any(name.endswith("-07") for name in names)


def test_a_name_of_sixty_characters_is_cut_and_whole_in_the_tip() -> None:
    name = "W" * 30 + "m" * 30
    svg = map_svg([node("host"), container(name)])
    assert name not in "".join(texts(svg))
    assert any(text.startswith("● W") and text.endswith("m") and "…" in text for text in texts(svg))
    assert name in svg
    assert pixels(shorten(name, WIDTH - 30)) <= WIDTH - 30


def test_states_have_a_sign_and_a_class_each() -> None:
    svg = map_svg([node("host"), *(container(f"is-{state}", state) for state in STATES), container("odd", "melted")])
    for state in STATES:
        assert f"{SIGNS[state]} is-{state}" in texts(svg)
        assert f'class="container {state}"' in svg
    assert "! odd" in texts(svg)
    assert len(set(SIGNS.values())) == len(STATES)


def test_wires_have_labels_while_they_are_few_and_are_a_trunk_when_many() -> None:
    assert "10.10.0.3" in texts(map_svg(star(3)))
    large = map_svg(star(100))
    assert not [text for text in texts(large) if re.fullmatch(r"10\.10\.0\.\d+", text)]
    assert large.count('class="wire hue-0"') == 100
    assert len(re.findall(r'class="wire hue-0" d="M[^"]*H', large)) == 100


@pytest.mark.parametrize(("rise", "struck_through"), [(0.0, False), (8.0, False), (120.0, True)])
def test_an_address_stands_above_a_level_wire(rise: float, struck_through: bool) -> None:
    places = {"network:blue": (0.0, 0.0), "container:w0": (300.0, rise)}
    root = ElementTree.fromstring(map_svg(star(1), positions=places))
    (address,) = (text for text in root.iter() if text.get("class") == "address")
    x, baseline = float(address.get("x", "")), float(address.get("y", ""))
    wire = rise * x / 300  # how high it is there
    assert (baseline - 10 < wire < baseline) == struck_through


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    svg = map_svg(star(3))
    assert re.findall(r"https?://[^\s\"']+", svg) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in svg
    assert "href" not in svg


def test_every_colour_has_a_dark_twin() -> None:
    light, dark = (set(re.findall(r"--ctlab-[\w-]+(?=:)", block)) for block in theme.variables().split("}")[:2])
    assert light == dark
    used = set(re.findall(r"var\((--ctlab-[\w-]+)", map_svg(star(1)) + (ROOT / "js/topology.css").read_text()))
    assert used <= light


def test_an_empty_lab_and_an_empty_node_have_a_picture() -> None:
    assert "nothing here yet" in texts(map_svg([]))
    assert "host" in texts(map_svg([node("host")]))


# --- text


def test_the_text_map() -> None:
    elements = [
        node("host"), network("blue"), network("green", subnet="10.20.0.0/24"),
        container("web"), endpoint("web", "blue"),
        container("router", "paused"),
        endpoint("router", "blue", "10.10.0.254"), endpoint("router", "green", "10.20.0.254"),
        container("alone", "created"),
        {"id": "link:a", "kind": "link", "source": "container:web", "target": "container:alone", "label": "20ms"},
    ]  # fmt: skip
    assert map_text(elements, title="demo").splitlines() == [
        "demo: 1 node, 2 networks, 3 containers",
        "host",
        "├─ blue  bridge  10.10.0.0/24",
        "│  ├─ ● web     running  eth0  10.10.0.2",
        "│  └─ ‖ router  paused   eth0  10.10.0.254  (also on green)",
        "├─ green  bridge  10.20.0.0/24",
        "│  └─ ‖ router  paused  eth0  10.20.0.254  (also on blue)",
        "└─ (no network)",
        "   └─ ○ alone  created",
        "links",
        "└─ web ─ alone  20ms",
    ]


@given(st.text(min_size=1))
def test_a_name_can_not_move_the_cursor(name: str) -> None:
    elements = [node("host"), network("blue"), container("x"), endpoint("x", "blue")]
    for element in elements:
        element["label"] = name
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", map_text(elements)) is None


def test_an_edge_into_nothing_is_left_out() -> None:
    elements = [node("host"), container("web"), endpoint("web", "gone")]
    assert "(no network)" in map_text(elements)
    assert "wire" not in map_svg(elements).partition("</style>")[2]


# --- the object


class Source:
    """A lab of elements that a test sets."""

    name = "demo"

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self.reads = 0
        self.gone = False
        self.callbacks: list[Callable[[], None]] = []

    def map_elements(self) -> Elements:
        self.reads += 1
        if self.gone:
            raise LabGone("the lab was stopped")
        return list(self.elements)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], object]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def details(self, element_id: str) -> dict[str, object]:
        return {"id": element_id}

    def become(self, elements: Elements) -> None:
        """Change in another thread, as a lab does."""
        self.elements = elements
        thread = threading.Thread(target=lambda: [callback() for callback in self.callbacks])
        thread.start()
        thread.join()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "didn't happen within 10 s"
        time.sleep(0.005)


def test_a_change_in_another_thread_reaches_the_map() -> None:
    source = Source(star(1))
    topology = Topology(source)
    source.become(star(2))
    until(lambda: len(topology.elements) == 6)
    assert "w1" in topology.text
    assert repr(topology) == "<Topology demo: 1 node, 1 network, 2 containers>"
    topology.freeze()


def test_a_storm_of_changes_is_read_ten_times_a_second_at_most_and_the_last_one_counts() -> None:
    source = Source(star(0))
    topology = Topology(source)
    start = time.monotonic()
    for count in range(200):
        source.become(star(count % 7))
    source.become(star(9))
    until(lambda: len(topology.elements) == 2 + 18)
    assert source.reads <= 3 + (time.monotonic() - start) / 0.1
    topology.freeze()


def test_coalesced_serves_a_request_that_comes_during_a_run() -> None:
    seen: list[int] = []
    value = 0
    started, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        seen.append(value)
        started.set()
        assert go_on.wait(10)

    later = Coalesced(slow, 0.0, name="test")
    later.request()
    assert started.wait(10)
    value = 1
    later.request()
    go_on.set()
    until(lambda: seen == [0, 1])
    later.close()
    later.request()
    assert not later._pending


def test_freezing_keeps_the_last_world_and_ends_the_following() -> None:
    source = Source(star(2))
    topology = Topology(source)
    source.elements = star(3)
    topology.freeze()
    assert source.callbacks == []
    source.elements = []
    topology.refresh()
    assert topology.frozen
    assert "w2" in topology.svg
    topology.freeze()


def test_a_lab_that_is_gone_leaves_its_picture() -> None:
    source = Source(star(2))
    topology = Topology(source)
    source.gone = True
    topology.refresh()
    topology.freeze()
    assert "w1" in topology.svg


def test_a_name_that_comes_back_returns_to_its_place_and_colour() -> None:
    source = Source([*star(5), network("green"), network("red")])
    topology = Topology(source)
    before, hues = dict(topology._places), dict(topology._hues)
    source.elements = [element for element in source.elements if element["id"] not in ("container:w1", "network:blue")]
    topology.refresh()
    source.elements = [*star(5), network("green"), network("red")]
    topology.refresh()
    assert topology._places == before
    assert topology._hues == hues
    assert len(set(hues.values())) == 3
    topology.freeze()


def test_without_a_kernel_there_is_picture_and_text_only() -> None:
    topology = Topology(Source(star(2)))
    bundle = topology._repr_mimebundle_()
    assert sorted(bundle) == ["text/html", "text/plain"]
    assert re.search(r"as of (Out\[\d+\] )?20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC<", bundle["text/html"])
    assert "<script" not in bundle["text/html"]
    assert topology.widget is None
    topology.freeze()


def test_importing_the_map_imports_nothing_heavy() -> None:
    code = (
        "import sys, ctlab.notebook.topology as t\n"
        "print(*sorted({'anywidget', 'ipywidgets', 'IPython', 'pandas', 'plotly'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_a_saved_notebook_holds_the_picture(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    if not (ROOT / "ctlab/static/topology.js").is_file():
        pytest.skip("ctlab/static/topology.js isn't built (pip install -e . builds it)")
    source = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}, {str(ROOT / 'tests/pure')!r}]\n"
        "from test_topology_static import Source, Topology, star\n"
        "source = Source(star(1)); topology = Topology(source); topology"
    )
    cells = [
        source,
        "source.elements = star(2); topology.refresh(); topology.refresh_stored()",
        "topology.widget.selected = 'container:w1'; print(topology.widget.details)",
        "topology.freeze(); topology",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    where = {"metadata": {"path": tmp_path}}
    client = nbclient.NotebookClient(notebook, timeout=60, store_widget_state=False, resources=where)
    with client.setup_kernel():
        client.execute_cell(notebook.cells[0], 0)
        picture, live = (dict(output.data) for output in notebook.cells[0].outputs)
        assert "application/vnd.jupyter.widget-view+json" in live and "ctlab-still" in picture["text/html"]
        assert "w0" in picture["text/html"]
        assert "as of Out[1] 20" in picture["text/html"]  # no lab has counted the cells
        client.execute_cell(notebook.cells[1], 1)
        stored = notebook.cells[0].outputs[0].data
        assert "w1" in stored["text/html"]
        assert "w1" in stored["text/plain"]
        client.execute_cell(notebook.cells[2], 2)
        assert notebook.cells[2].outputs[0].text.strip() == "{'id': 'container:w1'}"
        client.execute_cell(notebook.cells[3], 3)
    for cell in (notebook.cells[0], notebook.cells[3]):
        assert sorted(cell.outputs[0].data) == ["text/html", "text/plain"]
        assert "w1" in cell.outputs[0].data["text/html"] and "ctlab-still" not in cell.outputs[0].data["text/html"]
