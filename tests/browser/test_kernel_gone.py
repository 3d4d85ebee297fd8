"""Live map and live chart when their kernel is gone: restarted, killed, or the notebook opened again without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
TESTS = Path(__file__).resolve().parents[1]
MAP = f"""
import os, sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "pure")!r}, {str(TESTS / "notebook")!r}]
from map_worlds import star
from test_topology_static import Source as World
from ctlab.notebook.topology import Topology
topology = Topology(World(star(3)))
topology
"""
CHART = "import test_dashboard\nexec(test_dashboard.SOURCE)\nboard"
LIVE = (".ctlab-topology[data-state=live]", ".ctlab-live[data-state=live][data-drawn]")
STOPPED = (".ctlab-topology[data-state=stopped]", ".ctlab-live[data-state=stopped]")
PICTURE = ("svg.ctlab-map", "svg.ctlab-chart")
# What ipywidgets and JupyterLab write to the console: of a model, and of whichever message was without its answer.
TOLD = ("widget model not found", "Canceled future for ")


def forgive(book: Any) -> None:
    """What has to be told of a kernel that is gone is no problem of the page."""
    book.problems[:] = [problem for problem in book.problems if not any(told in problem for told in TOLD)]


def show(book: Any) -> None:
    """Run both; live, and with nothing else to see."""
    for index in (0, 1):
        book.good(index)
        book.output(index).locator(LIVE[index]).wait_for()
        assert not book.output(index).locator(PICTURE[index]).is_visible()


@pytest.mark.long  # test_live_lab.py has a restart with both pictures
def test_a_restart_is_seen_and_a_saved_notebook_has_its_pictures(notebook: Callable[..., Any]) -> None:
    book = notebook([MAP, CHART, "topology.freeze()\nboard.stop()"])
    show(book)
    book.restart()
    for index in (0, 1):
        view = book.output(index).locator(STOPPED[index])
        view.wait_for(timeout=4000)  # a chart would say it after 8 s, since nothing comes
        assert "stopped, as of 20" in view.text_content()
    page, view = book.page, book.output(0).locator(STOPPED[0])
    assert view.locator(".tools button:visible").all_text_contents() == ["+", "−", "fit"]
    view.evaluate("(root) => root.scrollIntoView()")
    at = view.evaluate("(root) => root.locate('container:w1')")
    page.mouse.click(at["x"], at["y"])
    page.keyboard.press("ArrowDown")
    assert view.get_attribute("data-selected") == "" and view.locator("aside").is_hidden()

    saved = book.save()
    book.open()
    for index in (0, 1):
        assert list(saved.cells[index].outputs[0].data) == ["text/html", "text/plain"]
        book.output(index).locator(PICTURE[index]).wait_for()
        book.output(index).get_by_text("model not found").wait_for(state="hidden")
    page.wait_for_function("document.body.textContent.includes('model not found')")
    for index in (0, 1):
        assert not book.output(index).get_by_text("model not found").is_visible()
        assert book.output(index).get_by_text("as of ").first.is_visible()
    forgive(book)

    # Run again it is live again; and what ends as it should leaves nothing but the picture.
    show(book)
    book.good(2)
    for index in (0, 1):
        book.output(index).locator(PICTURE[index]).wait_for()
        assert book.output(index).locator(".ctlab-topology, .ctlab-live").count() == 0
        kept = [sorted(output["data"]) for output in book.outputs(index)]
        assert kept == [["text/html", "text/plain"], ["text/html"]]
        nothing = book.output(index).locator(".jp-OutputArea-child").nth(-1)
        assert nothing.evaluate("(child) => child.clientHeight") <= 1


def test_a_lost_connection_and_a_kernel_that_dies_are_seen(notebook: Callable[..., Any]) -> None:
    book = notebook([MAP, CHART])
    show(book)
    book.page.evaluate("""async () => {
      window.said = [];
      const watch = new MutationObserver((all) => all.forEach(({ target }) => window.said.push(target.dataset.state)));
      const attributeFilter = ["data-state"];
      document.querySelectorAll(".ctlab[data-state]").forEach((root) => watch.observe(root, { attributeFilter }));
      await jupyterapp.shell.currentWidget.sessionContext.session.kernel.reconnect();
    }""")
    for index in (0, 1):
        book.output(index).locator(LIVE[index]).wait_for()
    assert "stopped" in book.page.evaluate("window.said")  # for as long as there was no connection
    book.page.evaluate("() => { jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute("
                       "{ code: 'os.kill(os.getpid(), 9)' }).done.catch(() => {}) }")  # fmt: skip
    for index in (0, 1):
        book.output(index).locator(STOPPED[index]).wait_for(timeout=8000)
    forgive(book)
