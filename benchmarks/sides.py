"""Opens the sides of a comparison; one that isn't installed or can't run here is named, never fatal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.common import Report
from benchmarks.peers import mininet, private
from benchmarks.peers.worker import Missing, SideFailed, Worker

SYSTEM_PYTHON = "/usr/bin/python3"
"""Mininet is a Debian package for the system's Python, not for the one of a virtual environment."""

PLACES: dict[str, tuple[Sequence[str], str]] = {
    "benchmarks.peers.crun": (private.PRIVATE, sys.executable),
    "benchmarks.peers.runc": (private.PRIVATE, sys.executable),
    "benchmarks.peers.podman": (private.PRIVATE, sys.executable),
    "benchmarks.peers.mininet": (mininet.PREFIX, SYSTEM_PYTHON),
    "benchmarks.gone": (private.PRIVATE, sys.executable),
    "benchmarks.trace": (private.PRIVATE, sys.executable),
}


def open_side(stack: ExitStack, report: Report, module: str) -> Worker | None:
    """The worker of `module`, closed with `stack`; None, and a reason in `report.missing`, where it can't be had."""
    prefix, python = PLACES.get(module, ((), sys.executable))
    name = module.rsplit(".", 1)[-1]
    try:
        worker = Worker(module, prefix=prefix, python=python)
    except (Missing, SideFailed, TimeoutError, OSError) as error:
        report.missing[name] = str(error)
        return None
    report.about[name] = str(worker.about.get("version", ""))
    stack.callback(worker.close)
    return worker


def open_lab(stack: ExitStack, report: Report, *, network: bool = True) -> Worker | None:
    """ctlab's own side with a started lab and, if asked, the bridge; None where there can't be one here."""
    worker = open_side(stack, report, "benchmarks.peers.own")
    if worker is None:
        return None
    try:
        worker.call("open")
        if network:
            worker.call("network")
    except (Missing, SideFailed, TimeoutError) as error:
        report.missing["own"] = str(error)
        return None
    return worker
