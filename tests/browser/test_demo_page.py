"""The page that `make demo` writes: one file, without a server, light or dark as the reader's system is."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from map_worlds import routed

from ctlab.notebook.map_svg import map_svg

nbformat = pytest.importorskip("nbformat", reason="browser tests need JupyterLab")
pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
LOOK = """() => {
  const of = (element, name) => getComputedStyle(document.querySelector(element)).getPropertyValue(name);
  return { page: of('body', 'background-color'), text: of('.jp-RenderedHTMLCommon h1', 'color'),
           node: of('.ctlab-map .node > rect', 'fill'), code: of('.jp-InputArea-editor', 'background-color') };
}"""


def test_the_page_is_dark_where_the_reader_prefers_it(browser: Any, tmp_path: Path) -> None:
    code = nbformat.v4.new_code_cell("%topology")
    code.outputs = [nbformat.v4.new_output("display_data", {"text/html": map_svg(routed(3), caption="routed")})]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), code])
    page = tmp_path / "page.html"
    page.write_text(runpy.run_path(str(ROOT / "scripts/demo.py"))["as_page"](notebook), encoding="utf-8")
    looks = {}
    asked: list[str] = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1000, "height": 700})
        opened = context.new_page()
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        looks[scheme] = {
            name: sum(map(int, colour.partition("(")[2].strip(")").split(",")[:3])) / 3
            for name, colour in opened.evaluate(LOOK).items()
        }
        opened.emulate_media(color_scheme="dark" if scheme == "light" else "light")
        opened.wait_for_selector(
            f"body[data-jp-theme-light={'false' if scheme == 'light' else 'true'}]", state="attached"
        )
        context.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert all(looks["light"][name] > 200 for name in ("page", "node", "code")) and looks["light"]["text"] < 80
    assert all(looks["dark"][name] < 80 for name in ("page", "node", "code")) and looks["dark"]["text"] > 200
