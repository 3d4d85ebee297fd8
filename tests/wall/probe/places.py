"""Files: what of /proc, /sys and /dev can be read, written and opened, what mounts allow, what of the machine shows."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from pathlib import Path
from typing import Any

from attempt import able, call, number

_QUIET = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SYS_DEPTH = 3
_ALIKE, _ENOUGH = ("/slab", "/module", "/events", "/irq"), 5  # folders of many that are alike
_OF_PROCESSES = {"self", "thread-self"}
_FLAGS = ("ro", "nosuid", "nodev", "noexec")


def reach(order: dict[str, Any]) -> set[str]:
    found = _opened("/proc", 20) | _opened("/sys", _SYS_DEPTH) | _devices()
    for name, path in order["files"].items():
        with contextlib.suppress(OSError), open(path, "rb"):
            found.add(f"reads {name} of the machine")
    return found | able(_TRIES)


def _opened(top: str, depth: int) -> set[str]:
    """What opens below a folder of the kernel's: "reads PATH" and "writes PATH"."""
    found: set[str] = set()
    base = top.count("/")
    for folder, names, files in os.walk(top):
        if folder == "/proc":
            names[:] = [name for name in names if not name.isdigit() and name not in _OF_PROCESSES]
            files = [name for name in files if name not in _OF_PROCESSES]
        if folder.count("/") - base >= depth:
            names.clear()
        if folder.endswith(_ALIKE):
            del names[_ENOUGH:]
        if os.path.ismount(folder) and os.statvfs(folder).f_flag & os.ST_RDONLY and not os.listdir(folder):
            continue
        for name in files:
            path = f"{folder}/{name}"
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode) and top == "/sys":
                    continue
                with open(os.open(path, os.O_RDONLY | _QUIET), "rb", buffering=0) as file:
                    # An empty file may be full in a moment; a device that lies over it stays empty.
                    if file.read(1) or stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        found.add(f"reads {path}")
            except OSError:
                pass
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | _QUIET))  # opened alone: nothing is written
                if not stat.S_ISCHR(os.stat(path).st_mode):
                    found.add(f"writes {path}")
    return found


def _devices() -> set[str]:
    """Devices that open, wherever below /dev they lie, by what they are."""
    found: set[str] = set()
    for folder, _, files in os.walk("/dev"):
        for name in files:
            path = f"{folder}/{name}"
            try:
                about = os.lstat(path)
            except OSError:
                continue
            if not (stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode)):
                continue
            kind = "b" if stat.S_ISBLK(about.st_mode) else "c"
            for flags, how in ((os.O_RDONLY, "reads"), (os.O_WRONLY, "writes")):
                with contextlib.suppress(OSError):
                    os.close(os.open(path, flags | _QUIET))
                    number = "" if kind == "c" and os.major(about.st_rdev) == 136 else f":{os.minor(about.st_rdev)}"
                    found.add(f"{how} device {kind}{os.major(about.st_rdev)}{number}")
    return found


def mounts() -> dict[str, list[str]]:
    """Place -> what its topmost mount allows: write, setuid, devices, execute."""
    found: dict[str, list[str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        options = {*words[5].split(","), *({"ro"} & set(words[-1].split(",")))}
        allowed = [what for flag, what in zip(_FLAGS, ("write", "setuid", "devices", "execute"), strict=True)
                   if flag not in options]  # fmt: skip
        found[words[4]] = allowed
    return found


# -- what can be made -------------------------------------------------------------------------------------------------
def _device(kind: int, major: int, minor: int) -> None:
    path = f"/tmp/device-{os.getpid()}"
    os.mknod(path, kind | 0o666, os.makedev(major, minor))
    try:
        os.close(os.open(path, os.O_RDONLY | _QUIET))
    finally:
        os.unlink(path)


def _attribute(name: str, value: bytes) -> None:
    path = f"/tmp/attribute-{os.getpid()}"
    Path(path).touch()
    try:
        os.setxattr(path, name, value)
    finally:
        os.unlink(path)


def _handle() -> bool:
    """open_by_handle_at of the root: with it every file of a file system opens, mounted here or not."""
    handle = ctypes.create_string_buffer(8 + 128)
    handle[0:4] = (128).to_bytes(4, "little")
    mount = ctypes.create_string_buffer(4)
    folder = os.open("/", os.O_RDONLY)
    call(number(303, 264), folder, b"tmp", handle, mount, 0)
    return call(number(304, 265), folder, handle, os.O_PATH) >= 0


_V2_CAPABILITY = bytes.fromhex("0100000200000000000000000000000000000000")
_TRIES = (
    ("makes and opens a block device", lambda: _device(stat.S_IFBLK, 7, 0)),
    ("makes and opens the device of memory", lambda: _device(stat.S_IFCHR, 1, 1)),
    ("makes and opens the device of kernel messages", lambda: _device(stat.S_IFCHR, 1, 11)),
    ("makes and opens a harmless device", lambda: _device(stat.S_IFCHR, 1, 3)),
    ("makes and opens the device of FUSE", lambda: _device(stat.S_IFCHR, 10, 229)),
    ("makes and opens the device of KVM", lambda: _device(stat.S_IFCHR, 10, 232)),
    ("opens a file by its handle", _handle),
    ("gives a file capabilities", lambda: _attribute("security.capability", _V2_CAPABILITY)),
    ("sets a trusted attribute", lambda: _attribute("trusted.x", b"1")),
    ("sets a security attribute", lambda: _attribute("security.x", b"1")),
    ("lowers its score for the out-of-memory killer", lambda: Path("/proc/self/oom_score_adj").write_text("-500")),
    ("changes what core dumps run", lambda: open("/proc/sys/kernel/core_pattern", "r+b", buffering=0).close()),
    ("leaves a chroot", lambda: _left_chroot()),
)


def _left_chroot() -> bool:
    """The classical way out; it may only lead to the container's own root."""
    before = os.stat("/")
    os.mkdir("/tmp/chroot")
    os.chroot("/tmp/chroot")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    after = os.stat("/")
    return (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino)
