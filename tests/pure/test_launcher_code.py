"""The launcher's bytes are what their source gives, for both processors; the other one's is run in an emulator."""

from __future__ import annotations

import errno
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_help import ROOT

from ctlab.kernel import launcher_code
from ctlab.kernel.launcher import FAILED_STATUS, read_report

SCRIPT = ROOT / "scripts/assemble-launcher.py"
MACHINES = ("x86_64", "aarch64")


def _need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} (Debian: {package})")
    return found


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


@pytest.mark.parametrize("machine", MACHINES)
def test_what_does_not_work_is_reported(machine: str, tmp_path: Path) -> None:
    assert _launch(machine, tmp_path, "@/none", "/bin/true", "true") == (FAILED_STATUS, [], (1, errno.ENOENT))
    assert _launch(machine, tmp_path, "@/", "/none", "none") == (FAILED_STATUS, [], (2, errno.ENOENT))
    assert _launch(machine, tmp_path, "@/etc", "passwd", "passwd") == (FAILED_STATUS, [], (2, errno.EACCES))
    # What it finds as `/proc/self/exe` when a script names that as its interpreter: itself, which goes nowhere.
    assert _launch(machine, tmp_path, "/proc/self/exe", "/x/script", "more")[0] == FAILED_STATUS
    assert _launch(machine, tmp_path, "/proc/self/fd/5", "bin/true", "more")[0] == FAILED_STATUS
