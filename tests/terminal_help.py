"""A person at a terminal, for tests of `python -m ctlab shell`: types, reads the screen, changes its size, hangs up."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kernel_help import ROOT, patient

from ctlab.runtime.waiting import readable

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
CTRL_C, CTRL_D = "\x03", "\x04"


def shell_words(lab: str, container: str, *command: str) -> list[str]:
    """What opens a shell, or runs a command, in a container."""
    return [sys.executable, "-m", "ctlab", "shell", lab, container, *(["--", *command] if command else [])]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, in which the package is found from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", **(more or {})}


class Person:
    """A terminal of `rows` and `columns`, and a program that it belongs to."""

    def __init__(
        self, words: Sequence[str], *, rows: int = 24, columns: int = 80, env: Mapping[str, str] | None = None
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *words], stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment(env)
        )
        self.seen = ""
        self.all = ""

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)

    def until(self, text: str, timeout: float = 10.0) -> str:
        """Read until that text has come: what came before it."""
        until = time.monotonic() + patient(timeout)
        while text not in self.seen:
            left = until - time.monotonic()
            assert left > 0 and readable(left, self.master), f"{text!r} isn't in {self.seen!r}"
            self._take()
        before, _, self.seen = self.seen.partition(text)
        return before

    def _take(self) -> None:
        piece = ANSI.sub("", os.read(self.master, 65536).decode(errors="replace"))
        self.seen += piece
        self.all += piece

    def rest(self) -> str:
        """All that is on the screen and wasn't read yet."""
        while readable(0, self.master):
            self._take()
        rest, self.seen = self.seen, ""
        return rest

    def type(self, text: str) -> None:
        """Type something; Return is a carriage return."""
        os.write(self.master, text.replace("\n", "\r").encode())

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """Close the window."""
        for descriptor in (self.slave, self.master):
            os.close(descriptor)
        self.master = self.slave = -1

    def ended(self, timeout: float = 10.0) -> int:
        """Wait for the program: its status."""
        return self.process.wait(patient(timeout))

    @property
    def is_raw(self) -> bool:
        """Whether the terminal passes every key on."""
        return not self.now()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def now(self) -> list[Any]:
        """Its modes."""
        return termios.tcgetattr(self.slave)
