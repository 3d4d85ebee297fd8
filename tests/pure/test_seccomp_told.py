"""The default filter, told: all that it refuses is there, and what is said of a call is what the filter does."""

from __future__ import annotations

import os

import pytest

from ctlab.__main__ import main
from ctlab.errors import BadInput
from ctlab.kernel.capabilities import DEFAULT
from ctlab.seccomp import told
from ctlab.seccomp.compile import passes
from ctlab.seccomp.default import GROUPS, PROFILE
from ctlab.seccomp.profile import ALLOW


def test_all_that_is_refused_is_in_the_table() -> None:
    words = set(told.table().split())
    for group in GROUPS:
        if group.answer != ALLOW:
            assert set(group.calls.split()) <= words


def test_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seccomp", "mount", "clock_settime", "clone"]) == 0
    mount, clock, clone, but = capsys.readouterr().out.splitlines()
    assert mount.startswith("mount: EPERM, to all containers: ")
    assert clock.startswith("clock_settime: EPERM, opened by --cap-add SYS_TIME: ")
    assert clone.startswith("clone: EPERM") and but == "    but allowed where argument 0 & 0x7e020000 == 0x0"
    assert main(["seccomp", "mout"]) == 1
    assert "did you mean 'mount'?" in capsys.readouterr().err
    with pytest.raises(BadInput):
        told.about(["no_such_call"])


def test_what_is_said_is_what_the_filter_does() -> None:
    """For each call without conditions: told as refused and to all, or with what opens it."""
    machine = os.uname().machine
    for group in GROUPS:
        for call in group.calls.split():
            said = told.about([call]).partition(": ")[2]
            if group.exceptions:
                continue
            assert passes(PROFILE, frozenset(DEFAULT), machine, call) == (
                said.startswith("allowed: ") or any(f"--cap-add {name}" in said for name in DEFAULT)
            ), call
