"""The Stop button while a program runs in the foreground: it is for the program, not for the lab."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import CtlabError


class Interrupts:
    """Within it, SIGINT to this process becomes SIGINT, SIGTERM, SIGKILL for a program, 2 s apart.

    The signal only marks a descriptor (`fileno`) that the caller's loop waits for, so no step of that loop is cut
    in two as a KeyboardInterrupt would. After SIGKILL the next SIGINT raises KeyboardInterrupt again. In another
    thread than the main one, or where somebody handles SIGINT in their own way, nothing is changed.
    """

    STEPS = ("SIGINT", "SIGTERM", "SIGKILL")
    STEP_SECONDS = 2.0

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._sent = 0  # steps taken
        self._due: float | None = None
        self._installed = False
        self._event = -1

    def __enter__(self) -> Interrupts:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._installed = True
            signal.signal(signal.SIGINT, self._mark)
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._event)

    def fileno(self) -> int:
        """Readable once there was an interrupt."""
        return self._event

    def _mark(self, number: int, frame: Any) -> None:
        if self._sent == len(self.STEPS):
            signal.default_int_handler(number, frame)
        os.eventfd_write(self._event, 1)

    def step(self) -> None:
        """Send what is due: the next signal after an interrupt, and 2 s after the one before."""
        marked = False
        with contextlib.suppress(BlockingIOError):
            marked = os.eventfd_read(self._event) > 0
        if not marked and (self._due is None or time.monotonic() < self._due):
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

    def reraise(self) -> None:
        """KeyboardInterrupt, if there was one: the cell was interrupted, whatever the program did with it."""
        self.step()
        if self._sent:
            raise KeyboardInterrupt(f"interrupted; the program was sent {self.STEPS[self._sent - 1]}")
