"""Something that happens once, and waiting for it."""

from __future__ import annotations

import _thread
import contextlib
import time

from .runtime.waiting import TURN_SECONDS


class Latch:
    """As `threading.Event`, but for who is interrupted: its waits are calls of a lock that nobody else holds.

    An Event's is many lines of Python, and an interrupt between two of them is a RuntimeError (a lock that isn't held
    is released) instead of a KeyboardInterrupt. And it waits in turns, see `runtime.waiting`.
    """

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[_thread.LockType] = []

    def set(self) -> None:
        """It has happened."""
        self._set = True
        while self._waiting:
            with contextlib.suppress(IndexError):
                self._waiting.pop().release()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Whether it has happened, in that time at most (None: any)."""
        mine = _thread.allocate_lock()
        mine.acquire()
        self._waiting.append(mine)
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._set:
            left = TURN_SECONDS if until is None else until - time.monotonic()
            if mine.acquire(True, max(0.0, min(left, TURN_SECONDS))) or (until is not None and left <= TURN_SECONDS):
                break
        with contextlib.suppress(ValueError):
            self._waiting.remove(mine)
        return self._set
