"""Changes that an interrupt doesn't cut in two: what the owner knows and what the kernel has stay the same."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lab import Lab


class Deferred:
    """Within it, SIGINT to this process waits: KeyboardInterrupt is raised at the end, or by `check`.

    For what takes milliseconds. Where it takes longer than `LIMIT_SECONDS` (a supervisor that was stopped) the
    interrupt is raised in the middle after all, and from then on every one is. In another thread than the main one,
    or where somebody handles SIGINT in their own way (an outer `Deferred` does), nothing is changed.
    """

    LIMIT_SECONDS = 2.0

    def __init__(self) -> None:
        self._installed = False
        self._noted = False
        self._until = 0.0
        self._timer: threading.Timer | None = None
        self._sending = threading.Lock()  # held while the timer interrupts us, so that none comes when all is over

    def __enter__(self) -> Deferred:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._until = time.monotonic() + self.LIMIT_SECONDS
            self._installed = True
            signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._installed:
            return
        with self._sending:
            self._until = 0.0
        if self._timer is not None:
            self._timer.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._noted and (kind is None or not issubclass(kind, KeyboardInterrupt)):
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt now, if there was an interrupt: for who takes back what was interrupted."""
        if self._noted:
            self._noted = False
            raise KeyboardInterrupt

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = self._noted = False
            self._until = 0.0
            signal.default_int_handler(number, frame)
        self._noted = True
        if self._timer is None:
            self._timer = threading.Timer(left, self._late)
            self._timer.daemon = True
            self._timer.start()

    def _late(self) -> None:
        main = threading.main_thread().ident
        with self._sending:
            if self._until and main is not None:
                self._until = 0.0
                signal.pthread_kill(main, signal.SIGINT)  # ends the system call that it waits in


@contextlib.contextmanager
def whole(lab: Lab) -> Iterator[Deferred]:
    """One change of a lab at a time, not cut in two, and told to whoever listens."""
    try:
        with lab._lock, Deferred() as deferred:
            yield deferred
    finally:
        lab._changed()
