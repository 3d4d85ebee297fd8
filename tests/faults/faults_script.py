"""A script that runs as the user in question, and what it says."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from faults_world import World

PATIENCE = 20.0


def trace(text: str) -> None:
    """What happened, on standard error, with CTLAB_FAULTS_TRACE in the environment."""
    if "CTLAB_FAULTS_TRACE" in os.environ:
        print(f"{time.monotonic():.3f} {text}", file=sys.stderr, flush=True)


class Script:
    """One running Python script (`words`: what follows `python`). Its standard error goes to `errors`."""

    def __init__(self, world: World, *words: str, **options: Any) -> None:
        self.errors = os.memfd_create("errors")
        self.process = world.spawn(*words, stderr=self.errors, **options)
        self.pid = self.process.pid
        world.mine.add(self.pid)
        self.world = world
        self.text = ""
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hear(self, seconds: float = PATIENCE) -> str | None:
        """Its next line; None when it said nothing in time, "" when it has ended."""
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        while not self.lines:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            chunk = os.read(self.process.stdout.fileno(), 65536).decode()
            if not chunk:
                return ""
            *lines, self.text = (self.text + chunk).split("\n")
            self.lines += lines
        line = self.lines.pop(0)
        trace(f"{self.pid} said {line}")
        return line

    def wait_for(self, *words: str, seconds: float = PATIENCE) -> str:
        """Its first line that begins with one of the words; "" when it doesn't come."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            line = self.hear(left)
            if not line:
                return ""
            if line.split()[0] in words:
                return line
        return ""

    def expect(self, word: str) -> str:
        """Its next line, which must begin with this word; the rest of it."""
        line = self.hear()
        assert line is not None and line.split(" ")[0] == word, (
            f"{word!r} expected, heard {line!r}; {self.said_wrong()}"
        )
        return (line or "").partition(" ")[2]

    def expect_line(self) -> str:
        """Its next line, whatever it is."""
        line = self.hear()
        assert line, self.said_wrong()
        return line

    def said_wrong(self) -> str:
        """The end of its standard error."""
        return os.pread(self.errors, 1 << 20, 0).decode(errors="replace")[-1500:]

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Wait for its end (its standard input is closed); SIGKILL if that doesn't come. Its status."""
        for file in (self.process.stdin, self.process.stdout):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):
                    file.close()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.errors)
        self.world.mine.discard(self.pid)
        return status


LAB = """
import os, signal, sys, threading, time
import ctlab
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
"""


@contextlib.contextmanager
def script(world: World, text: str) -> Iterator[Script]:
    """Run a piece of Python that may `say` and `hear`, and end it."""
    running = Script(world, "-c", LAB + text)
    try:
        yield running
    finally:
        running.end()


def running_lab(world: World, then: str = "hear()", before: str = "") -> Script:
    """The owner of a lab with a container in it, up; it goes on with `then`."""
    start = "lab = ctlab.Lab('one')\nc = lab.run(['sleep', '1000'], name='c')\nsay('up')"
    made = Script(world, "-c", f"{LAB}{before}\n{start}\n{then}")
    made.expect("up")
    return made


def clean(world: World, before: dict[str, set[str]], *allow: int, ignore: tuple[str, ...] = ()) -> None:
    """Nothing may be there that was not before, but these processes and kinds of things."""
    left = world.left_over(before, allow, ignore=ignore)
    assert not left, left[:12]
