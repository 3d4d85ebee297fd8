"""The quickstart, cell by cell in a real kernel: twice in one, with the same world both times, and clean at the end."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.kernel

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
ELSEWHERE = ("vm-vs-container",)  # run by tests/vm, where a VM is prepared first
END = "%lab stop"
nbformat: Any = import_module("nbformat")  # which has no types
WORLD = """
import json as _json
_lab = ctlab_labs.current() if (ctlab_labs := __import__("ctlab.labs", fromlist=["x"])) else None
print(_json.dumps({
    "containers": {c.name: [c.state, c.addresses, [e.mac for e in c.endpoints], list(c.command), c.limits.cpus]
                   for c in _lab.containers},
    "networks": {n.name: [list(n.subnets), list(n.gateways), [c.name for c in n.containers]] for n in _lab.networks},
    "labs": [lab.name for lab in ctlab_labs.running()],
}))
"""


@pytest.mark.long  # test_notebooks_headless.py does it as an ordinary user
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in ELSEWHERE], ids=lambda path: path.stem)
def test_a_notebook_run_twice_leaves_the_same_world(
    path: Path, usable: None, runtime_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))  # the checkout, whether it is installed or not
    once = nbformat.read(path, as_version=4)
    ends = [index for index, cell in enumerate(once.cells) if cell.source == END]
    assert ends, f"{path.name} doesn't end its lab"
    once.cells.insert(ends[-1], nbformat.v4.new_code_cell(WORLD))
    twice = nbformat.v4.new_notebook(metadata=once.metadata)
    for turn in ("a", "b"):
        for cell in once.cells:
            copied = nbformat.from_dict(json.loads(json.dumps(cell)))
            copied["id"] = f"{turn}-{cell['id']}"
            twice.cells.append(copied)
    client = NotebookClient(
        twice, timeout=120, kernel_name="python3", store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    worlds = [json.loads(printed(cell)) for cell in twice.cells if cell.source == WORLD]
    assert len(worlds) == 2 and worlds[0] == worlds[1]
    assert worlds[0]["containers"] and worlds[0]["networks"]
    assert size(twice) < 2_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    # nbclient goes on at a cell that is tagged so, papermill stops: an error that is meant to happen is caught.
    assert not any("raises-exception" in cell.metadata.get("tags", []) for cell in notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert "widgets" not in notebook.metadata


def printed(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def size(notebook: Any) -> int:
    """Bytes of a notebook as a file."""
    return len(nbformat.writes(notebook))
