"""What all benchmarks share: interleaving, medians and ratios, the stamp of the machine, the table."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAUSE_SECONDS = 0.020
"""Idling before each run of the paced variant: people and schedulers pause, tight loops hide the largest cost."""

SETTLE_SECONDS = 0.4  # a lab fills its slots again after a burst: that must not fall into the next side's turn
"""Between two sides' turns, so that what one does in the background isn't charged to the other."""


@dataclass(frozen=True)
class Series:
    """Samples of one side in the order taken, cut into its turns; unit: seconds unless its row says otherwise."""

    turns: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> list[float]:
        return [sample for turn in self.turns for sample in turn]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p90(self) -> float:
        """The smallest sample that nine tenths of all do not exceed (nearest rank)."""
        ordered = sorted(self.samples)
        return ordered[math.ceil(0.9 * len(ordered)) - 1]


def interleave(
    sides: Mapping[str, Callable[[int], Sequence[float]]], *, rounds: int, turn: int, warm: int = 2
) -> dict[str, Series]:
    """A B C A B C …: `rounds` times each side takes `turn` samples in a row; `warm` samples before are thrown away.

    What drifts (load, caches, clock speed) then meets all sides alike; the order turns round every other round.
    """
    turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in sides}
    for side in sides.values():
        if warm:
            side(warm)
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            time.sleep(SETTLE_SECONDS)
            turns[name].append(tuple(sides[name](turn)))
    return {name: Series(tuple(taken)) for name, taken in turns.items()}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `value` is what `limit` bounds: a ratio of medians, or a quantity in `unit`; None where ours couldn't be
    measured. Without a limit the row is a fact and has no verdict. `low`, `high`: the ratio in the single
    rounds, the smallest and the largest. `strict`: equal isn't enough.
    """

    bar: str
    what: str
    value: float | None
    limit: float | None = None
    unit: str = "x"
    ours: str = ""
    peer: str = ""
    low: float | None = None
    high: float | None = None
    strict: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "pass", "miss", "fact", or "none" where there is no figure."""
        if self.value is None:
            return "none"
        if self.limit is None:
            return "fact"
        return "pass" if self.value < self.limit or (self.value == self.limit and not self.strict) else "miss"


@dataclass
class Report:
    """What one benchmark found: rows, the samples behind them, and what couldn't be measured and why."""

    name: str
    rows: list[Row] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def milliseconds(series: Series) -> str:
    """ "2.31 (2.90)": median and p90 in ms."""
    return f"{series.median * 1e3:.3g} ({series.p90 * 1e3:.3g}) ms"


def ratio(
    bar: str, what: str, ours: Series | None, peer: Series | None, peer_name: str, limit: float | None = None, *,
    strict: bool = False, note: str = "",
) -> Row:  # fmt: skip
    """The row of ours / peer by medians; its value is None where either side is missing."""
    value = low = high = None
    if ours is not None and peer is not None:
        value = ours.median / peer.median
        pairs = [statistics.median(a) / statistics.median(b) for a, b in zip(ours.turns, peer.turns, strict=False)]
        low, high = min(pairs), max(pairs)
    return Row(
        bar, what, value, limit, "x", milliseconds(ours) if ours else "not measured",
        f"{peer_name} {milliseconds(peer) if peer else 'not measured'}", low, high, strict, note,
    )  # fmt: skip


def stamp() -> dict[str, Any]:
    """Where and when this was measured: figures from two stamps are not to be compared, ratios with care."""
    memory = Path("/proc/meminfo").read_text().split()[1]
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    mounts = Path("/proc/mounts").read_text()
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": models[0].partition(":")[2].strip() if models else "unknown",
        "memory_kib": int(memory),
        "load": list(os.getloadavg()),
        "python": platform.python_version(),
        "cgroup": "v1" if " cgroup " in mounts else "v2",
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text: bar, what, ratio with its spread, limit, verdict, both medians (p90)."""
    lines = [("bar", "what", "is", "rounds", "limit", "", "ours", "peer")]
    for row in rows:
        shown = "-" if row.value is None else f"{row.value:.2f}{row.unit if row.unit == 'x' else ' ' + row.unit}"
        spread = "" if row.low is None or row.high is None else f"{row.low:.2f}-{row.high:.2f}"
        limit = "" if row.limit is None else f"{'<' if row.strict else '<='} {row.limit:g}"
        verdict = {"pass": "pass", "miss": "MISS", "fact": "", "none": "no figure"}[row.verdict]
        peer = row.peer + (f"; {row.note}" if row.note else "")
        lines.append((row.bar, row.what, shown, spread, limit, verdict, row.ours, peer))
    widths = [max(len(line[column]) for line in lines) for column in range(8)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def as_json(reports: Sequence[Report], where: dict[str, Any]) -> str:
    """All of it, samples in seconds (memory: bytes), for `out/bench.json`."""
    return json.dumps(
        {
            "schema": "ctlab-bench-1",
            "stamp": where,
            "rows": [{**dataclasses.asdict(row), "verdict": row.verdict} for report in reports for row in report.rows],
            "series": {f"{r.name}/{name}": s.turns for r in reports for name, s in r.series.items()},
            "missing": {f"{r.name}/{name}": why for r in reports for name, why in r.missing.items()},
            "about": {name: text for report in reports for name, text in report.about.items()},
            "seconds": {report.name: round(report.seconds, 1) for report in reports},
        },
        indent=1,
    )


def show(report: Report) -> None:
    """Prints one benchmark's table and what is missing from it."""
    print(table(report.rows))
    for name, why in report.missing.items():
        print(f"not measured: {name}: {why}")


def main(measure: Callable[[bool], Report]) -> None:
    """`python -m benchmarks.NAME [--quick]`."""
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer rounds; figures for a look, not for a claim")
    show(measure(parser.parse_args().quick))
