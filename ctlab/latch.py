"""Something that happens once, and waiting for it."""

from __future__ import annotations

import _thread
import contextlib


class Latch:
    """As `threading.Event`, but for who is interrupted: its wait is one call.

    An Event's is many lines of Python, and an interrupt between two of them is a RuntimeError (a lock that isn't held
    is released) instead of a KeyboardInterrupt.
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
        if not self._set:
            mine.acquire(True, -1 if timeout_seconds is None else max(timeout_seconds, 0.0))
        with contextlib.suppress(ValueError):
            self._waiting.remove(mine)
        return self._set
