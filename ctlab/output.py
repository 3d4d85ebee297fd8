"""A container's kept output: read as `Logs`, or followed as it comes."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import select
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .completed import Logs
from .errors import CtlabError
from .runtime import messages, packets
from .runtime.log_ring import RECORD_BYTES, LogRing, Record
from .runtime.waiting import readable

if TYPE_CHECKING:
    from .container import Container

_numbers = itertools.count(1)
_GONE_SECONDS = 0.5  # between two looks whether the lab is still there


class Follower:
    """Follows one container's ring: told by an eventfd, so that nothing is polled."""

    def __init__(self, container: Container, *, timestamps: bool = False) -> None:
        self._container = container
        self._timestamps = timestamps
        self._number = next(_numbers)
        # The inside has it too, and could make a read of it wait: each of its news is an edge that `_news` gives once.
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._news = select.epoll()
        except OSError:
            os.close(self._event)
            raise
        try:
            self._news.register(self._event, select.EPOLLIN | select.EPOLLET)
            order = messages.Follow(container.id, self._number)
            reply = container.lab._call(order, messages.Followed, [self._event])
            self._ring = _ring(container, reply.descriptors)
        except BaseException:
            self._news.close()
            os.close(self._event)
            raise
        self._offset = 0
        self.missed_bytes = 0  # overwritten before they were read here (with a few bytes for each record's head)
        self._decoders = {n: codecs.getincrementaldecoder("utf-8")("replace") for n in (1, 2)}

    def skip(self, offset: int) -> None:
        """Begin at this ring offset: what earlier runs of the container wrote is left out."""
        self._offset = offset

    @property
    def head(self) -> int:
        """The offset behind what has been written."""
        return self._ring.head

    def fileno(self) -> int:
        """Readable when there may be more."""
        return self._news.fileno()

    def read(self, sink: Callable[[int, str], None]) -> bool:
        """Give what is new to `sink(stream, text)`; False when both streams have ended and all was read."""
        self._news.poll(0)
        ended = self._ring.ended
        before = self._offset
        records = self._records()
        self.missed_bytes += self._offset - before - sum(RECORD_BYTES + len(record.data) for record in records)
        self._give(records, sink)
        return not ended

    def give_earlier(self, sink: Callable[[int, str], None], tail: int | None, since_seconds: float | None) -> None:
        """Give what was written before, without what is older or before the last `tail` lines."""
        records = self._records()
        if since_seconds is not None:
            records = _younger(records, since_seconds)
        self._give(records if tail is None else _last_lines(records, tail), sink)

    def _records(self) -> list[Record]:
        with self._container.lab._client.doubting(f"the output of {self._container.name}"):
            records, self._offset = self._ring.records(self._offset)
        return records

    def _give(self, records: list[Record], sink: Callable[[int, str], None]) -> None:
        for record in records:
            data = _stamped(record).data if self._timestamps else record.data
            text = self._decoders[record.stream].decode(data)
            if text:
                sink(record.stream, text)

    def pieces(self, timeout_seconds: float | None = None) -> Iterator[tuple[int, str]]:
        """(stream, text) as it comes, until the container's streams end or the time is over. Raises LabGone."""
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        found: list[tuple[int, str]] = []
        while True:
            going_on = self.read(lambda stream, text: found.append((stream, text)))
            yield from found
            found.clear()
            if not going_on:
                return
            if self._container.lab.gone:
                self._container._alive()
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            readable(_GONE_SECONDS if left is None else min(_GONE_SECONDS, left), self.fileno())

    def close(self) -> None:
        """Stop following."""
        try:
            with contextlib.suppress(CtlabError):  # the container or the lab may be gone, and the follower with it
                self._container.lab._client.order(messages.Unfollow(self._container.id, self._number))
        finally:
            self._news.close()
            os.close(self._event)
            self._ring.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(container: Container) -> tuple[list[Record], tuple[int, int]]:
    """All records that are kept, everything written by now included, and (stdout, stderr) bytes dropped."""
    reply = container.lab._call(messages.Logs(container.id), messages.Output)
    ring = _ring(container, reply.descriptors)
    try:
        with container.lab._client.doubting(f"the output of {container.name}"):
            return ring.records()[0], ring.dropped
    finally:
        ring.close()


def _ring(container: Container, descriptors: list[int]) -> LogRing:
    """The ring that an answer has brought. Raises LabGone if it is none."""
    (descriptor,) = descriptors
    with container.lab._client.doubting(f"the output of {container.name}"):
        try:
            ring = LogRing(descriptor, writable=False)
        except ValueError:
            packets.discard(descriptors)
            raise
    os.close(descriptor)
    return ring


def logs(
    container: Container, *, tail: int | None = None, since_seconds: float | None = None, timestamps: bool = False
) -> Logs:
    """The kept output in order of arrival. `tail`: the last so many lines; `since_seconds`: the newest seconds."""
    records, dropped = read(container)
    if since_seconds is not None:
        records = _younger(records, since_seconds)
    if timestamps:
        records = [_stamped(record) for record in records]
    texts = {
        stream: b"".join(record.data for record in records if record.stream == stream).decode("utf-8", "replace")
        for stream in (1, 2)
    }
    text = _in_order(records)
    if tail is not None:
        text = "".join(text.splitlines(keepends=True)[-tail:] if tail else [])
    return Logs(text, texts[1], texts[2], sum(dropped))


def _younger(records: list[Record], seconds: float) -> list[Record]:
    oldest = time.time_ns() - int(seconds * 1e9)
    return [record for record in records if record.time_ns >= oldest]


def _last_lines(records: list[Record], count: int) -> list[Record]:
    """The records that hold the last `count` lines, the first one cut."""
    kept: list[Record] = []
    for record in reversed(records):
        if count <= 0:
            break
        lines = record.data.splitlines(keepends=True)[-count:]
        kept.append(record._replace(data=b"".join(lines)))
        count -= len(lines)
    return kept[::-1]


def _in_order(records: list[Record]) -> str:
    decoders = {n: codecs.getincrementaldecoder("utf-8")("replace") for n in (1, 2)}
    pieces = [decoders[record.stream].decode(record.data) for record in records]
    return "".join(pieces) + "".join(decoder.decode(b"", final=True) for decoder in decoders.values())


def _stamped(record: Record) -> Record:
    seconds, nanoseconds = divmod(record.time_ns, 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z "
    lines = record.data.splitlines(keepends=True)
    return record._replace(data=b"".join(stamp.encode() + line for line in lines))
