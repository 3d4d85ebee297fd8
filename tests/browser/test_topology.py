"""The live map in JupyterLab, fed by a source without a kernel behind it: what a person sees and does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
SETUP = f"""
import sys; sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "tests/pure")!r}]
from map_worlds import container, endpoint, network, star
from test_topology_static import Source
from ctlab.notebook.topology import Topology
source = Source(star(3)); topology = Topology(source); seen = []
topology.on_select(seen.append)
topology
"""
ADD = """
name = "a-name-of-sixty-characters-WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWMMM"
source.become([*star(3), container("late", "paused"), endpoint("late", "blue"), container(name, "lost")])
"""
MAP = ".ctlab-topology[data-ready=true]"
# Whether everything is on the map, and nothing below its buttons.
CLEAR = """() => {
  const root = document.querySelector('.ctlab-topology'), frame = root.querySelector('.map').getBoundingClientRect();
  const tools = root.querySelector('.tools').getBoundingClientRect();
  const at = ['container:w0', 'container:w1', 'container:w2', 'container:late', 'network:blue'].map(root.locate);
  const inside = at.every(({ x, y }) => x > frame.left && x < frame.right && y > frame.top && y < frame.bottom);
  return inside && at.every(({ x, y }) => x + 40 < tools.left || y - 20 > tools.bottom);
}"""


# Whether what was clicked lies beside its details.
BESIDE = """() => {
  const root = document.querySelector('.ctlab-topology');
  return root.locate('container:late').x + 40 < root.querySelector('aside').getBoundingClientRect().left;
}"""


# Whether the wire of w0 begins where w0 stands, and is one that Python has laid.
WIRED = """() => {
  const root = document.querySelector('.ctlab-topology'), { x, y } = root.place('container:w0');
  const [start] = root.wire('endpoint:w0:blue');
  return Math.hypot(start[0] - x, start[1] - y) < 1;
}"""


def point(page: Any, view: Any, element: str) -> tuple[float, float]:
    """Where an element is in the window, after scrolling its map there."""
    view.evaluate("(root) => root.scrollIntoView()")
    at = view.evaluate("(root, id) => root.locate(id)", element)
    return at["x"], at["y"]


def narrow(page: Any, width: int) -> None:
    """Make the window narrower, and wait until the map has followed, which the page does when it has time."""
    size = "document.querySelector('.ctlab-topology .map').clientWidth"
    before = page.evaluate(size)
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_function(f"(before) => {size} < before", arg=before)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_the_live_map(notebook: Callable[..., Any]) -> None:
    book = notebook(
        [
            SETUP,
            ADD,
            "print(seen, topology.selected)",
            "source.become([element for element in source.elements if 'w1' not in element['id']])",
            "topology.refresh_stored()",
            "print(topology._places['container:w0'])",
            "topology.freeze()",
        ]
    )
    page = book.page
    book.run(0)
    view = book.output(0).locator(MAP)
    view.wait_for()
    assert view.get_attribute("data-containers") == "3"
    assert view.get_attribute("data-edges") == "3"

    # What appears in the lab, in another thread, appears on the map; nothing that is there moves.
    positions = "(root) => JSON.stringify(['w0', 'w1', 'w2'].map((name) => root.place(`container:${name}`)))"
    before = view.evaluate(positions)
    book.run(1)
    book.output(0).locator(f"{MAP}[data-containers='5'][data-edges='4']").wait_for()
    assert view.evaluate(positions) == before

    # A click selects, Python answers with details; a click beside everything selects nothing.
    page.mouse.click(*point(page, view, "container:w2"))
    book.output(0).locator(f"{MAP}[data-selected='container:w2']").wait_for()
    view.locator("aside dd", has_text="container:w2").wait_for()
    book.run(2)
    assert book.outputs(2)[0]["text"].strip() == "['container:w2'] container:w2"
    page.mouse.click(*point(page, view, "container:w2"))  # which gives the map the focus
    page.keyboard.press("ArrowDown")
    book.output(0).locator(f"{MAP}:not([data-selected='container:w2']):not([data-selected=''])").wait_for()
    page.keyboard.press("Escape")
    book.output(0).locator(f"{MAP}[data-selected='']").wait_for()

    # Details lie over the map: nothing moves, but what would be behind them.
    where = "(root) => ['w0', 'w1', 'w2', 'late'].map((name) => root.locate(`container:${name}`).x)"
    narrow(page, 900)
    page.wait_for_function(CLEAR)
    before = view.evaluate(where)
    page.mouse.click(*point(page, view, "container:w0"))
    view.locator("aside dd", has_text="container:w0").wait_for()
    page.wait_for_timeout(400)  # longer than any animation
    assert view.evaluate(where) == before
    page.mouse.click(*point(page, view, "container:late"))
    view.locator("aside dd", has_text="container:late").wait_for()
    page.wait_for_function(BESIDE)
    view.get_by_role("button", name="close the details").click()
    back = f"(before) => ({where})(document.querySelector('.ctlab-topology'))[0] === before"
    page.wait_for_function(back, arg=before[0])

    # Nothing lies below the buttons, however narrow the page is.
    page.set_viewport_size({"width": 760, "height": 1000})
    page.wait_for_function(CLEAR)
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.wait_for_function(CLEAR)

    # What is dragged stays there, in Python too, also when the output is made anew.
    x, y = point(page, view, "container:w0")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 50, steps=4)
    page.mouse.up()
    dragged = view.evaluate("(root) => root.place('container:w0')")
    assert dragged != {"x": 0, "y": 0}
    page.wait_for_function(WIRED)  # Python has answered with a way to there
    book.run(3)
    book.output(0).locator(f"{MAP}[data-containers='4']").wait_for()
    book.run(4)
    view = book.output(0).locator(MAP)
    view.wait_for()
    assert view.evaluate("(root) => root.place('container:w0')") == pytest.approx(dragged, abs=1)
    book.run(5)
    x, y = (float(part) for part in book.outputs(5)[0]["text"].strip(" ()\n").split(","))
    assert {"x": x, "y": y} == pytest.approx(dragged, abs=1)

    # The canvas follows the theme.
    assert view.get_attribute("data-paper") == "rgb(255,255,255)"
    book.theme("JupyterLab Dark")
    book.output(0).locator(f"{MAP}:not([data-paper='rgb(255,255,255)'])").wait_for()

    # Frozen, it is a picture without script, in which no text leaves its box.
    book.run(6)
    picture = book.output(0).locator("svg.ctlab-map")
    picture.wait_for()
    assert book.output(0).locator(".ctlab-topology").count() == 0
    over: list[str] = picture.evaluate(
        """(svg) => [...svg.querySelectorAll('.container')].filter((group) => {
          const [text, body] = ['text', '.body'].map((name) => group.querySelector(name).getBBox());
          return text.x < body.x || text.x + text.width > body.x + body.width;
        }).map((group) => group.textContent)"""
    )
    assert over == []
    saved = book.save().cells[0].outputs[0].data
    assert sorted(saved) == ["text/html", "text/plain"]
    assert "late" in saved["text/html"]


SAME = f"""
import sys, json; sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "tests/pure")!r}]
from test_map_golden import WORLDS
from test_topology_static import Source
from ctlab.notebook.topology import Topology
from IPython.display import HTML
"""
GEOMETRY = """
drawn = topology._geometry()
labels = {key: label.text for key, label in drawn.labels.items()}
print(json.dumps({"places": drawn.places, "wires": drawn.wires, "labels": labels}))
"""
# Pairs of texts and boxes of a picture that overlap; a text's own box is none.
OVERLAPS = """(svg) => {
  const shapes = [...svg.querySelectorAll('text, .body, .network > path')].map((element) => {
    const { x, y, width, height } = element.getBBox();
    return { element, group: element.closest('.container, .network'), x, y, width, height };
  });
  const found = [];
  for (const [index, one] of shapes.entries()) for (const other of shapes.slice(index + 1)) {
    if (one.group && one.group === other.group) continue;
    const wide = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
    const high = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
    if (wide > 0 && high > 0) found.push([one, other].map(({ element }) => element.outerHTML));
  }
  return found;
}"""


# One in the short form: the geometry is the same list for both, and tests/pure looks at many.
@pytest.mark.parametrize(
    "name", ["states", *(pytest.param(name, marks=pytest.mark.long) for name in ("router-7", "campus-200"))]
)
def test_the_live_map_and_the_picture_are_the_same(notebook: Callable[..., Any], name: str) -> None:
    book = notebook([f"{SAME}topology = Topology(Source(WORLDS[{name!r}]))\ntopology", GEOMETRY, "HTML(topology.svg)"])
    book.run(0)
    view = book.output(0).locator(MAP)
    view.wait_for()
    book.run(1)
    drawn = json.loads(book.outputs(1)[0]["text"])
    where = "(root, ids) => ids.map((id) => { const { x, y } = root.place(id); return [x, y]; })"
    assert view.evaluate(where, list(drawn["places"])) == [
        pytest.approx(at, abs=0.2) for at in drawn["places"].values()
    ]
    wires = view.evaluate("(root, ids) => ids.map((id) => root.wire(id))", list(drawn["wires"]))
    for corners, (edge, wire) in zip(wires, drawn["wires"].items(), strict=True):
        assert corners == [pytest.approx(at, abs=0.5) for at in wire], edge
    assert view.evaluate("(root) => root.addresses()") == list(drawn["labels"].values())
    assert bool(drawn["labels"]) == (name in ("router-7", "states"))
    assert ("3 failed" in view.locator("footer").text_content()) == (name == "states")
    book.run(2)
    picture = book.output(2).locator("svg.ctlab-map")
    picture.wait_for()
    assert picture.evaluate(OVERLAPS) == []
