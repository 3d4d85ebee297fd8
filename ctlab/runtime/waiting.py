"""Waiting for descriptors of any number (select stops at 1024), as long as anybody may want to.

In turns: Python handles a signal between two instructions of the main thread. One that comes just before a system call
of that thread doesn't end the call, nor does one that the kernel gives to another thread (any may take it, if the main
one is waiting for a processor). So a long wait would hold an interrupt up until it is over, and a turn holds it up for
a moment.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence

TURN_SECONDS = 0.2  # how long an interrupt may wait for a wait


def ready(poll: select.poll, seconds: float | None) -> list[tuple[int, int]]:
    """What is ready of a poll, once something is or the time is over; None: no time limit."""
    if seconds is None and threading.current_thread() is not threading.main_thread():
        return poll.poll()  # no handler runs on it
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        left = TURN_SECONDS if until is None else until - time.monotonic()
        if found := poll.poll(max(0.0, min(left, TURN_SECONDS)) * 1000):
            return found
        if until is not None and time.monotonic() >= until:
            return []


def readable(seconds: float | None, descriptor: int) -> bool:
    """Wait for a descriptor; False when the time is over. None: no time limit."""
    return bool(readable_of(seconds, [descriptor]))


def readable_of(seconds: float | None, descriptors: Sequence[int]) -> list[int]:
    """Those that are readable, once one is or the time is over; None: no time limit."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in ready(poll, seconds)]
