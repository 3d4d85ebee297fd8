"""SIGKILL of every part of a lab at random moments leaves nothing: as root and as an ordinary user."""

from __future__ import annotations

import os
from typing import Any

import faults_world
import pytest
from kernel_help import long_form

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("CTLAB_FAULTS_SEED", "1"))
TIMES = float(os.environ.get("CTLAB_FAULTS_TIMES", "10" if long_form() else "0.2"))  # 10: about 2,000 kills
COUNTS = {
    "root": {"owner": 32, "keeper": 24, "supervisor": 20, "collector": 4, "sampler": 4, "resolver": 4, "nursery": 4},
    "user-v1": {"owner": 28, "keeper": 24, "supervisor": 18, "collector": 3, "sampler": 3, "resolver": 3, "nursery": 3},
    "user": {"owner": 10, "keeper": 8, "supervisor": 8},
    "user-none": {"owner": 8, "keeper": 8, "supervisor": 6},
}


@pytest.mark.parametrize("who", COUNTS)
def test_nothing_is_left(who: str, ordinary: dict[str, int], count_in: Any, usable: None) -> None:
    """Each row of COUNTS; user: cgroup folders delegated; user-v1: none of version 2, so pause is the v1 freezer."""
    counts = {part: max(1, round(count * TIMES)) for part, count in COUNTS[who].items()}
    order = {"who": who, "seed": SEED, "counts": counts} | ordinary
    report = faults_world.enter("faults_kills.py", order, timeout=120 + 6 * sum(counts.values()))
    print(report)
    count_in(report)
    assert report["left"] == []
    assert report["bugs"] == {}, "the API raised something other than a CtlabError"
    # A few kills find their victim gone already (the life had just ended): no more than that.
    assert sum(report["kills"].values()) + sum(report["other_ends"].values()) >= 0.95 * sum(counts.values())
