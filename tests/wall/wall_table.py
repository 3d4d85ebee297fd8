"""Reports compared: what one side reaches and another doesn't. Pure.

A *fact* is one line of what can be reached. Facts are plain texts, so that a difference of two sides is a difference of
two sets, and an exception (`wall_exceptions.py`) is a pattern of such texts.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from typing import Any

_REFUSED = ("EPERM", "ENOSYS")
Report = Mapping[str, Any]


def facts(report: Report, names: Mapping[int, str]) -> set[str]:
    """What a report says is reached, but for mounts and amounts, which only mean something beside another side."""
    answers: Mapping[str, str] = report["calls"]
    called = {f"call {names.get(int(n), n)}" for n, answer in answers.items() if answer not in _REFUSED}
    return {*report["reach"], *called}


def excess(ours: Report, theirs: Report, names: Mapping[int, str]) -> set[str]:
    """What `ours` reaches and `theirs` doesn't."""
    more = facts(ours, names) - facts(theirs, names)
    for place, allowed in ours["mounts"].items():
        there = _allowed_at(place, theirs["mounts"])
        more |= {f"mount {place} allows: {what}" for what in allowed if what not in there}
    for name, amount in ours["amounts"].items():
        if amount > theirs["amounts"].get(name, amount):
            more.add(f"more of {name}")
    return more


def _allowed_at(place: str, mounts: Mapping[str, list[str]]) -> list[str]:
    """What the mount allows that a path lies in."""
    while place not in mounts:
        if place == "/":
            return []
        place = os.path.dirname(place)
    return mounts[place]


def matches(fact: str, pattern: str) -> bool:
    """Whether a pattern, in which ``*`` stands for anything, is meant for a fact."""
    return fnmatch.fnmatchcase(fact, pattern.replace("[", "[[]"))


def unexplained(more: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The facts that no pattern is meant for."""
    known = list(patterns)
    return sorted(fact for fact in more if not any(matches(fact, pattern) for pattern in known))


def unused(more: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The patterns that are meant for no fact."""
    seen = list(more)
    return sorted(pattern for pattern in patterns if not any(matches(fact, pattern) for fact in seen))
