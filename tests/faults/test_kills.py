"""SIGKILL of every part of a lab at random moments leaves nothing: as root and as an ordinary user."""

from __future__ import annotations

import os
from typing import Any

import faults_world
import pytest
from faults_summary import VITAL
from kernel_help import long_form

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("CTLAB_FAULTS_SEED", "1"))
TIMES = float(os.environ.get("CTLAB_FAULTS_TIMES", "2" if long_form() else "0.2"))  # 2: about 470 kills
AT_LEAST = 200 if long_form() else 28  # of these three, as all users together
COUNTS = {
    "root": {"owner": 32, "keeper": 24, "supervisor": 20, "collector": 4, "sampler": 4, "resolver": 4, "nursery": 4},
    "user-v1": {"owner": 28, "keeper": 24, "supervisor": 18, "collector": 3, "sampler": 3, "resolver": 3, "nursery": 3},
    "user": {"owner": 10, "keeper": 8, "supervisor": 8},
    "user-none": {"owner": 10, "keeper": 10, "supervisor": 8},
}
# With fewer folders there is less to clean up: those users in the long form only.
WHO = [pytest.param(who, marks=[pytest.mark.long] if who in ("user", "user-none") else []) for who in COUNTS]
_killed: dict[str, dict[str, int]] = {}  # who -> the kills that this process has counted


@pytest.mark.parametrize("who", WHO)
def test_nothing_is_left(who: str, ordinary: dict[str, int], count_in: Any, usable: None) -> None:
    """Each row of COUNTS; user: cgroup folders delegated; user-v1: none of version 2, so pause is the v1 freezer."""
    counts = {part: max(1, round(count * TIMES)) for part, count in COUNTS[who].items()}
    order = {"who": who, "seed": SEED, "counts": counts} | ordinary
    report = faults_world.enter("faults_kills.py", order, timeout=120 + 6 * sum(counts.values()))
    print(report)
    count_in(report)
    _killed[who] = report["kills"]
    assert report["left"] == []
    assert report["bugs"] == {}, "the API raised something other than a CtlabError"
    assert report["kills"] == counts, f"too many came too late: {report['missed']}"


def test_so_many_were_killed(request: pytest.FixtureRequest, ordinary: dict[str, int], usable: None) -> None:
    """As all users together."""
    asked = {item.callspec.params["who"] for item in request.session.items if _is_one_of_kills(item)}
    if asked != set(COUNTS if long_form() else ("root", "user-v1")):
        pytest.skip(f"asked for the kills of these alone: {', '.join(sorted(asked))}")
    if hasattr(request.config, "workerinput") and set(_killed) != asked:
        pytest.skip("some of the kills ran in another process of pytest, and are counted there: needs --dist=loadfile")
    vital = {part: sum(kills.get(part, 0) for kills in _killed.values()) for part in VITAL}
    assert sum(vital.values()) >= AT_LEAST, vital


def _is_one_of_kills(item: pytest.Item) -> bool:
    return getattr(item, "function", None) is test_nothing_is_left
