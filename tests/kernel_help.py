"""What tests of the kernel share: waiting for a condition, and saying which capability is missing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SETTLE_SECONDS = 5.0  # how long the kernel is given to finish what was ended (namespaces go in the background)


def wait_until(condition: Callable[[], bool], timeout: float = SETTLE_SECONDS, step: float = 0.005) -> bool:
    """Wait for something that no event announces; whether it came true in time."""
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(step)
    return True


def children() -> set[int]:
    """The child processes of this one, dead ones that nobody has waited for included."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


def need_controller(lab: Any, name: str) -> None:
    """Skip where the lab has no cgroup controller of that name, with the lab's own reason."""
    facts = lab._client.facts
    if facts["cgroup"] == "none" or name not in facts["controllers"]:
        pytest.skip(f"no cgroup controller {name} for this user: {facts['cgroup_reason'][:90]}")


def need_freezer(lab: Any) -> None:
    """Skip where the lab's containers have no cgroup folder that can be frozen."""
    if not lab._client.facts["cgroup_paths"]:
        pytest.skip(f"no cgroup folder for this user: {lab._client.facts['cgroup_reason'][:90]}")


def need_ids(lab: Any) -> None:
    """Skip where the lab has one user id only."""
    if lab._client.facts["single_id"]:
        pytest.skip("only one user id is mapped for this user (no range in /etc/subuid)")


# -- what was skipped -------------------------------------------------------------------------------------------------
