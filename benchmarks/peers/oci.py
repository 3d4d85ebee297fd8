"""What crun and runc have in common: `RUNTIME run` of /bin/true from a bundle, with the same limits as ours."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.peers.private import bundle, cgroup_view, check_private, mount, remove_cgroup
from benchmarks.peers.worker import require, spawner, timed


class Oci:
    """Two bundles: with an empty network namespace, and with none at all (the machine's, here a private one)."""

    def __init__(self, runtime: str) -> None:
        require(runtime)
        check_private()
        self._runtime = runtime
        self._cgroup = f"ctlab-bench-{os.getpid()}"
        self._folder = Path(tempfile.mkdtemp(prefix="ctlab-bench-"))
        mount("-t", "tmpfs", "tmpfs", str(self._folder))
        self._version = cgroup_view()
        self._bundles = {
            wanted: bundle(runtime, self._folder / name, f"/{self._cgroup}/{name}", network_namespace=wanted)
            for wanted, name in ((True, "netns"), (False, "no-netns"))
        }
        self._number = itertools.count()
        self._run = spawner([runtime, "--root", str(self._folder / "state"), "run"])
        self.start(1, 0.0, network_namespace=False)

    def about(self) -> dict[str, str]:
        said = subprocess.run([require(self._runtime), "--version"], capture_output=True, text=True).stdout
        return {"version": f"{said.splitlines()[0]}, cgroup {self._version}"}

    def start(self, count: int, pause: float, network_namespace: bool) -> list[float]:
        """Seconds of each of `count` runs; each has a name of its own, as people's containers have."""
        os.chdir(self._bundles[network_namespace])
        return timed(lambda: self._run(f"bench-{next(self._number)}"), count, pause)

    def close(self) -> None:
        """Removes the cgroup folders and the (private) folder's name."""
        os.chdir("/")
        remove_cgroup(self._cgroup)
        subprocess.run([require("umount"), "-l", str(self._folder)], check=False)
        self._folder.rmdir()
