"""What the README shows first is run as it stands, in an owner of its own: whoever types it has to get what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_help import patient

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).parents[2]
MAGICS, PYTHON = re.findall(
    r"^```(?:python)?\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
)[:2]
IN_A_SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
result = InteractiveShell.instance().run_cell({cell!r})
result.raise_error()
from ctlab import labs
print(*(container.name for container in labs.current().containers if container.state == "running"))
labs.current().stop()
"""


def run(program: str) -> str:
    """What a Python of its own prints for the program, which has to succeed."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=patient(60)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_magics_of_the_readme(usable: None, runtime_base: Path) -> None:
    assert "%topology" in MAGICS
    printed = run(IN_A_SHELL.format(cell=MAGICS))
    assert "Directory listing" in printed and "web" in printed.splitlines()


def test_the_python_of_the_readme(usable: None, runtime_base: Path) -> None:
    assert "ctlab.Lab(" in PYTHON
    printed = run(PYTHON)
    assert "Directory listing" in printed and "client" in printed
