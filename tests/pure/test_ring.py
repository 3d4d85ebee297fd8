"""The ring: what is written is read, what was overwritten is said, readers never see half a row."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.kernel import memfd
from ctlab.metrics.columns import CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA
from ctlab.metrics.ring import STATE, Ring, Schema

SCHEMA = Schema("test", (("time_ns", "q"), ("key", "q"), ("value", "d")))


def rows(ring: Ring, since: int | None = None) -> list[tuple[float, ...]]:
    return list(zip(*ring.snapshot(since).columns.values(), strict=True))


def test_rows_come_back_as_written() -> None:
    ring = Ring.create(SCHEMA, 4)
    ring.append((2**62, -1, 0.5))
    ring.append_rows([(3, 4, 5.5), (6, 7, float("inf"))])
    assert rows(ring) == [(2**62, -1, 0.5), (3, 4, 5.5), (6, 7, float("inf"))]
    assert rows(ring, 2) == [(6, 7, float("inf"))]
    assert rows(ring, 3) == rows(ring, 99) == []
    ring.close()


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 9), batches=st.lists(st.integers(0, 9), max_size=12), since=st.integers(0, 120))
def test_a_ring_keeps_the_newest_rows(capacity: int, batches: list[int], since: int) -> None:
    ring = Ring.create(SCHEMA, capacity)
    kept: deque[tuple[int, int, float]] = deque(maxlen=capacity)
    written = 0
    for size in batches:
        new = [(written + n, -written - n, (written + n) / 2) for n in range(min(size, capacity))]
        ring.append_rows(new)
        kept.extend(new)
        written += len(new)
    assert ring.head == written
    assert rows(ring) == list(kept)
    snapshot = ring.snapshot(since)
    assert list(snapshot.columns["time_ns"]) == [n for n in range(since, written) if n >= written - capacity]
    assert snapshot.overwritten == max(0, min(written - capacity, written) - min(since, written))
    assert snapshot.end_row - snapshot.first_row == len(snapshot) == len(snapshot.columns["value"])
    # bisection over the (rising) time column
    assert ring.row_at("time_ns", since) == min(max(since, written - capacity, 0), written)
    ring.close()


def test_another_mapping_sees_the_rows_and_cannot_write() -> None:
    ring = Ring.create(SCHEMA, 4)
    reader = Ring.attach(os.dup(ring.fd))
    assert (reader.schema, reader.capacity) == (SCHEMA, 4)
    ring.append((1, 2, 3.0))
    assert rows(reader) == [(1, 2, 3.0)]
    with pytest.raises(TypeError):
        reader.append((1, 2, 3.0))
    assert rows(ring) == [(1, 2, 3.0)]
    reader.close()
    reader.close()
    ring.append((4, 5, 6.0))
    ring.close()


def test_a_refused_row_leaves_nothing_behind() -> None:
    ring = Ring.create(SCHEMA, 2)
    ring.append((1, 1, 1.0))
    with pytest.raises(TypeError):
        ring.append((1.5, 1, 1.0))
    with pytest.raises(ValueError, match="3 values"):
        ring.append((1, 1))
    with pytest.raises(ValueError, match="ring of 2"):
        ring.append_rows([(1, 1, 1.0)] * 3)
    assert ring.head == 1 and rows(ring) == [(1, 1, 1.0)]
    ring.close()


def test_a_ring_has_a_fixed_size_and_refuses_strangers(tmp_path: object) -> None:
    ring = Ring.create(SCHEMA, 2)
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)
    ring.close()
    for size in (0, 1 << 16):
        other = memfd.create("other", size)
        with pytest.raises(ValueError, match="not a ring"):
            Ring.attach(other)
        os.close(other)
    with pytest.raises(ValueError, match="at least one row"):
        Ring.create(SCHEMA, 0)


def test_schemas_differ_when_columns_do() -> None:
    assert Schema.parse(SCHEMA.text()) == SCHEMA
    other = Schema("test", (*SCHEMA.columns[:2], ("value", "q")))
    assert len({SCHEMA.digest(), other.digest(), CONTAINERS_SCHEMA.digest(), ENDPOINTS_SCHEMA.digest()}) == 4
    for schema in (CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA):
        ring = Ring.create(schema, 1)
        ring.close()


def test_the_writer_speaks_about_itself() -> None:
    ring = Ring.create(SCHEMA, 1)
    reader = Ring.attach(os.dup(ring.fd))
    assert set(reader.state()) == set(STATE) and set(reader.state().values()) == {0}
    ring.set_state("ticks", 7)
    ring.set_state("lateness_seconds", 0.25)
    state = reader.state()
    assert (state["ticks"], state["lateness_seconds"]) == (7, 0.25)
    assert len({word for word, _ in STATE.values()}) == len(STATE)
    with pytest.raises(KeyError):
        ring.set_state("tics", 7)
    reader.close()
    ring.close()


WRITER = """
import sys
from ctlab.metrics.ring import Ring
ring = Ring.attach(int(sys.argv[1]), writable=True)
n = 0
while n < 400_000:
    batch = 1 + n % 40
    ring.append_rows([(n + i, -(n + i), (n + i) * 0.5) for i in range(batch)])
    n += batch
"""


def test_a_reader_never_sees_half_a_row_while_another_process_writes() -> None:
    ring = Ring.create(SCHEMA, 64)  # small: the writer laps the reader all the time
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(ring.fd)], pass_fds=[ring.fd])
    seen = 0
    torn = 0
    while writer.poll() is None or seen == 0:
        snapshot = ring.snapshot()
        time, key, value = snapshot.columns.values()
        seen += len(snapshot)
        torn += any(n != -k or n != v * 2 for n, k, v in zip(time, key, value, strict=True))
        assert list(time) == list(range(snapshot.first_row, snapshot.end_row))
    assert writer.returncode == 0
    assert torn == 0
    assert seen > 1000
    ring.close()


def test_the_writer_needs_only_the_standard_library() -> None:
    code = (
        "import sys, ctlab.metrics.sampler\n"
        "print(sorted({'numpy', 'pandas', 'plotly', 'IPython', 'pyroute2'} & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
