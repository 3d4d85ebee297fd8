"""Copies of rings in another machine's memory: whoever reads the copy sees what a reader of the original would.

Changes are drawn at random moments and applied later; the writer may outrun them, and rows or records that were
overwritten before they could be sent must be missing, and be counted, as they are for a slow reader of the original.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.metrics.ring import STATE, Ring, Schema
from ctlab.runtime.log_ring import LogRing, Record

SCHEMA = Schema("mirrored", (("time_ns", "q"), ("value", "d")))


# -- output -----------------------------------------------------------------------------------------------------------
class LogPair:
    """A log ring, its copy, and where the copy ends."""

    def __init__(self, capacity: int) -> None:
        self.descriptors = [LogRing.create(capacity), LogRing.create(capacity)]
        self.original, self.copy = (LogRing(descriptor, writable=True) for descriptor in self.descriptors)
        self.sent = 0

    def send(self) -> None:
        """Bring the copy up to date."""
        changes, self.sent = self.original.changes(self.sent)
        self.copy.apply(changes)

    def close(self) -> None:
        """Both."""
        self.original.close()
        self.copy.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


def state(ring: LogRing, since: int) -> dict[str, Any]:
    """All that a reader can ask."""
    return {"records": ring.records(since), "head": ring.head, "dropped": ring.dropped, "ended": ring.ended}


written = st.tuples(st.just("write"), st.integers(1, 2), st.binary(min_size=1, max_size=200))
log_steps = st.lists(
    st.one_of(
        *[written] * 3, st.just(("send",)), st.just(("read",)), st.tuples(st.just("end"), st.booleans())
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(64, 700), steps=log_steps, since=st.floats(0, 1))
def test_a_copied_log_reads_as_the_original(capacity: int, steps: list[Any], since: float) -> None:
    pair = LogPair(capacity)
    everything: list[Record] = []
    followed: list[Record] = []
    heads = [0]
    offset = 0
    missed_bytes = 0

    def follow() -> None:
        """Read on in the copy, as who shows the output while it comes."""
        nonlocal offset, missed_bytes
        records, after = pair.copy.records(offset)
        missed_bytes += after - offset - sum(16 + len(record.data) for record in records)
        assert after >= offset
        followed.extend(records)
        offset = after

    for number, (what, *words) in enumerate(steps):
        if what == "write":
            pair.original.append(number, *words)
            heads.append(pair.original.head)
            limit = capacity // 4
            everything += [Record(number, words[0], words[1][at : at + limit]) for at in range(0, len(words[1]), limit)]
        elif what == "send":
            pair.send()
            assert state(pair.copy, 0) == state(pair.original, 0)
        elif what == "read":
            follow()
        else:
            pair.original.ended = words[0]
    pair.send()
    seen = heads[int(since * (len(heads) - 1))]  # where some reader was: at the beginning of a record
    assert state(pair.copy, seen) == state(pair.original, seen)
    follow()
    # What was followed is what was written, in order, but for what is counted as missed.
    assert offset == pair.original.head and missed_bytes >= 0
    rest = iter(everything)
    assert all(record in rest for record in followed)
    whole = sum(16 + len(record.data) for record in everything)
    assert whole - sum(16 + len(record.data) for record in followed) == missed_bytes
    kept = pair.copy.records()[0]
    for stream in (1, 2):
        sizes = [sum(len(r.data) for r in records if r.stream == stream) for records in (everything, kept)]
        assert pair.copy.dropped[stream - 1] == sizes[0] - sizes[1]
    pair.close()


LOG_WRITER = """
import random, sys
from ctlab.runtime.log_ring import LogRing
ring = LogRing(int(sys.argv[1]), writable=True)
order = random.Random(3)
for number in range(60_000):
    ring.append(number, 1 + number % 2, bytes([number % 251]) * order.randrange(1, 90))
ring.ended = True
"""


def test_a_log_is_copied_whole_while_another_process_writes_and_laps_the_copy() -> None:
    pair = LogPair(4096)
    command = [sys.executable, "-c", LOG_WRITER, str(pair.descriptors[0])]
    copies = laps = 0
    order = random.Random(1)
    with subprocess.Popen(command, pass_fds=[pair.descriptors[0]]) as writer:
        while writer.poll() is None:
            before = pair.sent
            changes, pair.sent = pair.original.changes(pair.sent)
            pair.copy.apply(changes)
            copies += pair.sent > before
            laps += pair.sent - before > 4096
            numbers = []
            for record in pair.copy.records()[0]:
                numbers.append(record.time_ns)
                assert set(record.data) == {record.time_ns % 251} and record.stream == 1 + record.time_ns % 2
            assert numbers == [numbers[0] + n for n in range(len(numbers))]
            for _ in range(order.randrange(3000)):
                pass
            if copies % 10 == 0:  # and then much slower than the writer
                time.sleep(0.005)
    assert writer.returncode == 0
    pair.send()
    assert state(pair.copy, 0) == state(pair.original, 0) and pair.copy.ended
    assert copies > 2 and laps > 0
    pair.close()


def test_what_a_log_says_of_itself_is_never_half_written() -> None:
    descriptor = LogRing.create(4096)
    ring = LogRing(descriptor, writable=False)
    seen = 0
    with subprocess.Popen([sys.executable, "-c", LOG_WRITER, str(descriptor)], pass_fds=[descriptor]) as writer:
        while writer.poll() is None:
            heads = [ring.head for _ in range(2000)]
            assert heads == sorted(heads) and heads[0] >= seen
            seen = heads[-1]
            before = ring.dropped
            assert all(sum(ring.dropped) >= sum(before) for _ in range(2000))
    assert writer.returncode == 0 and seen > 0
    ring.close()
    os.close(descriptor)


# -- counters ---------------------------------------------------------------------------------------------------------
class RingPair:
    """A ring of counters, its copy, and where the copy ends."""

    def __init__(self, capacity: int) -> None:
        self.original, self.copy = Ring.create(SCHEMA, capacity), Ring.create(SCHEMA, capacity)
        self.sent = 0

    def send(self, most_rows: int) -> None:
        """One batch."""
        changes, self.sent = self.original.changes(self.sent, most_rows)
        self.copy.apply(changes)

    def close(self) -> None:
        """Both."""
        self.original.close()
        self.copy.close()


def rows(ring: Ring, since: int | None = None) -> dict[str, Any]:
    """All that a reader sees from a row on."""
    snapshot = ring.snapshot(since)
    return {
        "rows": list(zip(*snapshot.columns.values(), strict=True)), "first": snapshot.first_row,
        "end": snapshot.end_row, "overwritten": snapshot.overwritten,
    }  # fmt: skip


ring_steps = st.lists(
    st.one_of(st.tuples(st.just("write"), st.integers(1, 12)), st.tuples(st.just("send"), st.integers(1, 14))),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 12), steps=ring_steps, since=st.integers(0, 300))
def test_a_copied_ring_reads_as_the_original(capacity: int, steps: list[tuple[str, int]], since: int) -> None:
    pair = RingPair(capacity)
    count = 0
    for what, number in steps:
        if what == "write":
            new = [(count + n, (count + n) / 2) for n in range(min(number, capacity))]
            pair.original.append_rows(new)
            count += len(new)
            pair.original.set_state("ticks", count)
            pair.original.set_state("lateness_seconds", count / 8)
        else:
            pair.send(number)
        # At any moment a row of the copy is the row that it says it is, and those that can't be had are counted.
        seen = rows(pair.copy, 0)
        assert seen["rows"] == [(n, n / 2) for n in range(seen["first"], seen["end"])]
        assert seen["overwritten"] == seen["first"]
        oldest = pair.copy.row_at("time_ns", 0)
        assert oldest == seen["first"] and pair.copy.row_at("time_ns", since) == min(max(since, oldest), seen["end"])
    while pair.sent < pair.original.head:
        pair.send(5)
    pair.send(5)  # nothing new but the state
    assert rows(pair.copy) == rows(pair.original)
    assert rows(pair.copy, since) == rows(pair.original, since)
    assert pair.copy.state() == pair.original.state() and set(pair.copy.state()) == set(STATE)
    pair.close()


RING_WRITER = """
import sys
import time
from ctlab.metrics.ring import Ring
ring = Ring.attach(int(sys.argv[1]), writable=True)
n = 0
while n < 300_000:
    batch = 1 + n % 40
    ring.append_rows([(n + i, (n + i) * 0.5) for i in range(batch)])
    n += batch
"""


def test_rows_are_copied_whole_while_another_process_writes_and_laps_the_copy() -> None:
    pair = RingPair(64)
    command = [sys.executable, "-c", RING_WRITER, str(pair.original.fd)]
    copies = laps = 0
    order = random.Random(2)
    with subprocess.Popen(command, pass_fds=[pair.original.fd]) as writer:
        while writer.poll() is None:
            before = pair.sent
            pair.send(order.choice((7, 30, 100)))
            copies += pair.sent > before
            laps += pair.sent - before > 64
            seen = rows(pair.copy)
            assert seen["rows"] == [(n, n / 2) for n in range(seen["first"], seen["end"])]
            for _ in range(order.randrange(3000)):
                pass
            if copies % 10 == 0:  # and then much slower than the writer
                time.sleep(0.005)
    assert writer.returncode == 0
    while pair.sent < pair.original.head:
        pair.send(20)
    assert rows(pair.copy) == rows(pair.original)
    assert copies > 2 and laps > 0
    pair.close()


def test_who_was_held_up_for_nearly_a_lap_reads_what_is_there_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = LogRing.create(1 << 16)
    writer, reader = LogRing(descriptor, writable=True), LogRing(descriptor, writable=False)
    for number in range(3000):
        writer.append(number, 1, b"%030d\n" % number)
    laps = iter([3000, 3000])  # two times held up for all that was there
    copy = LogRing._read

    def held_up(self: LogRing, offset: int, length: int) -> bytes:
        data = copy(self, offset, length)
        span = self._span()
        assert span is not None
        for number in range(next(laps, 0)):
            if writer._get(2) - span[1] < span[1] - span[0] - 40:
                writer.append(number, 1, b"%030d\n" % number)
        return data

    monkeypatch.setattr(reader, "_read", held_up.__get__(reader))
    records, _ = reader.records()
    assert len(records) > 1000
    assert all(len(record.data) == 31 for record in records)
    writer.close()
    reader.close()
    os.close(descriptor)
