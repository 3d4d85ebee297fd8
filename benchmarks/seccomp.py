"""The filter of system calls: what a call costs below it, beside podman's profile; what loading it costs a start.

A call is made in a loop of machine code, so that nothing but the kernel's entry and the filter is in the figure:
`getpid`, which the kernel knows to be always allowed and runs no filter for, and `socket` of a family that there
isn't, which is decided by its arguments. Podman's profile is compiled by our compiler too (its own, libseccomp's, is
slower: see the note), so that what is compared is what is asked, not who wrote the program.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.common import Report, Row, Series, interleave, main, ratio
from benchmarks.peers import libseccomp
from benchmarks.peers.worker import Missing, Worker
from benchmarks.sides import open_side
from ctlab.errors import CtlabError
from ctlab.kernel.capabilities import DEFAULT
from ctlab.seccomp import docker
from ctlab.seccomp.compile import PARTS, program
from ctlab.seccomp.default import PROFILE
from ctlab.seccomp.numbers import numbers

PODMAN = Path("/usr/share/containers/seccomp.json")
TIMES = 20_000
NO_FAMILY = 4095
SOCKET_LIMIT = 1.0
CALLS = {"getpid": [0, 0, 0], "socket": [NO_FAMILY, 1, 0]}


def filters(report: Report) -> dict[str, list[bytes]]:
    """Side -> what is loaded there, in order."""
    machine, capabilities = os.uname().machine, frozenset(DEFAULT)
    found = {
        "bare": [],
        "ours": [program(PROFILE, capabilities, machine)],
        "ours in two parts": [program(PROFILE, capabilities, machine, part) for part in ("early", "late")],
    }
    try:
        theirs = docker.parse(PODMAN.read_bytes(), str(PODMAN), (6, 0))
        found["podman's by us"] = [program(theirs, capabilities, machine)]
        found["podman"] = [libseccomp.program(theirs, capabilities, machine)]
    except (CtlabError, Missing) as error:
        report.missing["podman's filter"] = str(error)
    return found


def measure(quick: bool) -> Report:
    """Nanoseconds and ratios of calls; milliseconds and instructions of the parts."""
    report = Report("seccomp")
    machine = os.uname().machine
    loaded = filters(report)
    with ExitStack() as stack:
        sides: dict[str, Worker] = {}
        for name, programs in loaded.items():
            side = open_side(stack, report, "benchmarks.peers.filtered")
            if side is None:
                return report
            side.call("load", programs=[base64.b64encode(each).decode() for each in programs])
            sides[name] = side
        for call, arguments in CALLS.items():
            _calls(report, sides, call, numbers(machine)[call], arguments, quick)
        loader = open_side(stack, report, "benchmarks.peers.filtered")
        if loader is not None:
            parts = {f"ours, {part}": program(PROFILE, frozenset(DEFAULT), machine, part) for part in PARTS}
            if "podman" in loaded:
                parts["podman"] = loaded["podman"][0]
            _loads(report, loader, parts, quick)
    return report


def _calls(report: Report, sides: dict[str, Worker], call: str, number: int, arguments: list[int], quick: bool) -> None:
    def side(worker: Worker) -> Callable[[int], Sequence[float]]:
        return lambda count: worker.call("calls", number=number, arguments=arguments, times=TIMES, count=count)

    found: dict[str, Series] = interleave(
        {name: side(worker) for name, worker in sides.items()}, rounds=4 if quick else 12, turn=10
    )
    report.series |= {f"{call}, {name}": series for name, series in found.items()}
    limit = SOCKET_LIMIT if call == "socket" else None
    report.rows.append(ratio("wall", f"{call} below the filter", found["ours"], found.get("podman"), "podman", limit))
    for name, peer in (("ours", "podman's by us"), ("ours in two parts", "podman"), ("ours", "bare")):
        report.rows.append(ratio("", f"{call}, {name}", found[name], found.get(peer), peer))


def _loads(report: Report, loader: Worker, programs: dict[str, bytes], quick: bool) -> None:
    def side(data: bytes) -> Callable[[int], Sequence[float]]:
        text = base64.b64encode(data).decode()
        return lambda count: loader.call("loads", program=text, count=count)

    found = interleave({name: side(data) for name, data in programs.items()}, rounds=4 if quick else 12, turn=20)
    report.series |= {f"load, {name}": series for name, series in found.items()}
    for name, data in programs.items():
        size = f"{len(data) // 8} instructions"
        report.rows.append(Row("", f"loading, {name}", found[name].median * 1e3, unit="ms", ours=size))


if __name__ == "__main__":
    main(measure)
