"""Rings whose writer is hostile: whatever it writes and when, a reader reads wrong things or refuses, and goes on.

Seeded and short; longer with CTLAB_TEST_LONG=1. A hang, a SIGBUS, another error than ValueError or more memory than the
ring holds fails.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from kernel_help import no_hang, tries

from ctlab.metrics import columns
from ctlab.metrics.frame import Names, read_frame
from ctlab.metrics.ring import HEADER_BYTES, Ring, Schema
from ctlab.runtime.log_ring import LogRing

TIMES = tries(1, 100)  # the short form takes about a second for each test
CAPACITY = 4096
SCHEMA = Schema("fuzzed", (("time_ns", "q"), ("value", "d")))


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """What takes longer than this hangs."""
    with no_hang(60 * TIMES):
        yield


def word(order: random.Random) -> int:
    """What a hostile writer would write into a header: near the ends of something, or anything."""
    near = order.choice((0, CAPACITY, 64, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64))
    return (near + order.randrange(-40, 40)) % (1 << 64) if order.random() < 0.8 else order.getrandbits(64)


SCRIBBLER = """
import os, random, sys
sys.path[:0] = sys.argv[2:]
import mmap
descriptor = int(sys.argv[1])
size = os.fstat(descriptor).st_size
memory = memoryview(mmap.mmap(descriptor, size)).cast("Q")
order = random.Random(5)
ends = [0, 4096, 64, 1 << 31, 1 << 62, 1 << 63]
print("ready", flush=True)
while True:
    for _ in range(1000):
        place = order.choice((2, 3, 3, 4, 6, 8, 9, 9, 16, 24, order.randrange(len(memory))))
        memory[place] = (order.choice(ends) + order.randrange(-40, 4000)) % (1 << 64)
"""


@contextlib.contextmanager
def scribbled(descriptor: int) -> Iterator[None]:
    """Somebody else writes into it all the time. (The magic words stay: they are read once.)"""
    command = [sys.executable, "-c", SCRIBBLER, str(descriptor), *sys.path]
    with subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        try:
            yield
            assert process.poll() is None, "nobody has scribbled"
        finally:
            process.kill()


def read_log(ring: LogRing, since: int) -> int:
    """All that an owner does with one; the offset to go on from."""
    try:
        records, after = ring.records(since)
    except ValueError:
        after = since
    else:
        assert sum(16 + len(record.data) for record in records) <= CAPACITY
        assert all(record.stream in (1, 2) for record in records)
    _ = ring.head, ring.ended, ring.dropped
    with contextlib.suppress(ValueError):
        changes, _ = ring.changes(since)
        assert len(changes) <= 48 + CAPACITY
    return after


def test_a_log_whose_words_are_anything() -> None:
    order = random.Random(11)
    descriptor = LogRing.create(CAPACITY)
    ring = LogRing(descriptor, writable=False)
    refused = 0
    for number in range(20000 * TIMES):
        for _ in range(order.randrange(1, 4)):
            os.pwrite(descriptor, word(order).to_bytes(8, "little"), 8 * order.randrange(2, 7))
        if order.random() < 0.3:
            os.pwrite(descriptor, order.randbytes(64), 4096 + order.randrange(CAPACITY - 64))
        since = order.choice((0, 1, number, word(order) >> 1))
        before = since
        refused += read_log(ring, since) == before
    assert refused > 100
    ring.close()
    os.close(descriptor)


def test_a_log_that_is_written_into_while_it_is_read() -> None:
    descriptor = LogRing.create(CAPACITY)
    ring = LogRing(descriptor, writable=False)
    with scribbled(descriptor):
        since = 0
        for number in range(20000 * TIMES):
            since = read_log(ring, since) if number % 100 else 0
    ring.close()
    os.close(descriptor)


def test_what_a_copy_of_a_log_is_told_is_anything() -> None:
    order = random.Random(12)
    descriptors = [LogRing.create(CAPACITY), LogRing.create(CAPACITY)]
    original, copy = (LogRing(descriptor, writable=True) for descriptor in descriptors)
    sent = refused = 0
    for number in range(6000 * TIMES):
        original.append(number, 1 + number % 2, order.randbytes(order.randrange(1, 500)))
        changes, sent = original.changes(copy.head)
        bad = bytearray(changes)
        for _ in range(order.randrange(3)):
            place = 8 * order.randrange(6)
            bad[place : place + 8] = word(order).to_bytes(8, "little")
        if order.random() < 0.2:
            del bad[order.randrange(len(bad)) :]
        try:
            copy.apply(bytes(bad))
        except ValueError:
            refused += 1
            copy.apply(changes)
        if bad != changes:
            read_log(copy, order.choice((0, copy.head)))
            for ring, descriptor in zip((original, copy), descriptors, strict=True):
                os.pwrite(descriptor, bytes(8 * 5), 8 * 2)  # both from the start
                assert ring.head == 0
    assert refused > 20 and sent
    for ring in (original, copy):
        ring.close()
    for descriptor in descriptors:
        os.close(descriptor)


def read_ring(ring: Ring, since: int) -> None:
    """All that an owner does with one."""
    for first in (None, since):
        rows = ring.snapshot(first)
        assert len(rows) <= ring.capacity
        assert all(len(values) == len(rows) for values in rows.columns.values())
    ring.state()
    row = ring.row_at("time_ns", since)
    assert len(ring.snapshot(row, ["time_ns"])) <= ring.capacity
    with contextlib.suppress(ValueError):
        changes, _ = ring.changes(min(since, ring.head), 50)
        assert len(changes) < 1000 + 50 * 16


def test_a_ring_whose_words_are_anything() -> None:
    order = random.Random(13)
    ring = Ring.create(SCHEMA, 64)
    reader = Ring.attach(os.dup(ring.fd), SCHEMA)
    for _ in range(5000 * TIMES):
        for _ in range(order.randrange(1, 4)):
            os.pwrite(ring.fd, word(order).to_bytes(8, "little"), 8 * order.choice((8, 9, 16, order.randrange(8, 31))))
        os.pwrite(ring.fd, word(order).to_bytes(8, "little"), HEADER_BYTES + 8 * order.randrange(128))
        read_ring(reader, word(order) >> 1)
    reader.close()
    ring.close()


def test_a_ring_that_is_written_into_while_it_is_read() -> None:
    ring = Ring.create(SCHEMA, 64)
    reader = Ring.attach(os.dup(ring.fd), SCHEMA)
    with scribbled(ring.fd):
        for number in range(6000 * TIMES):
            read_ring(reader, number * 1000)
    reader.close()
    ring.close()


def test_a_frame_of_rows_that_are_anything() -> None:
    order = random.Random(14)
    schemas = (columns.CONTAINERS_SCHEMA, columns.ENDPOINTS_SCHEMA)
    rings = [Ring.create(schema, 50) for schema in schemas]
    names = Names(containers={1: "a"})
    for _ in range(30 * TIMES):
        for ring in rings:
            size = os.fstat(ring.fd).st_size - HEADER_BYTES
            for _ in range(200):
                os.pwrite(ring.fd, word(order).to_bytes(8, "little"), HEADER_BYTES + 8 * order.randrange(size // 8))
            for place in (8, 9):
                os.pwrite(ring.fd, order.choice((50, 60, word(order))).to_bytes(8, "little"), 8 * place)
        for by in ("container", "endpoint", "node"):
            frame = read_frame(*rings, names, by=by, resample=order.choice((None, "1s")), last=order.choice((None, 30)))
            assert len(frame) <= 50
    for ring in rings:
        ring.close()


def test_a_header_that_is_anything_is_mapped_or_refused() -> None:
    order = random.Random(15)
    ring, log = Ring.create(SCHEMA, 64), LogRing.create(CAPACITY)
    heads = [os.pread(descriptor, HEADER_BYTES, 0) for descriptor in (ring.fd, log)]
    mapped = 0
    for _ in range(3000 * TIMES):
        for descriptor, head in zip((ring.fd, log), heads, strict=True):
            os.pwrite(descriptor, head[:4096], 0)
            for _ in range(order.randrange(1, 3)):
                os.pwrite(descriptor, word(order).to_bytes(8, "little"), 8 * order.randrange(12))
        if order.random() < 0.3:
            os.pwrite(ring.fd, order.randbytes(30), 4096 + order.randrange(60))
        descriptor = os.dup(ring.fd)
        try:
            made = Ring.attach(descriptor)
        except ValueError:
            os.close(descriptor)
        else:
            made.snapshot()
            made.close()
            mapped += 1
        with contextlib.suppress(ValueError):
            LogRing(log, writable=False).close()
            mapped += 1
        os.pwrite(ring.fd, heads[0][4096:], 4096)
    assert mapped > 10
    ring.close()
    os.close(log)
