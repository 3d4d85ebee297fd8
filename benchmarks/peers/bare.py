"""The yardstick of an exec: `subprocess.run(["/bin/true"], capture_output=True)` in a Python that has nothing else."""

from __future__ import annotations

import platform
import subprocess

from benchmarks.peers.worker import serve, timed


class Bare:
    """A program started by the standard library, its output captured."""

    def about(self) -> dict[str, str]:
        return {"version": f"Python {platform.python_version()}"}

    def exec(self, count: int, pause: float) -> list[float]:
        """Seconds of each of `count` runs."""
        return timed(lambda: subprocess.run(["/bin/true"], capture_output=True), count, pause)


if __name__ == "__main__":
    serve(Bare)
