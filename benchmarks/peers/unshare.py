"""The yardstick of a start: util-linux's `unshare` makes all namespaces and runs /bin/true; no network, no limits."""

from __future__ import annotations

import subprocess

from benchmarks.peers.worker import require, serve, spawner, timed

COMMAND = ("unshare", "-nmpfuiC", "--mount-proc", "/bin/true")


class Unshare:
    """`unshare -nmpfuiC --mount-proc /bin/true`."""

    def __init__(self) -> None:
        self._run = spawner(COMMAND)

    def about(self) -> dict[str, str]:
        path = require("unshare")
        return {"version": subprocess.run([path, "--version"], capture_output=True, text=True).stdout.strip()}

    def start(self, count: int, pause: float) -> list[float]:
        """Seconds of each of `count` runs."""
        return timed(self._run, count, pause)


if __name__ == "__main__":
    serve(Unshare)
