"""A lab in a VM: from nothing to the first output, what the channel adds to an exec, what forwarding counters costs.

The channel's share of an exec is the difference of two medians: the exec of `/bin/true` as the notebook sees it, and
the same exec in a lab whose caller is in the guest too (another, equal machine; they take turns). The bare port, a
frame there and back, is beside it: what no channel could be quicker than.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from benchmarks.common import Report, Row, Series, interleave, main, milliseconds
from benchmarks.peers.worker import Missing, SideFailed, Worker
from benchmarks.sides import open_side

FIRST_OUTPUT_LIMIT_SECONDS = {"tcg": 8.0, "kvm": 1.5}
PACES = (("back to back", 0.0, 1.0), ("50 ms idle", 0.050, 2.0))  # name, seconds of idling, limit in ms
CONTAINERS = 20
WATCHED_SECONDS = 6.0


def measure(quick: bool) -> Report:
    """All of it; about a minute and a half."""
    report = Report("vm")
    with ExitStack() as stack:
        own = open_side(stack, report, "benchmarks.peers.own")
        if own is None:
            return report
        try:
            _start(report, own, 2 if quick else 5)
            _exec(report, stack, own, quick)
            _forwarding(report, own)
        except (Missing, SideFailed, TimeoutError) as error:
            report.missing["a VM"] = str(error)
    return report


def _start(report: Report, own: Worker, times: int) -> None:
    own.call("first_output", engine="vm")  # what is prepared once is prepared now
    found = [own.call("first_output", engine="vm") for _ in range(times)]
    report.series["first output"] = Series((tuple(one["output"] for one in found),))
    vm = found[-1]["vm"]
    report.about["vm"] = f"{vm['machine']}, {vm['acceleration']}, Linux {vm['kernel_release']}"

    def median(name: str) -> float:
        return statistics.median(one[name] for one in found)

    def boot(name: str) -> float:
        return statistics.median(one["vm"]["boot_seconds"][name] for one in found)

    outputs = [one["output"] for one in found]
    report.rows += [
        Row(
            "VM", f"Lab() to the first output, {vm['acceleration']}", median("output"),
            FIRST_OUTPUT_LIMIT_SECONDS[vm["acceleration"]], "s", low=min(outputs), high=max(outputs),
        ),
        Row("", "  of it the kernel's boot", boot("kernel"), unit="s"),
        Row("", "  of it from there to Python's first line", boot("python"), unit="s"),
        Row("", "  of it from there to a lab that is ready", boot("lab"), unit="s"),
        Row("", "  of it the first container", median("output") - median("ready"), unit="s"),
    ]  # fmt: skip


def _exec(report: Report, stack: ExitStack, own: Worker, quick: bool) -> None:
    own.call("open", engine="vm")
    own.call("network")
    inside = open_side(stack, report, "benchmarks.peers.guest")
    if inside is not None:
        inside.call("open")
        inside.call("network")
    echo = open_side(stack, report, "benchmarks.peers.echo")
    rounds, turn = (3, 5) if quick else (8, 10)
    for pace, pause, limit in PACES:
        sides: dict[str, Any] = {"own": lambda count, p=pause: own.call("exec", count=count, pause=p)}
        if inside is not None:
            sides["inside"] = lambda count, p=pause: inside.call("exec", count=count, pause=p)
        if echo is not None:
            sides["port"] = lambda count, p=pause: echo.call("echo", count=count, pause=p)
        found = interleave(sides, rounds=rounds, turn=turn, warm=5)
        report.series |= {f"{name}, {pace}": series for name, series in found.items()}
        report.rows.append(_difference(pace, limit, found))
        if "port" in found:
            port = found["port"]
            report.rows.append(
                Row("", f"  the bare port, {pace}", port.median * 1e3, unit="ms", ours=milliseconds(port))
            )


def _difference(pace: str, limit: float, found: dict[str, Series]) -> Row:
    """What an exec takes longer through the channel than inside, by medians; negative: it is quicker."""
    own, inside = found["own"], found.get("inside")
    value = low = high = None
    if inside is not None:
        value = (own.median - inside.median) * 1e3
        pairs = [statistics.median(a) - statistics.median(b) for a, b in zip(own.turns, inside.turns, strict=True)]
        low, high = min(pairs) * 1e3, max(pairs) * 1e3
    return Row(
        "VM", f"exec through the channel - inside, {pace}", value, limit, "ms", milliseconds(own),
        f"inside the guest {milliseconds(inside) if inside else 'not measured'}", low, high,
    )  # fmt: skip


def _forwarding(report: Report, own: Worker) -> None:
    """CPU of the host's processes with idle containers: sampled only, then forwarded to the notebook as well."""
    own.call("idle", count=CONTAINERS)
    own.call("busy_seconds", seconds=2.0)
    before = own.call("busy_seconds", seconds=WATCHED_SECONDS)
    own.call("counters")
    own.call("busy_seconds", seconds=2.0)
    after = own.call("busy_seconds", seconds=WATCHED_SECONDS)

    def share(found: dict[str, float], name: str) -> float:
        return 100 * found.get(name, 0.0) / WATCHED_SECONDS

    what = f"{CONTAINERS} idle containers, sampled every 0.1 s"
    report.rows += [
        Row("", f"{what}: QEMU", share(before, "qemu"), unit="% of a CPU"),
        Row("", "  forwarded to the notebook: QEMU", share(after, "qemu"), unit="% of a CPU"),
        Row("", "  forwarded to the notebook: keeper", share(after, "keeper"), unit="% of a CPU"),
    ]


if __name__ == "__main__":
    main(measure)
