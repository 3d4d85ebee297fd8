"""The kept output of one container: a bounded ring of records in shared memory (memfd).

One process writes (the collector), others read without locks. A record is a header and the bytes:
time_ns (int64, real time), stream (1 = stdout, 2 = stderr), length. When a new record doesn't fit, the
oldest go, and their bytes are counted as dropped for their stream.

Layout: a page of header, then `capacity` bytes of data addressed modulo the capacity by ever-growing offsets.

Readers outside the lab trust nothing of it: the memory is sealed, so that nobody can cut it off below their mapping,
and what its words say is checked each time. A ring that contradicts itself is a ValueError, in half a sentence.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from ..kernel import memfd
from ..kernel.mapped import mapped

CAPACITY_BYTES = 1 << 20
_LARGEST_CAPACITY_BYTES = 64 << 20  # that a reader maps and copies
_TRIES = 200  # of a reader that the writer overtakes: each takes a fraction of the time of a lap
_HELD_UP = 20  # such tries of which most was overwritten, until the best of them is taken
_HEADER_BYTES = 4096
_MAGIC = 0x63746C6C6F673031  # "ctllog01"
_HEAD, _TAIL, _DROPPED_OUT, _DROPPED_ERR, _ENDED = range(2, 7)  # words of the header
_RECORD = struct.Struct("=qII")
_CHANGES = struct.Struct("=qqqqqq")  # start, head, tail, dropped of stdout and of stderr, ended
RECORD_BYTES = _RECORD.size  # the head of a record, before its data
_SMALLEST_CAPACITY_BYTES = 4 * RECORD_BYTES  # a record holds a quarter of it at most, and has to fit
_LONG = struct.Struct("=q")


class Record(NamedTuple):
    """A piece of output. `time_ns` is nanoseconds since the epoch; `stream` 1 or 2."""

    time_ns: int
    stream: int
    data: bytes


class LogRing:
    """A ring, from either side."""

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        """Map it; the descriptor stays the caller's. Raises ValueError for what is no ring, OSError."""
        size = memfd.size_of(descriptor, memfd.MAPPED, _HEADER_BYTES + _LARGEST_CAPACITY_BYTES)
        self._capacity = size - _HEADER_BYTES
        if self._capacity < _SMALLEST_CAPACITY_BYTES:
            raise ValueError(f"memory of {size} bytes, too few for a log ring")
        self._map = mapped(descriptor, size, writable=writable)
        # A word is read and written in one piece: struct's pack_into first fills with zeros, which a reader may see.
        self._whole = memoryview(self._map)
        self._words = self._whole[:_HEADER_BYTES].cast("q")
        if self._get(0) != _MAGIC or self._get(1) != self._capacity:
            self.close()
            raise ValueError("memory that is no log ring")

    @staticmethod
    def create(capacity: int = CAPACITY_BYTES) -> int:
        """A new ring's descriptor."""
        descriptor = memfd.create("ctlab-log", _HEADER_BYTES + capacity)
        os.pwrite(descriptor, _LONG.pack(_MAGIC) + _LONG.pack(capacity), 0)
        return descriptor

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._whole.release()
        self._map.close()

    def _get(self, word: int) -> int:
        return int(self._words[word])

    def _put(self, word: int, value: int) -> None:
        self._words[word] = value

    @property
    def head(self) -> int:
        """Bytes of records ever written."""
        return self._get(_HEAD)

    @property
    def ended(self) -> bool:
        """Whether both streams of the present run have ended."""
        return bool(self._get(_ENDED))

    @ended.setter
    def ended(self, value: bool) -> None:
        self._put(_ENDED, int(value))

    @property
    def dropped(self) -> tuple[int, int]:
        """Bytes of (stdout, stderr) that were overwritten."""
        return self._get(_DROPPED_OUT), self._get(_DROPPED_ERR)

    def append(self, time_ns: int, stream: int, data: bytes) -> None:
        """Write one record, dropping the oldest as needed (writer only)."""
        limit = self._capacity // 4
        for start in range(0, len(data), limit):
            self._append(time_ns, stream, data[start : start + limit])

    def _append(self, time_ns: int, stream: int, data: bytes) -> None:
        need = _RECORD.size + len(data)
        head, tail = self.head, self._get(_TAIL)
        while head + need - tail > self._capacity:
            _, old_stream, length = _RECORD.unpack(self._read(tail, _RECORD.size))
            counter = _DROPPED_OUT if old_stream == 1 else _DROPPED_ERR
            self._put(counter, self._get(counter) + length)
            tail += _RECORD.size + length
            self._put(_TAIL, tail)
        self._write(head, _RECORD.pack(time_ns, stream, len(data)) + data)
        self._put(_HEAD, head + need)

    def _write(self, offset: int, data: bytes) -> None:
        at = offset % self._capacity
        first = min(len(data), self._capacity - at)
        self._map[_HEADER_BYTES + at : _HEADER_BYTES + at + first] = data[:first]
        if first < len(data):
            self._map[_HEADER_BYTES : _HEADER_BYTES + len(data) - first] = data[first:]

    def _read(self, offset: int, length: int) -> bytes:
        at = offset % self._capacity
        first = min(length, self._capacity - at)
        data = self._map[_HEADER_BYTES + at : _HEADER_BYTES + at + first]
        if first < length:
            data += self._map[_HEADER_BYTES : _HEADER_BYTES + length - first]
        return data

    def _span(self) -> tuple[int, int] | None:
        """(tail, head) as they were at one moment; None while the writer is too quick.

        Raises ValueError where they can't be what a writer has written.
        """
        for _ in range(_TRIES):
            tail, head = self._get(_TAIL), self.head
            if self._get(_TAIL) == tail:  # it is raised before the head, and never lowered
                if not 0 <= tail <= head <= tail + self._capacity:
                    raise ValueError(f"a log ring from {tail} to {head} of {self._capacity} bytes")
                return tail, head
        return None

    def _copied(self, since: int) -> tuple[bytes, int, int, int]:
        """(the records from offset `since` on, all whole, the offset of the first, the head, the tail after it)."""
        best: tuple[bytes, int, int, int] | None = None
        held_up = 0
        for _ in range(_TRIES):
            span = self._span()
            if span is None:
                break
            tail, head = span
            if since > head:
                raise ValueError(f"a log ring that went back from {since} to {head}")
            start = max(since, tail)
            data = self._read(start, head - start)
            now = self._get(_TAIL)
            if now <= start:
                return data, start, head, max(now, tail)
            if now <= head:  # what lies before the new tail may be torn
                if best is None or head - now > len(best[0]):
                    best = data[now - start :], now, head, now
                held_up += 1
                # Who was held up for most of a lap has little left of it, or nothing: there is more by now.
                if head - now >= (head - start) // 2 or held_up == _HELD_UP:
                    return best
        return best or (b"", since, since, since)  # overtaken each time: the next reading finds more

    def records(self, since: int = 0) -> tuple[list[Record], int]:
        """(records from byte offset `since` on, the offset to go on from).

        What the writer overwrites while this copies is left out, so every record returned is whole. Raises ValueError
        for a ring that no writer of ours has written.
        """
        data, _, head, _ = self._copied(since)
        found, offset = [], 0
        while offset < len(data):
            if offset + _RECORD.size > len(data):
                raise ValueError("a log ring whose last record is cut off")
            time_ns, stream, length = _RECORD.unpack_from(data, offset)
            offset += _RECORD.size
            if stream not in (1, 2) or length > len(data) - offset:
                raise ValueError(f"a log ring with a record of {length} bytes of stream {stream}")
            found.append(Record(time_ns, stream, data[offset : offset + length]))
            offset += length
        return found, head

    def changes(self, since: int) -> tuple[bytes, int]:
        """(What a copy of this ring that ends at `since` lacks, for its `apply`; the offset to go on from)."""
        ended = self.ended  # first: if it is true, all there will be lies below the head
        data, start, head, tail = self._copied(since)
        return _CHANGES.pack(start, head, tail, *self.dropped, ended) + data, head

    def apply(self, changes: bytes) -> None:
        """Make this copy of a ring equal to it again (only writer, same capacity).

        Raises ValueError, with nothing written, for what `changes` of such a ring can't say.
        """
        if len(changes) < _CHANGES.size:
            raise ValueError(f"changes of a log ring in {len(changes)} bytes")
        start, head, tail, dropped_out, dropped_err, ended = _CHANGES.unpack_from(changes)
        if (
            not 0 <= tail <= start <= head <= tail + self._capacity
            or start < self.head
            or head - start != len(changes) - _CHANGES.size
            or min(dropped_out, dropped_err) < 0
            or ended not in (0, 1)
        ):
            raise ValueError(f"changes of a log ring from {start} to {head}, kept from {tail} on")
        self._put(_TAIL, tail)  # first: who is reading leaves out what is overwritten now
        self._put(_DROPPED_OUT, dropped_out)
        self._put(_DROPPED_ERR, dropped_err)
        self._write(start, changes[_CHANGES.size :])
        self._put(_HEAD, head)
        self._put(_ENDED, ended)
