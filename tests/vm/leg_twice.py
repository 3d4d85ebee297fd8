"""A failure in a guest is looked at twice, as `second_look.py` does natively: its file is run again in a fresh machine.

What passes then is flaky, and named at the end of the leg's table (`leg_report.py`), which is red for too many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import leg
import leg_report
import second_look

Shares = Mapping[str, list[dict[str, Any]]]
AGAIN = "again"  # the machine that what has failed is run in once more


def run(shares: Shares, look: Callable[[Shares, float], int], seconds: float) -> int:
    """Run the shares, and what failed once more in a fresh machine; 0 if in the end nothing has failed.

    `look`: as `all_of`. The reports in out/legs are those of both runs together then.
    """
    for old in leg.REPORTS.glob("vm-*.json"):
        old.unlink()
    if look(shares, seconds) == 0:
        return 0
    steps = [
        (leg.report_of(name, number), step) for name, some in shares.items() for number, step in enumerate(some, 1)
    ]
    bad = {path: step | {"files": files} for path, step in steps if (files := _failed_files(path, step["files"]))}
    tests = sum(len(_failed(path)) or 1 for path in bad)
    if not 0 < tests <= second_look.MOST_FAILED:
        return 1
    print(f"{tests} failed: their files are run once more, in a fresh machine", flush=True)
    look({AGAIN: list(bad.values())}, seconds)
    red = 0
    for number, path in enumerate(bad, 1):
        again = leg.report_of(AGAIN, number)
        if not again.exists():
            red += 1
            continue
        report = json.loads(again.read_text())
        again.unlink()
        if path.exists():
            report = leg_report.after_a_second_look(json.loads(path.read_text()), report)
        else:
            report["flaky"].append([path.stem, "the machine ended, or was silent, before it had reported"])
        path.write_text(json.dumps(report, indent=1))
        red += bool(_failed(path))
    return 1 if red else 0


def _failed(report: Path) -> list[str]:
    """The tests that failed, by this report; none if there is no report."""
    tests = json.loads(report.read_text())["tests"] if report.exists() else {}
    return [name for name, test in tests.items() if test["outcome"] == "failed"]


def _failed_files(report: Path, files: list[str]) -> list[str]:
    """The files of a step that have to be run again: all of them if it never reported."""
    failed = {Path(name.partition("::")[0]).name for name in _failed(report)}
    return [file for file in files if Path(file).name in failed or not report.exists()]
