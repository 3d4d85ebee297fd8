"""What running a program gives back: `Completed`, `Logs`, and `Process` for one that goes on."""

from __future__ import annotations

import signal as _signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import units
from .errors import ProgramFailed, one_line
from .interrupts import interruptible
from .keywords import checked
from .spec import SCRIPT

if TYPE_CHECKING:
    from .execution import Execution

HEAD_LINES, TAIL_LINES, LINE_CHARACTERS = 20, 10, 200  # of a stream, where a result is shown


def signal_of(returncode: int) -> str | None:
    """The name of the signal that a status of 128 + n means; None otherwise."""
    if returncode <= 128:
        return None
    try:
        return _signal.Signals(returncode - 128).name
    except ValueError:
        return None


# What ends a program that did wrong; every other signal is one that stops it.
_FAULTS = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP", "SIGXCPU", "SIGXFSZ"}


def ended(returncode: int | None, oom_killed: bool) -> tuple[str, bool]:
    """How a run ended, in a word, and whether it failed or was stopped: ``("3", True)``, ``("SIGTERM", False)``.

    `returncode` is 128 + n when signal n ended it. For reaching a memory limit: ``("OOM", True)``.
    """
    if oom_killed:
        return "OOM", True
    signal = signal_of(returncode or 0)
    return signal or str(returncode), bool(returncode) and (signal is None or signal in _FAULTS)


@checked
@dataclass(frozen=True)
class Completed:
    """A program that has ended.

    `returncode` is 128 + n when signal n ended it. `stdout` and `stderr` are text (what isn't UTF-8 is replaced).
    `dropped_bytes`: how much of the output was no longer kept. `duration_seconds`: from the call to the end.
    """

    returncode: int
    stdout: str
    stderr: str
    duration_seconds: float
    container: str
    command: tuple[str, ...] = ()
    dropped_bytes: int = 0
    oom_killed: bool = False

    @property
    def signal(self) -> str | None:
        """The signal that ended it, for example ``SIGKILL``; None if it exited by itself."""
        return signal_of(self.returncode)

    def check(self) -> Completed:
        """Itself, if the status is 0; `ProgramFailed` otherwise, with the end of what it wrote to stderr."""
        if self.returncode:
            raise ProgramFailed(self.failure())
        return self

    def failure(self, *, all_shown: bool = False) -> str:
        """One line of what failed, with the last line of what it wrote, unless `all_shown` was that before."""
        what = " ".join(self.command) or "the program"
        if self.command[:2] == SCRIPT:
            what = " ".join(("the script", *self.command[2:]))
        shown = what if len(what) <= 60 else what[:57] + "..."
        how = f"was ended by {self.signal}" if self.signal else f"ended with status {self.returncode}"
        if self.oom_killed:
            how = "was killed for memory (OOMKilled): it reached its memory limit"
        wrote = "" if all_shown else self.stderr.strip() or self.stdout.strip()
        last = wrote.splitlines()[-1:]
        return one_line(f"{shown} in {self.container} {how}" + (f": {last[0][:200]}" if last else ""))

    def __repr__(self) -> str:
        return self._head([f"{name} {_measure(text)}" for name, text in self._streams() if text])

    def _head(self, wrote: list[str]) -> str:
        how = self.signal or str(self.returncode)
        if self.oom_killed:
            how += " (OOMKilled)"
        dropped = [f"{units.format_size(self.dropped_bytes, 3)} dropped"] if self.dropped_bytes else []
        parts = [f"status {how}", f"{self.duration_seconds:.3g} s", *wrote, *dropped]
        return f"<Completed {self.container}: {', '.join(parts)}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As a cell's value: what it wrote as well, without the middle of what is long. In a list: one line."""
        if len(printer.stack) > 1:
            printer.text(repr(self))
            return
        shown = [line for name, text in self._streams() for line in excerpt(text, name)]
        printer.text("\n".join([self._head([]), *shown]))

    def _streams(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("stdout", self.stdout), ("stderr", self.stderr)


def _measure(text: str) -> str:
    """How much it is; itself, where that is shorter."""
    line = text.removesuffix("\n")
    if len(line) <= 40 and "\n" not in line:
        return repr(line)
    count = line.count("\n") + 1
    return f"{count} line{'s' if count > 1 else ''} of {units.format_size(len(text.encode()), 3)}"


def excerpt(text: str, name: str) -> list[str]:
    """The lines of a stream: the first and the last of many, each cut where it is long. `name`: .stdout or .stderr."""
    if not text:
        return []
    lines = text.removesuffix("\n").split("\n")
    more = len(lines) - HEAD_LINES - TAIL_LINES
    if more > 0:
        lines = [*lines[:HEAD_LINES], f"[{more} lines more: .{name} has all]", *lines[-TAIL_LINES:]]
    shown = [line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}…" for line in lines]
    return [f"{name}:", *shown]


class Logs(str):
    """A container's output in order of arrival; `.stdout` and `.stderr` apart."""

    stdout: str
    stderr: str
    dropped_bytes: int

    def __new__(cls, text: str, stdout: str, stderr: str, dropped_bytes: int) -> Logs:
        made = super().__new__(cls, text)
        made.stdout, made.stderr, made.dropped_bytes = stdout, stderr, dropped_bytes
        return made

    def __repr__(self) -> str:
        dropped = f"[{self.dropped_bytes} bytes before this were dropped]\n" if self.dropped_bytes else ""
        return dropped + str(self)


@checked
class Process:
    """A program that was started by ``exec -d`` and goes on."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @interruptible(lambda process, *_, **__: f"the wait for the end of {process._execution.title}, which goes on")
    def wait(self, timeout: float | str | None = None) -> int:
        """Its status; TimeoutError after `timeout` seconds, at once if that is negative."""
        return self._execution.wait(units.parse_time_left(timeout))

    def poll(self) -> int | None:
        """Its status, or None while it runs; LabGone."""
        return self._execution.poll()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send it a signal."""
        self._execution.signal(signal)

    def __repr__(self) -> str:
        status = self._execution.returncode
        state = "lost" if self._execution.lost else "running" if status is None else f"status {status}"
        return f"<Process {' '.join(self._execution.command)}: {state}>"
