"""Many requests, few runs: what may be asked for a thousand times a second is done ten times at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Coalesced:
    """Runs ``action`` in a thread of its own some time after `request`, at most once per ``interval`` seconds.

    An action that takes long comes more rarely: four times as long as the last one took is left to everybody else.

    The first request after a pause is served at once; those that come while one is pending are served with it. A
    request during a run causes another run, so the last state is always seen. `request` never waits for the action.
    """

    def __init__(self, action: Callable[[], object], interval: float, *, name: str) -> None:
        self._action = action
        self._interval = interval
        self._name = name
        self._lock = threading.Lock()
        self._pending = False
        self._closed = False
        self._next = float("-inf")  # time.monotonic() before which no run starts

    def request(self) -> None:
        """Ask for a run; from any thread."""
        with self._lock:
            if self._pending or self._closed:
                return
            self._pending = True
            timer = threading.Timer(max(0.0, self._next - time.monotonic()), self._run)
            timer.daemon = True
            timer.name = self._name
            # Started below the lock: at the end of the process, start() may raise, and pending must not stay set.
            try:
                timer.start()
            except RuntimeError:
                self._pending = False

    def close(self) -> None:
        """No run starts after this; one that is under way goes on."""
        with self._lock:
            self._closed = True

    def _run(self) -> None:
        with self._lock:
            self._pending = False
            if self._closed:
                return
            begun = time.monotonic()
            self._next = begun + self._interval
        self._action()
        took = time.monotonic() - begun
        with self._lock:
            self._next = max(self._next, begun + 5 * took)
