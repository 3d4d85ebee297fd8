"""Whether KVM runs a guest here: tried once by booting one, and remembered.

An open `/dev/kvm` says little: inside another hypervisor it may open, and the guest never gets to its first line.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path

from ..errors import CtlabError, errno_name
from . import architecture, cache, command_line, process, programs, reader

KVM, TCG = "kvm", "tcg"
DEVICE = "/dev/kvm"
_FILE = "acceleration.json"
_TRIAL_SECONDS = 3.0
_REACHED = b"Kernel panic"  # the kernel has booted, and has found no first process: as it should be
_LARGEST_CONSOLE_BYTES = 1 << 20
_MFD_CLOEXEC = 1


def known() -> str:
    """What was found out before: `kvm` or `tcg`; empty if it has to be tried yet."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return TCG
    qemu = programs.path_of(architecture.here().qemu)
    if not qemu:
        return ""
    found = cache.read_json(cache.place() / _FILE)
    answer = found.get("answer") if found.get("key") == _key(qemu) else ""
    return str(answer or "")


def why_not() -> str:
    """Why this user has no KVM here, in a few words."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return f"{DEVICE}: EACCES; whoever is in the group kvm may use it"
    except OSError as error:
        return f"{DEVICE}: {errno_name(error.errno or 0)}"
    return f"no guest ran on {DEVICE} when it was tried"


def choose(qemu: str, kernel: Path, *, again: bool = False) -> str:
    """`kvm` where a guest boots on it, else `tcg`. Takes up to 3 s the first time, or `again`. Raises OSError."""
    answer = known()
    if not answer or (again and answer == TCG and os.access(DEVICE, os.R_OK | os.W_OK)):
        try:
            answer = KVM if _boots(qemu, kernel) else TCG
        except CtlabError:
            return TCG  # QEMU couldn't be started, which says nothing of KVM
        with contextlib.suppress(CtlabError):  # a cache that may only be read, or is full: it is tried anew then
            cache.write_json(cache.folder() / _FILE, {"key": _key(qemu), "answer": answer})
    return answer


def _key(qemu: str) -> str:
    """What the answer depends on: this machine's kernel, its boot, and QEMU."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()  # the machine may be a VM that is elsewhere after its next boot
    return f"{os.uname().release} {boot} {programs.version(qemu)}"


def _boots(qemu: str, kernel: Path) -> bool:
    """Boot a kernel with KVM up to the point where it looks for its first process. Raises CtlabError."""
    with (
        open(os.memfd_create("ctlab-console", _MFD_CLOEXEC), "rb") as console,
        # QEMU takes a descriptor only with the access that it asks for.
        open(f"/proc/self/fd/{console.fileno()}", "wb") as writing,
        open(kernel, "rb") as image,
        open(os.devnull, "wb") as log,
        open(DEVICE, "r+b", buffering=0) as device,
    ):
        kvm = device.fileno() if reader.reader() else -1
        given = [image.fileno(), writing.fileno(), *([kvm] if kvm >= 0 else [])]
        filtered = programs.can_filter_calls(qemu)
        here = architecture.here()
        words = command_line.trial(qemu, here, image.fileno(), writing.fileno(), kvm, filtered=filtered)
        pid, pidfd = process.start(words, given, log.fileno(), largest_file_bytes=_LARGEST_CONSOLE_BYTES)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            until = time.monotonic() + _TRIAL_SECONDS
            while not poll.poll(50) and time.monotonic() < until:
                if _REACHED in os.pread(console.fileno(), _LARGEST_CONSOLE_BYTES, 0):
                    return True
            return _REACHED in os.pread(console.fileno(), _LARGEST_CONSOLE_BYTES, 0)
        finally:
            process.end(pid, pidfd)
