"""The Stop button: while a program runs in the foreground it is for that; else one line says what was interrupted."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .errors import CtlabError

P = ParamSpec("P")
T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """Somebody interrupted a wait; the text is one line: what it was, and what goes on."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line, and where in the cells it came from."""
        from .notebook.errors_view import render

        return render(self)


def interruptible(describe: Callable[..., str]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: an interrupt of the function is an `Interrupted`.

    `describe`: gets the function's arguments and says, in one line, what was interrupted and what goes on.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **keywords: P.kwargs) -> T:
            try:
                return function(*args, **keywords)
            except Interrupted:
                raise
            except KeyboardInterrupt:
                raise Interrupted(describe(*args, **keywords)) from None

        return wrapper

    return decorate


class Interrupts:
    """Within it, SIGINT to this process becomes SIGINT, SIGTERM, SIGKILL for a program, 2 s apart.

    The signal only marks a descriptor (`fileno`) that the caller's loop waits for, so no step of that loop is cut
    in two as a KeyboardInterrupt would. It is the interpreter's wake-up descriptor, written by its C handler: one
    written in Python runs between two instructions, and would come too late for a wait that is just being entered.
    After SIGKILL the next SIGINT raises KeyboardInterrupt again. In another thread than the main one, or where
    somebody handles SIGINT in their own way, nothing is changed.
    """

    STEPS = ("SIGINT", "SIGTERM", "SIGKILL")
    STEP_SECONDS = 2.0

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._sent = 0  # steps taken
        self._due: float | None = None
        self._installed = False
        self._earlier = -1  # somebody else's wake-up descriptor
        self._read_end = self._write_end = -1

    def __enter__(self) -> Interrupts:
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupted)
            self._installed = True
            self._earlier = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._installed:
            signal.set_wakeup_fd(self._earlier)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        late = self._marked()
        os.close(self._read_end)
        os.close(self._write_end)
        if late and kind is None:
            raise KeyboardInterrupt

    def fileno(self) -> int:
        """Readable once there was an interrupt."""
        return self._read_end

    def _interrupted(self, number: int, frame: Any) -> None:
        if self._sent == len(self.STEPS):
            signal.default_int_handler(number, frame)

    def _marked(self) -> bool:
        """Whether there was an interrupt; what belongs to an earlier owner of the descriptor goes on to it."""
        try:
            signals = os.read(self._read_end, 4096)
        except BlockingIOError:
            return False
        others = bytes(number for number in signals if number != signal.SIGINT)
        if others and self._earlier >= 0:
            with contextlib.suppress(OSError):
                os.write(self._earlier, others)
        return len(others) < len(signals)

    def step(self) -> None:
        """Send what is due: the next signal after an interrupt, and 2 s after the one before."""
        if not self._marked() and (self._due is None or time.monotonic() < self._due):
            return
        if self._sent == len(self.STEPS):
            self._due = None
            return
        name = self.STEPS[self._sent]
        self._sent += 1
        self._due = time.monotonic() + self.STEP_SECONDS
        with contextlib.suppress(CtlabError):  # it has ended meanwhile
            self._send(name)

    def timeout_seconds(self) -> float | None:
        """How long to wait at most before the next step; None without one."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def reraise(self, name: str) -> None:
        """Interrupted, if there was one: the cell was, whatever the program did with it. `name`: of the container."""
        self.step()
        if self._sent:
            raise Interrupted(f"{name}: interrupted; the program was sent {self.STEPS[self._sent - 1]}")
