"""Where the collector puts what it has just taken out of a pipe, until it is in its ring.

Memory (memfd) that outlives it, filled by splice(2): the kernel moves the file's position with the bytes, in one call.
So if the collector is killed at that moment, the next one knows how many bytes there are, whose, and whether they
are in the ring already, and nothing is lost.
"""

from __future__ import annotations

import mmap
import os

from ..kernel import memfd
from .log_ring import LogRing

CHUNK_BYTES = 65536
_DATA = 4096  # where the bytes lie; before them the words:
_RUN, _STREAM, _HEAD = range(3)  # whose they are, and how far its ring was


class Staging:
    """The memory, in the collector."""

    def __init__(self, descriptor: int) -> None:
        self._file = descriptor
        self._map = mmap.mmap(descriptor, _DATA + CHUNK_BYTES)
        self._words = memoryview(self._map)[:_DATA].cast("q")

    @staticmethod
    def create() -> int:
        """New memory's descriptor."""
        return memfd.create("ctlab-staging", _DATA + CHUNK_BYTES)

    def take(self, pipe: int, run: int, stream: int, ring: LogRing) -> bytes:
        """What a pipe holds, at most a chunk; empty at its end. Say `done` once it is in the ring.

        Raises BlockingIOError where there is nothing at present.
        """
        os.lseek(self._file, _DATA, os.SEEK_SET)
        words = self._words
        words[_STREAM], words[_HEAD] = stream, ring.head
        words[_RUN] = run  # last: from here on it counts
        count = os.splice(pipe, self._file, CHUNK_BYTES, flags=os.SPLICE_F_NONBLOCK)
        return self._map[_DATA : _DATA + count]

    def done(self) -> None:
        """What was taken is in its ring."""
        self._words[_RUN] = 0

    def left(self, run: int, ring: LogRing) -> tuple[int, bytes]:
        """(stream, what a collector that has died took of this run and hadn't put into its ring)."""
        if self._words[_RUN] != run:
            return 0, b""
        self.done()
        if self._words[_HEAD] != ring.head:
            return 0, b""
        return self._words[_STREAM], self._map[_DATA : os.lseek(self._file, 0, os.SEEK_CUR)]
