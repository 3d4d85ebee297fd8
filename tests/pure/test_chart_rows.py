"""From rows of the ring to a picture: rates over pieces that are read, the busiest and the others, peaks that stay."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.metrics.columns import CONTAINER, CONTAINERS_SCHEMA
from ctlab.metrics.ring import Ring
from ctlab.notebook.chart_panes import BUSIEST, CPU, GREY, MAX_CONTAINERS, MEMORY, PANES, PROCESSES, RECEIVED, SENT
from ctlab.notebook.chart_picture import Chosen, Picture, bridge, take, thin
from ctlab.notebook.chart_rows import Rows
from ctlab.notebook.chart_table import html_table, text_table

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
NAN = math.nan
CORES = 4.0


class Sampled:
    """A ring that is written a tick at a time: `values` of a container are what it has per second, or holds."""

    def __init__(self, capacity: int = 10_000, interval_seconds: float = 1.0) -> None:
        self.ring = Ring.create(CONTAINERS_SCHEMA, capacity)
        self.ring.set_state("interval_seconds", interval_seconds)
        self.tick = 0

    def write(self, containers: dict[int, dict[str, float]], *, at: float | None = None) -> None:
        """One tick; counters (names ending in _total) grow by their value each second."""
        seconds = self.tick if at is None else at
        rows = []
        for key, values in containers.items():
            row = [
                values.get(column.name, NAN) * (seconds if column.kind == "counter" else 1.0) for column in CONTAINER
            ]
            rows.append([T0 + round(seconds * SECOND), round(seconds * SECOND), key, 1, *row])
        self.ring.append_rows(rows)
        self.tick += 1


BUSY = {
    "cpu_seconds_total": 0.5, "memory_rss_bytes": 1 << 20, "rx_bytes_total": 1000.0, "tx_bytes_total": 10.0,
    "pids": 2.0,
}  # fmt: skip


def picture_of(rows: Rows, count: int, chosen: Chosen | None = None, points: int = 240) -> Picture:
    return take(rows, {key: f"c{key}" for key in range(count)}, chosen or Chosen(), rows.seconds, points)


def test_values_are_in_the_units_of_their_panes_however_the_rows_come() -> None:
    sampled, piecewise = Sampled(), Rows()
    for _ in range(5):
        sampled.write({0: BUSY, 1: BUSY})
        piecewise.read(sampled.ring)
        piecewise.read(sampled.ring)  # nothing new
    whole = Rows()
    whole.read(sampled.ring)
    for rows in (piecewise, whole):
        assert len(rows) == 10 and rows.next_row == 10
        y = picture_of(rows, 2).y[1]
        assert math.isnan(y[CPU][0]) and y[CPU][1:].tolist() == [0.5] * 4  # the first row has no rate
        assert y[MEMORY].tolist() == [1.0] * 5  # without a cgroup: what is resident
        assert y[RECEIVED][1:].tolist() == [8000.0] * 4 and y[SENT][1:].tolist() == [80.0] * 4
        assert y[PROCESSES].tolist() == [2.0] * 5


def test_only_what_is_new_is_read_and_only_the_window_is_kept() -> None:
    sampled, rows = Sampled(), Rows(10.0)
    asked: list[int] = []
    original = sampled.ring.snapshot
    sampled.ring.snapshot = lambda first=None, columns=None: (asked.append(first), original(first, columns))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    for _ in range(50):
        sampled.write({0: BUSY})
    rows.read(sampled.ring)
    assert len(rows) == 11  # of 10 s
    asked.clear()
    for _ in range(3):
        sampled.write({0: BUSY})
    rows.read(sampled.ring)
    assert asked == [50] and len(rows) == 11
    assert rows.values[CPU].tolist() == [0.5] * 11  # the rate at a seam is known


def test_rows_that_nobody_took_in_time_are_a_gap_and_no_error() -> None:
    sampled, rows = Sampled(capacity=8), Rows(60.0)
    sampled.write({0: BUSY})
    rows.read(sampled.ring)
    for _ in range(20):
        sampled.write({0: BUSY})
    rows.read(sampled.ring)
    assert len(rows) == 9 and rows.next_row == 21
    assert np.nanmax(rows.values[CPU]) == 0.5  # the rate over the gap is its mean


def test_names_with_several_keys_are_one_line_and_unknown_keys_have_one() -> None:
    sampled, rows = Sampled(), Rows()
    for key in (0, 0, 0, 7, 7, 7):
        sampled.write({key: BUSY, 3: BUSY})
    rows.read(sampled.ring)
    picture = take(rows, {0: "web", 7: "web"}, Chosen(), None, 240)
    assert picture.names == ("web", "container-3")
    assert picture.y[0][PROCESSES].tolist() == [2.0] * 6
    # Another container by that name has no rate yet: the line goes straight over it.
    assert np.isnan(rows.values[CPU]).sum() == 3 and picture.y[0][CPU][1:].tolist() == [0.5] * 5


def test_the_busiest_eight_and_the_others_together() -> None:
    sampled, rows = Sampled(), Rows(60.0)
    for _ in range(20):
        sampled.write(
            {key: {"cpu_seconds_total": 0.1 * (key >= 22), "pids": 1.0, "memory_bytes": 1 << 20} for key in range(30)}
        )
    rows.read(sampled.ring)
    picture = picture_of(rows, 30)
    assert picture.names == (*(f"c{key}" for key in range(22, 30)), "others (22)")
    assert picture.colours[-1] == GREY and len(set(picture.colours)) == BUSIEST + 1
    assert picture.y[-1][PROCESSES].tolist() == [22.0] * 20 and picture.y[-1][MEMORY].tolist() == [22.0] * 20
    assert picture.y[-1][CPU][1:] == pytest.approx([0.0] * 19) and picture.y[0][CPU][1:] == pytest.approx([0.1] * 19)
    assert math.isnan(picture.y[-1][RECEIVED][3])  # nobody knows it
    assert picture.said == "busiest 8 of 30 containers: name those to show"
    assert picture_of(rows, 30, Chosen()).names == picture.names


def test_nine_are_all_shown_and_named_ones_as_well() -> None:
    sampled, rows = Sampled(), Rows(60.0)
    for _ in range(3):
        sampled.write({key: {"cpu_seconds_total": 0.1} for key in range(50)})
    rows.read(sampled.ring)
    names = {key: f"c{key}" for key in range(50)}
    nine = take(rows, names, Chosen([f"c{key}" for key in range(9)]), 60.0, 240)
    assert nine.names == tuple(f"c{key}" for key in range(9)) and nine.said == ""
    named = take(rows, names, Chosen(["C40", "c2", "nobody"]), 60.0, 240)
    assert named.names == ("c2", "c40") and named.y[0][CPU][1:] == pytest.approx([0.1, 0.1])
    many = take(rows, names, Chosen(names.values()), 60.0, 240)
    assert len(many.names) == MAX_CONTAINERS + 1 and many.names[-1] == "others (18)"
    assert many.y[-1][CPU][1:] == pytest.approx([1.8, 1.8])


def test_a_place_keeps_its_colour_and_nobody_is_replaced_by_who_is_as_busy() -> None:
    chosen = Chosen()
    chosen.update({f"c{key}": 0.1 for key in range(12)})
    assert chosen.places == [f"c{key}" for key in range(8)]
    chosen.update({f"c{key}": 0.1 + 0.01 * (key > 8) for key in range(12)})
    assert chosen.places == [f"c{key}" for key in range(8)]
    chosen.update({f"c{key}": 1.0 if key in (3, 11) else 0.1 for key in range(12)})
    assert chosen.places == ["c11", *(f"c{key}" for key in range(1, 8))]
    chosen.update({"c3": 0.0, "c11": 0.0, "new": 0.0})
    assert chosen.places[:4] == ["c11", "new", "", "c3"]


@given(st.lists(st.dictionaries(st.integers(0, 60).map(str), st.floats(0, 2), max_size=60), max_size=6))
@settings(max_examples=100, deadline=None)
def test_places_whatever_comes_and_goes(steps: list[dict[str, float]]) -> None:
    chosen = Chosen()
    for scores in steps:
        before = list(chosen.places)
        chosen.update(scores)
        named = [name for name in chosen.places if name]
        assert len(named) == len(set(named)) and set(named) <= scores.keys()
        assert len(named) == min(len(scores), BUSIEST if len(scores) > BUSIEST + 1 else BUSIEST + 1)
        assert len(chosen.places) <= BUSIEST + 1
        for place, name in enumerate(chosen.places):
            assert not name or name not in before or before.index(name) == place


def test_the_last_row_of_one_that_ends_makes_no_dent_in_the_others() -> None:
    sampled, rows = Sampled(interval_seconds=1.0), Rows(60.0)
    idle = {"pids": 1.0, "cpu_seconds_total": 0.0}
    all_of_them = dict.fromkeys(range(20), idle)
    for _ in range(5):
        sampled.write(all_of_them)
    sampled.write({19: idle}, at=4.2)  # soon after a tick that it was in
    sampled.tick = 5
    sampled.write(dict.fromkeys(range(19), idle))
    sampled.write({18: idle}, at=5.7)  # shortly before one that it isn't in
    sampled.tick = 6
    sampled.write(dict.fromkeys(range(18), idle))
    rows.read(sampled.ring)
    picture = picture_of(rows, 20)
    assert len(picture.x) == 7 and picture.y[-1][PROCESSES].tolist() == [12.0] * 5 + [11.0, 11.0]


@pytest.mark.parametrize(("age", "shown"), [(3, 10.0), (25, 25.0), (300, 60.0)])
def test_the_window_of_a_young_lab_begins_with_it(age: int, shown: float) -> None:
    sampled, rows = Sampled(), Rows(60.0)
    for _ in range(age + 1):
        sampled.write({0: BUSY})
    rows.read(sampled.ring)
    first, last = picture_of(rows, 1).window
    assert (last - first, last) == (shown * 1000, T0 / 1e6 + age * 1000)


def test_nothing_yet_is_a_picture_too() -> None:
    rows = Rows(60.0)
    rows.read(Sampled().ring)
    picture = picture_of(rows, 3)
    assert picture.names == () and len(picture.x) == 0 and picture.window[0] < picture.window[1]
    assert rows.means({}) == [] and html_table([]) == "" and text_table([]) == ""


def test_hostile_rows_are_drawn_without_an_error() -> None:
    ring, rows = Ring.create(CONTAINERS_SCHEMA, 100), Rows(60.0)
    ring.set_state("interval_seconds", 0.1)
    worst = (1 << 63) - 1
    for number in range(40):
        stamp = (T0, 0, -worst, worst, T0 - 1)[number % 5]
        values = [(math.inf, -math.inf, NAN, 1e308, -1.0)[(number + at) % 5] for at in range(len(CONTAINER))]
        ring.append_rows([[stamp, (worst, -worst, 0)[number % 3], (worst, -5, 1)[number % 3], number % 7, *values]])
        rows.read(ring)
    picture = take(rows, {}, Chosen(), 60.0, 24)
    assert not np.isinf(picture.y).any() and (np.diff(picture.x) >= 0).all()
    text_table(rows.means({}))


def test_the_tables_say_the_same() -> None:
    sampled, rows = Sampled(), Rows()
    for _ in range(3):
        sampled.write({0: {"cpu_seconds_total": 0.5, "rx_bytes_total": 1000.0}})
    rows.read(sampled.ring)
    means = rows.means({0: "nan<0>"})
    assert "<td>nan&lt;0&gt;</td><td>0.50</td><td>0.50</td><td>–</td><td>8 kbit/s</td><td>–</td>" in html_table(means)
    head, row = text_table(means).splitlines()
    assert head.split()[0] == "container" and row.split() == ["nan<0>", "0.50", "0.50", "–", "8", "kbit/s", "–", "–"]
    assert len(head) == len(row)


def test_what_has_ended_has_no_memory_and_no_processes_now() -> None:
    sampled, rows = Sampled(), Rows()
    for _ in range(4):
        sampled.write({0: BUSY, 1: BUSY})
    for _ in range(3):
        sampled.write({0: BUSY})
    rows.read(sampled.ring)
    going, ended = rows.means({0: "web", 1: "srv"})
    assert going.processes == 2.0 and not going.ended
    assert math.isnan(ended.processes) and math.isnan(ended.memory_mib) and ended.cpu_mean == 0.5
    assert "<td>srv (ended)</td>" in html_table([ended]) and "<td>web</td>" in html_table([going])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.001, 500), *[st.floats(-10, 10) | st.just(NAN)] * 2), min_size=1, max_size=300),
    st.integers(6, 80),
)
def test_thinned_lines_keep_their_peaks_and_ends(steps: list[tuple[float, float, float]], limit: int) -> None:
    x = 1.7e12 + np.cumsum([step for step, *_ in steps])
    y = np.array([values for _, *values in steps], dtype=float).T
    thin_x, thin_y = thin(x, y, limit)
    assert thin_y.shape == (2, len(thin_x)) and len(thin_x) <= max(limit, 6)
    assert (np.diff(thin_x) >= 0).all() and (thin_x[0], thin_x[-1]) == (x[0], x[-1])
    for before, after in zip(y, thin_y, strict=True):
        known = before[~np.isnan(before)]
        if len(known):
            assert (np.nanmin(after), np.nanmax(after)) == (known.min(), known.max())
        assert set(after[~np.isnan(after)]) <= set(known)


def test_a_moving_window_keeps_the_grid() -> None:
    x = np.array([1.7e12 + n * 100.0 for n in range(6000)])
    y = np.array([math.sin(n * 0.7) for n in range(6000)])
    one = dict(zip(*thin(x[:5000], y[:5000], 200), strict=True))
    other = dict(zip(*thin(x[37:5037], y[37:5037], 200), strict=True))
    assert len(one.keys() ^ other.keys()) <= 8  # only at the two ends


def test_a_missing_sample_is_bridged_and_a_pause_is_not() -> None:
    x = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 40, 41])
    y = np.array([[1.0, NAN, 3, 4, 5, 6, 7, 8, NAN, NAN, NAN, 9]])
    bridge(x, y)
    assert y[0][:8].tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and np.isnan(y[0][8:11]).all()
    assert len(PANES) == 5
