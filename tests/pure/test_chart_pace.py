"""When a chart sends its next picture: pages that answer, that are slow, hidden, or gone without a word."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.notebook.chart_pace import MOST_VIEWERS, OWN_REST, PATIENCE_SECONDS, REST, Pace


def shown(*views: str) -> Pace:
    """A pace of four pictures a second, whose first picture went out at 0 and was drawn by these views at once."""
    pace = Pace(0.25)
    pace.sent(0.0, 0.0)
    for view in views:
        pace.heard(view, 0.0, visible=True, drawn=1, took_seconds=0.0)
    return pace


def test_the_next_picture_waits_for_the_page_and_for_its_rest() -> None:
    pace = shown("page")
    assert pace.due(0.1) == 0.25
    pace.sent(0.25, 0.0)
    assert pace.due(0.3) == 0.25 + PATIENCE_SECONDS  # it hasn't drawn it
    pace.heard("page", 0.75, visible=True, drawn=2, took_seconds=0.5)
    assert pace.due(0.8) == 0.75 + REST * 0.5  # a third of the page's time at most
    pace.sent(1.75, 0.0)
    pace.heard("page", 1.76, visible=True, drawn=3, took_seconds=0.01)
    assert pace.due(1.8) == 2.0  # a quick one has the usual pace
    pace.sent(2.0, 0.2)
    pace.heard("page", 2.01, visible=True, drawn=4, took_seconds=0.01)
    assert pace.due(2.1) == 2.0 + OWN_REST * 0.2  # nor does it take more of this process


def test_where_no_answer_can_come_there_is_a_picture_now_and_then() -> None:
    pace = Pace(0.25)
    pace.sent(0.0, 0.0)
    times = [0.0]
    for _ in range(5):
        times.append(pace.due(times[-1]))
        pace.sent(times[-1], 0.01)
    assert {later - earlier for earlier, later in pairwise(times)} == {PATIENCE_SECONDS}
    assert 2 <= PATIENCE_SECONDS <= 5
    pace.heard("page", 20.5, visible=True, drawn=6, took_seconds=0.05)  # all answers at once
    assert pace.due(21.0) <= 21.0
    slow = Pace(8.0)
    slow.sent(0.0, 0.0)
    assert slow.due(1.0) == 8.0


def test_a_hidden_page_gets_none_and_one_that_shows_again_at_once() -> None:
    pace = shown("page")
    pace.heard("page", 0.1, visible=False, drawn=1, took_seconds=0.0)
    assert pace.due(1000.0) == math.inf
    pace.heard("page", 1000.0, visible=True, drawn=1, took_seconds=0.0)
    assert pace.due(1000.0) <= 1000.0


def test_a_page_that_is_gone_is_waited_for_once() -> None:
    pace = shown("here", "gone")
    pace.sent(0.25, 0.0)
    pace.heard("here", 0.3, visible=True, drawn=2, took_seconds=0.0)
    assert pace.due(0.4) == 0.25 + PATIENCE_SECONDS
    pace.sent(4.25, 0.0)
    pace.heard("here", 4.3, visible=True, drawn=3, took_seconds=0.0)
    assert pace.due(4.3) == 4.5
    pace.heard("gone", 4.4, visible=True, drawn=3, took_seconds=0.0)  # it was only slow
    pace.sent(4.5, 0.0)
    pace.heard("here", 4.6, visible=True, drawn=4, took_seconds=0.0)
    assert pace.due(4.6) == 4.5 + PATIENCE_SECONDS
    pace.left("gone")
    assert pace.due(4.6) == 4.75


def test_viewers_that_never_say_goodbye_are_not_kept_for_ever() -> None:
    pace = shown(*(f"page-{number}" for number in range(500)))
    assert len(pace.viewers) == MOST_VIEWERS and "page-499" in pace.viewers


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 3), st.booleans(), st.integers(-2, 9), st.floats(-1, 100)),
        max_size=30,
    )
)
def test_whatever_a_page_says_pictures_never_come_faster_than_asked_nor_pile_up(
    said: list[tuple[str, float, bool, int, float]],
) -> None:
    pace, now = Pace(0.25), 0.0
    pace.sent(now, 0.0)
    for view, later, visible, drawn, took in said:
        now += later
        pace.heard(view, now, visible=visible, drawn=drawn, took_seconds=took)
        due = pace.due(now)
        assert due >= pace.sent_at + 0.25
        waited_for = [one for one in pace.viewers.values() if one.visible and not one.silent]
        if any(one.drawn < pace.number for one in waited_for):
            assert due == pytest.approx(pace.sent_at + PATIENCE_SECONDS)
        if due <= now:
            pace.sent(now, 0.0)
