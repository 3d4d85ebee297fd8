"""Bar 2: exec of /bin/true in a container, its output back in the caller, beside `subprocess.run` in a bare Python."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.common import PAUSE_SECONDS, Report, Series, interleave, main, ratio
from benchmarks.sides import open_lab, open_side


def measure(quick: bool) -> Report:
    """Back to back and with 20 ms of idling before each."""
    report = Report("exec")
    rounds, turn = (4, 10) if quick else (10, 15)
    with ExitStack() as stack:
        workers = {"own": open_lab(stack, report), "bare": open_side(stack, report, "benchmarks.peers.bare")}
        for pace, pause in (("back to back", 0.0), ("20 ms idle", PAUSE_SECONDS)):
            sides = {
                name: (lambda count, w=worker, p=pause: w.call("exec", count=count, pause=p))
                for name, worker in workers.items()
                if worker is not None
            }
            found: dict[str, Series] = interleave(sides, rounds=rounds, turn=turn)
            report.series |= {f"{name}, {pace}": series for name, series in found.items()}
            report.rows.append(ratio("2", f"exec, {pace}", found.get("own"), found.get("bare"), "subprocess.run", 2.0))
    return report


if __name__ == "__main__":
    main(measure)
