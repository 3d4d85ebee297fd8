"""What tests of the kernel share keeps the limits of time that it says."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from kernel_help import no_hang


@pytest.fixture
def outer() -> Iterator[list[int]]:
    """A limit of a whole test, as tests/conftest.py sets one: it notes that it was reached."""
    reached: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: reached.append(number))
    yield reached
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_limit_within_a_limit_leaves_what_is_left_of_it(outer: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 100)
    with no_hang(50):
        time.sleep(0.2)
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert 50 < left < 99.9 and outer == []
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with no_hang(50):
        time.sleep(0.1)
    assert outer == [] or outer == [signal.SIGALRM]
    time.sleep(0.1)
    assert outer == [signal.SIGALRM], "what was over meanwhile is reached at once"


def test_without_a_limit_around_it_none_is_left(outer: list[int]) -> None:
    with no_hang(50):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and outer == []


def test_what_hangs_fails(outer: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTLAB_TEST_SLOWNESS", "1")
    signal.setitimer(signal.ITIMER_REAL, 100)
    with pytest.raises(TimeoutError, match=r"it hangs: 0\.05 s"), no_hang(0.05):
        time.sleep(10)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 50 and outer == []
