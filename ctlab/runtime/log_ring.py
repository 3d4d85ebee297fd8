"""The kept output of one container: a bounded ring of records in shared memory (memfd).

One process writes (the collector), others read without locks. A record is a header and the bytes:
time_ns (int64, real time), stream (1 = stdout, 2 = stderr), length. When a new record doesn't fit, the
oldest go, and their bytes are counted as dropped for their stream.

Layout: a page of header, then `capacity` bytes of data addressed modulo the capacity by ever-growing offsets.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

CAPACITY_BYTES = 1 << 20
_HEADER_BYTES = 4096
_MAGIC = 0x63746C6C6F673031  # "ctllog01"
_HEAD, _TAIL, _DROPPED_OUT, _DROPPED_ERR, _ENDED = range(2, 7)  # words of the header
_RECORD = struct.Struct("=qII")
_CHANGES = struct.Struct("=qqqqqq")  # start, head, tail, dropped of stdout and of stderr, ended
RECORD_BYTES = _RECORD.size  # the head of a record, before its data
_LONG = struct.Struct("=q")


class Record(NamedTuple):
    """A piece of output. `time_ns` is nanoseconds since the epoch; `stream` 1 or 2."""

    time_ns: int
    stream: int
    data: bytes


class LogRing:
    """A ring, from either side."""

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        size = os.fstat(descriptor).st_size
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=access)
        self._capacity = size - _HEADER_BYTES
        if _LONG.unpack_from(self._map, 0)[0] != _MAGIC:
            raise ValueError("not a log ring")
        # A word is read and written in one piece: struct's pack_into first fills with zeros, which a reader may see.
        self._whole = memoryview(self._map)
        self._words = self._whole[:_HEADER_BYTES].cast("q")

    @staticmethod
    def create(capacity: int = CAPACITY_BYTES) -> int:
        """A new ring's descriptor."""
        descriptor = os.memfd_create("ctlab-log", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _HEADER_BYTES + capacity)
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

    def records(self, since: int = 0) -> tuple[list[Record], int]:
        """(records from byte offset `since` on, the offset to go on from).

        What the writer overwrites while this copies is left out, so every record returned is whole.
        """
        while True:
            tail, head = self._get(_TAIL), self.head
            start = max(since, tail)
            data = self._read(start, head - start)
            now = self._get(_TAIL)
            if now <= start:
                break
            if now >= head:
                continue
            # Records before the new tail may be torn: walk from there.
            data, start = data[now - start :], now
            break
        found, offset = [], 0
        while offset + _RECORD.size <= len(data):
            time_ns, stream, length = _RECORD.unpack_from(data, offset)
            offset += _RECORD.size
            found.append(Record(time_ns, stream, data[offset : offset + length]))
            offset += length
        return found, head

    def changes(self, since: int) -> tuple[bytes, int]:
        """(What a copy of this ring that ends at `since` lacks, for its `apply`; the offset to go on from)."""
        while True:
            ended = self.ended  # first: if it is true, all there will be lies below the head
            tail, head = self._get(_TAIL), self.head
            start = max(since, tail)
            data = self._read(start, head - start)
            dropped = self.dropped
            tail = self._get(_TAIL)
            if tail <= head:
                break
        if tail > start:  # overwritten meanwhile
            data, start = data[tail - start :], tail
        return _CHANGES.pack(start, head, tail, *dropped, ended) + data, head

    def apply(self, changes: bytes) -> None:
        """Make this copy of a ring equal to it again (only writer, same capacity)."""
        start, head, tail, dropped_out, dropped_err, ended = _CHANGES.unpack_from(changes)
        self._put(_TAIL, tail)  # first: who is reading leaves out what is overwritten now
        self._put(_DROPPED_OUT, dropped_out)
        self._put(_DROPPED_ERR, dropped_err)
        self._write(start, changes[_CHANGES.size :])
        self._put(_HEAD, head)
        self._put(_ENDED, ended)
