"""A real lab in JupyterLab: its map and its chart follow what happens, and stay as pictures when all of it is gone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.kernel, pytest.mark.browser, pytest.mark.usefixtures("usable"),
]  # fmt: skip

MAP = ".ctlab-topology[data-ready=true]"
CHART = ".ctlab-live[data-drawn]"
WEB = "%container run -d --name web --network blue --wait port:80 -- python3 -m http.server 80"
# An ordinary user without cgroup folders can't pause; the map then shows an end instead.
PAUSE = """
import ctlab
late = ctlab.current().containers["late"]
(late.pause if ctlab.current()._client.facts["cgroup_paths"] else late.kill)()
"""
BUSY = """
import time
web.exec(["true"])
end = time.monotonic() + 12
turns = 0
while time.monotonic() < end:
    turns += 1
"""

# Run a cell, and look at the chart ten times a second until it ends: the newest moment that was drawn while it ran.
# (The kernel's own status is no help: a widget's messages, served beside the cell, make it idle in between.)
_WATCH_CHART = """async (index) => {
  const panel = jupyterapp.shell.currentWidget;
  const prompt = panel.content.widgets[index].promptNode;
  const newest = () => Number(document.querySelector('.ctlab-live').dataset.newest);
  const seen = [];
  let over = false;
  panel.content.activeCellIndex = index;
  jupyterapp.commands.execute('notebook:run-cell').then(() => { over = true; });
  while (!over) {
    if (prompt.textContent.includes('*')) seen.push(newest());
    await new Promise((done) => setTimeout(done, 100));
  }
  return seen;
}"""


def test_the_map_follows_and_a_click_reaches_python(notebook: Callable[..., Any]) -> None:
    book = notebook(
        [
            "%load_ext ctlab\n%lab start\n%network create blue --subnet 10.10.0.0/24",
            WEB,
            "picked = []\nworld = %topology\nworld.on_select(picked.append)\nworld",
            "%container run -d --name late --network blue",
            PAUSE,
            "%container rm late",
            "print(picked, world.selected, world.widget.details)",
            "%container kill web",
        ]
    )
    for index in range(3):
        book.good(index)
    view = book.output(2).locator(MAP)
    view.wait_for()
    assert (view.get_attribute("data-containers"), view.get_attribute("data-edges")) == ("1", "1")

    book.good(3)
    book.output(2).locator(f"{MAP}[data-containers='2'][data-edges='2']").wait_for()
    state = "(root, id) => jupyterapp && root.querySelector('footer').textContent"
    book.good(4)
    book.output(2).locator(f"{MAP} footer", has_text=re.compile("paused|exited")).wait_for()
    book.good(5)
    book.output(2).locator(f"{MAP}[data-containers='1'][data-edges='1']").wait_for()
    assert not re.search("paused|exited", view.evaluate(state))

    view = book.output(2).locator(MAP)
    view.evaluate("(root) => root.scrollIntoView()")
    at = view.evaluate("(root) => root.locate('container:web')")
    book.page.mouse.click(at["x"], at["y"])
    book.output(2).locator(f"{MAP}[data-selected='container:web']").wait_for()
    view.locator("aside dd", has_text="10.10.0.2").first.wait_for()
    view.locator("aside dd", has_text="http.server").first.wait_for()
    book.good(6)
    assert book.outputs(6)[0]["text"].startswith("['container:web'] container:web")
    book.good(7)
    book.output(2).locator(f"{MAP} footer", has_text="exited").wait_for()


def test_the_chart_moves_while_a_cell_computes_and_all_stays_as_pictures(notebook: Callable[..., Any]) -> None:
    book = notebook(
        [
            "%load_ext ctlab\n%lab start\n%network create blue --subnet 10.10.0.0/24",
            f"web = {WEB}",
            "%topology",
            "%stats --live",
            BUSY,
            "%container ps",
            "%lab stop",
        ]
    )
    for index in range(4):
        book.good(index)
    book.output(3).locator(f"{CHART} .scatterlayer path.js-line").first.wait_for()

    seen = book.page.evaluate(_WATCH_CHART, 4)
    assert [output for output in book.outputs(4) if output["output_type"] == "error"] == []
    assert len(set(seen)) >= 4, seen  # pictures
    assert seen[-1] - seen[0] > 2000, seen  # ms of samples

    book.good(5)
    book.good(6)
    book.output(2).locator("svg.ctlab-map").wait_for()
    book.output(3).locator("svg.ctlab-chart").wait_for()
    assert book.output(2).locator(".ctlab-topology").count() == book.output(3).locator(CHART).count() == 0
    saved = book.save()
    assert sorted(saved.cells[2].outputs[0].data) == ["text/html", "text/plain"]
    assert sorted(saved.cells[3].outputs[0].data) == ["text/html", "text/plain"]

    # A new kernel, which knows nothing, and a page loaded anew.
    book.restart()
    book.open()
    picture = book.output(2).locator("svg.ctlab-map")
    picture.wait_for()
    assert "web" in picture.text_content() and "10.10.0.2" in picture.text_content()
    chart = book.output(3).locator("svg.ctlab-chart")
    chart.wait_for()
    drawn = chart.locator("path.line").evaluate_all("(lines) => lines.map((line) => line.parentNode.textContent)")
    assert sorted(set(drawn)) == ["web", "web received", "web sent"], drawn
    assert "http.server" in book.output(5).text_content()
