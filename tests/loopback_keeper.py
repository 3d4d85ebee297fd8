"""A VM lab's keeper whose "VM" is a process of this machine: the channel between them is what is tested.

All of ctlab's own code is the one that a VM lab runs, the guest's keeper and supervisor included; only QEMU is missing,
so that many tests can be run through the channel in the time of one boot.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from ctlab.kernel import syscalls
from ctlab.vm import guest, keeper
from ctlab.vm.options import VmOptions


class Loopback:
    """What `Machine` is, without a machine."""

    def __init__(self, folder: str, options: VmOptions, *, program: str = "lab", lab_name: str = "lab") -> None:
        self._folder = folder
        self.facts: dict[str, object] = {
            "acceleration": "none", "machine": "loopback", "kernel_release": os.uname().release,
            "memory_bytes": options.memory_bytes, "cpus": options.cpus,
        }  # fmt: skip
        self.pidfds: dict[str, int] = {}
        self.started = 0.0
        self._pid = 0

    def start(self) -> None:
        """Fork the guest's first process."""
        self.started = time.monotonic()
        self._port, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                os.environ["XDG_RUNTIME_DIR"] = self._folder  # its keeper's folder has the same name as ours
                port = os.dup(theirs.fileno())
                syscalls.close_all_but({0, 1, 2, port})
                guest._live(port)
            finally:
                os._exit(0)
        theirs.close()
        self.pidfds["qemu"] = os.pidfd_open(self._pid)

    def accept(self) -> socket.socket:
        """The port."""
        return self._port

    def console_tail(self, lines: int = 12) -> str:
        """There is none."""
        return ""

    def kill(self) -> None:
        """End the guest: its keeper sees its owner die."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            until = time.monotonic() + 10
            while os.path.isdir(f"{self._folder}/ctlab") and time.monotonic() < until:
                time.sleep(0.005)


def bootstrap() -> str:
    """What the Python that is to be this keeper runs."""
    here = os.path.dirname(os.path.abspath(__file__))
    return f"import sys;sys.path[:0]=[{here!r},{{parent!r}}];import loopback_keeper;loopback_keeper.main()#{{module}}"


def main() -> None:
    """Run as the keeper."""
    keeper.Machine = Loopback  # type: ignore[misc,assignment] # this is what the file is for
    keeper.main()


if __name__ == "__main__":
    sys.exit("run by the tests of the channel")
