"""A start that hangs, since one of the lab's processes is stopped, ends with the owner that waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernel_help import children_of, patient, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("usable")]
OWNER = "import ctlab\nlab = ctlab.Lab()\nprint('ready', flush=True)\nlab.close()"


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
    except OSError:
        return ""


def below(pid: int) -> list[int]:
    try:
        return children_of(pid)
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether it runs, and isn't dead with nobody to wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def stop_in_start(owner: int, name: str) -> list[int]:
    """Stop the process of that title as soon as there is one: (keeper, it); nothing when it came too late."""
    until = time.monotonic() + patient(10)
    while time.monotonic() < until:
        for keeper in below(owner):
            for pid in below(keeper):
                if title(pid).startswith(f"ctlab {name}"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        return [keeper, pid]
    return []


@pytest.mark.parametrize("name", ["seed", "supervisor"])
@pytest.mark.parametrize("way", ["killed", "interrupted"])
def test_a_start_that_hangs_ends_with_its_owner(
    name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for _ in range(40):
        with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as owner:
            made: list[int] = []
            try:
                made = stop_in_start(owner.pid, name)
                assert made, "no such process"
                assert owner.stdout is not None
                if select.select([owner.stdout], [], [], patient(0.5))[0] or not all(map(alive, made)):
                    continue  # the lab stood before
                (note,) = tmp_path.glob("ctlab/*/note")
                folders = json.loads(note.read_text())["cgroups"]
                os.kill(owner.pid, signal.SIGKILL if way == "killed" else signal.SIGINT)
                assert wait_until(lambda made=made: not any(map(alive, made)), 5), [title(pid) for pid in made]
                assert [path for path in [note, *folders] if os.path.exists(path)] == []
                return
            finally:
                for pid in [owner.pid, *made]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                owner.kill()
    pytest.fail("never stopped in time")
