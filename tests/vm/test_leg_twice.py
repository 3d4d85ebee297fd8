"""What fails in a guest is run again in a fresh one: the rule, with machines that are told what to report; for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leg
import leg_report
import leg_twice
import pytest

ROOT = {"who": "root", "ids": True, "cgroups": True}
SHARES = {"one": [{**ROOT, "files": ["test_a.py", "test_b.py"]}, {**ROOT, "who": "user", "files": ["test_a.py"]}],
          "two": [{**ROOT, "files": ["test_c.py"]}]}  # fmt: skip


def report(**tests: str) -> dict[str, Any]:
    """A report: test -> outcome; its file is the part before the two lines."""
    return {"leg": "vm", "kernel": "Linux", "user": "root", "probes": {}, "flaky": [], "tests": {
        f"tests/kernel/test_{name.partition('__')[0]}.py::{name}":
        {"outcome": outcome, "seconds": 1.0, "uses": [], "reason": "why not"} for name, outcome in tests.items()
    }}  # fmt: skip


ALL = {"one-1": report(a__1="passed", b__1="passed"), "one-2": report(a__1="passed"), "two-1": report(c__1="passed")}


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[Any], list[Any]]]:
    """Run the shares on machines that report this and then that: status, what was run again, what is flaky."""
    monkeypatch.setattr(leg, "REPORTS", tmp_path)

    def run(first: dict[str, Any], again: dict[str, Any]) -> tuple[int, list[Any], list[Any]]:
        asked: list[Any] = []

        def look(shares: leg_twice.Shares, seconds: float) -> int:
            reports = again if asked else first
            asked.append(shares)
            for name, said in reports.items():
                (tmp_path / f"vm-{name}.json").write_text(json.dumps(said))
            outcomes = [test["outcome"] for said in reports.values() for test in said["tests"].values()]
            return int("failed" in outcomes or len(reports) < sum(map(len, shares.values())))

        (tmp_path / "vm-old-1.json").write_text("{}")
        status = leg_twice.run(SHARES, look, 1.0)
        reports = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("vm-*.json"))]
        assert len(reports) == 3 or status
        leg_report.table(reports)
        return status, asked[1:], [line for said in reports for line in said["flaky"]]

    return run


def test_what_passes_then_is_flaky(machines: Any) -> None:
    assert machines(ALL, {}) == (0, [], [])
    first = ALL | {"one-1": report(a__1="passed", b__1="failed"), "two-1": report(c__1="failed")}
    status, asked, flaky = machines(first, {"again-1": report(b__1="passed"), "again-2": report(c__1="passed")})
    assert status == 0
    assert asked == [{"again": [{**ROOT, "files": ["test_b.py"]}, {**ROOT, "files": ["test_c.py"]}]}]
    names = ["tests/kernel/test_b.py::b__1", "tests/kernel/test_c.py::c__1"]
    assert flaky == [[name, "why not"] for name in names]


def test_what_fails_again_is_red(machines: Any) -> None:
    first = ALL | {"two-1": report(c__1="failed", c__2="failed")}
    status, _, flaky = machines(first, {"again-1": report(c__1="passed", c__2="failed")})
    assert status == 1 and flaky == [["tests/kernel/test_c.py::c__1", "why not"]]
    assert machines(first, {})[0] == 1, "the fresh machine ended, too"
    assert machines(first, {"again-1": report(c__1="passed", c__2="skipped")})[0] == 1


def test_a_machine_that_ended_is_run_again(machines: Any) -> None:
    first = {"two-1": ALL["two-1"]}
    status, asked, flaky = machines(first, {"again-1": ALL["one-1"], "again-2": ALL["one-2"]})
    assert status == 0 and asked == [{"again": SHARES["one"]}]
    assert [name for name, _ in flaky] == ["vm-one-1", "vm-one-2"]


def test_very_many_are_not_looked_at_again(machines: Any) -> None:
    first = ALL | {"two-1": report(**{f"c__{number}": "failed" for number in range(30)})}
    assert machines(first, {}) == (1, [], [])


PLANTED = """
import os
def test_once(): assert os.environ["CTLAB_TEST_MACHINE"] == "again"
"""


@pytest.mark.long
def test_a_failure_in_a_real_guest_is_run_again_in_another(machine_programs: None) -> None:
    path = Path(leg.ROOT, f"tests/kernel/test_planted_{os.getpid()}.py")
    path.write_text(PLANTED)
    try:
        command = [sys.executable, leg.__file__, path.name]
        done = subprocess.run(command, cwd=leg.ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    finally:
        path.unlink()
    assert done.returncode == 0, done.stdout
    (said,) = [json.loads(report.read_text()) for report in leg.REPORTS.glob("vm-*.json")]
    assert said["flaky"] == [[f"tests/kernel/{path.name}::test_once", "AssertionError: assert 'one' == 'again'"]]
