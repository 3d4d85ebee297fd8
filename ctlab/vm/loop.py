"""The loop of a VM's keeper: one thread, which waits for descriptors."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable

from .wire import READABLE


class Loop:
    """Calls what was asked for when a descriptor is ready."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._fresh: set[int] = set()  # registered since the last poll

    def on(self, descriptor: int, handler: Callable[[], None], events: int = READABLE) -> None:
        """Call `handler` when something of `events` is true of `descriptor`."""
        self._handlers[descriptor] = handler
        self._fresh.add(descriptor)
        self._poll.register(descriptor, events)

    def rearm(self, descriptor: int, events: int) -> None:
        """Wait for something else from now on."""
        self._poll.modify(descriptor, events)

    def off(self, descriptor: int) -> None:
        """Forget a descriptor (before it is closed)."""
        if self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(descriptor)

    def run(self, until: Callable[[], bool], seconds: float | None, after: Callable[[], None]) -> bool:
        """Serve until `until()` is true, or the time is over (False). `after` is called after each round."""
        deadline = None if seconds is None else time.monotonic() + seconds
        after()
        while not until():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._fresh.clear()
            for descriptor, _ in self._poll.poll(left):
                handler = self._handlers.get(descriptor)
                # A number that was closed and given to something new meanwhile: the event is not the new one's.
                if handler is not None and descriptor not in self._fresh:
                    handler()
            after()
        return True
