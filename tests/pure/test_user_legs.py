"""Every kernel test is decided on: as which ordinary users it runs again, or why as none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import user_legs

KERNEL = Path(__file__).resolve().parents[1] / "kernel"


def test_every_file_is_in_one_table() -> None:
    """Who adds a file of kernel tests adds it to a table of user_legs.py."""
    there = {path.name for path in KERNEL.glob("test_*.py")}
    named = Counter(user_legs.decided())
    assert there - set(named) == set(), "in no table"
    assert {name for name, count in named.items() if count > 1} == set(), "in two tables"
    assert {name for name in named if not (KERNEL / name).is_file()} == set(), "not there"
    assert all(len(reason) > 15 for reason in user_legs.LEFT_OUT.values())


@pytest.mark.parametrize("long", [False, True])
def test_what_runs(long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every change each file but the long ones as some user; in the long form each as every kind."""
    monkeypatch.setenv("CTLAB_TEST_LONG", "1" if long else "0")
    runs = {kind: set(user_legs.files_for(kind)) for kind in user_legs.KINDS}
    wanted = set(user_legs.decided()) - set(user_legs.LEFT_OUT)
    if long:
        assert all(files == wanted for files in runs.values())
    else:
        assert set().union(*runs.values()) == wanted - set(user_legs.LONG)
    assert set(user_legs.KINDS) == set(user_legs.FOR_ONE) == set(user_legs.LEAST_PASSED)


def test_what_may_be_skipped_depends_on_the_machines_cgroups() -> None:
    """A test of version 1 is no loss on a machine of version 2 alone, and one elsewhere."""
    of_v1 = {"no cgroup v1 on this machine", "version 2 ends the whole container (memory.oom.group)"}

    def allowed(kind: str, version: str, reason: str) -> bool:
        return any(part in reason for part in user_legs.may_skip(kind, version))

    for reason in of_v1:
        assert allowed("range-and-folders", "v2", reason) and not allowed("range-and-folders", "v1", reason)
    assert not allowed("range-and-folders", "v2", "no cgroup v2 controllers on this machine")
    assert allowed("range-and-folders", "v1", "no cgroup v2 controllers on this machine")
    for kind in user_legs.KINDS:
        assert not allowed(kind, "none", "no strace here") and allowed(kind, "none", "no java here")
