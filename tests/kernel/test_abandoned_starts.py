"""While a lab starts, one of its processes is stopped, and its owner is ended; or it dies, which is said or mended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernel_help import children_of, patient, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("usable")]
SAYS = """
import ctlab
try:
    lab = ctlab.Lab()
    print("ready", lab.run(["true"]).wait(), lab.notes)
except ctlab.CtlabError as error:
    print(type(error).__name__, error)
"""
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
                # What is interrupted clears up itself, once its keeper has ended.
                assert wait_until(lambda left=(note, *folders): not any(map(os.path.exists, left))), (note, *folders)
                return
            finally:
                for pid in [owner.pid, *made]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                owner.kill()
    pytest.fail("never stopped in time")


def killed_in_start(name: str) -> str:
    """What an owner says whose lab's process of that title was killed, before it had done anything but be born."""
    with subprocess.Popen([sys.executable, "-c", SAYS], stdout=subprocess.PIPE, text=True) as owner:
        until, stopped = time.monotonic() + patient(10), 0
        try:
            while not stopped and time.monotonic() < until:
                for keeper in below(owner.pid):
                    for parent, pid in [(above, pid) for above in (keeper, *below(keeper)) for pid in below(above)]:
                        if title(pid).startswith(f"ctlab {name}"):
                            stopped = parent  # so it meets its child dead, not dying
                            os.kill(stopped, signal.SIGSTOP)
                            os.kill(pid, signal.SIGKILL)
                            assert wait_until(lambda pid=pid: not alive(pid))
            assert stopped, "no such process"
            os.kill(stopped, signal.SIGCONT)
            return owner.communicate(timeout=patient(20))[0]
        finally:
            owner.kill()


@pytest.mark.parametrize(("name", "called"), [("seed", "the seed of its supervisor"), ("supervisor", "its supervisor")])
def test_a_start_whose_process_is_killed_says_which(name: str, called: str) -> None:
    for _ in range(10):
        said = killed_in_start(name)
        if not said.startswith("ready"):  # else it had done all that it is for
            why = "(SIGKILL): something killed it; where memory is short, the kernel does"
            assert said == f"KernelError the lab can't start: {called} ended at start {why}\n"
            return
    pytest.fail("never killed in time")


def test_a_nursery_that_is_killed_in_the_start_is_made_anew() -> None:
    for _ in range(10):
        said = killed_in_start("nursery")
        if said != "ready 0 []\n":  # else the lab stood before
            assert re.fullmatch(r"ready 0 \[.*the lab's nursery died \(SIGKILL\) and was started anew.*\]\n", said)
            return
    pytest.fail("never killed in time")
