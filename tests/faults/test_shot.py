"""A kill counts only of a process that lived until it and died of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import faults_shot
import pytest
from faults_shot import Shot, _status
from kernel_help import patient

pytestmark = pytest.mark.faults


def test_who_lives_is_hit() -> None:
    process = subprocess.Popen(["sleep", "100"])
    shot = Shot(process.pid)
    assert process.wait(patient(10)) == -signal.SIGKILL
    assert shot.hit(patient(10))


@pytest.mark.parametrize("end", ["exit", "SIGTERM"])
@pytest.mark.parametrize("waited", [False, True])
def test_who_is_dead_is_not(end: str, waited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it waits to be waited for, when its number is still its own, and where the kernel doesn't say how."""
    monkeypatch.setattr(faults_shot, "_status", lambda _: signal.SIGKILL)
    process = subprocess.Popen(["sleep", "100" if end == "SIGTERM" else "0"])
    if end == "SIGTERM":
        process.terminate()
    pidfd = os.pidfd_open(process.pid)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    if waited:
        process.wait()
    assert not Shot(process.pid).hit(0.1)
    process.wait()


@pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 15),
    reason="the kernel doesn't say it: Linux 6.15",
)
def test_how_it_ended_is_the_kernels_word() -> None:
    """So who lived a moment ago and ended otherwise isn't counted."""
    process = subprocess.Popen(["sleep", "100"])
    pidfd = os.pidfd_open(process.pid)
    assert _status(pidfd) is None
    process.terminate()
    process.wait()
    assert _status(pidfd) == signal.SIGTERM
    os.close(pidfd)
