"""Tests of which a failure is looked at twice: ``python tests/second_look.py REPORT FLAKY [OPTION ...]``, of pytest.

With thousands of tests on a living kernel one unlucky moment would throw the work of days back. So what failed is run
once more by itself, one test after the other. What passes then is named as flaky, with its first failure, in the last
lines and in the file FLAKY; what fails again is a failure, and so are more than `leg_report.MOST_FLAKY` flaky ones.
The leg's REPORT is of both runs together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import leg_report
import pytest

MOST_FAILED = 20  # so many are looked at again: more are no bad luck, and take their time


def main(path: Path, flaky_path: Path, words: Sequence[str]) -> int:
    """Run the tests; the status of the process."""
    with tempfile.TemporaryDirectory(prefix="ctlab-second-look-") as cache:
        path.unlink(missing_ok=True)
        status = _pytest(words, path, cache)
        if not path.exists():
            return status or 1
        report = json.loads(path.read_text())
        failed = _failed(report)
        if status == pytest.ExitCode.TESTS_FAILED and 0 < len(failed) <= MOST_FAILED:
            print(f"\n{len(failed)} failed, and are run once more, one by one", flush=True)
            again = path.with_suffix(".again.json")
            _pytest([*words, "--numprocesses=0", "--last-failed", "--last-failed-no-failures=none"], again, cache)
            if again.exists():
                report = leg_report.after_a_second_look(report, json.loads(again.read_text()))
                again.unlink()
                path.write_text(json.dumps(report))
            status = _tell(report)
    flaky = leg_report.tell_flaky([report], flaky_path)
    print("\n".join(flaky), flush=True)
    return 1 if status or len(flaky) > leg_report.MOST_FLAKY else 0


def _pytest(words: Sequence[str], report: Path, cache: str) -> int:
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *words]
    return subprocess.run(command, env=os.environ | {"CTLAB_LEG_REPORT": str(report)}, check=False).returncode


def _failed(report: dict[str, Any]) -> list[str]:
    return [name for name, test in report["tests"].items() if test["outcome"] == "failed"]


def _tell(report: dict[str, Any]) -> int:
    """Say what has failed twice, and, as after a run without failures, what nothing has tested; 0 if there is none."""
    failed = _failed(report)
    lacking = leg_report.untested(report) if not failed and report["leg"] == "native" and report["whole"] else []
    for name in failed:
        print(f"FAILED twice {name} ({report['tests'][name]['reason'][:200]})")
    for name in lacking:
        print(f"on this machine, and tested by no test that passed: {name}")
    return 1 if failed or lacking else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3:]))
