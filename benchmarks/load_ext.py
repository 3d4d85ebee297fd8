"""Bar 4: what `%load_ext ctlab` adds to a bare IPython, as whole processes from start to exit, interleaved."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.common import Report, Row, interleave, main, milliseconds
from benchmarks.peers.worker import ROOT

OPTIONS = ("--no-banner", "--no-confirm-exit", "--colors=NoColor", "--HistoryManager.enabled=False")
LOAD = "%load_ext ctlab"
CHECK = LOAD + "\nprint('loaded', 'container' in get_ipython().magics_manager.magics['line'])"
WHAT = "%load_ext ctlab over bare IPython"
LIMIT_SECONDS = 0.15


def measure(quick: bool) -> Report:
    """The difference of the medians, seconds."""
    report = Report("load_ext")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "IPYTHONDIR": folder, "LC_ALL": "C.UTF-8"}

        def ipython(code: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "IPython", *OPTIONS, "-c", code],
                cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip

        def timed(code: str, count: int) -> list[float]:
            taken = []
            for _ in range(count):
                begin = time.perf_counter()
                done = ipython(code)
                taken.append(time.perf_counter() - begin)
                if done.returncode:
                    raise ChildProcessError(done.stderr.strip()[-800:])
            return taken

        check = ipython(CHECK)
        if "No module named IPython" in check.stderr:
            report.missing["bare IPython"] = "IPython is not installed"
            return report
        sides = {"bare": lambda count: timed("pass", count)}
        loads = "loaded True" in check.stdout
        if loads:
            sides["loaded"] = lambda count: timed(LOAD, count)
        else:
            said = (check.stderr + check.stdout).strip().splitlines()
            report.missing["%load_ext ctlab"] = said[-1] if said else "it said nothing"
        found = interleave(sides, rounds=5 if quick else 15, turn=1, warm=1)
    report.series = found
    bare = found["bare"]
    if not loads:
        report.rows.append(Row("4", WHAT, None, LIMIT_SECONDS, "s", peer=f"bare IPython {milliseconds(bare)}"))
        return report
    loaded = found["loaded"]
    steps = [one - other for (one,), (other,) in zip(loaded.turns, bare.turns, strict=True)]
    report.rows.append(
        Row(
            "4", WHAT, loaded.median - bare.median, LIMIT_SECONDS, "s",
            milliseconds(loaded), f"bare IPython {milliseconds(bare)}", min(steps), max(steps),
        )
    )  # fmt: skip
    return report


if __name__ == "__main__":
    main(measure)
