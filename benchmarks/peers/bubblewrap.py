"""Bubblewrap: all namespaces and a root made of binds; no limits, no network, no record of what runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.peers.worker import require, serve, spawner, timed


class Bubblewrap:
    """`bwrap --unshare-all` over this machine's own /usr."""

    def __init__(self) -> None:
        command = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr"]
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                command += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
            elif Path("/", name).is_dir():
                command += ["--ro-bind", f"/{name}", f"/{name}"]
        self._run = spawner([*command, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true"])
        self._run()

    def about(self) -> dict[str, str]:
        done = subprocess.run([require("bwrap"), "--version"], capture_output=True, text=True)
        return {"version": done.stdout.strip()}

    def start(self, count: int, pause: float) -> list[float]:
        """Seconds of each of `count` runs."""
        return timed(self._run, count, pause)


if __name__ == "__main__":
    serve(Bubblewrap)
