"""A ring of rows in shared memory: one process writes, others read without locks.

The rows lie column by column (each column one array of int64 or float64) in a memfd, so that a reader
copies a column with one `memcpy` and numpy or pandas can take it as it is. Standard library only: the
writer is the sampler, which runs where nothing else can be imported.

Layout: 8192 bytes of header, then the columns in the schema's order, ``capacity`` items of 8 bytes each.
The header's first half is an array of 64-bit words (see the ``_WORD`` numbers and `STATE`), its second
half the schema as text, so that a reader needs the descriptor and nothing else.

How it stays consistent: the writer raises ``begun``, writes the rows, raises ``head``. A reader reads
``head``, copies, reads ``begun``: every row below ``begun - capacity`` may have been overwritten during
the copy and is dropped. Row numbers count all rows ever written, from 0; row n lies at n modulo capacity.

The writer is inside a lab and its readers are outside: they map memory that is sealed and whose header is what it must
be, and whatever the words say later, they read at most `capacity` rows. A hostile writer gives wrong rows, no more.
"""

from __future__ import annotations

import _thread
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

if sys.platform != "win32":  # a recording's rows are read everywhere
    from ..kernel import memfd
    from ..kernel.mapped import mapped

MAGIC = int.from_bytes(b"ctlring1", "little")
HEADER_BYTES = 8192
_WORDS_BYTES = 4096
_MAGIC, _HASH, _CAPACITY, _COLUMNS, _TEXT_BYTES = 0, 1, 2, 3, 4
_BEGUN, _HEAD = 8, 9
_LARGEST_BYTES = 1 << 30  # of a ring; the largest of ours, of which few pages are ever touched, has 60 MB

# What the writer says about itself: name -> (word, format). Units: seconds, counts, nanoseconds where named.
STATE: dict[str, tuple[int, str]] = {
    "interval_seconds": (16, "d"),
    "writer_pid": (17, "Q"),
    "started_ns": (18, "Q"),  # realtime
    "paused": (19, "Q"),  # 0 or 1
    "ticks": (20, "Q"),  # ticks that were taken
    "missed_ticks": (21, "Q"),  # deadlines that passed while an earlier tick was still being taken
    "late_ticks": (22, "Q"),  # ticks that began later than a tenth of the interval
    "lateness_seconds": (23, "d"),  # of the newest tick
    "lateness_seconds_total": (24, "d"),
    "lateness_seconds_max": (25, "d"),
    "tick_seconds": (26, "d"),  # wall time that the newest tick took
    "tick_seconds_total": (27, "d"),
    "tick_seconds_max": (28, "d"),
    "cpu_seconds": (29, "d"),  # of the writer process, user and system
    "read_errors": (30, "Q"),  # counters files or links that could not be read at a tick
}


_MOST_ROWS = 1 << 62  # that are ever written
_STATE_BYTES = slice(8 * 16, 8 * 31)  # where the words of `STATE` lie
_CHANGES = struct.Struct("=QQ")  # the first row and how many
_TRIES = 200  # of a copier whom the writer overtakes


class Schema(NamedTuple):
    """A ring's name and columns: (column name, "q" for int64 or "d" for float64), in order."""

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    def text(self) -> str:
        return "\n".join([self.name, *(f"{kind} {name}" for name, kind in self.columns)])

    @classmethod
    def parse(cls, text: str) -> Schema:
        name, *lines = text.split("\n")
        return cls(name, tuple((line[2:], line[:1]) for line in lines))

    def digest(self) -> int:
        """64 bits that differ when the columns, their order or their types differ."""
        value = 0xCBF29CE484222325  # FNV-1a: hashlib would cost every process of a lab 0.8 MB
        for byte in self.text().encode():
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        return value


def size_bytes(schema: Schema, capacity: int) -> int:
    """Of a ring of so many rows."""
    return HEADER_BYTES + len(schema.columns) * capacity * 8


class Snapshot(NamedTuple):
    """A copy of rows ``first_row <= n < end_row``.

    ``columns``: column name -> array of ``end_row - first_row`` items ("q" or "d").
    ``overwritten``: how many of the rows that were asked for no longer exist.
    """

    schema: Schema
    columns: dict[str, array[int] | array[float]]
    first_row: int
    end_row: int
    overwritten: int

    def __len__(self) -> int:  # rows, not fields
        return self.end_row - self.first_row


class Ring:
    """One mapped ring; `create` it in the writer, `attach` it elsewhere."""

    def __init__(self, descriptor: int, schema: Schema, capacity: int, *, writable: bool) -> None:
        """Used by `create` and `attach` only: maps `descriptor`, which this object then owns."""
        self.schema = schema
        self.capacity = capacity
        self._fd = descriptor
        self._map = mapped(descriptor, size_bytes(schema, capacity), writable=writable)
        whole = memoryview(self._map)
        self._words = whole[:_WORDS_BYTES].cast("Q")
        self._floats = whole[:_WORDS_BYTES].cast("d")
        self._views: list[memoryview[Any]] = []
        for number, (_, kind) in enumerate(schema.columns):
            start = HEADER_BYTES + number * capacity * 8
            part = whole[start : start + capacity * 8]
            self._views.append(part.cast("q") if kind == "q" else part.cast("d"))
        self._whole = whole
        self._fence = _thread.allocate_lock()
        self._fence.acquire()

    @classmethod
    def create(cls, schema: Schema, capacity: int) -> Ring:
        """A new empty ring of `capacity` rows in a memfd that can't be resized any more.

        Pages are taken from memory when rows first reach them. Raises OSError, or ValueError for a bad schema.
        """
        text = schema.text().encode()
        if capacity < 1 or len(text) > HEADER_BYTES - _WORDS_BYTES:
            raise ValueError("a ring needs at least one row, and a schema text of at most 4096 bytes")
        if any(kind not in ("q", "d") for _, kind in schema.columns):
            raise ValueError("columns are q (int64) or d (float64)")
        descriptor = memfd.create(f"ctlab-ring-{schema.name}", size_bytes(schema, capacity))
        try:
            os.pwrite(descriptor, text, _WORDS_BYTES)
            ring = cls(descriptor, schema, capacity, writable=True)
        except BaseException:
            os.close(descriptor)
            raise
        words = ring._words
        words[_HASH], words[_CAPACITY], words[_COLUMNS] = schema.digest(), capacity, len(schema.columns)
        words[_TEXT_BYTES] = len(text)
        words[_MAGIC] = MAGIC
        return ring

    @classmethod
    def attach(cls, descriptor: int, schema: Schema | None = None, *, writable: bool = False) -> Ring:
        """Map an existing ring; takes over `descriptor`, if all is well.

        Raises ValueError, in half a sentence, if it isn't a ring of this version, or not one of `schema`.
        """
        size = memfd.size_of(descriptor, memfd.MAPPED, _LARGEST_BYTES)
        head = os.pread(descriptor, HEADER_BYTES, 0)
        if len(head) < HEADER_BYTES or int.from_bytes(head[:8], "little") != MAGIC:
            raise ValueError("memory that is not a ring of counters")
        words = memoryview(head)[:_WORDS_BYTES].cast("Q")
        found = Schema.parse(head[_WORDS_BYTES : _WORDS_BYTES + words[_TEXT_BYTES]].decode("utf-8", "replace"))
        capacity, kinds = words[_CAPACITY], {kind for _, kind in found.columns}
        if found.digest() != words[_HASH] or len(found.columns) != words[_COLUMNS] or not kinds <= {"q", "d"}:
            raise ValueError("a ring of counters whose header contradicts itself")
        if schema is not None and found != schema:
            raise ValueError(f"a ring of other counters than those of {schema.name}")
        if not capacity or size != size_bytes(found, capacity):
            raise ValueError(f"a ring of {capacity} rows in {size} bytes")
        ring = cls(descriptor, found, capacity, writable=writable)
        if not writable:  # its memory goes with the mapping, and so with a reader that nobody closes
            os.close(descriptor)
            ring._fd = -1
        return ring

    @property
    def fd(self) -> int:
        """The memfd, to be sent to another process; -1 in a reader."""
        return self._fd

    @property
    def head(self) -> int:
        """Rows ever written; the newest row's number is one less."""
        return int(self._words[_HEAD])

    def _barrier(self) -> None:
        """Order the stores before it against those after it, on CPUs that may reorder them (arm64).

        Release then acquire of a lock nobody else knows: the cheapest full fence in the standard library.
        """
        self._fence.release()
        self._fence.acquire()

    # ---- writer

    def append(self, values: Sequence[int | float]) -> None:
        """Write one row: a value for each column, in the schema's order."""
        self.append_rows((values,))

    def append_rows(self, rows: Sequence[Sequence[int | float]]) -> None:
        """Write rows; a reader sees all of them or none. ValueError or TypeError come before anything is written."""
        count = len(rows)
        if count == 0:
            return
        if count > self.capacity:
            raise ValueError(f"{count} rows at once in a ring of {self.capacity}")
        if any(len(row) != len(self._views) for row in rows):
            raise ValueError(f"a row of {self.schema.name} has {len(self._views)} values")
        columns = [
            array(kind, values) for (_, kind), values in zip(self.schema.columns, zip(*rows, strict=True), strict=True)
        ]
        head = self._words[_HEAD]
        start = head % self.capacity
        fits = min(count, self.capacity - start)
        # A writer that was killed may have begun more: those rows stay torn until they are overwritten.
        self._words[_BEGUN] = max(self._words[_BEGUN], head + count)
        self._barrier()
        for view, column in zip(self._views, columns, strict=True):
            if fits == count:
                view[start : start + count] = column
            else:
                view[start:] = column[:fits]
                view[: count - fits] = column[fits:]
        self._barrier()
        self._words[_HEAD] = head + count

    def set_state(self, name: str, value: int | float) -> None:
        """Set one of the `STATE` fields; KeyError for another name."""
        word, kind = STATE[name]
        if kind == "d":
            self._floats[word] = value
        else:
            self._words[word] = int(value)

    # ---- readers

    def state(self) -> dict[str, int | float]:
        """What the writer said about itself: all fields of `STATE`."""
        return {name: self._floats[word] if kind == "d" else self._words[word] for name, (word, kind) in STATE.items()}

    def row_at(self, column: str, value: int) -> int:
        """The first row that is still there whose (rising) `column` is at least `value`; `head` if none is."""
        view = self._views[self.schema.names.index(column)]
        low, high = max(0, int(self._words[_BEGUN]) - self.capacity), self.head
        while low < high:
            middle = (low + high) // 2
            if view[middle % self.capacity] < value:
                low = middle + 1
            else:
                high = middle
        return low

    def snapshot(self, since_row: int | None = None, columns: Iterable[str] | None = None) -> Snapshot:
        """Copy the rows from `since_row` (None: the oldest there is) to the newest; all columns or the named ones."""
        head = self.head
        self._barrier()
        wanted = 0 if since_row is None else min(max(since_row, 0), head)
        first = max(wanted, head - self.capacity)
        names = self.schema.names if columns is None else tuple(columns)
        copied: dict[str, array[int] | array[float]] = {}
        start, count = first % self.capacity, head - first
        fits = min(count, self.capacity - start)
        for name in names:
            number = self.schema.names.index(name)
            target: array[Any] = array(self.schema.columns[number][1])
            view = self._views[number]
            target.frombytes(view[start : start + fits].cast("B"))
            if fits < count:
                target.frombytes(view[: count - fits].cast("B"))
            copied[name] = target
        self._barrier()
        lost = min(max(0, self._words[_BEGUN] - self.capacity - first), count)
        if lost:
            for target in copied.values():
                del target[:lost]
        return Snapshot(self.schema, copied, first + lost, head, first + lost - wanted)

    # ---- copies in another machine's memory

    def changes(self, since_row: int, most_rows: int) -> tuple[bytes, int]:
        """(What a copy of this ring that ends at row `since_row` lacks, for its `apply`; the row to go on from).

        At most `most_rows` rows. The state of the writer is always part of it. Raises ValueError for what no writer of
        ours has written.
        """
        first = since_row
        for _ in range(_TRIES):
            state = bytes(self._whole[_STATE_BYTES])
            head = self.head
            if not first <= head <= _MOST_ROWS:
                raise ValueError(f"a ring of which {head} rows came, and {first} before")
            first = max(first, head - self.capacity)
            count = min(head - first, most_rows)
            self._barrier()
            start = first % self.capacity
            fits = min(count, self.capacity - start)
            parts: list[bytes | memoryview[Any]] = []
            for view in self._views:
                parts.append(view[start : start + fits].cast("B"))
                if fits < count:
                    parts.append(view[: count - fits].cast("B"))
            body = b"".join(parts)
            self._barrier()
            oldest = int(self._words[_BEGUN]) - self.capacity
            if oldest <= first:
                return _CHANGES.pack(first, count) + state + body, first + count
            first = oldest  # the others were overwritten while they were copied
        return _CHANGES.pack(since_row, 0) + state, since_row  # overtaken each time: the next copy is as good

    def apply(self, changes: bytes) -> None:
        """Take over what `changes` of the original said (only writer, same schema and capacity).

        Raises ValueError, with nothing written, for what `changes` of such a ring can't say.
        """
        at = _CHANGES.size + _STATE_BYTES.stop - _STATE_BYTES.start
        if len(changes) < at:
            raise ValueError(f"changes of a ring in {len(changes)} bytes")
        first, count = _CHANGES.unpack_from(changes)
        if count > self.capacity or len(changes) != at + 8 * count * len(self._views):
            raise ValueError(f"changes of a ring with {count} rows in {len(changes)} bytes")
        if first < self.head or first + count > _MOST_ROWS:
            raise ValueError(f"changes of a ring from row {first}, of which {self.head} have come")
        start, fits = first % self.capacity, min(count, self.capacity - first % self.capacity)
        begun = max(int(self._words[_BEGUN]), first + count)
        if first > self.head:  # rows that never came: where they would lie is something older, which nobody may read
            begun = max(begun, first + self.capacity)
        self._words[_BEGUN] = begun
        self._barrier()
        data = memoryview(changes)
        for view, (_, kind) in zip(self._views, self.schema.columns, strict=True):
            column = data[at : at + 8 * count].cast("q" if kind == "q" else "d")
            view[start : start + fits] = column[:fits]
            if fits < count:
                view[: count - fits] = column[fits:]
            at += 8 * count
        self._barrier()
        self._words[_HEAD] = first + count
        self._whole[_STATE_BYTES] = data[_CHANGES.size : _CHANGES.size + _STATE_BYTES.stop - _STATE_BYTES.start]

    def close(self) -> None:
        """Unmap and close the descriptor; the ring can't be used afterwards. A second call does nothing."""
        if self._map.closed:
            return
        views: list[memoryview[Any]] = [self._words, self._floats, *self._views, self._whole]
        for view in views:
            view.release()
        self._map.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
