"""What fails is run once more: a test that then passes is flaky and named, one that fails again is a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import leg_report
import second_look

TESTS = Path(second_look.__file__).parent
PLANTED = """
import os, pathlib, pytest
def fails_once(name):
    seen = pathlib.Path(__file__).with_name(f"{name}.seen")
    if not seen.exists():
        seen.touch()
        raise ValueError(f"{name} is unlucky")
def test_that_passes(): pass
"""
RECORDED = """
import ctlab.doctor, leg_report, os
ctlab.doctor.doctor = lambda: []  # which takes its time
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(leg_report.Recorder(os.environ["CTLAB_LEG_REPORT"]))
"""
ONCE = "def test_once(): fails_once('once')\n"
OFTEN = "@pytest.mark.parametrize('number', range(6))\ndef test_often(number): fails_once(f'often{number}')\n"
NEVER = "def test_never():\n    assert not 'never'\n"
TEARDOWN = "@pytest.fixture\ndef left():\n    yield\n    fails_once('left')\ndef test_left(left): pass\n"


def look(folder: Path, tests: str, *words: str) -> tuple[int, str]:
    """The status and the output of a run of these tests; its report and list are out.json and flaky.txt."""
    (folder / "test_planted.py").write_text(PLANTED + tests)
    (folder / "conftest.py").write_text(RECORDED)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, "-B", second_look.__file__, "out.json", "flaky.txt", *words, "test_planted.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_fails_once_is_flaky(tmp_path: Path) -> None:
    status, said = look(tmp_path, ONCE + TEARDOWN, "--numprocesses=2", "--dist=loadfile")
    flaky = [
        "flaky test_planted.py::test_left (ValueError: left is unlucky)",
        "flaky test_planted.py::test_once (ValueError: once is unlucky)",
    ]
    assert status == 0, said
    assert sorted(said.splitlines()[-2:]) == flaky
    assert sorted((tmp_path / "flaky.txt").read_text().splitlines()) == flaky
    report = json.loads((tmp_path / "out.json").read_text())
    assert {test["outcome"] for test in report["tests"].values()} == {"passed"} and len(report["tests"]) == 3
    assert "2 flaky" in leg_report.table([report])


def test_what_always_fails_is_red(tmp_path: Path) -> None:
    status, said = look(tmp_path, NEVER + ONCE)
    assert status == 1
    assert "FAILED twice test_planted.py::test_never (AssertionError: assert not 'never')" in said
    assert said.splitlines()[-1] == "flaky test_planted.py::test_once (ValueError: once is unlucky)"
    report = json.loads((tmp_path / "out.json").read_text())
    assert leg_report.failures([report]) == [
        "  native (root): test_planted.py::test_never: AssertionError: assert not 'never'"
    ]


def test_too_many_flaky_ones_are_red(tmp_path: Path) -> None:
    status, said = look(tmp_path, OFTEN)
    assert status == 1 and "FAILED twice" not in said
    assert said.count("\nflaky ") == 6 and "6 flaky tests, and at most 5" in said.splitlines()[-1]


def test_what_is_green_or_broken_is_not_looked_at_again(tmp_path: Path) -> None:
    status, said = look(tmp_path, "")
    assert status == 0 and "once more" not in said and (tmp_path / "flaky.txt").read_text() == ""
    status, said = look(tmp_path, "import nothing_of_that_name\n")
    assert status == 1 and "once more" not in said
