"""Streams over a wire: what a descriptor of ours gives, and what is written into one of ours.

A pipe can't cross into a virtual machine, so each end has a pipe of its own and its bytes travel between them, never
more than the other side has room for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import termios
from collections import deque
from collections.abc import Callable

from ..runtime.packets import Surprise
from . import frames
from .wire import WRITABLE, Loop, Wire

WINDOW_BYTES = 256 << 10  # on its way at most, per stream
_CHUNK_BYTES = 32 << 10
_CREDIT_STEP_BYTES = WINDOW_BYTES // 4


def _nothing(_: int) -> None:
    pass


class Reader:
    """Reads a descriptor of ours and sends what it gives. It owns the descriptor.

    `closed(number)` is called when it has ended, for whatever reason.
    """

    def __init__(
        self, wire: Wire, loop: Loop, number: int, descriptor: int, closed: Callable[[int], object] = _nothing
    ) -> None:
        self._wire, self._loop = wire, loop
        self.number = number
        self._descriptor = descriptor
        self._closed = closed
        self._credit = WINDOW_BYTES
        self.sent_bytes = 0
        self.open = True
        self._waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)  # a file can't be waited for, and needn't be
        self._armed = False

    def begin(self) -> None:
        """Send from now on."""
        if self._waits:
            try:
                self._loop.on(self._descriptor, self.pump)
                self._armed = True
            except PermissionError:  # a device that is always ready, as files are
                self._loop.off(self._descriptor)
                self._waits = False
        if not self._waits:
            self.pump()

    def pump(self) -> None:
        """Send what is there: of a file all that there is room for, else one piece, as much as needs no waiting."""
        while self.open and self._credit > 0:
            try:
                data = os.read(self._descriptor, min(_CHUNK_BYTES, self._credit))
            except BlockingIOError:
                break
            except OSError as error:
                # EIO is a terminal's way of saying that its last user is gone; a file's reader has to know.
                self._finish(0 if self._waits and error.errno == errno.EIO else error.errno or errno.EIO)
                return
            if not data:
                self._finish(0)
                return
            self._credit -= len(data)
            self.sent_bytes += len(data)
            self._wire.send(frames.DATA, self.number, data)
            if self._waits:
                break
        if self._armed and self._credit <= 0:
            self._armed = False
            self._loop.off(self._descriptor)

    def _finish(self, number: int) -> None:
        self._wire.send(frames.END, self.number, number.to_bytes(4, "little") if number else b"")
        self.close()

    def more(self, credit_bytes: int) -> None:
        """The other side has taken so much. Raises Surprise if that is more than was sent."""
        if not self.open:
            return
        if credit_bytes > WINDOW_BYTES - self._credit:
            raise Surprise(f"room for more of a stream than {WINDOW_BYTES} bytes")
        self._credit += credit_bytes
        if not self._waits:
            self.pump()
        elif not self._armed:
            self._armed = True
            self._loop.on(self._descriptor, self.pump)

    def waiting_bytes(self) -> int:
        """What could be read now."""
        if not self.open or not self._waits:
            return 0
        try:
            number = fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0\0\0\0")
        except OSError:
            return 0
        return int.from_bytes(number, sys.byteorder)

    def close(self) -> None:
        """Read no more."""
        if self.open:
            self.open = False
            if self._armed:
                self._loop.off(self._descriptor)
            os.close(self._descriptor)
            self._closed(self.number)


class Writer:
    """Writes what comes into a descriptor of ours, which it owns. `closed` as of a `Reader`."""

    def __init__(
        self, wire: Wire, loop: Loop, number: int, descriptor: int, closed: Callable[[int], object] = _nothing
    ) -> None:
        self._wire, self._loop = wire, loop
        self.number = number
        self._descriptor = descriptor
        self._closed = closed
        self._kept: deque[memoryview] = deque()
        self._kept_bytes = 0
        self._taken = 0  # bytes since the last credit
        self._last = False
        self._armed = False
        self.open = True
        os.set_blocking(descriptor, False)

    def give(self, data: bytes) -> None:
        """Write, now or when there is room. Raises Surprise if the other side has sent more than it may, or nothing."""
        if not self.open:
            return
        self._kept_bytes += len(data)
        if self._kept_bytes + self._taken > WINDOW_BYTES or not data:  # many times nothing would fill the memory, too
            raise Surprise(f"more than {WINDOW_BYTES} bytes of a stream that weren't asked for, or none")
        self._kept.append(memoryview(data))
        if len(self._kept) == 1:
            self._write()

    def end(self, number: int = 0) -> None:
        """Close once all is written. (`number`: the errno that ended it; whoever reads a pipe can't be told.)"""
        self._last = True
        if not self._kept:
            self.close()

    def _write(self) -> None:
        waited = False
        while self._kept:
            piece = self._kept[0]
            try:
                written = os.write(self._descriptor, piece)
            except BlockingIOError:
                waited = True
                break
            except OSError:  # nobody reads any more
                self._wire.send(frames.END, self.number)
                self._kept.clear()
                self.close()
                return
            self._taken += written
            self._kept_bytes -= written
            if written < len(piece):
                self._kept[0] = piece[written:]
            else:
                self._kept.popleft()
        if self._taken >= _CREDIT_STEP_BYTES:
            self._wire.send(frames.CREDIT, self.number, self._taken.to_bytes(8, "little"))
            self._taken = 0
        if waited and not self._armed:
            self._armed = True
            self._loop.on(self._descriptor, self._write, WRITABLE)
        elif not waited:
            self._disarm()
            if self._last:
                self.close()

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            self._loop.off(self._descriptor)

    def close(self) -> None:
        """Write no more."""
        if self.open:
            self.open = False
            self._disarm()
            os.close(self._descriptor)
            self._closed(self.number)
