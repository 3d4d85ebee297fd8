"""Shared by all tests: labs to test on, the check that nothing is left behind, the summary of what was skipped.

The labs of a test run keep their runtime folders in a folder of the run's own, so that other labs on the machine
are neither counted nor touched.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults_summary
import hypothesis
import leg_report
import pytest
import scheduling
from kernel_help import (
    children,
    floor_ms,
    long_form,
    measure_slowness,
    patient,
    running,
    take_bugs,
    uses,
    wait_until,
)

measure_slowness()
TEST_SECONDS = patient(1800 if long_form() else 60)
_LONG_FIXTURES = {"reports", "of_a_vm"}  # of tests/wall: many containers of three kinds, once a session
hypothesis.settings.register_profile("ctlab", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("ctlab")

# A run that was started in the background of a shell ignores interrupts, and so would everything it starts: the tests
# of interrupts would then test nothing.
for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
_cgroup_folders: set[str] = set()  # of every lab that this process has started


def pytest_configure(config: pytest.Config) -> None:
    """Where a report of this leg is wanted (CTLAB_LEG_REPORT, a file), it is written at the end.

    Of several processes, by the one that hears of all tests; so is the sum of the faults.
    """
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(faults_summary)
    path = os.environ.get("CTLAB_LEG_REPORT")
    if path:
        config.pluginmanager.register(leg_report.Recorder(path))


def pytest_report_header() -> str:
    """What limits of time are made of."""
    return (
        f"floor: unshare of all namespaces takes {floor_ms():.1f} ms; limits of time are "
        f"{os.environ['CTLAB_TEST_SLOWNESS']} times those of a quiet machine"
    )  # fmt: skip


_LEFT = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long comes first; what is marked `long` is left to the long form, and counted."""
    items.sort(key=lambda item: scheduling.rank(item.nodeid))
    if long_form():
        return
    marks = ["long", *(["long_in_guest"] if os.environ.get("CTLAB_TEST_LEG") == "vm" else [])]
    left = [item for item in items if any(map(item.get_closest_marker, marks))]
    config.stash[_LEFT] = [item.nodeid for item in left]
    if hasattr(config, "workeroutput"):
        config.workeroutput["left"] = config.stash[_LEFT]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def pytest_collection_finish() -> None:
    """Thousands of tests and what they import stay until the end: the collector of garbage needs not look at them.

    Tests that count descriptors or objects call it, and would pay for all of it each time.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """A kernel test that waits for ever fails after a minute, with the place where it waits."""
    limited = bool({"kernel", "wall"} & set(item.path.parts)) and not item.get_closest_marker("user")
    limited &= not _LONG_FIXTURES & set(getattr(item, "fixturenames", ()))

    def late(_: int, frame: Any) -> None:
        place = "".join(traceback.format_stack(frame)[-6:])
        pytest.fail(f"the test took longer than {TEST_SECONDS:g} s; it was here:\n{place}", pytrace=False)

    before = signal.signal(signal.SIGALRM, late) if limited else None
    signal.setitimer(signal.ITIMER_REAL, TEST_SECONDS if limited else 0)
    running.append(item)
    try:
        return (yield)
    finally:
        running.remove(item)
        signal.alarm(0)
        if before is not None:
            signal.signal(signal.SIGALRM, before)


# -- what a test may not leave behind -------------------------------------------------------------------------------
@pytest.fixture(scope="session", autouse=True)
def runtime_base() -> Iterator[Path]:
    """A folder for the runtime folders of this run's labs; whatever is left in it at the end fails the run."""
    from ctlab import labs

    before = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")}
    real = before["XDG_RUNTIME_DIR"]
    if real and not before["DBUS_SESSION_BUS_ADDRESS"] and os.path.exists(f"{real}/bus"):
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={real}/bus"  # a scope is still asked for there
    folder = tempfile.mkdtemp(prefix="ctlab-tests-")
    os.environ["XDG_RUNTIME_DIR"] = folder
    plain_add = labs.add

    def add(lab: Any) -> None:
        _cgroup_folders.update(lab._client.facts["cgroup_paths"])
        plain_add(lab)

    labs.add = add
    try:
        yield Path(folder) / "ctlab"
        left = [str(path) for path in Path(folder).rglob("*")]
    finally:
        labs.add = plain_add
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
    assert left == [], "runtime folders were left behind"


def _mounts() -> list[str]:
    return sorted(Path("/proc/self/mountinfo").read_text().splitlines())


class _Outside:
    """What of our labs lies outside them."""

    def __init__(self, base: Path) -> None:
        self.processes = children()
        self.folders = set(os.listdir(base)) if base.is_dir() else set()
        self.cgroups = {path for path in _cgroup_folders if os.path.isdir(path)}
        self.mounts = _mounts()

    def new(self, before: _Outside) -> dict[str, object]:
        """What is here and was not before."""
        found: dict[str, object] = {
            "processes": {pid: _what(pid) for pid in self.processes - before.processes},
            "runtime folders": self.folders - before.folders,
            "cgroup folders": self.cgroups - before.cgroups,
            "mounts": [line for line in self.mounts if line not in before.mounts],
        }
        return {name: value for name, value in found.items() if value}


def _what(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:100] or "(dead, not waited for)"
    except OSError:
        return "?"


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, runtime_base: Path) -> Iterator[None]:
    """No test leaves a process, a cgroup folder, a runtime folder or a mount behind (a module's lab is no leftover)."""
    if request.node.get_closest_marker("browser"):
        yield  # a server and a browser live as long as the session; those tests look by themselves
        return
    if "lab" in request.fixturenames:
        request.getfixturevalue("module_lab")
    before = _Outside(runtime_base)
    yield
    wait_until(lambda: not _Outside(runtime_base).new(before))
    assert _Outside(runtime_base).new(before) == {}


# -- labs -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def usable() -> None:
    """Skips, with the doctor's reason, where this machine can't run a lab."""
    from ctlab.doctor import doctor

    report = doctor()
    if not report.usable:
        pytest.skip(f"no lab can run here: {report.why_not}")


class _Kept:
    """A lab for all tests of a module, made anew when a test has ended it."""

    def __init__(self) -> None:
        self.lab: Any = None

    def get(self) -> Any:
        import ctlab

        if self.lab is None or self.lab.gone:
            self.lab = ctlab.Lab(f"tests-{os.getpid()}")
        uses(*leg_report.of_lab(self.lab._client.facts))
        return self.lab


@pytest.fixture(scope="module")
def module_lab(usable: None) -> Iterator[_Kept]:
    """Holds the module's lab."""
    kept = _Kept()
    kept.get()
    yield kept
    if kept.lab is not None:
        kept.lab.stop()


@pytest.fixture
def lab(module_lab: _Kept) -> Iterator[Any]:
    """The module's lab, empty; emptied after the test, and what the containers had must be gone inside as well."""
    lab = module_lab.get()
    yield lab
    bugs = take_bugs(lab)
    if lab.gone:
        module_lab.get()
        assert bugs == []
        return
    for container in list(lab.containers):
        if not container._gone:
            container.remove()
    for network in list(lab.networks):
        network.remove()
    assert wait_until(lambda: _inside(lab) == []), f"left inside the lab: {_inside(lab)}"
    assert bugs + take_bugs(lab) == []


def _inside(lab: Any) -> list[str]:
    """Interfaces and cgroup folders of an empty lab that belong to no slot (a first process that waits for orders)."""
    left = [link["name"] for link in lab.nodes["host"].links() if link["name"] != "lo"]
    for path in lab._client.facts["cgroup_paths"]:
        for folder in Path(path).glob("c[0-9]*"):
            with contextlib.suppress(OSError):  # it has gone meanwhile
                names = [_what(int(pid)) for pid in (folder / "cgroup.procs").read_text().split()]
                if not names or not all(name.startswith("ctlab-init") for name in names):
                    left.append(f"{folder}: {names}")
    return left


@pytest.fixture
def fresh_lab(usable: None) -> Iterator[Any]:
    """A lab for one test alone."""
    import ctlab

    lab = ctlab.Lab(f"fresh-{os.getpid()}")
    uses(*leg_report.of_lab(lab._client.facts))
    yield lab
    lab.stop()
    assert take_bugs(lab) == []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests one process does together."""
    return scheduling.scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has ended: what it has left out, all have."""
    node.config.stash[_LEFT] = getattr(node, "workeroutput", {}).get("left", [])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """At the end: how many were skipped, for which reasons, how often each; what was left to the long form."""
    if left := terminalreporter.config.stash.get(_LEFT, []):
        terminalreporter.section(f"{len(left)} left to the long form (make test-all)")
        for path, count in Counter(nodeid.partition("::")[0] for nodeid in left).most_common():
            terminalreporter.write_line(f"{path} × {count}")
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section(f"{sum(reasons.values())} skipped")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{reason} × {count}")


@pytest.fixture
def in_a_magic() -> Iterator[None]:
    """What is said is spelled as in a magic's line."""
    from ctlab.spelling import of_a_magic

    with of_a_magic():
        yield
