"""What tests of the kernel share: waiting for a condition, and saying which capability is missing."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
FLOOR_MS = 2.0  # what `unshare` of all namespaces takes on the machine that limits of time were written for
_MOST_SLOWNESS = 10.0


def floor_ms() -> float:
    """What `unshare` of all namespaces takes here, in milliseconds (median of nine), as whoever this is."""
    words = ["unshare", *(["-Ur"] if os.geteuid() else []), "-nmpfuiC", "--mount-proc", "/bin/true"]
    taken = []
    for _ in range(9):
        began = time.perf_counter()
        done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode:
            return FLOOR_MS
        taken.append((time.perf_counter() - began) * 1e3)
    return sorted(taken)[len(taken) // 2]


def measure_slowness() -> None:
    """Set CTLAB_TEST_SLOWNESS, for all that is started from here on, too, unless somebody has set it (for a guest)."""
    if "CTLAB_TEST_SLOWNESS" not in os.environ:
        beside = max(1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))  # who works beside us takes its share
        slowness = min(max(1.0, floor_ms() / FLOOR_MS), _MOST_SLOWNESS) * beside
        os.environ["CTLAB_TEST_SLOWNESS"] = f"{slowness:.2f}"


def patient(seconds: float) -> float:
    """So many seconds on a quiet, real machine; CTLAB_TEST_SLOWNESS times as many on this one.

    For what a test waits at most, never for what it measures against another measurement of the same run.
    """
    return seconds * float(os.environ.get("CTLAB_TEST_SLOWNESS", "1"))


def long_form() -> bool:
    """Whether everything is wanted: every leg for every user, thousands of tries (CTLAB_TEST_LONG=1, make test-all)."""
    return os.environ.get("CTLAB_TEST_LONG") == "1"


def tries(short: int, long: int) -> int:
    """How often something is tried: on every change, and in the long form."""
    return long if long_form() else short


@contextlib.contextmanager
def no_hang(seconds: float) -> Iterator[None]:
    """What takes longer than so many seconds (`patient`) hangs, and fails. The test's own limit goes on after it."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it hangs: {seconds:g} s")

    earlier = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, patient(seconds))
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001))


running: list[pytest.Item] = []  # the test that runs now


def uses(*capabilities: str) -> None:
    """Note that the test which runs now uses these (names as in `leg_report.CAPABILITIES`)."""
    for item in running:
        item.user_properties += [("uses", name) for name in capabilities]


SETTLE_SECONDS = 5.0  # how long the kernel is given to finish what was ended (namespaces go in the background)
STRANGER = 54321  # an id that no account has


def wait_until(condition: Callable[[], bool], timeout: float = SETTLE_SECONDS, step: float = 0.005) -> bool:
    """Wait for something that no event announces; whether it came true in time (`patient` with it)."""
    until = time.monotonic() + patient(timeout)
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(step)
    return True


def seen(
    look: Callable[[], T], holds: Callable[[T], object], timeout: float = SETTLE_SECONDS, step: float = 0.005
) -> T:
    """The first look at something living for which a condition holds. What is asserted of it is of this very look.

    A second look may see something else (a shell forks, a counter grows). Fails, with the last look, if none holds.
    """
    until = time.monotonic() + patient(timeout)
    while not holds(found := look()):
        assert time.monotonic() < until, f"it never came; the last look: {found!r}"
        time.sleep(step)
    return found


def open_descriptors() -> int:
    """How many this process has open. What earlier tests left to the collector of garbage is closed before."""
    _collect()
    return len(os.listdir("/proc/self/fd"))


_collected_for: list[Path] = []


def _collect() -> None:
    """Collect garbage. What a module finds when it first does so is no garbage, and isn't looked at again."""
    gc.collect()
    if running and running[-1].path not in _collected_for:
        _collected_for[:] = [running[-1].path]
        gc.freeze()


def children() -> set[int]:
    """The child processes of this one, dead ones that nobody has waited for included."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


def children_of(pid: int) -> list[int]:
    """The child processes of another, single-threaded one."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def titles(lab: Any) -> dict[int, str]:
    """The supervisor's children by what they are called, and its dead ones that nobody has waited for."""
    found = {}
    for pid in children_of(lab._client.facts["supervisor"]):
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode() or "dead"
        except OSError:
            continue
    return found


def helpers(lab: Any, name: str) -> list[int]:
    """The pids of a helper, and of what a nursery has just cloned, which is called as it is for a moment."""
    return [pid for pid, title in titles(lab).items() if title == f"ctlab {name}"]


def need_controller(lab: Any, name: str) -> None:
    """Skip where the lab has no cgroup controller of that name, with the lab's own reason."""
    facts = lab._client.facts
    if facts["cgroup"] == "none" or name not in facts["controllers"]:
        pytest.skip(f"no cgroup controller {name} for this user: {facts['cgroup_reason'][:90]}")
    uses(f"cgroup {facts['cgroup']} {name}")


def need_freezer(lab: Any) -> None:
    """Skip where the lab's containers have no cgroup folder that can be frozen."""
    paths = lab._client.facts["cgroup_paths"]
    if not paths:
        pytest.skip(f"no cgroup folder for this user: {lab._client.facts['cgroup_reason'][:90]}")
    unified = lab._client.facts["cgroup"] == "v2" or any("/unified/" in path for path in paths)
    uses("cgroup-freeze" if unified else "cgroup v1 freezer")


def need_ids(lab: Any) -> None:
    """Skip where the lab has one user id only."""
    if lab._client.facts["single_id"]:
        pytest.skip("only one user id is mapped for this user (no range in /etc/subuid)")
    uses("id-range")


def need_root(why: str) -> None:
    """Skip an ordinary user, who can't do what the test needs."""
    if os.geteuid() != 0:
        pytest.skip(f"needs root, {why}")


ROOT = Path(__file__).resolve().parents[1]


def run_owner(script: str, *words: str, timeout: float = 40) -> str:
    """Run a Python script that owns labs itself, for what must not happen to the process of the tests.

    Returns what it wrote; a script that fails fails the test.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, *words], cwd="/", env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=patient(timeout), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def held_beside_slots(lab: Any) -> Counter[str]:
    """What keeper and supervisor have open, less the kinds of which slots and runners have a changing number."""
    found: Counter[str] = Counter()
    for name in ("keeper", "supervisor"):
        folder = f"/proc/{lab._client.facts[name]}/fd"
        for descriptor in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found[f"{name} {os.readlink(f'{folder}/{descriptor}')}"] += 1
    of_slots = ("socket:", "pipe:", "anon_inode:[pidfd]", "mnt:")
    return Counter({what: count for what, count in found.items() if not what.partition(" ")[2].startswith(of_slots)})


def take_bugs(lab: Any) -> list[str]:
    """What the lab has noted of bugs of ours, and no longer has."""
    from ctlab.lab import BUG

    found = [note for note in lab.notes if note.startswith(BUG)]
    lab.notes[:] = [note for note in lab.notes if not note.startswith(BUG)]
    return found


# -- what was skipped -------------------------------------------------------------------------------------------------
