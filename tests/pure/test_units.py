"""Quantities: exact, or refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab import units
from ctlab.errors import BadInput


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), ("4096", 4096), ("64M", 64 << 20), ("64m", 64 << 20), ("64mb", 64 << 20),
        ("64MiB", 64 << 20), ("1.5g", 3 << 29), ("0.5k", 512), (".5k", 512), ("10b", 10), ("2T", 2 << 40),
        (" 1 k ", 1024), (7, 7), (7.0, 7), (Decimal(7), 7),
    ],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02), ("1.5s", 1.5), ("1h30m", 5400.0), ("1m0.5s", 60.5), ("100us", 1e-4), ("100µs", 1e-4),
        ("1ns", 1e-9), ("0s", 0.0), ("1s500ms", 1.5), (2, 2.0), (0.25, 0.25), (timedelta(minutes=1), 60.0),
    ],
)  # fmt: skip
def test_durations(text: str | float | timedelta, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "cpus"), [("0.5", 0.5), ("2", 2.0), ("0.01", 0.01), (".1", 0.1), (0.1, 0.1), (0.33333, 0.33333), (8, 8.0)]
)
def test_cpus(text: str | float, cpus: float) -> None:
    assert units.parse_cpus(text) == cpus


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", (0,)), ("0-2,4", (0, 1, 2, 4)), ("4,0-2,1", (0, 1, 2, 4)), (3, (3,)), ([2, 0, 2], (0, 2)), ("7-7", (7,))],
)
def test_cpusets(text: str | int | list[int], numbers: tuple[int, ...]) -> None:
    assert units.parse_cpuset(text) == numbers


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (units.parse_size, "", "isn't a size"),
        (units.parse_size, "64X", "isn't a size: write 64M"),
        (units.parse_size, "64 mega", "isn't a size"),
        (units.parse_size, "-1", "isn't a size"),
        (units.parse_size, "1e3", "isn't a size"),
        (units.parse_size, "٣m", "isn't a size"),
        (units.parse_size, "0.3k", "'0.3k' isn't a whole number of bytes"),
        (units.parse_size, 1.5, "1.5 isn't a whole number of bytes"),
        (units.parse_size, -1, "negative"),
        (units.parse_size, "9999999999999t", "too large"),
        (units.parse_size, float("nan"), "isn't a size"),
        (units.parse_size, True, "True isn't a size"),
        (units.parse_size, None, "None isn't a size"),
        (units.parse_duration, "20", "needs a unit: 20s or 20ms?"),
        (units.parse_duration, "20 minutes", "isn't a time"),
        (units.parse_duration, "-1s", "isn't a time"),
        (units.parse_duration, "1m1h", "isn't a time"),
        (units.parse_duration, "1s1s", "isn't a time"),
        (units.parse_duration, "", "isn't a time"),
        (units.parse_duration, "0.5ns", "whole number of ns"),
        (units.parse_duration, "9007200s0.000000001s", "isn't a time"),
        (units.parse_duration, "9007200.000000001s", "more digits than a time can carry"),
        (units.parse_duration, "99999999999h", "too large"),
        (units.parse_duration, -1, "negative"),
        (units.parse_duration, float("inf"), "isn't a time"),
        (units.parse_duration, 1e300, "too long"),
        (units.parse_cpus, "0", "too little"),
        (units.parse_cpus, 0.001, "too little"),
        (units.parse_cpus, "-1", "too little"),
        (units.parse_cpus, "0.123456", "write 0.12346"),
        (units.parse_cpus, 1 / 3, "write 0.33333"),
        (units.parse_cpus, "1e1", "isn't a number of CPUs"),
        (units.parse_cpus, 10_000, "more than any kernel has"),
        (units.parse_cpuset, "", "isn't a list of CPUs"),
        (units.parse_cpuset, "0,,1", "isn't a list of CPUs"),
        (units.parse_cpuset, "3-1", "runs backwards"),
        (units.parse_cpuset, "0-99999999", "from 0 to 8191"),
        (units.parse_cpuset, [], "at least one"),
        (units.parse_cpuset, [True], "isn't a CPU number"),
        (units.parse_cpuset, -1, "from 0 to 8191"),
    ],
)
def test_refused(parse: Callable[[object], object], value: object, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(0, units.MAX_INT))
def test_sizes_come_back(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size == units.parse_size(size)


@given(st.integers(0, 1 << 53))
def test_durations_come_back(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert units.parse_duration(units.format_duration(seconds)) == seconds


@given(st.integers(1000, 8192 * 100_000))
def test_cpus_come_back(steps: int) -> None:
    cpus = steps / 100_000
    assert units.parse_cpus(cpus) == cpus == units.parse_cpus(units.format_cpus(cpus))


@given(st.sets(st.integers(0, units.MAX_CPU_NUMBER), min_size=1))
def test_cpusets_come_back(numbers: set[int]) -> None:
    assert units.parse_cpuset(units.format_cpuset(numbers)) == tuple(sorted(numbers))


@given(st.decimals("0.001", "9999", places=3), st.sampled_from("bkmg"))
def test_a_size_is_exact_or_refused(number: Decimal, unit: str) -> None:
    exact = number * units.SIZE_UNITS[unit]
    try:
        assert units.parse_size(f"{number}{unit}") == exact
    except BadInput:
        assert exact != exact.to_integral_value()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.format_size(123456789), "123456789B"), (units.format_size(123456789, 3), "118M"),
        (units.format_size(0), "0B"), (units.format_size(1536, 3), "1.5K"), (units.format_size(999, 2), "999B"),
        (units.format_rate(12_345_678, 3), "12.3 Mbit/s"), (units.format_rate(10_000_000, 3), "10 Mbit/s"),
        (units.format_duration(0.02), "20ms"), (units.format_duration(5400.0), "1h30m"),
        (units.format_duration(90.5), "1m30.5s"), (units.format_duration(0.0), "0s"),
        (units.format_duration(0.0000123), "12.3us"), (units.format_duration(150.0, 2), "2.5m"),
        (units.format_duration(0.0123456, 3), "12.3ms"),
        (units.format_cpus(2.0), "2"), (units.format_cpus(0.1), "0.1"),
        (units.format_cpuset([4, 2, 1, 0]), "0-2,4"),
    ],
)  # fmt: skip
def test_formats(text: str, expected: str) -> None:
    assert text == expected
