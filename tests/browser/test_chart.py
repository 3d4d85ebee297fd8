"""The live chart in JupyterLab: thirty busy containers hold up nobody, and it says of itself only what is so."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from kernel_help import patient

pytestmark = [
    pytest.mark.kernel, pytest.mark.browser, pytest.mark.usefixtures("usable"),
]  # fmt: skip

LIVE = ".ctlab-live[data-state=live][data-drawn]"
START = "%load_ext ctlab\n%lab start many\n%network create blue --subnet 10.10.0.0/16"
# Each has a traffic and a process tree that moves; all of them together take a tenth of a processor.
BUSY = """
import ctlab
loop = "while :; do ping -c 1 -q 10.10.0.1 >/dev/null; sleep 0.5; done"
for number in range({count}):
    ctlab.current().run(["sh", "-c", loop], name=f"box-{{number:02}}", networks=["blue"])
"""
# Until it is told to stop; it has the interpreter for itself all the while.
COMPUTE = """
import pathlib
stop = pathlib.Path("stop-computing")
while not stop.exists():
    for _ in range(10**5):
        pass
"""
# How long until a cell's new result stands in the page, in seconds.
_RESULT = """async (index) => {
  const panel = jupyterapp.shell.currentWidget, cell = panel.content.widgets[index];
  panel.content.activeCellIndex = index;
  const count = cell.model.executionCount, began = performance.now();
  jupyterapp.commands.execute('notebook:run-cell');
  const there = () => cell.model.executionCount !== count && cell.outputArea.node.textContent.includes('42');
  while (!there()) await new Promise((done) => setTimeout(done, 5));
  return (performance.now() - began) / 1000;
}"""
# Whether it is drawn in the colours of the page's theme.
_PAPER = "(root) => getComputedStyle(root).backgroundColor"


def pictures(book: Any, cell: int) -> int:
    """The number of the newest picture on the page."""
    return int(book.output(cell).locator(".ctlab-live").get_attribute("data-drawn"))


def results(book: Any, cell: int, count: int = 5) -> float:
    """Seconds until another cell's result is in the page: the worst of several but one, as others use the machine."""
    return statistics.median(sorted(book.page.evaluate(_RESULT, cell) for _ in range(count))[-3:])


def quietest(book: Any, cell: int, enough: float) -> float:
    """The same, tried again when it is late: what holds it up is still there, what else the machine did isn't."""
    took = [results(book, cell)]
    while took[-1] > enough and len(took) < 3:
        took.append(results(book, cell))
    return min(took)


@pytest.mark.long  # half a minute of times; that a picture waits for the last one is test_dashboard.py's
def test_thirty_busy_containers_hold_up_no_other_cell(notebook: Callable[..., Any]) -> None:
    book = notebook([START, BUSY.format(count=30), "%stats --live", "6 * 7", COMPUTE, "%lab stop"])
    throttle = book.page.context.new_cdp_session(book.page)
    book.good(0)
    book.good(1)
    results(book, 3, 3)
    alone = results(book, 3)
    throttle.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    alone_slow = results(book, 3)
    throttle.send("Emulation.setCPUThrottlingRate", {"rate": 1})

    began = book.page.evaluate("performance.now()")
    book.good(2)
    book.output(2).locator(LIVE).wait_for()
    first = (book.page.evaluate("performance.now()") - began) / 1000
    assert first <= patient(6), first  # 1 on a machine that has nothing else to do; it was 9 to 26
    names = book.output(2).locator(".legend button").all_text_contents()
    assert len(names) == 9 and names[-1] == "others (22)"
    beside = quietest(book, 3, alone + 0.5)
    assert beside <= alone + 0.5, (alone, beside)
    before = pictures(book, 2)
    book.page.wait_for_function(f"document.querySelector('.ctlab-live').dataset.drawn >= {before + 6}")

    throttle.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    beside = quietest(book, 3, alone_slow + 2.5)
    assert beside <= alone_slow + 2.5, (alone_slow, beside)
    before = pictures(book, 2)
    book.page.wait_for_function(f"document.querySelector('.ctlab-live').dataset.drawn >= {before + 2}")
    # What is drawn is what is: nothing has piled up.
    book.page.wait_for_function("Date.now() - Number(document.querySelector('.ctlab-live').dataset.newest) < 6000")
    throttle.send("Emulation.setCPUThrottlingRate", {"rate": 1})

    # While a cell computes, as long as it takes: how long that is other work on this machine decides.
    before = pictures(book, 2)
    book.start(4)
    book.page.wait_for_function(f"document.querySelector('.ctlab-live').dataset.drawn >= {before + 3}")
    assert book.busy(4)
    (book.server.notebooks / "stop-computing").touch()
    book.good(5)
    assert not book.busy(4) and not any(output["output_type"] == "error" for output in book.outputs(4))
    book.output(2).locator("svg.ctlab-chart").wait_for()


def test_it_says_what_is_so_and_covers_nothing(notebook: Callable[..., Any]) -> None:
    book = notebook(
        [START, BUSY.format(count=2), "board = %stats --live\nboard", "before = board.updates",
         "print(board.updates - before)", "%stats --live", "%stats --stop"]
    )  # fmt: skip
    page = book.page
    for index in range(3):
        book.good(index)
    view = book.output(2).locator(LIVE)
    view.wait_for()
    light = view.evaluate(_PAPER)

    # Values have units, and nothing lies over the legend, nor over anything that can be pressed.
    plot = book.output(2).locator(".plot .nsewdrag").first
    plot.scroll_into_view_if_needed()
    plot.hover()
    hover = book.output(2).locator(".hoverlayer .legend")
    hover.wait_for()
    assert re.search(r"box-00 : \d\.\d\d cores", hover.text_content()), hover.text_content()
    assert book.output(2).locator(".modebar-btn").first.is_visible()
    covered = """(root) => [...root.querySelectorAll('.legend button')].filter((button) => {
      const { left, top, width, height } = button.getBoundingClientRect();
      return document.elementFromPoint(left + width / 2, top + height / 2)?.closest('button') !== button;
    }).length"""
    assert view.evaluate(covered) == 0
    shown = "() => document.querySelectorAll('.ctlab-live .scatterlayer path.js-line').length"
    count = page.evaluate(shown)
    assert count == 2 * 5
    book.output(2).get_by_role("button", name="box-01").click()
    page.wait_for_function(f"({shown})() === 5")
    book.output(2).get_by_role("button", name="box-01").click()
    page.wait_for_function(f"({shown})() === 10")

    # In the theme's colours, and as wide as its place.
    book.theme("JupyterLab Dark")
    page.wait_for_function(f"({_PAPER})(document.querySelector('.ctlab-live')) !== '{light}'")
    book.theme("JupyterLab Light")
    page.wait_for_function(f"({_PAPER})(document.querySelector('.ctlab-live')) === '{light}'")
    page.set_viewport_size({"width": 1000, "height": 1000})
    inside = """() => {
      const root = document.querySelector('.ctlab-live'), svg = root.querySelector('.main-svg');
      return Math.abs(root.clientWidth - svg.clientWidth) < 2 && root.clientWidth < 1000;
    }"""
    page.wait_for_function(inside)

    # A page that nobody sees gets nothing; one that shows again has a picture at once.
    see = """(hidden) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(see, True)
    page.wait_for_timeout(1000)  # what was under way
    book.good(3)
    page.wait_for_timeout(3000)
    book.good(4)
    assert book.outputs(4)[0]["text"] == "0\n"
    before = pictures(book, 2)
    page.evaluate(see, False)
    page.wait_for_function(f"document.querySelector('.ctlab-live').dataset.drawn > {before}")

    # Another one takes its place; what is left of it is a picture.
    book.good(5)
    book.output(2).locator("svg.ctlab-chart").wait_for()
    book.output(5).locator(LIVE).wait_for()
    # The page is loaded anew, with the same kernel: it goes on.
    book.save()
    book.open()
    book.output(5).locator(".ctlab-live").scroll_into_view_if_needed()  # what isn't in sight isn't drawn
    book.output(5).locator(LIVE).wait_for()
    # The kernel is not: a chart that nothing feeds doesn't call itself live.
    book.restart()
    book.output(5).locator(".ctlab-live[data-state=stopped] .state", has_text="stopped, as of 20").wait_for()
    for words in ("Comm not found", "Could not restore the debugger state"):  # JupyterLab's, about the old kernel
        book.problems[:] = [text for text in book.problems if words not in text]

    # And a saved one is as wide as its page, whatever that was.
    width = """() => {
      const svg = document.querySelector('svg.ctlab-chart'), place = svg.closest('.jp-OutputArea-output');
      const { left, right } = svg.getBoundingClientRect(), at = place.getBoundingClientRect();
      const inside = right <= at.right + 1 && left >= at.left - 1;
      return [inside, Math.round(right - left), place.scrollWidth - place.clientWidth];
    }"""
    for window in (1000, 1300):
        page.set_viewport_size({"width": window, "height": 1000})
        book.output(2).locator("svg.ctlab-chart").scroll_into_view_if_needed()
        inside_, wide, over = page.evaluate(width)
        assert inside_ and wide > 0.7 * window and over <= 1, (window, wide, over)
