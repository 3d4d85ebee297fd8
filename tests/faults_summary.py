"""A plugin of pytest: the sum of what the fault tests did, at the end, also where several processes ran them."""

from __future__ import annotations

from collections import Counter
from typing import Any

VITAL = ("owner", "keeper", "supervisor")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was killed, how often, by which seed; what was left."""
    ended = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    reports: list[dict[str, Any]] = [
        value for report in ended if report.when == "call" for name, value in report.user_properties if name == "faults"
    ]  # fmt: skip
    if not reports:
        return
    kills: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for report in reports:
        kills.update(report["kills"])
        phases.update(report["phases"])
        ends.update(report["other_ends"])
    missed = sum(sum(report["missed"].values()) for report in reports)
    left = sum(len(report["left"]) for report in reports)
    parts = ", ".join(f"{name} {count}" for name, count in kills.most_common())
    terminalreporter.section("faults")
    vital = sum(kills[name] for name in VITAL)
    seeds = ", ".join(sorted({str(report["seed"]) for report in reports}))
    terminalreporter.write_line(
        f"faults: {sum(kills.values())} kills: {parts}; {vital} of {', '.join(VITAL)}; seed {seeds}; "
        f"{missed} came too late; {left} left-overs"
    )
    terminalreporter.write_line(f"  at: {', '.join(f'{name} {count}' for name, count in phases.most_common())}")
    watched = sum(report["witnesses"] for report in reports)
    slowest = max(report["slowest_seconds"] for report in reports)
    terminalreporter.write_line(
        f"  other ends of the owner: {dict(ends)}; network namespaces watched: {watched}; "
        f"slowest clean-up: {slowest:g} s; as: {', '.join(report['who'] for report in reports)}"
    )
