"""Bar 5: the supervisor's resident memory, and what one more idle container costs the lab's own processes.

Private dirty memory by /proc/PID/smaps_rollup over the lab's processes (keeper, supervisor, collector, …) with
0 and with 50 idle containers, minus the containers' programs; settled, so spare slots are in both figures.
Rings live in memfds, which are nobody's private memory: their growth (Shmem of the machine) has a row.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.common import Report, Row, Series, main
from benchmarks.peers.worker import Missing, SideFailed
from benchmarks.sides import open_lab

COUNT = 50
SETTLE_SECONDS = 1.5
RESIDENT_LIMIT_MB = 20.0
CONTAINER_LIMIT_MB = 1.0


def measure(quick: bool) -> Report:
    """A fresh lab, and the same lab with 50 containers; MB are 2^20 bytes."""
    report = Report("memory")
    try:
        with ExitStack() as stack:
            own = open_lab(stack, report)
            if own is not None:
                _measure(report, own.call)
    except (Missing, SideFailed, TimeoutError) as error:
        report.missing["own"] = str(error)
    if not report.rows:
        report.rows = [
            Row("5", "supervisor resident", None, RESIDENT_LIMIT_MB, "MB"),
            Row("5", "per idle container, program excluded", None, CONTAINER_LIMIT_MB, "MB"),
        ]
    return report


def _measure(report: Report, call: Any) -> None:
    # One start first: what is loaded by the first container (slots, collector) is the lab's, not the container's.
    call("start", count=3, pause=0.0)
    time.sleep(SETTLE_SECONDS)
    empty = call("memory")
    call("idle", count=COUNT)
    time.sleep(SETTLE_SECONDS)
    full = call("memory")

    def growth(name: str) -> float:
        return float(full[name] - empty[name]) / 1024 / COUNT

    resident = full["supervisor_resident"] / 1024
    before = empty["supervisor_resident"] / 1024
    parts = sorted(empty["processes"].items(), key=lambda item: -item[1])
    report.series = {
        f"{when}, {name} bytes": Series(((float(value) * 1024,),))
        for when, found in (("0 idle", empty), (f"{COUNT} idle", full))
        for name, value in found.items()
        if name != "processes"
    }
    report.rows = [
        Row("5", f"supervisor resident, {COUNT} idle", resident, RESIDENT_LIMIT_MB, "MB", f"{before:.1f} MB with none"),
        Row("5", "per idle container, program excluded", growth("lab_private_dirty"), CONTAINER_LIMIT_MB, "MB"),
        Row("", "  its program (sleep)", full["programs_private_dirty"] / 1024 / COUNT, unit="MB"),
        Row("", "  in the caller's process", growth("caller_private_dirty"), unit="MB"),
        Row("", "  in shared memory (whole machine)", growth("shared_memory"), unit="MB"),
        Row(
            "", "lab with none, private dirty", empty["lab_private_dirty"] / 1024, unit="MB",
            peer=", ".join(f"{name} {kib / 1024:.1f}" for name, kib in parts[:8]),
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
