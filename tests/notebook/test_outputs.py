"""Outputs that are kept up to date: maps after each cell, everything static when a lab stops."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parents[2]


def texts(cell: Any) -> list[str]:
    """The plain texts with which earlier outputs were replaced by a cell."""
    return [data["text/plain"] for data in cell.updates]


def test_a_table_stays_as_it_was(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    cell = kernel.good("%container ps")
    [data] = [m["content"]["data"] for m in cell.messages if m["msg_type"] == "execute_result"]
    assert "web" in data["text/plain"] and "<table" in data["text/html"]
    for change in ("%container run -d --name second", "%container rm web"):
        assert kernel.good(change).updates == []
    assert kernel.good("%container ps -q").value == "['second']"


def test_a_table_says_when_it_was_true(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    cell = kernel.good("print(len(In) - 1)\n%network ls")
    [data] = [m["content"]["data"] for m in cell.messages if m["msg_type"] == "execute_result"]
    said = rf"as of Out\[{cell.stream().strip()}\] 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\b"
    assert re.search(said, data["text/html"])  # as maps, charts and frames: in one zone, which it names


def test_a_map_follows_the_lab_and_becomes_static(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    cell = kernel.good("%topology")
    assert "application/vnd.jupyter.widget-view+json" in cell.displays[1]
    assert "web" in cell.displays[0]["text/html"] and "<svg" in cell.displays[0]["text/html"]
    cell = kernel.good("%container run -d --name second")
    assert any("second" in data["text/html"] for data in cell.updates)
    cell = kernel.good("%topology")  # one live map at a time: the first is a picture now
    assert any("<svg" in data["text/html"] and "ctlab-still" not in data["text/html"] for data in cell.updates)
    cell = kernel.good("%lab stop")
    last = [data for data in cell.updates if "<svg" in data.get("text/html", "")][-1]
    assert "ctlab-still" not in last["text/html"]
    assert "second" in last["text/html"] and "running" in last["text/plain"]  # the world as it was


def test_the_picture_of_a_live_map_follows_while_a_cell_runs(kernel: Any) -> None:
    kernel.good("%container run -d --name web\n%container run -d --name srv\n%topology")
    kernel.good(
        "import time, ctlab\nfrom ctlab.notebook import shown\nreal, seen = shown.replace, []\n"
        "shown.replace = lambda bundle, name: (seen.append(bundle.get('text/plain', '')), real(bundle, name))"
    )
    kernel.good(
        "ctlab.current().containers['web'].kill()\nend = time.monotonic() + 5\n"
        "while not any('SIGKILL' in text for text in seen):\n    assert time.monotonic() < end\n    time.sleep(0.05)"
    )
    # What is brought up to date beside a cell is no output of that cell.
    kernel.good("%%capture kept\nctlab.current().containers['srv'].kill()\ntime.sleep(0.6)\nshown.replace = real")
    assert kernel.good("print(len(kept.outputs))").stream() == "0\n"


def test_a_map_of_python_follows_as_well(kernel: Any) -> None:
    kernel.good("import ctlab\nlab = ctlab.Lab('py')\nlab.run(name='web')")
    kernel.good("lab.topology()")
    assert any("second" in text for text in texts(kernel.good("lab.run(name='second')")))


def test_a_chart_is_live_and_then_static(kernel: Any) -> None:
    kernel.good("%container run -d --name web -- sh -c 'while :; do :; done'")
    cell = kernel.good("board = %stats --live\nboard")
    assert "application/vnd.jupyter.widget-view+json" in cell.displays[1]
    assert kernel.good("print(board.live, board.updates > 0)").stream() == "True True\n"
    cell = kernel.good("%stats --live")  # replaces it
    assert kernel.good("print(board.live)").stream() == "False\n"
    cell = kernel.good("%stats --stop")
    (static,) = [data for data in cell.updates if "ctlab-chart" in data.get("text/html", "")]
    assert sorted(static) == ["text/html", "text/plain"] and "web" in static["text/html"]
    assert "no live chart" in str(kernel.run("%stats --stop").error)


def test_two_charts_if_asked_for(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    kernel.good("one = %stats --live\none")
    kernel.good("two = %stats web --live --keep --interval 500ms\ntwo")
    time.sleep(0.5)
    assert kernel.good("print(one.live, two.live)").stream() == "True True\n"
    kernel.good("%unload_ext ctlab")
    assert kernel.good("print(one.live, two.live)").stream() == "False False\n"


def test_handles_are_cards_and_results_are_not_shown_twice(kernel: Any) -> None:
    limited = kernel.good("%lab start\nimport ctlab\nprint('memory' in ctlab.current()._client.facts['controllers'])")
    if "True" not in limited.stream():
        pytest.skip("no cgroup controller memory for this user")
    cell = kernel.good("%container run -d --name web --memory 64M")
    html = next(m for m in cell.messages if m["msg_type"] == "execute_result")["content"]["data"]["text/html"]
    assert "container web" in html and "64M" in html and "as of Out[" in html
    cell = kernel.good("%container exec web -- echo hello")
    assert [message["msg_type"] for message in cell.messages if message["msg_type"] != "execute_input"] == ["stream"]
    assert kernel.good("x = %container exec -q web -- echo hello\nx").value is not None
    assert kernel.good("%container ps;").displays == []


def test_a_shells_dollar_is_no_formula(shell: Any) -> None:
    """JupyterLab typesets what stands between two of them, wherever no class says otherwise: checked in its pages."""
    shell.run("%lab start")
    shell.run("%container run -d --name env -- sh -c 'echo $A; a=$(date); sleep 60'")
    for cell in ("%container ps", "%container inspect env", "ctlab.current()['env']", "%lab doctor"):
        shown = shell.run(cell) if cell[0] == "%" else shell.run("import ctlab; " + cell)
        html = getattr(shown, "_repr_html_", lambda: "")() or ""
        for table in html.split("<table")[1:]:
            assert "tex2jax_ignore" in table.split(">")[0] or "ctlab-doctor tex2jax_ignore" in html, (cell, table[:80])
        assert cell != "%container ps" or "$(date)" in html


def test_a_lab_is_a_card_and_an_empty_prune_says_so_alone(kernel: Any) -> None:
    kernel.good("%lab start")
    [data] = [m["content"]["data"] for m in kernel.good("%lab").messages if m["msg_type"] == "execute_result"]
    assert "ctlab-card" in data["text/html"] and '"name": "lab"' in data["text/plain"]
    for noun in ("container", "network"):
        cell = kernel.good(f"%{noun} prune")
        assert (cell.stream(), cell.value) == (f"no {noun} to remove\n", None)


def test_inspect_is_json(kernel: Any) -> None:
    import json

    kernel.good("%container run -d --name web")
    value = kernel.good("%container inspect web").value
    assert value is not None and json.loads(value)["name"] == "web"


def test_a_terminal_has_no_empty_out_after_each_program(usable: None, runtime_base: Path, tmp_path: Path) -> None:
    typed = [
        "%load_ext ctlab", "%container run -d --name web", "%container exec web -- echo hello",
        "print('kept', _.returncode, _.stdout)", "%container exec web -- true", "%lab stop", "exit",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=nocolor"],
        input="\n".join(typed) + "\n", capture_output=True, text=True, timeout=patient(60),
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "hello\n" in done.stdout and "kept 0 hello" in done.stdout, done.stdout + done.stderr
    assert re.findall(r"Out\[(\d+)\]", done.stdout) == ["2", "6"], done.stdout  # the handles of web and lab


def test_logs_of_a_program_that_keeps_its_output_back_say_so(kernel: Any) -> None:
    script = "import time; print(1); time.sleep(60)"
    kernel.good(f'%container run -d --name mute -- python3 -c "{script}"')
    assert "PYTHONUNBUFFERED=1" in kernel.good("%container logs mute").stream()
    kernel.good(f'%container run -d --name heard -e PYTHONUNBUFFERED=1 -- python3 -c "{script}"')
    until = time.monotonic() + patient(10)
    while "1" not in kernel.good("import ctlab\nprint(ctlab.current().containers['heard'].logs())").stream():
        assert time.monotonic() < until
    assert kernel.good("%container logs heard").stream() == ""
    kernel.good("%container run -d --name idle")
    assert kernel.good("%container logs idle").stream() == ""
