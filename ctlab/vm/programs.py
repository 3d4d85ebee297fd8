"""The programs that a VM needs: where they are; one line each for those that aren't there."""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import subprocess
from typing import NamedTuple

from ..errors import Unsupported
from . import architecture

_MORE_PLACES = ("/usr/libexec", "/usr/lib/virtiofsd", "/usr/lib/qemu", "/usr/local/libexec", "/usr/local/bin", "/bin")

_HELP_SECONDS = 10.0


class Programs(NamedTuple):
    """Paths."""

    qemu: str
    virtiofsd: str
    busybox: str


def _wanted() -> tuple[tuple[str, str], ...]:
    """(program, Debian's package)."""
    here = architecture.here()
    return (here.qemu, here.qemu_package), ("virtiofsd", "virtiofsd"), ("busybox", "busybox-static")


def path_of(program: str) -> str:
    """The path of a program, also in the folders that PATH doesn't name; empty if there is none."""
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(_MORE_PLACES)) or ""
    if program == "busybox" and found and not _is_static(found):
        return ""
    return found


def missing() -> list[tuple[str, str]]:
    """(program, Debian's package) of each that isn't here."""
    lacking = [(program, package) for program, package in _wanted() if not path_of(program)]
    server = path_of("virtiofsd")
    if server and b"--readonly" not in _help(version(server), server):
        lacking.append((f"a virtiofsd newer than {server} (it has no --readonly)", "virtiofsd"))
    return lacking


def can_translate_ids(virtiofsd: str) -> bool:
    """Whether this virtiofsd can tell the guest of other ids than it sees (from 1.12 on)."""
    return b"--translate-uid" in _help(version(virtiofsd), virtiofsd)


@functools.lru_cache(maxsize=4)
def _help(_: str, path: str) -> bytes:
    """What a virtiofsd says of its options: older ones, and the one that came with QEMU, haven't all."""
    try:
        done = subprocess.run([path, "--help"], capture_output=True, timeout=_HELP_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout + done.stderr


def find() -> Programs:
    """All of them. Raises Unsupported with one line that names what is missing and how to get it."""
    lacking = missing()
    if lacking:
        names = ", ".join(program for program, _ in lacking)
        packages = " ".join(package for _, package in lacking)
        raise Unsupported(f"a VM lab needs {names}, not found here: sudo apt install {packages}")
    return Programs(*(path_of(program) for program, _ in _wanted()))


def can_filter_calls(qemu: str) -> bool:
    """Whether this QEMU is built with seccomp, without which it refuses the option: it needs the library then."""
    return _needs_seccomp(version(qemu), qemu)


@functools.lru_cache(maxsize=4)
def _needs_seccomp(_: str, path: str) -> bool:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
            return program.find(b"libseccomp.so") >= 0
    except (OSError, ValueError):  # one that may only be executed
        return False


def _is_static(path: str) -> bool:
    """Whether a program needs no loader: only then does it run in the guest without this machine's libraries."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return b"/ld-" not in head  # PT_INTERP's text lies in an ELF file's first page


def version(path: str) -> str:
    """What names a program's version without running it: path, size, time of its last change."""
    status = os.stat(path)
    return f"{path} {status.st_size} {status.st_mtime_ns}"
