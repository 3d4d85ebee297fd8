"""Mininet: N idle hosts (a shell each, as Mininet makes them) on one Linux bridge, without a controller.

It runs under the system's own Python, in PID, mount and network namespaces of its own, and with a read-only
/proc/sys: its start-up would else raise sysctls of the whole machine (`fixLimits`), which is skipped.
"""

from __future__ import annotations

import importlib
import shutil
import time
from typing import Any

from benchmarks.peers.private import check_private, mount
from benchmarks.peers.worker import Missing, SideFailed, serve

PREFIX = (
    "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private",
)  # fmt: skip
REACH = "import socket; print(socket.socket().connect_ex(('{address}', 9)))"


class Mininet:
    """One network at a time: `up`, `check`, `down`."""

    def __init__(self) -> None:
        for program in ("mnexec", "brctl"):
            if shutil.which(program) is None:
                raise Missing(f"{program} is not installed (packages mininet and bridge-utils)")
        check_private()
        mount("-t", "sysfs", "sysfs", "/sys")
        mount("--bind", "/proc/sys", "/proc/sys")
        mount("-o", "remount,bind,ro", "/proc/sys")
        try:
            self._net_module = importlib.import_module("mininet.net")
            self._topo = importlib.import_module("mininet.topo").SingleSwitchTopo
            self._bridge = importlib.import_module("mininet.nodelib").LinuxBridge
        except ImportError as error:
            raise Missing(f"the system's Python has no mininet: {error}") from None
        self._net_module.Mininet.inited = True
        self._net: Any = None

    def about(self) -> dict[str, str]:
        return {"version": f"Mininet {self._net_module.VERSION}"}

    def up(self, count: int) -> float:
        """Seconds from the topology's description to `count` hosts with addresses on a running bridge."""
        begin = time.perf_counter()
        self._net = self._net_module.Mininet(topo=self._topo(count), switch=self._bridge, controller=None)
        self._net.start()
        return time.perf_counter() - begin

    def check(self) -> None:
        """The first host reaches the last one (a refused connection proves it). Raises SideFailed."""
        first, last = self._net.hosts[0], self._net.hosts[-1]
        said = first.cmd(f'/usr/bin/python3 -c "{REACH.format(address=last.IP())}"').strip()
        if said != "111":
            raise SideFailed(f"the first host can't reach the last: {said}")

    def pids(self) -> list[int]:
        """Process ids of the hosts, as seen in this PID namespace."""
        return [host.pid for host in self._net.hosts]

    def down(self) -> float:
        """Seconds of `net.stop()`."""
        begin = time.perf_counter()
        self._net.stop()
        return time.perf_counter() - begin


if __name__ == "__main__":
    serve(Mininet)
