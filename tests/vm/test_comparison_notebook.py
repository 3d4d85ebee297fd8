"""The notebook that compares a container with a microVM: twice in one kernel, and where no microVM can be had."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient
from nbclient import NotebookClient

pytestmark = pytest.mark.kernel

PATH = Path(__file__).parents[2] / "notebooks" / "vm-vs-container.ipynb"
ROUNDS = TIMES = 2  # of the measurements; of the whole notebook in one kernel
WORLD = """
import json as _json, ctlab.labs as _running
print(_json.dumps({
    "labs": {lab.name: {
        "engine": lab.engine,
        "containers": {c.name: [c.state, c.addresses, list(c.command)] for c in lab.containers},
        "networks": {n.name: [list(n.subnets), [c.name for c in n.containers]] for n in lab.networks},
    } for lab in _running.running()},
    "values": [[*key, len(values), min(values)] for key, values in samples.items()],
    "vm": vm,
}))
"""
LEFT = "print([lab.name for lab in _running.running()])"
BOTH = {
    ("Start-up, ms", "a lab, to its first output"): 1,
    ("Start-up, ms", "a container in a running lab"): 5,
    ("Idle memory, MiB", "a lab"): 1,
    ("Idle memory, MiB", "one more container"): 1,
    ("Exec, ms", "back to back"): 5,
    ("Exec, ms", "after 50 ms idle"): 5,
    ("Round trip, µs", "ping"): 20,
    ("Round trip, µs", "TCP, Python to Python"): 20,
}  # values in one turn
IN_VM = {("Start-up, ms", "of it the kernel's boot"): 1, ("Idle memory, MiB", "in use, says the guest"): 1}

nbformat: Any = import_module("nbformat")  # which has no types


def run(times: int, rounds: int) -> Any:
    """The notebook executed so many times over in one kernel, each time with a look at the world before its end."""
    once = nbformat.read(PATH, as_version=4)
    [imports] = [cell for cell in once.cells if cell.id == "imports"]
    assert "ROUNDS = 5" in imports.source
    imports.source = imports.source.replace("ROUNDS = 5", f"ROUNDS = {rounds}")
    [end] = [number for number, cell in enumerate(once.cells) if cell.id == "end"]
    once.cells.insert(end, nbformat.v4.new_code_cell(WORLD, id="world"))
    once.cells.append(nbformat.v4.new_code_cell(LEFT, id="left"))
    whole = nbformat.v4.new_notebook(metadata=once.metadata)
    for turn in range(times):
        for cell in once.cells:
            copied = nbformat.from_dict(json.loads(json.dumps(cell)))
            copied["id"] = f"{turn}-{cell['id']}"
            whole.cells.append(copied)
    NotebookClient(
        whole, timeout=int(patient(180)), kernel_name="python3", store_widget_state=False,
        resources={"metadata": {"path": str(PATH.parent)}},
    ).execute()  # fmt: skip
    return whole


def outputs(notebook: Any, name: str, kind: str) -> list[str]:
    """What the cells of that name have put out: of each the text that it printed, or its value of a MIME type."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id.partition("-")[2] == name:
            texts = [
                output.text if output.output_type == "stream" else output.data[kind]
                for output in cell.outputs
                if (kind == "printed") == (output.output_type == "stream")
            ]
            found.append("".join(text if isinstance(text, str) else json.dumps(text) for text in texts))
    return found


@pytest.fixture
def prepared(usable: None, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A kernel of the notebook imports this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(PATH.parents[1]))
    return monkeypatch


@pytest.mark.long
def test_both_are_measured_and_a_second_time_leaves_the_same_world(
    prepared: pytest.MonkeyPatch, machine_programs: None
) -> None:
    done = run(TIMES, ROUNDS)
    worlds = [json.loads(text) for text in outputs(done, "world", "printed")]
    assert len(worlds) == TIMES
    first = worlds[0]
    assert all(world["labs"] == first["labs"] for world in worlds)
    assert set(first["labs"]) == {"compare-native", "compare-vm"}
    for name, lab in first["labs"].items():
        assert name == f"compare-{lab['engine']}" and set(lab["containers"]) == {"server", "client"}
        assert lab["networks"]["blue"] == [["10.20.0.0/24"], ["server", "client"]]
    wanted = {(*key, side): count * ROUNDS for key, count in BOTH.items() for side in ("container", "microVM")}
    wanted |= {(*key, "microVM"): count * ROUNDS for key, count in IN_VM.items()}
    for world in worlds:
        assert {(quantity, what, side): count for quantity, what, side, count, _ in world["values"]} == wanted
        # A growth of memory may be anything; all the rest took time, or is there.
        assert all(least > 0 for _, what, _, _, least in world["values"] if what != "one more container")
    assert outputs(done, "left", "printed") == ["[]\n"] * TIMES
    for told in outputs(done, "sides", "printed"):
        assert "isn't measured" not in told and first["vm"]["kernel_release"] in told
        assert {"kvm": "KVM:", "tcg": "(TCG):"}[first["vm"]["acceleration"]] in told
    for table in outputs(done, "table", "text/html"):
        assert all(word in table for word in (">container<", ">microVM<", ">microVM / container<"))
        assert all(f">{what}<" in table for _, what in BOTH) and table.count("<tr") == len(BOTH) + len(IN_VM) + 2
    for kind in ("text/html", "application/vnd.plotly.v1+json"):
        for figure in outputs(done, "figure", kind):
            assert all(quantity.partition(",")[0] in figure for quantity, _ in BOTH)
            assert f"acceleration {first['vm']['acceleration']}" in figure


def test_without_a_vm_one_line_says_so_and_the_rest_is_shown(prepared: pytest.MonkeyPatch) -> None:
    prepared.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # what a VM boots from has no place
    done = run(1, 1)
    [told] = outputs(done, "sides", "printed")
    # Before that, the lab itself may have said that it prepares one.
    assert [line.partition(":")[0] for line in told.splitlines()[-2:]] == [
        "no microVM here, so it isn't measured", "this machine",
    ]  # fmt: skip
    assert told.count("XDG_CACHE_HOME") == 1 or "sudo apt install" in told
    [world] = (json.loads(text) for text in outputs(done, "world", "printed"))
    assert set(world["labs"]) == {"compare-native"} and world["vm"] is None
    assert {(quantity, what): count for quantity, what, side, count, _ in world["values"]} == BOTH
    [table] = outputs(done, "table", "text/html")
    assert ">container<" in table and "microVM" not in table
    [figure] = outputs(done, "figure", "text/html")
    assert figure.startswith("<svg") and "microVM" not in figure
