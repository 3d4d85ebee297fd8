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
READABLE, WRITABLE = 1, 4  # EPOLLIN, EPOLLOUT


class Loop(Protocol):
    """What waits for descriptors."""

    def on(self, descriptor: int, handler: Callable[[], None], events: int = READABLE) -> None:
        """Call `handler` when something of `events` is true of `descriptor`."""

    def rearm(self, descriptor: int, events: int) -> None:
        """Wait for something else from now on."""

    def off(self, descriptor: int) -> None:
        """Forget a descriptor (before it is closed)."""


class Lost(Exception):
    """The other end is gone, or what it sends makes no sense."""


class Wire:
    """One end. `hear(kind, number, body)` is called with each frame; `lost()` once, when no more can come."""

    def __init__(
        self, loop: Loop, descriptor: int, hear: Callable[[int, int, bytes], None], lost: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._hear = hear
        self._lost = lost
        self._in = b""
        self._out: deque[bytes | memoryview] = deque()
        self.waiting_bytes = 0  # to be written
        self.full = False  # the descriptor takes no more at present
        self._over = False
        os.set_blocking(descriptor, False)
        loop.on(descriptor, self._ready)

    def send(self, kind: int, number: int, body: bytes = b"") -> None:
        """Put a frame behind those that wait; `flush` writes them."""
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
        if len(out) > 1:  # one write, one wake-up of the other side
            whole = b"".join(out)
            out.clear()
            out.append(whole)
        while out:
            piece = out[0]
            try:
                written = os.write(self._descriptor, piece)
            except BlockingIOError:
                if not self.full:
                    self.full = True
                    self._loop.rearm(self._descriptor, READABLE | WRITABLE)
                return
            except OSError:
                self._end()
                return
            self.waiting_bytes -= written
            if written == len(piece):
                out.popleft()
            else:
                out[0] = memoryview(piece)[written:]
        if self.full:
            self.full = False
            self._loop.rearm(self._descriptor, READABLE)

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
        if self._in:
            data = self._in + data
        size, head = len(data), frames.HEADER.size
        at = 0
        found: list[tuple[int, int, bytes]] = []
        while size - at >= head:
            length, kind, number = frames.HEADER.unpack_from(data, at)
            if length > frames.LARGEST_BODY_BYTES:
                self._end()
                return
            end = at + head + length
            if end > size:
                break
            found.append((kind, number, data[at + head : end]))
            at = end
        self._in = data[at:] if at else data
        for frame in found:
            self._hear(*frame)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._out.clear()
            self._loop.off(self._descriptor)
            self._lost()
