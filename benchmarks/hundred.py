"""Bar 3: 100 containers on one bridge beside Mininet's 100 hosts on one Linux bridge: up, and down to nothing left.

Each round starts fresh processes. Up counts from the first call to the last one's return, network included;
importing either package isn't counted. The lab's own start has a row. One by one is done twice by the same process,
in a lab after the other: what only the first one pays for would be seen there. Mininet's hosts are idle shells (its
way of having a host); ours run sleep. Down: Mininet's is `net.stop()` alone; ours is from the call of
`lab.stop()` until no process, no cgroup folder and no network namespace is left, watched from outside
(gone.py). Before a figure counts, the first one has reached the last one through the bridge, on both sides.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from benchmarks.common import Report, Row, Series, main, ratio
from benchmarks.peers.worker import Missing, SideFailed, Worker
from benchmarks.sides import open_side

COUNT = 100


def _mininet(report: Report, taken: dict[str, list[float]]) -> None:
    with ExitStack() as stack:
        worker = open_side(stack, report, "benchmarks.peers.mininet")
        if worker is None:
            return
        up = worker.call("up", count=COUNT)
        worker.call("check")
        taken["mininet up"].append(up)
        taken["mininet down"].append(worker.call("down"))


def _own(report: Report, taken: dict[str, list[float]], watch: Worker | None, batch: bool) -> None:
    how = "batch" if batch else "one by one"
    with ExitStack() as stack:
        worker = open_side(stack, report, "benchmarks.peers.own")
        if worker is None:
            return
        started = worker.call("open")
        up = worker.call("network") + worker.call("up", count=COUNT, batch=batch)
        worker.call("check", count=COUNT)
        taken[f"up {how}"].append(up)
        taken["lab start"].append(started)
        spaces = watch.call("begin", pids=worker.call("pids"), outside=worker.call("pid")) if watch is not None else 0
        down: dict[str, Any] = worker.call("stop")
        if down["left"]:
            raise SideFailed(f"left after stop: {down['left']}")
        gone = max(down["processes"], down["cgroups"])
        taken["stop returned"].append(down["returned"] - down["begin"])
        taken["processes and cgroups gone"].append(gone - down["begin"])
        if watch is not None:
            end = watch.call("end", since=down["begin"])
            if end["pinned"]:
                raise SideFailed(f"{end['pinned']:.0f} of {spaces} network namespaces are pinned after stop")
            if spaces < COUNT:
                raise SideFailed(f"only {spaces} network namespaces for {COUNT} containers")
            taken["down"].append(max(gone, end["gone"]) - down["begin"])
        if not batch:
            worker.call("open")
            taken["up in a second lab"].append(worker.call("network") + worker.call("up", count=COUNT, batch=False))
            worker.call("check", count=COUNT)


def measure(quick: bool) -> Report:
    """Mininet, one by one, batch; again, in the other order, …"""
    report = Report("hundred")
    names = (
        "mininet up", "mininet down", "up one by one", "up in a second lab", "up batch", "lab start", "stop returned",
        "processes and cgroups gone", "down",
    )  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        watch = open_side(stack, report, "benchmarks.gone")
        for number in range(2 if quick else 5):
            steps = ["mininet", "one by one", "batch"]
            for step in steps if number % 2 == 0 else reversed(steps):
                try:
                    if step == "mininet":
                        _mininet(report, taken)
                    else:
                        _own(report, taken, watch, step == "batch")
                except (Missing, SideFailed, TimeoutError) as error:
                    report.missing[step] = str(error)
    found = {name: Series(tuple((value,) for value in values)) for name, values in taken.items() if values}
    # Two labs a round, one Mininet: pair them round by round.
    for name in ("lab start", "stop returned", "processes and cgroups gone", "down"):
        values = taken[name]
        if values and len(values) % 2 == 0:
            found[name] = Series(tuple(tuple(values[at : at + 2]) for at in range(0, len(values), 2)))
    report.series = found
    up, down, second = found.get("mininet up"), found.get("mininet down"), found.get("up in a second lab")
    report.rows = [
        ratio("3", "100 up, one by one", found.get("up one by one"), up, "Mininet", 0.4),
        ratio("", "  of which: the process's first lab", found.get("up one by one"), second, "its second", 1.2),
        ratio("3", "100 up, one batch", found.get("up batch"), up, "Mininet", 0.3),
        ratio("3", "100 down to nothing left", found.get("down"), down, "Mininet stop()", 0.2),
        ratio("", "  of which: stop() returned", found.get("stop returned"), down, "Mininet stop()"),
        ratio("", "  of which: processes, cgroups", found.get("processes and cgroups gone"), down, "Mininet stop()"),
    ]
    if "lab start" in found and up is not None:
        started = found["lab start"].median
        report.rows.append(Row("", "lab's own start", started * 1e3, unit="ms"))
        for how in ("one by one", "batch"):
            if f"up {how}" in found:
                whole = started + statistics.median(found[f"up {how}"].samples)
                report.rows.append(Row("", f"100 up, {how}, with lab's start", whole / up.median, peer="Mininet"))
    return report


if __name__ == "__main__":
    main(measure)
