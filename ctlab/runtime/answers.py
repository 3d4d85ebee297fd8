"""What comes from inside as the answer to a request: taken if it is what may come, by whoever waits for it."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Sequence
from typing import Any

from . import messages, packets, protocol
from .packets import Surprise

_LARGEST_ERRNO = 4095  # the kernel's own bound


def read(body: bytes, descriptors: Sequence[int], kinds: tuple[Any, ...]) -> Any:
    """The message, one of these kinds or a `Failure`, if it is what may come with these descriptors.

    Raises Surprise, with the descriptors closed.
    """
    try:
        message = protocol.unpack(body, _taken(kinds), protocol.MOST_VALUES)
        if len(descriptors) not in messages.BRINGS.get(type(message), messages.NOTHING):
            raise Surprise(f"a {type(message).__name__} with {len(descriptors)} descriptors")
        if type(message) is messages.Failure and not 0 <= message.errno <= _LARGEST_ERRNO:
            raise Surprise(f"a failure of errno {message.errno}")
    except Surprise:
        packets.discard(descriptors)
        raise
    return message


@functools.cache
def _taken(kinds: tuple[Any, ...]) -> dict[str, Any]:
    """The answers of these kinds, or a failure, by name."""
    return {kind.__name__: kind for kind in (*kinds, messages.Failure)}


def is_stream(descriptor: int) -> bool:
    """Whether it is a terminal or a pipe, of which no read waits from now on."""
    try:
        os.set_blocking(descriptor, False)
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)
    except OSError:
        return False
