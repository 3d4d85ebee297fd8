"""Run the quickstart notebook for real and save it as a page that needs nothing but a browser."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "01-quickstart.ipynb"
OUT = ROOT / "out"
# The usual page asks other machines for scripts (formulas, widgets, diagrams) that this notebook has no use for. And it
# has one theme; this one has both, and takes the one that the reader's system prefers.
TEMPLATE = DictLoader(
    {
        "page.html.j2": """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block notebook_css %}
{{ super() }}
<style type="text/css" media="(prefers-color-scheme: dark)" id="dark">
{{ resources.include_css("static/theme-dark.css") | replace('<style type="text/css">', '') | replace('</style>', '') }}
</style>
{% endblock notebook_css %}
{% block body_header %}
{{ super() }}
<script>
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    document.body.dataset.jpThemeLight = String(!dark.matches);
    document.body.dataset.jpThemeName = dark.matches ? "JupyterLab Dark" : "JupyterLab Light";
  };
  dark.addEventListener("change", follow);
  follow();
</script>
{% endblock body_header %}
"""
    }
)


def as_page(notebook: nbformat.NotebookNode) -> str:
    """The notebook as HTML that asks nobody for anything, light or dark as the reader's system is."""
    html: str
    html, _ = HTMLExporter(template_file="page.html.j2", extra_loaders=[TEMPLATE]).from_notebook_node(notebook)
    return html


def run() -> tuple[nbformat.NotebookNode, CellExecutionError | None]:
    """The notebook with what its cells put out, and the failure that ended it, if one did."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Widget state would put megabytes of JavaScript into the file; the static pictures are there without it.
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],  # a newcomer needs no advice about how a kernel is talked to
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return notebook, error
    return notebook, None


def main() -> int:
    """Returns 0 when every cell ran."""
    notebook, failed = run()
    OUT.mkdir(exist_ok=True)
    page = OUT / "01-quickstart.html"
    page.write_text(as_page(notebook), encoding="utf-8")
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    if failed is not None:
        print(f"a cell failed: {failed.ename}: {failed.evalue}")
        print(f"the notebook as far as it came: {page}")
        return 1
    print(f"the quickstart ran: {cells} cells, every container gone again")
    print(f"as a page:    {page}")
    print("live, to click around:  make lab")
    return 0


if __name__ == "__main__":
    sys.exit(main())
