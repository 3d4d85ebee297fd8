"""What a program that a runner makes is at the launcher's first instruction, from which on it can be traced."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from kernel_help import wait_until

from ctlab.kernel import launcher

pytestmark = pytest.mark.kernel
LOAD_ADDRESS = 0x400000
FOR_EVER = {"x86_64": bytes.fromhex("ebfe"), "aarch64": bytes.fromhex("00000014")}  # a jump to itself


@pytest.fixture
def stays(tmp_path: Path) -> launcher.Launcher:
    """A launcher that stays at its first instruction."""
    file = bytearray(launcher.code())
    entry = int.from_bytes(file[24:32], "little") - LOAD_ADDRESS
    loop = FOR_EVER[os.uname().machine]
    file[entry : entry + len(loop)] = loop
    path = tmp_path / "launcher"
    path.write_bytes(file)
    path.chmod(0o555)
    return launcher.Launcher(str(path))


def is_inherited(pid: int, number: int) -> bool:
    """Whether a program that this process executes would find that descriptor open."""
    with contextlib.suppress(FileNotFoundError):
        flags = next(
            line for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines() if line.startswith("flags:")
        )
        return not int(flags.split()[1], 8) & os.O_CLOEXEC
    return False


def test_it_leads_a_session_and_holds_its_streams_only(stays: launcher.Launcher) -> None:
    """Else a container that seizes it would signal all of the lab by its process group (`kill(0)`)."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    child = stays.spawn(["/bin/true"], "/bin/true", "/", {}, dict.fromkeys(range(3), null))
    try:
        here = Path(f"/proc/{child.pid}")
        assert wait_until(lambda: os.readlink(here / "exe").endswith("/launcher"))
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid != os.getpgid(0)
        inherited = {number for number in range(1024) if is_inherited(os.getpid(), number)}  # the test's own
        # A program has its name a moment before the kernel closes what it isn't given.
        wanted = {0, 1, 2, launcher.REPORT} | inherited
        assert wait_until(lambda: {int(name) for name in os.listdir(here / "fd")} == wanted), os.listdir(here / "fd")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        child.close()
        os.close(null)


def test_an_init_holds_its_streams_only_from_its_first_instruction_on(stays: launcher.Launcher) -> None:
    """Its program may run by then, and would find the supervisor's socket in what it can look into."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDWR), launcher.REPORT, inheritable=True)
            stays.be_init(0, {}, b"")
        finally:
            os._exit(1)
    try:
        here = Path(f"/proc/{pid}")
        assert wait_until(lambda: os.readlink(here / "exe").endswith("/launcher"))
        inherited = {number for number in range(1024) if is_inherited(os.getpid(), number)}  # the test's own
        wanted = {0, 1, 2} | inherited - {launcher.REPORT}
        assert wait_until(lambda: {int(name) for name in os.listdir(here / "fd")} == wanted), os.listdir(here / "fd")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_an_init_has_all_signals_blocked_before_it_is_executed(
    stays: launcher.Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PID 1 it would lose what comes before it has blocked them itself, and its container counts as running then."""
    ours, far = os.pipe()

    def execute(*_: object) -> OSError:
        os.write(far, bytes(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))))
        os._exit(0)

    monkeypatch.setattr(stays, "_execute", execute)
    pid = os.fork()
    if pid == 0:
        try:
            stays.be_init(0, {}, b"")
        finally:
            os._exit(1)
    os.close(far)
    os.waitpid(pid, 0)
    # But for what can't be blocked and what the library keeps for itself.
    assert set(os.read(ours, 100)) == set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
    os.close(ours)


def test_a_runner_is_in_no_process_group_but_its_own_and_leaves_nothing_open(lab: Any) -> None:
    """A second wall: what a runner's child could signal or use is the runner's."""
    container = lab.run(["sleep", "60"])
    container.exec(["true"])
    keeper = lab._client.facts["keeper"]

    def groups() -> list[list[str]]:
        """The titles of each process group of the lab's with a runner in it."""
        found: dict[int, list[str]] = {}
        below = [keeper]
        for pid in below:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a spare one that has just gone
                for task in Path(f"/proc/{pid}/task").iterdir():
                    below += [int(word) for word in (task / "children").read_text().split()]
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.setdefault(os.getpgid(pid), []).append(title)
                if "runner" in title and os.geteuid() == 0:  # an ordinary user may not look at its descriptors
                    assert not [f"{pid}: {entry}" for entry in range(3, 256) if is_inherited(pid, entry)]
        assert len(below) > 4
        return [titles for titles in found.values() if any("runner" in title for title in titles)]

    # One that is just being born leaves its parent's group with its first steps, and has no child before.
    assert wait_until(lambda: bool(found := groups()) and all(len(titles) == 1 for titles in found)), groups()
