"""What takes long to import is imported whole, also for who is interrupted: a half of pandas stays a half."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ctlab

PACKAGE = Path(ctlab.__file__).parent
HEAVY = {"anywidget", "networkx", "numpy", "pandas", "plotly", "pyroute2"}
# Modules of this package that are themselves imported by `ready`, and so may import what is heavy at its top.
AT_THE_TOP = {"notebook/dashboard_widget.py", "notebook/topology_widget.py"}

SCRIPT = """
import os, signal, sys
import ctlab

moments = [sys.argv[1]]

def interrupt(event, arguments):
    if event == "import" and arguments[0] in moments:
        os.kill(os.getpid(), signal.SIGINT) if moments.pop() else None

sys.addaudithook(interrupt)
sample = ctlab.sample_run()
try:
    sample.stats()
except KeyboardInterrupt:
    print("interrupted")
print(len(sample.stats(last=None)), len(moments))
"""


@pytest.mark.parametrize("moment", ["pandas._libs.lib", "pandas._libs.tslibs.timestamps", "pandas.core.arrays"])
def test_an_interrupt_in_the_middle_of_an_import_spoils_nothing(moment: str) -> None:
    """As it begins to import that: each of these left a pandas with which no later frame could be made."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, moment], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "interrupted\n900 0\n"


def heavy_imports(path: Path) -> list[str]:
    """Where a heavy module is imported without a call of `ready` before it in the same function, which names it."""
    tree = ast.parse(path.read_text())
    typing = {id(below) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) ==
              "TYPE_CHECKING" for below in ast.walk(node)}  # fmt: skip
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        heavy = [name for name in names if name.partition(".")[0] in HEAVY and id(node) not in typing]
        holders = [one for one in functions if heavy and node in ast.walk(one)]
        said = [
            argument for holder in holders for call in ast.walk(holder) if isinstance(call, ast.Call)
            and call.lineno < node.lineno and isinstance(call.func, ast.Name) and call.func.id == "ready"
            for argument in call.args
        ]  # fmt: skip
        named = {ast.literal_eval(argument) for argument in said if isinstance(argument, ast.Constant)}
        starred = any(isinstance(argument, ast.Starred) for argument in said)
        found += [f"{path.name}:{node.lineno}: {name}" for name in heavy if name not in named and not starred]
    return found


def test_every_heavy_import_is_made_ready_first() -> None:
    """`apart.ready("pandas")` in the function, before `import pandas`."""
    paths = [path for path in PACKAGE.rglob("*.py") if str(path.relative_to(PACKAGE)) not in AT_THE_TOP]
    assert [place for path in paths for place in heavy_imports(path)] == []
    assert heavy_imports(PACKAGE / "notebook/topology_widget.py") == ["topology_widget.py:10: anywidget"]
