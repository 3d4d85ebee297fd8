"""The quickstart as a person meets it: cell by cell in JupyterLab, and again as a saved file with a new kernel.

Pictures of all of it, light and dark, are left in the folder that ``CTLAB_SHOTS`` names, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="browser tests need JupyterLab")
pytestmark = [
    pytest.mark.kernel, pytest.mark.browser, pytest.mark.usefixtures("usable"),
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "notebooks" / "01-quickstart.ipynb"
LINES = ".ctlab-live .scatterlayer path.js-line"

# What is wider than its place: the text of every output that has to be scrolled sideways.
_OVERFLOWING = """() => [...document.querySelectorAll('.jp-OutputArea-output')]
  .filter((output) => output.scrollWidth > output.clientWidth + 1)
  .map((output) => output.textContent.slice(0, 80))"""
# The least contrast (WCAG) of a text in a table or a card with what is behind it.
_CONTRAST = """() => {
  const part = (value) => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const see = (element) => {
    const paper = behind(element), style = getComputedStyle(element);
    const ink = numbers(style.color).slice(0, 3).map((c, i) => c * style.opacity + paper[i] * (1 - style.opacity));
    const [low, high] = [light(ink), light(paper)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return Math.min(...[...document.querySelectorAll(
    '.jp-OutputArea-output :is(td, th, caption, p)')].map(see));
}"""


def test_the_quickstart_cell_by_cell(notebook: Callable[..., Any], tmp_path: Path) -> None:
    shots = Path(os.environ.get("CTLAB_SHOTS", tmp_path))
    cells = nbformat.read(QUICKSTART, as_version=4).cells
    code = {index: cell for index, cell in enumerate(cells) if cell.cell_type == "code"}
    here = {cell.source.split("\n")[0]: index for index, cell in code.items()}
    the_map, the_chart, the_end = here["%topology"], here["%stats --live"], here["%lab stop"]
    book = notebook(QUICKSTART)

    def run(index: int) -> None:
        book.run(index)
        errors = [output for output in book.outputs(index) if output["output_type"] == "error"]
        assert errors == []

    for index in (index for index in code if index < the_end):
        run(index)
        if index == the_map:
            book.output(index).locator(".ctlab-topology[data-ready=true][data-containers='2']").wait_for()
        if index == the_chart:
            book.output(index).locator(LINES).first.wait_for(state="attached")
    book.picture(shots / "quickstart-live-light.png")
    assert book.page.evaluate(_OVERFLOWING) == []
    assert book.page.evaluate(_CONTRAST) >= 4.5
    book.theme("JupyterLab Dark")
    book.output(the_map).locator(".ctlab-topology:not([data-paper='rgb(255,255,255)'])").wait_for()
    book.picture(shots / "quickstart-live-dark.png")
    assert book.page.evaluate(_CONTRAST) >= 4.5

    for index in (index for index in code if index >= the_end):
        run(index)
    book.output(the_map).locator("svg.ctlab-map").wait_for()
    assert len(nbformat.writes(book.save())) < 1_000_000

    book.restart()
    book.open()
    book.output(the_map).locator("svg.ctlab-map").wait_for()
    book.output(the_chart).locator("svg.ctlab-chart").wait_for()
    book.picture(shots / "quickstart-saved-dark.png")
    assert book.page.evaluate(_OVERFLOWING) == []
    book.theme("JupyterLab Light")
    book.picture(shots / "quickstart-saved-light.png")
