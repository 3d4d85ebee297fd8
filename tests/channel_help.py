"""Labs through the channel of a VM without a VM (see `loopback_keeper`), and programs whose streams the test holds."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback_keeper
from kernel_help import children_of, wait_until

from ctlab.runtime import client, messages

_numbers = itertools.count(2_000_000)  # of executions, apart from the package's own


@contextlib.contextmanager
def looped(fault: str = "") -> Iterator[None]:
    """Within it, a lab in a VM is one behind the channel only. `fault`: see `loopback_keeper`."""
    plain = client._BOOTSTRAP
    client._BOOTSTRAP = loopback_keeper.bootstrap(fault)
    try:
        yield
    finally:
        client._BOOTSTRAP = plain


@contextlib.contextmanager
def channel_lab(name: str, *, fault: str = "", **options: Any) -> Iterator[Any]:
    """A lab behind the channel."""
    import ctlab

    with looped(fault):
        lab = ctlab.Lab(f"{name}-{os.getpid()}", engine="vm", **options)
    try:
        with lab:
            assert lab._client.facts["vm"]["machine"] == "loopback"
            yield lab
    finally:
        # A guest's folders end with its kernel. Here they are this machine's, and the inner keeper's note of them lies
        # in the "VM's" own folder: who kills that keeper with all the others leaves them to nobody else.
        for place in cgroup_folders(lab._client.id):
            for below_it, _, _ in os.walk(place, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(below_it)


class Program:
    """A program in a container, whose three pipes are ours as they are: nothing is read or written by itself.

    `stdin`: a descriptor that it reads instead, which is closed here.
    """

    def __init__(self, container: Any, *argv: str, stdin: int = -1) -> None:
        self.number = next(_numbers)
        self.client = container.lab._client
        self.stdin = -1
        if stdin < 0:
            stdin, self.stdin = os.pipe2(os.O_CLOEXEC)
        self.stdout, stdout = os.pipe2(os.O_CLOEXEC)
        self.stderr, stderr = os.pipe2(os.O_CLOEXEC)
        message = messages.Exec(
            id=container.id, execution=self.number, argv=list(argv), user="0",
            environment=["PATH=/usr/bin:/bin", "HOME="], workdir="/", tty=False, detached=False,
            capabilities=["CHOWN"], processes=0, script_descriptor=None,
            window=None,
        )  # fmt: skip
        self.connection = self.client.connection()
        self.connection.send(message, [stdin, stdout, stderr])
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)

    def line(self) -> str:
        """The next line that it writes."""
        found = b""
        while not found.endswith(b"\n") and (byte := os.read(self.stdout, 1)):
            found += byte
        return found.decode()

    def returncode(self) -> int:
        """How it ended; waits for it. Raises what the answer reports."""
        try:
            return int(self.connection.receive(messages.Ended).message.returncode)
        finally:
            self.client.give_back(self.connection)

    def close(self, *names: str) -> None:
        """Close our ends; all without names."""
        for name in names or ("stdin", "stdout", "stderr"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)


def drained(descriptor: int) -> bytes:
    """All that comes until the end."""
    found = bytearray()
    while piece := os.read(descriptor, 1 << 16):
        found += piece
    return bytes(found)


def guest_of(lab: Any) -> int:
    """The guest's first process, on this machine's count."""
    (pid,) = children_of(lab._client.facts["keeper"])
    return pid


def below(pid: int) -> dict[int, str]:
    """Every process below one, with when it was started (a number may be given again)."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        with contextlib.suppress(OSError):
            for child in children_of(waiting.pop()):
                found[child] = started(child)
                waiting.append(child)
    return found


def started(pid: int) -> str:
    """When a process was started; empty if there is none, or a dead one that nobody has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def gone(processes: dict[int, str]) -> bool:
    """Whether all of these have ended, soon."""
    return wait_until(lambda: not any(started(pid) == when != "" for pid, when in processes.items()))


def cgroup_folders(lab_id: str) -> list[str]:
    """The folders of a lab, wherever they lie."""
    return [place for place, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(place) == f"ctlab-{lab_id}"]
