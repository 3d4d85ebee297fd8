"""`podman run --rm` of /bin/true on its bridge with an address and the same limits: a full engine's way."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.peers import private
from benchmarks.peers.private import MEMORY_BYTES, PIDS, mount
from benchmarks.peers.worker import SideFailed, require, serve, timed


class Podman:
    """Storage, /run and configuration in a tmpfs of its own; the root file system is this machine's /usr."""

    def __init__(self) -> None:
        self._podman = require("podman")
        runtime = require("crun")
        private.check_private()
        self._cgroup = f"ctlab-bench-{os.getpid()}"
        self._folder = Path(tempfile.mkdtemp(prefix="ctlab-bench-"))
        mount("-t", "tmpfs", "tmpfs", str(self._folder))
        mount("-t", "tmpfs", "tmpfs", "/run")
        self._version = private.cgroup_view()
        subprocess.run([require("ip"), "link", "set", "lo", "up"], check=True)
        root = private.root_file_system(self._folder / "rootfs")
        base = [
            self._podman, "--cgroup-manager=cgroupfs", f"--runtime={runtime}", "--events-backend=none",
            f"--root={self._folder}/storage", "--runroot=/run/storage", f"--tmpdir={self._folder}/tmp",
            f"--network-config-dir={self._folder}/networks", f"--volumepath={self._folder}/volumes",
            "--storage-driver=vfs",
        ]  # fmt: skip
        self._run = [
            *base, "run", "--rm", "--network=podman", f"--cgroup-parent=/{self._cgroup}",
            f"--memory={MEMORY_BYTES}b", "--cpus=0.5", f"--pids-limit={PIDS}", "--rootfs", str(root), "/bin/true",
        ]  # fmt: skip
        self._environment = {**os.environ, "HOME": str(self._folder), "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        self._once()

    def about(self) -> dict[str, str]:
        said = subprocess.run([self._podman, "--version"], capture_output=True, text=True).stdout.strip()
        return {"version": f"{said}, cgroup {self._version}"}

    def _once(self) -> None:
        done = subprocess.run(self._run, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise SideFailed(f"podman ended with {done.returncode}: {done.stderr.strip()[-600:]}")

    def start(self, count: int, pause: float) -> list[float]:
        """Seconds of each of `count` runs."""
        return timed(self._once, count, pause)

    def close(self) -> None:
        """Removes the cgroup folders and the (private) folder's name."""
        private.remove_cgroup(self._cgroup)
        subprocess.run([require("umount"), "-l", str(self._folder)], check=False)
        self._folder.rmdir()


if __name__ == "__main__":
    serve(Podman)
