"""How the probing process writes down its steps, and how it runs a program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable

from . import syscalls


class Failed(Exception):
    """A step failed; the text says how, `number` is the errno if the kernel gave one."""

    def __init__(self, detail: str, number: int = 0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.number = number


class Untried(Exception):
    """A step can't be tried here, which is no failure; the text says why."""


class Journal:
    """Lines of JSON on one descriptor; each is shorter than a pipe's atomic write, so processes may share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take_stdout(cls) -> Journal:
        """Keep standard output for the journal alone: a program that is run must not write into it."""
        descriptor = os.dup(1)  # close-on-exec, as all of Python's descriptors
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1)
        os.close(null)
        return cls(descriptor)

    def _line(self, message: dict[str, object]) -> None:
        os.write(self._descriptor, json.dumps(message).encode() + b"\n")

    def start(self, work: Callable[[], bool | None]) -> int:
        """Fork a child that does `work` and ends; its pid. It is killed if this process dies."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            status = 2 if work() is False else 0
        except BaseException as error:
            self._line({"died": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(status)

    def wait(self, pid: int) -> bool:
        """Wait for a child of `start`; whether its work was done. A signal that ended it is written down."""
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            name = str(os.WTERMSIG(status))
            with contextlib.suppress(ValueError):
                name = signal.Signals(os.WTERMSIG(status)).name
            self._line({"died": name})
        return status == 0

    def in_child(self, work: Callable[[], bool | None]) -> bool:
        """`start` and `wait`."""
        return self.wait(self.start(work))

    def outcome(self, name: str, ok: bool | None, number: int = 0, detail: str = "") -> None:
        """Write down one outcome."""
        self._line({"name": name, "ok": ok, "errno": number, "detail": detail[:1000]})

    def step(self, name: str, action: Callable[[], str | None]) -> bool:
        """Do one step; its text becomes the detail, an OSError or `Failed` its failure. Returns whether it worked."""
        self._line({"begin": name})
        try:
            detail = action()
        except Untried as reason:
            self.outcome(name, None, 0, str(reason))
        except Failed as failure:
            self.outcome(name, False, failure.number, failure.detail)
        except OSError as error:
            self.outcome(name, False, error.errno or 0, error.strerror or str(error))
        else:
            self.outcome(name, True, 0, detail or "")
            return True
        return False


def spawn(arguments: list[str]) -> tuple[int, str]:
    """Run a program to its end: (exit status, what it wrote to standard error); raises OSError if it can't start."""
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            arguments[0],
            arguments,
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 2)],
        )
    finally:
        os.close(writer)
        # Nothing is lost by reading only after the start: the program waits if the pipe is full.
    parts: list[bytes] = []
    try:
        while part := os.read(reader, 65536):
            parts.append(part)
    finally:
        os.close(reader)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), b"".join(parts).decode(errors="replace")
