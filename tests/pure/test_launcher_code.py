"""The launcher's bytes are what their source gives, for both processors; the other one's is run in an emulator."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_help import ROOT, children_of, patient, wait_until

from ctlab import spec
from ctlab.kernel import launcher, launcher_code, syscalls
from ctlab.kernel.launcher import FAILED_STATUS, read_report

SCRIPT = ROOT / "scripts/assemble-launcher.py"
MACHINES = ("x86_64", "aarch64")


def _need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} (Debian: {package})")
    return found


def test_a_shell_reads_its_script_from_what_the_launcher_leaves_open() -> None:
    assert launcher.SCRIPT == spec.SCRIPT_DESCRIPTOR


def test_the_bytes_are_what_the_source_gives() -> None:
    other = next(name for name in MACHINES if name != platform.machine())
    _need("as", "binutils")
    _need(f"{other}-linux-gnu-as", f"binutils-{other.replace('_', '-')}-linux-gnu")
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_can_write_to_it_or_make_its_stack_executable(machine: str, tmp_path: Path) -> None:
    """One segment, readable and executable; a stack that is neither; nothing is linked."""
    _need("readelf", "binutils")
    place = tmp_path / "launcher"
    place.write_bytes(bytes.fromhex(launcher_code.CODE[machine]))
    words = ["readelf", "--wide", "--program-headers", place]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    headers = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(("LOAD", "GNU_"))]
    assert [(words[0], "".join(words[6:-1])) for words in headers] == [("LOAD", "RE"), ("GNU_STACK", "RW")]


# Opens the report and two folders that must not stay open, and executes a program with any argv[0].
START = """
import os, sys
report, program, *argv = sys.argv[1:]
os.dup2(os.open(report, os.O_WRONLY | os.O_CREAT), 3)
os.set_inheritable(3, True)
for number in (5, 9, 10, 200):
    os.dup2(os.open("/", os.O_RDONLY), number)
os.execv(program, argv)
"""
SHOW = "pwd; echo $0 $1 $A; ls /proc/self/fd | tr '\\n' ' '"


def _launch(machine: str, folder: Path, *words: str) -> tuple[int, list[str], tuple[int, int] | None]:
    """(Status, lines of output, report) of the launcher, in an emulator if it is another processor's."""
    place, report = folder / "launcher", folder / "report"
    place.write_bytes(bytes.fromhex(launcher_code.CODE[machine]))
    place.chmod(0o755)
    command = [str(place), *words]
    if machine != platform.machine():
        emulator = _need(f"qemu-{machine}", "qemu-user")
        command = [emulator, emulator, "-0", words[0], str(place), *words[1:]]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START, report, *command], env={"PATH": "/usr/bin:/bin", "A": "b"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines() + done.stderr.splitlines(), read_report(report.read_bytes())


@pytest.mark.parametrize("machine", MACHINES)
def test_it_becomes_the_program_with_nothing_open_but_its_own(machine: str, tmp_path: Path) -> None:
    shell = ("/bin/sh", "name", "-c", SHOW, "zero", "one")
    status, lines, report = _launch(machine, tmp_path, "@/usr", *shell)
    assert (status, report) == (0, None)
    assert lines[:2] == ["/usr", "zero one b"]
    # ls has 3 for the folder that it lists: the report was close-on-exec.
    assert lines[2].split() == ["0", "1", "2", "3"]
    status, lines, report = _launch(machine, tmp_path, "A/usr", *shell)
    assert (status, report, lines[2].split()) == (0, None, ["0", "1", "2", "3", "9"])


# An init whose first words to us are its streams' own; adopts what is left behind, as PID 1 of a namespace does.
ADOPT = """
import ctypes, os, signal, sys
program, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # a shell traps nothing that was ignored before (nohup)
    signal.signal(number, signal.SIG_DFL)
child = 0
if argv[-1] != "":
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.execv("/bin/sh", ["sh", "-c", argv[-1]])
    try:
        os.setpgid(child, child)
    except PermissionError:
        pass  # it has, and executed its program
words = [word.replace("CHILD", str(child)) for word in argv[:-1]]
os.execv(program, words)
"""


class _Init:
    """An init with a program (a shell's script) or, with "", without."""

    def __init__(self, machine: str, folder: Path, script: str) -> None:
        place = folder / "launcher"
        place.write_bytes(bytes.fromhex(launcher_code.CODE[machine]))
        place.chmod(0o755)
        words = ["ctlab-init", *(["CHILD"] if script else [])]
        command = [str(place), *words]
        if machine != platform.machine():
            emulator = _need(f"qemu-{machine}", "qemu-user")
            command = [emulator, emulator, "-0", words[0], str(place), *words[1:]]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", ADOPT, *command, script], stdout=subprocess.PIPE, text=True
        )
        self.native = machine == platform.machine()

    def is_ready(self) -> bool:
        """Whether it waits for signals; an emulator does for it."""
        return Path(f"/proc/{self.process.pid}/syscall").read_text().split()[0] == str(syscalls.RT_SIGTIMEDWAIT)

    def waits(self) -> _Init:
        assert wait_until(self.is_ready)
        return self

    def ends(self) -> int:
        return self.process.wait(patient(10))

    def said(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], patient(5))[0], "it says nothing"
        return self.process.stdout.readline()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Init]]:
    """An init with a program (a shell's script) or, with "", without."""
    made: list[_Init] = []

    def started(machine: str, script: str) -> _Init:
        made.append(_Init(machine, tmp_path, script))
        return made[-1]

    yield started
    for init in made:
        if init.process.poll() is None:
            programs = children_of(init.process.pid)
            init.process.kill()
            for program in programs:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program, signal.SIGKILL)
        init.process.communicate()


@pytest.mark.parametrize("machine", MACHINES)
def test_an_init_without_a_program_idles_until_it_is_told_to_end(machine: str, start: Callable[..., _Init]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        init = start(machine, "").waits()
        ends = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL, signal.SIGSTOP}
        # All others, up to the 64th; an emulator takes those of a fault for its own, and keeps the last of real time.
        others = set(range(1, 65)) if init.native else {signal.SIGUSR1, signal.SIGQUIT, signal.SIGCHLD, *range(35, 62)}
        for other in others - ends:
            init.process.send_signal(other)
        if init.native:
            assert Path(f"/proc/{init.process.pid}/comm").read_text() == "ctlab-init\n"
            assert Path(f"/proc/{init.process.pid}/cmdline").read_bytes() == b"ctlab-init\0"
        with pytest.raises(subprocess.TimeoutExpired):
            init.process.wait(0.05)
        init.process.send_signal(number)
        assert init.ends() == 128 + number


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 7", 7), ("kill -9 $$", 128 + 9), ("sleep 0.05 & exit 255", 255), ("sh -c 'sleep 0.05 & :'; sleep 0.2", 0)],
)
def test_an_init_ends_as_its_program_does(machine: str, script: str, status: int, start: Callable[..., _Init]) -> None:
    assert start(machine, script).ends() == status


@pytest.mark.parametrize("machine", MACHINES)
def test_an_init_reaps_what_is_left_to_it(machine: str, start: Callable[..., _Init]) -> None:
    init = start(machine, "(sleep 0.05 & sleep 0.05 & echo left); while :; do sleep 0.02; done").waits()
    assert init.said() == "left\n"
    pid = init.process.pid
    assert wait_until(lambda: len(children_of(pid)) == 1, 2), children_of(pid)
    init.process.send_signal(signal.SIGTERM)
    assert init.ends() == 128 + signal.SIGTERM


@pytest.mark.parametrize("machine", MACHINES)
def test_an_init_passes_signals_on(machine: str, start: Callable[..., _Init]) -> None:
    traps = "".join(f"trap 'echo {name}' {name};" for name in ("HUP", "QUIT", "USR1", "USR2", "TERM"))
    init = start(machine, f"{traps} echo up; while :; do sleep 0.02; done").waits()
    assert init.said() == "up\n"
    for name in ("HUP", "QUIT", "USR1", "USR2", "TERM"):
        init.process.send_signal(getattr(signal, f"SIG{name}"))
        assert init.said() == f"{name}\n"
    init.process.send_signal(signal.SIGSTOP)
    init.process.send_signal(signal.SIGCONT)
    init.process.send_signal(signal.SIGINT)
    assert init.ends() == 128 + signal.SIGINT


@pytest.mark.parametrize("machine", MACHINES)
def test_an_interrupt_is_for_the_programs_group(machine: str, start: Callable[..., _Init]) -> None:
    inner = "trap 'echo inner; exit' INT; echo up; while :; do sleep 0.02; done"
    init = start(machine, f'trap : INT; sh -c "{inner}"; exit 3').waits()
    assert init.said() == "up\n"
    init.process.send_signal(signal.SIGINT)
    assert init.said() == "inner\n"
    assert init.ends() == 3


@pytest.mark.parametrize("machine", MACHINES)
def test_what_does_not_work_is_reported(machine: str, tmp_path: Path) -> None:
    assert _launch(machine, tmp_path, "@/none", "/bin/true", "true") == (FAILED_STATUS, [], (1, errno.ENOENT))
    assert _launch(machine, tmp_path, "@/", "/none", "none") == (FAILED_STATUS, [], (2, errno.ENOENT))
    assert _launch(machine, tmp_path, "@/etc", "passwd", "passwd") == (FAILED_STATUS, [], (2, errno.EACCES))
    # What it finds as `/proc/self/exe` when a script names that as its interpreter: itself, which goes nowhere.
    assert _launch(machine, tmp_path, "/proc/self/exe", "/x/script", "more")[0] == FAILED_STATUS
    assert _launch(machine, tmp_path, "/proc/self/fd/5", "bin/true", "more")[0] == FAILED_STATUS
