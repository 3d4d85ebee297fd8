"""Whether the supervisor keeps who has run a program for the container's next one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ctlab.runtime import execution, orders
from ctlab.runtime.record import Record, Runner


@pytest.mark.parametrize("restarted", [False, True])
def test_a_runner_is_kept_for_the_start_that_it_is_in(restarted: bool) -> None:
    """One whose program ended with the container may say so when that runs again, in other namespaces."""
    ours, theirs = orders.pair()
    supervisor: Any = SimpleNamespace(executions={"x": None}, tell=lambda _: None, after=lambda *_: None)
    record, first, second = Record("id", 1, "web", -1), object(), object()
    runner: Any = Runner(ours, -1)
    runner.record, runner.slot, runner.identity = record, first, ("0", (), 0)
    runner.call = SimpleNamespace(message=SimpleNamespace(execution="x", detached=True))
    record.slot = second if restarted else first  # type: ignore[assignment] # only which one it is counts
    orders.send(theirs, {"answered": True, "stays": True, "returncode": 137})
    execution._runner_says(supervisor, runner)
    assert record.runners == ({} if restarted else {("0", (), 0): runner})
    if restarted:
        assert theirs.recv(1) == b"", "it is to exit"
    ours.close()
    theirs.close()
