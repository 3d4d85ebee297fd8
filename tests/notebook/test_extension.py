"""Loading, unloading, loading again; settings; what loading costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient

from ctlab import labs, ticks

pytestmark = pytest.mark.kernel

NOUNS = ("lab", "node", "network", "container", "stats", "topology", "link", "pod", "image", "experiment")
ROOT = Path(__file__).parents[2]


def state(ip: Any) -> dict[str, Any]:
    """Everything of a shell that an extension can leave something in."""
    return {
        "magics": {kind: set(names) for kind, names in ip.magics_manager.magics.items()},
        "registry": set(ip.magics_manager.registry),
        "matchers": list(ip.Completer.custom_matchers),
        "events": {name: list(found) for name, found in ip.events.callbacks.items()},
        "configurables": [type(one).__name__ for one in ip.configurables],
        "formatters": set(ip.display_formatter.ipython_display_formatter.deferred_printers)
        | set(ip.display_formatter.ipython_display_formatter.type_printers),
        "attributes": {name for name in vars(ip) if "ctlab" in name},
        "names": {name for name in ip.user_ns if not name.startswith("_")},
    }


def test_unloading_leaves_nothing_behind(make_shell: Any, usable: None) -> None:
    shell = make_shell()
    shell.run("%load_ext ctlab\n%unload_ext ctlab")  # IPython's own part of it comes with the first one
    before = state(shell.ip)
    for _ in range(2):
        shell.run("%load_ext ctlab")
        assert set(NOUNS) <= state(shell.ip)["magics"]["line"]
        shell.run("%container run -d --name web")
        shell.run("%container ps -a")
        shell.run("%container exec web -- true")
        chart = shell.run("%topology")
        lab = labs.current()
        shell.run("%unload_ext ctlab")
        ticks.unhook()  # a lab counts cells as well, as long as there is one
        assert state(shell.ip) == before
        assert chart.frozen and lab.views == []
        assert not lab.gone and lab["web"].state == "running"  # labs stay
        lab.stop()


def test_loading_again_replaces_and_does_not_double(shell: Any) -> None:
    once = state(shell.ip)
    shell.run("%reload_ext ctlab")
    shell.run("%load_ext ctlab")
    from ctlab.notebook.extension import load

    load(shell.ip)
    again = state(shell.ip)
    assert len(again["matchers"]) == len(once["matchers"])
    assert {k: len(v) for k, v in again["events"].items()} == {k: len(v) for k, v in once["events"].items()}
    assert again["configurables"] == once["configurables"]
    shell.run("%container run -d --name web")
    shell.run("%reload_ext ctlab")
    assert shell.run("%container ps -q") == ["web"]


def test_labs_and_handles_outlive_a_reload(shell: Any) -> None:
    web = shell.run("%container run -d --name web")
    shell.run("%unload_ext ctlab")
    assert web.exec("echo here").stdout == "here\n"
    shell.run("%load_ext ctlab")
    assert shell.run("%container inspect web")["state"] == "running"


def test_settings(shell: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    shell.run("%config CtlabMagics.interval = 0.05")
    shell.run("%container run -d --name web")
    assert shell.lab.interval_seconds == 0.05
    capsys.readouterr()
    shell.ip.run_cell("%config CtlabMagics.interval = 0")
    assert "CtlabMagics.interval: from 0.01 to 60 seconds" in caplog.text
    shell.run("%config CtlabMagics.output_bytes = 10")
    shell.run("%container exec web -- echo 0123456789abcdef")
    assert capsys.readouterr().out.startswith("0123456789\n[7B more isn't shown here")
    shell.fails("%container exec nobody -- ls")
    assert "Traceback" not in capsys.readouterr().out
    shell.run("%config CtlabMagics.traceback = True")
    shell.fails("%container exec nobody -- ls")
    out = capsys.readouterr().out
    assert "magics.py" in out and "NotFound" in out
    shell.run("%config CtlabMagics.traceback = False")


FORBIDDEN = """
import os
from IPython.core.interactiveshell import InteractiveShell
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
shell = InteractiveShell.instance(colors="nocolor")
shell.run_cell("%load_ext ctlab")
for variable, value in (("", None), ("1", False), ("0", True), ("1", None)):
    os.environ["CTLAB_VM_IF_NEEDED"] = variable
    shell.run_cell(f"%config CtlabMagics.vm_if_needed = {value}")
    for cell in ("%container run -- true", "%network create blue", "%lab start"):
        shell.run_cell(cell)
"""


def test_a_lab_that_magics_start_takes_a_vm_only_if_set_so() -> None:
    """Where no lab can start, nor a VM be had: only then does the error tell of the VM as well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": "/nonexistent", "XDG_CACHE_HOME": "/proc/none"}
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-B", "-c", FORBIDDEN], capture_output=True, text=True, env=environment,
        timeout=patient(60), check=False,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if line.startswith("Unsupported: ")]
    assert ["no VM can be had" in error for error in errors] == [False] * 6 + [True] * 6, done.stdout + done.stderr
    assert all("user-namespace: ENOSPC" in error and "ctlab.sample_run()" in error for error in errors)


def test_loading_prints_nothing_and_imports_nothing_heavy() -> None:
    heavy = ("pandas", "numpy", "plotly", "anywidget", "ipywidgets", "pyroute2", "ctlab.lab", "ctlab.runtime")
    code = (
        "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\nshell.run_line_magic('load_ext', 'ctlab')\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_older_name_of_ours_is_given_back(make_shell: Any) -> None:
    """A person's own %lab is theirs again only if they register it after ours; ours never removes another's."""
    shell = make_shell()
    shell.run("%load_ext ctlab")
    shell.ip.register_magic_function(lambda line: "mine", magic_name="lab")
    shell.run("%unload_ext ctlab")
    assert shell.run("%lab") == "mine"
