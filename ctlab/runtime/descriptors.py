"""Waiting for descriptors: what the supervisor's loop and the loop of a VM's keeper have in common."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable


class Descriptors:
    """Handlers of descriptors, called when something is true of them. One thread only."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._fresh: set[int] = set()  # registered since the last poll

    def on(self, descriptor: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Call `handler` when something of `events` is true of `descriptor` (it is readable)."""
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

    def serve(self, descriptor: int) -> None:
        """Call the handler of a descriptor that is known to be readable."""
        handler = self._handlers.get(descriptor)
        if handler is not None:
            handler()

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._handlers

    def wait(self, seconds: float | None, call: Callable[[Callable[[], None]], None]) -> bool:
        """Wait once (None, -1: without a limit) and `call` each handler whose time has come; whether there was one."""
        self._fresh.clear()
        ready = self._poll.poll(seconds)
        for descriptor, _ in ready:
            handler = self._handlers.get(descriptor)
            # A number that was closed and given to something new meanwhile: the event is not the new one's.
            if handler is not None and descriptor not in self._fresh:
                call(handler)
        return bool(ready)
