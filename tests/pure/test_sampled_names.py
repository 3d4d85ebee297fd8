"""Names of what is gone are kept for the rows that it has left, and no more of them than there is a bound."""

from __future__ import annotations

from ctlab.metrics.ring import Ring, Schema
from ctlab.sampled_names import GONE_MOST, Removed


def test_names_of_what_is_gone_have_a_bound() -> None:
    count = GONE_MOST + 500
    ring = Ring.create(Schema("some", (("container_key", "q"),)), count)
    names = {key: f"c{key}" for key in range(count + 1)}  # the last one has not been removed
    ring.append_rows([(key,) for key in range(count)])
    gone = Removed(names, "container_key")
    for first in range(0, count, 100):
        gone.add(range(first, min(first + 100, count)))
        gone.sweep(ring)
    assert sorted(names) == list(range(500, count + 1))  # each has a row: the oldest went all the same
    ring.append_rows([(count,)] * count)
    gone.sweep(ring)
    assert list(names) == [count]
    ring.close()
