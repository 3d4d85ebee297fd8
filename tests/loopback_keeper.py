"""A VM lab's keeper whose "VM" is a process of this machine: the channel between them is what is tested.

All of ctlab's own code is the one that a VM lab runs, the guest's keeper and supervisor included; only QEMU is missing,
so that many tests can be run through the channel in the time of one boot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from unittest import mock

from ctlab.errors import CtlabError
from ctlab.kernel import process_end, syscalls
from ctlab.runtime import prune
from ctlab.vm import guest, keeper, preparing, process
from ctlab.vm.options import VmOptions


class Loopback:
    """What `Machine` is, without a machine."""

    def __init__(self, folder: str, options: VmOptions, *, program: str = "lab", lab_name: str = "lab") -> None:
        self._folder = folder
        runtime, self._lab_id = os.path.split(os.path.dirname(os.path.realpath(folder)))
        self._base = os.path.join(os.path.dirname(runtime), f"guest-{self._lab_id}")
        self.facts: dict[str, object] = {
            "acceleration": "none", "machine": "loopback", "kernel_release": os.uname().release,
            "memory_bytes": options.memory_bytes, "cpus": options.cpus,
        }  # fmt: skip
        self.pidfds: dict[str, int] = {}
        self.started = 0.0
        self.shares = None  # its "guest" has this machine's own files
        self._pid = 0

    def start(self, prepared: object) -> None:
        """Fork the guest's first process; nothing had to be prepared."""
        self.started = time.monotonic()
        self._port, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.mkdir(self._base, 0o700)
                os.environ["XDG_RUNTIME_DIR"] = self._base  # its keeper's folder has the same name as ours
                port = os.dup(theirs.fileno())
                console = os.open(f"{self._folder}/console", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(console, 2)
                syscalls.close_all_but({0, 1, 2, port})
                guest._live(port)
            except BaseException as error:
                guest._fatal(port, error)
            finally:  # also when the host's end of the port is closed, and its keeper dead
                self._tidy()
                os._exit(0)
        theirs.close()
        self.pidfds["qemu"] = os.pidfd_open(self._pid)

    def accept(self) -> socket.socket:
        """The port."""
        return self._port

    def console_tail(self, lines: int = 12) -> str:
        """What the guest has written to its standard error."""
        with contextlib.suppress(OSError), open(f"{self._folder}/console", encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])
        return ""

    def ended(self, wait_seconds: float = 0.0) -> str:
        """What has ended."""
        process.wait(self.pidfds["qemu"], wait_seconds)
        return f"the guest's first process ended: {process_end.how(self.pidfds['qemu'])}"

    def kill(self) -> None:
        """End the guest: its keeper sees its owner die."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._tidy()

    def _tidy(self) -> None:
        """Wait until the guest's keeper has removed its folders, or do it in a dead one's place."""
        until = time.monotonic() + 10
        while os.path.isdir(f"{self._base}/ctlab") and time.monotonic() < until:
            with contextlib.suppress(OSError, CtlabError), mock.patch.dict(os.environ, XDG_RUNTIME_DIR=self._base):
                prune.clear(self._lab_id)
            time.sleep(0.005)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._base)


def bootstrap(fault: str = "") -> str:
    """What the Python that is to be this keeper runs. `fault`: statements (without braces) that break some of it."""
    here = os.path.dirname(os.path.abspath(__file__))
    lines = [f"import sys;sys.path[:0]=[{here!r},{{parent!r}}] #{{module}}", "import loopback_keeper", fault]
    return "\n".join([*lines, "loopback_keeper.main()"])


def main() -> None:
    """Run as the keeper."""
    keeper.Machine = Loopback  # type: ignore[assignment,misc] # this is what the file is for
    preparing.ready = lambda loop, over: ()  # type: ignore[assignment,return-value] # a stand-in boots nothing
    keeper.main()


if __name__ == "__main__":
    sys.exit("run by the tests of the channel")
