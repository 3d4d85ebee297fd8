"""Bar 1: `Lab.run(["/bin/true"])` + wait, on a bridge with address and limits, beside `unshare` and the runtimes.

Back to back (20 in a row: more than a lab keeps ready) and with 20 ms of idling before each start.
`remove()` isn't part of the figure (a peer's
clean-up after the program's end is in the peer's: no peer can be had without it); the row "with remove" has both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.common import PAUSE_SECONDS, Report, interleave, main, ratio
from benchmarks.peers.worker import Worker
from benchmarks.sides import open_lab, open_side

Sample = Callable[[int], Sequence[float]]


def _sampler(worker: Worker, pause: float, **arguments: bool) -> Sample:
    def sample(count: int) -> Sequence[float]:
        taken: list[float] = worker.call("start", count=count, pause=pause, **arguments)
        return taken

    return sample


def measure(quick: bool) -> Report:
    """Both pacings; podman a few times only (0.2 s each)."""
    report = Report("start")
    rounds, turn = (3, 8) if quick else (5, 20)
    with ExitStack() as stack:
        own = open_lab(stack, report)
        names = ("unshare", "crun", "runc", "bubblewrap")
        peers = {name: open_side(stack, report, f"benchmarks.peers.{name}") for name in names}
        podman = open_side(stack, report, "benchmarks.peers.podman")
        for pace, pause in (("back to back", 0.0), ("20 ms idle", PAUSE_SECONDS)):
            sides: dict[str, Sample] = {}
            if own is not None:
                sides["own"] = _sampler(own, pause)
            for name, worker in peers.items():
                if worker is None:
                    continue
                if name == "crun":
                    sides["crun"] = _sampler(worker, pause, network_namespace=False)
                    sides["crun, empty netns"] = _sampler(worker, pause, network_namespace=True)
                elif name == "runc":
                    continue
                else:
                    sides[name] = _sampler(worker, pause)
            found = interleave(sides, rounds=rounds, turn=turn)
            slow: dict[str, Sample] = {}
            if own is not None:
                slow = {"own again": _sampler(own, pause), "own, removed": _sampler(own, pause, remove=True)}
            runc = peers["runc"]
            if runc is not None:
                slow["runc"] = _sampler(runc, pause, network_namespace=False)
            found |= interleave(slow, rounds=2 if quick else 4, turn=4, warm=1)
            if podman is not None:
                found |= interleave({"podman": _sampler(podman, pause)}, rounds=2, turn=2, warm=0)
            report.series |= {f"{name}, {pace}": series for name, series in found.items()}

            ours = found.get("own")
            report.rows += [
                ratio("1", f"start, {pace}", ours, found.get("unshare"), "unshare", 1.5),
                ratio("1", f"start, {pace}", ours, found.get("crun"), "crun, no network", 1.0, strict=True),
                ratio("", f"start, {pace}", ours, found.get("crun, empty netns"), "crun, empty netns"),
                ratio("", f"start, {pace}", ours, found.get("bubblewrap"), "bubblewrap"),
                ratio("", f"start, {pace}", found.get("own again"), found.get("runc"), "runc, no network"),
                ratio("", f"start, {pace}", found.get("own again"), found.get("podman"), "podman, bridge"),
                ratio("", f"start with remove, {pace}", found.get("own, removed"), found.get("unshare"), "unshare"),
            ]
    return report


if __name__ == "__main__":
    main(measure)
