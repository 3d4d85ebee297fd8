"""Frames over one stream descriptor: gathered while something is done, written together, read as they come.

The same on both ends; `Loop` is the supervisor in the guest and `loop.Loop` in the VM's keeper.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from . import frames

_READ_BYTES = 1 << 16
_JOINED_BYTES = 1 << 15  # what a virtio port takes at once
READABLE, WRITABLE = 1, 4  # EPOLLIN, EPOLLOUT


class Loop(Protocol):
    """What waits for descriptors."""

    def on(self, descriptor: int, handler: Callable[[], None], events: int = READABLE) -> None:
        """Call `handler` when something of `events` is true of `descriptor`."""

    def rearm(self, descriptor: int, events: int) -> None:
        """Wait for something else from now on."""

    def off(self, descriptor: int) -> None:
        """Forget a descriptor (before it is closed)."""


class Wire:
    """One end. `hear(kind, number, body)` is called with each frame; `lost()` once, when no more can come."""

    def __init__(
        self, loop: Loop, descriptor: int, hear: Callable[[int, int, bytes], None], lost: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._hear = hear
        self._lost = lost
        self._part = bytearray()  # of a frame of which more is to come: `_needed` bytes before it is worth a look
        self._needed = 0
        self._out: deque[bytes | memoryview] = deque()
        self.waiting_bytes = 0  # to be written
        self.full = False  # the descriptor takes no more at present
        self._mute = False  # what is sent goes nowhere
        self._over = False
        os.set_blocking(descriptor, False)
        loop.on(descriptor, self._ready)

    def send(self, kind: int, number: int, body: bytes = b"") -> None:
        """Put a frame behind those that wait; `flush` writes them."""
        if self._mute:
            return
        frame = frames.HEADER.pack(len(body), kind, number) + body
        self._out.append(frame)
        self.waiting_bytes += len(frame)

    def flush(self) -> None:
        """Write what there is, as far as it goes now."""
        if self.full or not self._out:
            return
        self._write()

    def _write(self) -> None:
        out = self._out
        while out:
            piece = self._next()
            try:
                written = os.write(self._descriptor, piece)
            except BlockingIOError:
                out.appendleft(piece)
                if not self.full:
                    self.full = True
                    self._loop.rearm(self._descriptor, READABLE | WRITABLE)
                return
            except OSError:  # nobody reads any more; what was said before that is still to be read
                self._mute = True
                out.clear()
                self.waiting_bytes = 0
                break
            self.waiting_bytes -= written
            if written < len(piece):
                out.appendleft(memoryview(piece)[written:])
        if self.full:
            self.full = False
            self._loop.rearm(self._descriptor, READABLE)

    def _next(self) -> bytes | memoryview:
        """What to write next: several small frames as one piece, which is one write and one wake-up of the reader.

        Never all that waits: while the descriptor takes little at a time, the whole would be copied again and again.
        """
        out = self._out
        first = out.popleft()
        size = len(first)
        if not out or size + len(out[0]) > _JOINED_BYTES:
            return first
        pieces = [first]
        while out and size + len(out[0]) <= _JOINED_BYTES:
            size += len(out[0])
            pieces.append(out.popleft())
        return b"".join(pieces)

    def _ready(self) -> None:
        if self.full:
            self._write()
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        if self._part:
            self._part += data
            if len(self._part) < self._needed:
                return
            data = bytes(self._part)
        size, head = len(data), frames.HEADER.size
        at, needed = 0, head
        found: list[tuple[int, int, bytes]] = []
        nonsense = False
        while size - at >= head:
            length, kind, number = frames.HEADER.unpack_from(data, at)
            if length > frames.LARGEST_BODY_BYTES:
                nonsense = True
                break
            end = at + head + length
            if end > size:
                needed = head + length
                break
            found.append((kind, number, data[at + head : end]))
            at = end
        self._part, self._needed = bytearray(data[at:]), needed
        for frame in found:
            self._hear(*frame)
        if nonsense:
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = self._mute = True
            self._out.clear()
            self.waiting_bytes = 0
            self._loop.off(self._descriptor)
            self._lost()
