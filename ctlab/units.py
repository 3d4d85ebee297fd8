"""Quantities: text or numbers in, base units out, and back for people to read.

Base units are bytes (int), bit/s (int), seconds (float), CPUs (float).
Every `parse_…` also takes a number that is in the base unit already, so it may be applied twice, and raises
`BadInput` rather than round: what it returns is exactly what was written. The `format_…` twins give text that
parses back to the same value; with `digits` they give a short text for a table instead.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

from .errors import BadInput

SIZE_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
RATE_UNITS = {"Gbit/s": 10**9, "Mbit/s": 10**6, "kbit/s": 10**3, "bit/s": 1}
# In nanoseconds, the finest time that is told apart.
TIME_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_Quantity = TypeVar("_Quantity", int, float)

MAX_INT = (1 << 63) - 1
MAX_CPU_NUMBER = 8191
# The CPU quota is counted in microseconds of each 100 ms, and the kernel refuses less than 1 ms.
CPU_STEPS = 100_000
MIN_CPUS = 0.01

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_SIZE = re.compile(_NUMBER + r" ?([bkmgt]?)(?:(?<=[kmgt])i?b)?", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(_NUMBER + r" ?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_PLAIN = re.compile(r"[+-]?" + _NUMBER + r"(?:[eE][+-]?\d+)?", re.ASCII)
_CPUSET_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def _number(value: object, what: str) -> Fraction:
    """A finite number that isn't a bool, exactly; BadInput otherwise."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]  # a scalar, taken without importing numpy
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction, Decimal)) or not math.isfinite(value):
        raise BadInput(f"{value!r} isn't a {what}")
    return Fraction(value)


def _whole(exact: Fraction, shown: object, what: str, unit: str) -> int:
    """`exact` as an int of `unit`s in 0..2**63-1; BadInput otherwise."""
    if exact < 0:
        raise BadInput(f"{shown!r} isn't a {what}: it is negative")
    if exact.denominator != 1:
        raise BadInput(f"{shown!r} isn't a whole number of {unit}")
    if exact > MAX_INT:
        raise BadInput(f"{shown!r} is too large for a {what}: more than 2^63-1 {unit}")
    return int(exact)


def _short(value: float, digits: int) -> str:
    """`value` with `digits` significant digits and no exponent: 12.34567 → 12.3."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _remembered(parse: Callable[[str | int | float], _Quantity]) -> Callable[[str | int | float], _Quantity]:
    """Parse each value once: exact arithmetic takes a hundredth of a start, and every start has the same few."""
    cached = functools.lru_cache(typed=True)(parse)

    @functools.wraps(parse)
    def call(value: str | int | float) -> _Quantity:
        # What isn't of these types can't be remembered and isn't a quantity: `parse` says so.
        return cached(value) if isinstance(value, str | int | float) else parse(value)

    return call


@_remembered
def parse_size(value: str | int | float) -> int:
    """Bytes from `64M`, `1.5g`, `64MiB`, `4096` (units of 1024, as in Docker) or from a number of bytes.

    BadInput if it isn't a size, is negative, is no whole number of bytes or exceeds 2**63-1.
    """
    if not isinstance(value, str):
        return _whole(_number(value, "size"), value, "size", "bytes")
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise BadInput(f"{value!r} isn't a size: write 64M or 1.5g (units b k m g t, of 1024)")
    number, unit = match.groups()
    return _whole(Fraction(number) * SIZE_UNITS[unit.lower() or "b"], value, "size", "bytes")


def format_size(size: int, digits: int | None = None) -> str:
    """`64M` for 67108864: the largest unit that is exact; with `digits`, that many significant ones (`118M`)."""
    if digits is not None:
        unit = next((u for u in "tgmk" if size >= SIZE_UNITS[u]), "b")
        return _short(size / SIZE_UNITS[unit], digits) + unit.upper()
    unit = next((u for u in "tgmk" if size and size % SIZE_UNITS[u] == 0), "b")
    return f"{size // SIZE_UNITS[unit]}{unit.upper()}"


def format_rate(rate: int, digits: int) -> str:
    """`12.3 Mbit/s` for 12345678 (bit/s), in units of 1000, with that many significant digits."""
    unit = next((u for u, size in RATE_UNITS.items() if rate >= size), "bit/s")
    return f"{_short(rate / RATE_UNITS[unit], digits)} {unit}"


def parse_time_left(value: str | int | float | timedelta | None) -> float | None:
    """As `parse_duration`, but that a negative number of seconds is 0: it is left until a moment that has passed."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return 0.0
    return None if value is None else parse_duration(value)


def parse_duration(value: str | int | float | timedelta) -> float:
    """Seconds from `20ms`, `1.5s`, `1h30m` or from a number of seconds or a timedelta.

    BadInput if negative, finer than 1 ns, longer than 2**63-1 ns, or text without a unit.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, str):
        exact = _number(value, "time")
        if exact < 0:
            raise BadInput(f"{value!r} isn't a time: it is negative")
        if exact * 10**9 > MAX_INT:
            raise BadInput(f"{value!r} s is too long for a time: more than 2^63-1 ns")
        return float(exact)
    text = value.strip()
    nanoseconds, position, largest = Fraction(0), 0, math.inf
    while match := _DURATION_PART.match(text, position):
        unit = TIME_UNITS[match[2].replace("µ", "u").replace("μ", "u")]
        if unit >= largest:
            break
        nanoseconds, largest, position = nanoseconds + Fraction(match[1]) * unit, unit, match.end()
    if not position or position != len(text):
        if _PLAIN.fullmatch(text) and not text.startswith("-"):
            raise BadInput(f"{value!r} needs a unit: {text}s or {text}ms?")
        raise BadInput(f"{value!r} isn't a time: write 20ms or 1.5s (units ns us ms s m h)")
    exact_ns = _whole(nanoseconds, value, "time", "ns")
    seconds = float(Fraction(exact_ns, 10**9))
    if round(Fraction(seconds) * 10**9) != exact_ns:
        raise BadInput(f"{value!r} has more digits than a time can carry (ns in about 104 days)")
    return seconds


def format_duration(seconds: float, digits: int | None = None) -> str:
    """`20ms`, `1.5s`, `1h30m`: exact to the nanosecond; with `digits`, one unit and that many digits (`2.5m`)."""
    nanoseconds = round(Fraction(seconds) * 10**9)
    unit = next((u for u, size in TIME_UNITS.items() if nanoseconds >= size), "s")
    if digits is not None:
        return _short(nanoseconds / TIME_UNITS[unit], digits) + unit
    if nanoseconds < 60 * 10**9:
        return f"{_decimal(Fraction(nanoseconds, TIME_UNITS[unit]))}{unit}"
    hours, rest = divmod(nanoseconds, TIME_UNITS["h"])
    minutes, rest = divmod(rest, TIME_UNITS["m"])
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    return "".join(parts) + (f"{_decimal(Fraction(rest, 10**9))}s" if rest else "")


@_remembered
def parse_cpus(value: str | int | float) -> float:
    """CPUs from `0.5` or a number: at least 0.01 and a multiple of 0.00001, which is what a quota can express."""
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(r"-?" + _NUMBER, text, re.ASCII):
            raise BadInput(f"{value!r} isn't a number of CPUs: write 0.5 or 2")
        exact = Fraction(text)
    else:
        exact = _number(value, "number of CPUs")
    if exact < Fraction(str(MIN_CPUS)):
        raise BadInput(f"{value!r} CPUs is too little: the kernel's smallest quota is {MIN_CPUS} (1 ms of each 100 ms)")
    if exact > MAX_CPU_NUMBER + 1:
        raise BadInput(f"{value!r} CPUs is more than any kernel has ({MAX_CPU_NUMBER + 1})")
    steps = round(exact * CPU_STEPS)
    # A float such as 0.1 isn't exactly 0.1, so a float's own error is forgiven, and no more than that.
    forgiven = Fraction(math.ulp(float(exact))) if isinstance(value, float) else Fraction(0)
    if abs(exact - Fraction(steps, CPU_STEPS)) > forgiven:
        near = _decimal(Fraction(steps, CPU_STEPS))
        raise BadInput(f"{value!r} CPUs is finer than a quota can be (1 us of each 100 ms): write {near}")
    return steps / CPU_STEPS


def format_moment(seconds: float | None = None) -> str:
    """``2026-11-26 14:02:11 UTC``: seconds since 1970, or now. The zone in which frames are, too, and charts."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def format_cpus(cpus: float) -> str:
    """`0.5` for 0.5, `2` for 2.0."""
    return _decimal(Fraction(round(Fraction(cpus) * CPU_STEPS), CPU_STEPS))


def parse_cpuset(value: str | int | Iterable[int]) -> tuple[int, ...]:
    """CPU numbers, sorted, each once, from `0-2,4`, from a number or from several. BadInput if none or malformed."""
    if isinstance(value, bool):
        raise BadInput(f"{value!r} isn't a list of CPUs")
    if isinstance(value, int):
        value = (value,)
    numbers: set[int] = set()
    if isinstance(value, str):
        for part in value.split(","):
            match = _CPUSET_PART.fullmatch(part.strip())
            if match is None:
                raise BadInput(f"{value!r} isn't a list of CPUs: write 0-2,4")
            first = int(match[1])
            last = int(match[2]) if match[2] else first
            if last < first:
                raise BadInput(f"{value!r}: the range {part.strip()} runs backwards")
            _check_cpu_number(last, value)
            numbers.update(range(first, last + 1))
    else:
        for number in value:
            if isinstance(number, bool) or not isinstance(number, int):
                raise BadInput(f"{number!r} isn't a CPU number")
            _check_cpu_number(number, number)
            numbers.add(number)
    if not numbers:
        raise BadInput("a list of CPUs needs at least one")
    return tuple(sorted(numbers))


def _check_cpu_number(number: int, shown: object) -> None:
    if not 0 <= number <= MAX_CPU_NUMBER:
        raise BadInput(f"{shown!r}: CPU numbers go from 0 to {MAX_CPU_NUMBER}")


def format_cpuset(numbers: Iterable[int]) -> str:
    """`0-2,4` for (0, 1, 2, 4): the form that the kernel writes itself."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _decimal(value: Fraction) -> str:
    """A fraction whose denominator has no factor but 2 and 5, written out in full; others to 17 digits."""
    if value.denominator == 1:
        return str(value.numerator)
    denominator, twos, fives = value.denominator, 0, 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    if denominator != 1:
        return f"{float(value):.17g}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return ("-" if value < 0 else "") + f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
