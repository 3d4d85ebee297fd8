"""Waiting for descriptors of any number (select stops at 1024), as long as anybody may want to."""

from __future__ import annotations

import select
from collections.abc import Sequence

_LONGEST_POLL_MS = (1 << 31) - 1  # poll(2) takes an int


def readable(seconds: float, descriptor: int) -> bool:
    """Wait for a descriptor; False when the time is over."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(min(seconds * 1000, _LONGEST_POLL_MS)))


def readable_of(seconds: float | None, descriptors: Sequence[int]) -> list[int]:
    """Those that are readable, once one is or the time is over; None: no time limit."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [
        descriptor for descriptor, _ in poll.poll(None if seconds is None else min(seconds * 1000, _LONGEST_POLL_MS))
    ]
