"""Where the time of a start (or an exec) goes: `python -m benchmarks.where [start|exec|up] [--timeline]`.

First the phases as the caller sees them, untraced. Then some runs are traced; the table sums the system calls
that took longest, per process and call, for one run (a call that waits for another process is counted in
full: read it as "was waiting", not as "was working"). `--timeline` prints the median run, event by event.
Traced runs are slower than untraced ones; the printed factor says by how much.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace

from benchmarks.common import Report
from benchmarks.peers.worker import Worker
from benchmarks.sides import open_lab, open_side
from benchmarks.trace import Event

PHASES = {"start": ("run", "wait", "remove"), "exec": ("exec",), "up": ("run",)}
METHODS = {"start": "phases", "exec": "exec_phases", "up": "up_phases"}
SHOWN_CALLS = 28
LONG_SECONDS = 0.000020


@dataclass(frozen=True)
class Call:
    """One system call of one process; `seconds` is None if it hadn't returned (or never does)."""

    begin: float
    pid: int
    process: str
    what: str
    seconds: float | None

    @property
    def name(self) -> str:
        return self.what.partition("(")[0]


def calls(events: list[Event]) -> list[Call]:
    """Entries paired with their exits; forks, execs and exits of processes come as calls of no length."""
    waiting: dict[int, tuple[float, str, str]] = {}
    found: list[Call] = []
    for at, pid, process, what in events:
        if what.startswith("sys_") and " -> " in what:
            entered = waiting.pop(pid, None)
            if entered is not None:
                begin, name, text = entered
                answer = what.partition(" -> ")[2]
                found.append(Call(begin, pid, name, f"{text} = {answer}", at - begin))
        elif what.startswith("sys_"):
            waiting[pid] = (at, process, what.removeprefix("sys_"))
        else:
            found.append(Call(at, pid, process, what, None))
    found += [Call(begin, pid, name, f"{text} = ?", None) for pid, (begin, name, text) in waiting.items()]
    return sorted(found, key=lambda call: call.begin)


def print_phases(name: str, moments: list[list[float]], label: str) -> float:
    """Medians of the steps between the moments, ms; returns the whole's median in seconds (without `remove`)."""
    steps = PHASES[name]
    parts = [f"{step} {statistics.median(m[i + 1] - m[i] for m in moments) * 1e3:.2f}" for i, step in enumerate(steps)]
    last = 2 if name == "start" else 1
    whole = statistics.median(m[last] - m[0] for m in moments)
    print(f"{label}: {', '.join(parts)}; whole {whole * 1e3:.2f} ms")
    return whole


def print_calls(found: list[Call], moments: list[list[float]], last: int) -> None:
    """System calls inside the runs, summed by process and name: ms and number for one run."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    number: dict[tuple[str, str], int] = defaultdict(int)
    inside = [c for c in found if any(m[0] <= c.begin <= m[last] for m in moments)]
    for call in inside:
        key = (call.process, call.name)
        number[key] += 1
        total[key] += call.seconds or 0.0
    runs = len(moments)
    print(f"\n{'process':18} {'call':24} {'ms/run':>8} {'calls/run':>10}")
    for key in sorted(total, key=lambda key: -total[key])[:SHOWN_CALLS]:
        print(f"{key[0]:18} {key[1]:24} {total[key] / runs * 1e3:8.3f} {number[key] / runs:10.1f}")
    print(f"{'all':18} {'':24} {'':8} {len(inside) / runs:10.1f}")


def print_timeline(found: list[Call], moments: list[list[float]], last: int) -> None:
    """The median run: ms since its begin, process, call, ms; short calls in a row are one line."""
    ordered = sorted(moments, key=lambda m: m[last] - m[0])
    chosen = ordered[len(ordered) // 2]
    print()
    short = 0
    before = chosen[0]
    for call in found:
        if not chosen[0] <= call.begin <= chosen[last]:
            continue
        gap = call.begin - before
        before = call.begin
        if call.seconds is not None and call.seconds < LONG_SECONDS and gap < LONG_SECONDS:
            short += 1
            continue
        if short:
            print(f"{'':12}… {short} short calls")
            short = 0
        took = "" if call.seconds is None else f"{call.seconds * 1e3:.3f}"
        print(f"{(call.begin - chosen[0]) * 1e3:8.3f} {took:>8}  {call.process}-{call.pid}  {call.what[:110]}")
    print(f"{(chosen[last] - chosen[0]) * 1e3:8.3f}           the caller has it")


def run(name: str, count: int, pause: float, timeline: bool, own: Worker, trace: Worker | None) -> None:
    """Untraced phases, then traced ones with the calls behind them."""
    arguments: dict[str, float] = {} if name == "up" else {"pause": pause}
    last = 2 if name == "start" else 1
    plain = print_phases(name, own.call(METHODS[name], count=count, **arguments), "untraced")
    if trace is None:
        return
    if name == "up":
        own.call("stop")
        own.call("open")
        own.call("network")
    trace.call("begin", pids=[*own.call("pids"), own.call("pid")])
    moments = own.call(METHODS[name], count=count, **arguments)
    events: list[Event] = trace.call("end")
    traced = print_phases(name, moments, f"traced (x {len(moments)})")
    print(f"tracing makes it {traced / plain:.2f} x slower")
    roles = own.call("roles")
    found = [replace(call, process=roles.get(str(call.pid), call.process)) for call in calls(events)]
    print_calls(found, moments, last)
    if timeline:
        print_timeline(found, moments, last)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=sorted(PHASES), default="start")
    parser.add_argument("--timeline", action="store_true", help="print the median traced run, event by event")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds of idling before each (default 0.02)")
    options = parser.parse_args()
    report = Report("where")
    with ExitStack() as stack:
        own = open_lab(stack, report)
        trace = open_side(stack, report, "benchmarks.trace")
        if own is not None:
            run(options.what, options.count, options.pause, options.timeline, own, trace)
    for name, why in report.missing.items():
        print(f"not measured: {name}: {why}")


if __name__ == "__main__":
    main()
