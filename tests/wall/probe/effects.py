"""Calls whose effect is what counts: namespaces, mounts, keys, other processes, programs for the kernel, clocks."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import struct
import time
from collections.abc import Callable
from typing import Any

from attempt import able, attempt, call, libc, number

Try = tuple[str, Callable[[], object]]

NAMESPACES = {
    "time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
_FILE_SYSTEMS = (
    "proc", "sysfs", "tmpfs", "ramfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "cpuset", "overlay",
    "debugfs", "tracefs", "securityfs", "bpf", "binfmt_misc", "hugetlbfs", "configfs", "fusectl", "pstore",
    "autofs", "efivarfs",
)  # fmt: skip
_BIND, _REC, _REMOUNT, _RDONLY, _DETACH, _PRIVATE = 4096, 16384, 32, 1, 2, 1 << 18
_MOUNT, _UMOUNT, _PIVOT = number(165, 40), number(166, 39), number(155, 41)
_UNSHARE, _SETNS = number(272, 97), number(308, 268)
_CLONE = number(56, 220)
_ADD_KEY, _REQUEST_KEY, _KEYCTL = number(248, 217), number(249, 218), number(250, 219)
_SESSION, _USER = -3, -4


def reach(order: dict[str, Any]) -> set[str]:
    tries = [*_namespaces(), *_mounts(), *_keys(order), *_processes(), *_kernel(), *_times(), *_own()]
    found = able(tries)
    if attempt(lambda: call(_UNSHARE, NAMESPACES["user"])) == "ok":
        found |= {f"{name}, in a user namespace of its own" for name in able(_nested())}
    return found


# -- namespaces and mounts --------------------------------------------------------------------------------------------
def _namespaces() -> list[Try]:
    tries: list[Try] = []
    for name, flag in NAMESPACES.items():
        tries.append((f"unshare {name}", lambda f=flag: call(_UNSHARE, f)))
        if name != "time":
            tries.append((f"clone {name}", lambda f=flag: _clone(f)))
            tries.append((f"clone3 {name}", lambda f=flag: _clone3(f)))
        path = {"mount": "mnt"}.get(name, name)
        tries.append((f"setns {name}, its own", lambda p=path: _setns(f"/proc/self/ns/{p}")))
    tries.append(("setns by pidfd, its own", lambda: call(_SETNS, os.pidfd_open(os.getpid()), NAMESPACES["uts"])))
    return tries


def _clone(flags: int) -> None:
    child = call(_CLONE, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _clone3(flags: int) -> None:
    arguments = ctypes.create_string_buffer(struct.pack("=11Q", flags, 0, 0, 0, signal.SIGCHLD, *[0] * 6))
    child = call(435, arguments, 88)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _setns(path: str) -> None:
    call(_SETNS, os.open(path, os.O_RDONLY), 0)


def _folder() -> bytes:
    path = f"/tmp/mount-{os.getpid()}"
    os.makedirs(path, exist_ok=True)
    return path.encode()


def _mount(kind: str, options: bytes | None = None) -> None:
    place = _folder()
    if kind == "overlay":
        for name in ("l", "u", "w"):
            os.makedirs(f"{place.decode()}-{name}", exist_ok=True)
        options = b"lowerdir=%s-l,upperdir=%s-u,workdir=%s-w" % (place, place, place)
    call(_MOUNT, b"none", place, kind.encode(), 0, options)
    call(_UMOUNT, place, _DETACH)


def _mounts() -> list[Try]:
    """Each in mounts of its own where those can be had, so that what succeeds changes nothing for the next."""
    tries: list[Try] = [(f"mounts {kind}", lambda k=kind: _mount(k)) for kind in _FILE_SYSTEMS]
    tries += [
        ("mounts a version 1 cgroup of memory", lambda: _mount("cgroup", b"memory")),
        ("mounts a version 1 cgroup of pids", lambda: _mount("cgroup", b"pids")),
        ("mounts a folder again", lambda: call(_MOUNT, b"/usr", _folder(), None, _BIND, None)),
        ("makes a mount writable", lambda: call(_MOUNT, None, b"/proc/sys", None, _REMOUNT | _BIND, None)),
        ("changes how mounts are passed on", lambda: call(_MOUNT, None, b"/", None, _PRIVATE | _REC, None)),
        ("takes a mount down", lambda: call(_UMOUNT, b"/proc", _DETACH)),
        ("uncovers a masked file", lambda: call(_UMOUNT, b"/proc/keys", _DETACH)),
        ("clones a tree of mounts", lambda: call(428, -100, b"/", 1)),
        ("opens a tree of mounts", lambda: call(428, -100, b"/", 0)),
        ("opens a file system to mount", lambda: call(430, b"tmpfs", 0)),
        ("picks a file system to change", lambda: call(433, -100, b"/tmp", 0)),
        ("changes a mount's attributes", lambda: _mount_setattr(b"/tmp")),
        ("changes the root", lambda: call(_PIVOT, b"/", b"/tmp")),
        ("lists mounts by statmount", lambda: _statmount()),
        ("changes its root by chroot", lambda: os.chroot("/tmp")),
    ]
    return [(name, lambda a=action: _in_own_mounts(a)) for name, action in tries]


def _in_own_mounts(action: Callable[[], object]) -> object:
    with contextlib.suppress(OSError):
        call(_UNSHARE, NAMESPACES["mount"])
        call(_MOUNT, None, b"/", None, _PRIVATE | _REC, None)
    return action()


def _mount_setattr(path: bytes) -> None:
    call(442, -100, path, 0, ctypes.create_string_buffer(struct.pack("=4Q", _RDONLY, 0, 0, 0)), 32)


def _statmount() -> None:
    request = ctypes.create_string_buffer(struct.pack("=II3Q", 32, 0, 0xFFFFFFFFFFFFFFFF, 0, 0))
    call(458, request, ctypes.create_string_buffer(8 * 64), 64, 0)


def _nested() -> list[Try]:
    """The same again in a user namespace of its own, with every capability in it."""

    def inside(action: Callable[[], object]) -> Callable[[], object]:
        def enter() -> object:
            uid, gid = os.getuid(), os.getgid()
            every = sum(NAMESPACES.values()) & ~NAMESPACES["pid"] & ~NAMESPACES["time"]
            call(_UNSHARE, every)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:  # its powers need no map
                    file.write(text)
            return action()

        return enter

    again = [*_mounts(), *_kernel()]
    return [(name, inside(action)) for name, action in again]


# -- keys -------------------------------------------------------------------------------------------------------------
def _keys(order: dict[str, Any]) -> list[Try]:
    def read(serial: int) -> bool:
        buffer = ctypes.create_string_buffer(100)
        call(_KEYCTL, 11, serial, buffer, 100)
        return order["secret"].encode() in buffer.raw

    def search(ring: int) -> bool:
        name = order["key_name"] + ("-2" if ring == _USER else "")
        return read(call(_KEYCTL, 10, ring, b"user", name.encode(), 0))

    def linked() -> bool:
        call(_KEYCTL, 1, None)
        call(_KEYCTL, 8, order["user_ring"], _SESSION)
        return read(order["user_key"])

    return [
        ("adds a key to its session", lambda: _add_key(_SESSION)),
        ("adds a key to its user", lambda: _add_key(_USER)),
        ("joins a session of keys", lambda: call(_KEYCTL, 1, None)),
        ("finds its session of keys", lambda: call(_KEYCTL, 0, _SESSION, 0)),
        ("reads its session of keys", lambda: call(_KEYCTL, 11, _SESSION, ctypes.create_string_buffer(64), 64)),
        ("links its user's keys to its session", lambda: call(_KEYCTL, 8, _USER, _SESSION)),
        ("requests a key", lambda: call(_REQUEST_KEY, b"user", order["key_name"].encode(), None, 0)),
        ("reads the secret in its session of keys", lambda: search(_SESSION)),
        ("reads the secret among its user's keys", lambda: search(_USER)),
        ("reads the user's secret by its serial", lambda: read(order["user_key"])),
        ("reads the user's secret by its ring's serial", linked),
        ("reads the notebook's secret by its serial", lambda: read(order["session_key"])),
    ]


def _add_key(ring: int) -> None:
    call(_ADD_KEY, b"user", b"ctlab-wall-own", b"x", 1, ring)


# -- other processes --------------------------------------------------------------------------------------------------
_PTRACE, _READV, _WRITEV, _KCMP = number(101, 117), number(310, 270), number(311, 271), number(312, 272)


def _child() -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(3)
        time.sleep(3)
        os._exit(0)
    return child


def _vector(call_number: int, pid: int) -> None:
    here = ctypes.create_string_buffer(b"x" * 8)
    pair = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(here), 8))
    call(call_number, pid, pair, 1, pair, 1, 0)


def _processes() -> list[Try]:
    parent = os.getppid()
    tries: list[Try] = [
        ("traces its child", lambda: call(_PTRACE, 16, _child(), 0, 0)),
        ("reads the memory of its child", lambda: _vector(_READV, _child())),
        ("writes the memory of its child", lambda: _vector(_WRITEV, _child())),
        ("compares its processes", lambda: call(_KCMP, os.getpid(), _child(), 0, 0, 0)),
        ("takes a descriptor of its child", lambda: call(438, os.pidfd_open(_child()), 0, 0)),
        ("advises on the memory of its child", lambda: _advise(_child())),
        ("moves pages of its child", lambda: call(number(279, 239), _child(), 0, None, None, None, 0)),
        ("migrates pages of its child", lambda: call(number(256, 238), _child(), 0, None, None)),
    ]
    if parent:
        tries += [
            ("traces its parent", lambda: call(_PTRACE, 0x4206, parent, 0, 0)),
            ("reads the memory of its parent", lambda: _vector(_READV, parent)),
            ("signals its parent", lambda: os.kill(parent, 0)),
        ]
    return tries


def _advise(pid: int) -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    pair = ctypes.create_string_buffer(struct.pack("=QQ", address, mmap.PAGESIZE))
    call(440, os.pidfd_open(pid), pair, 1, 20, 0)  # MADV_COLD


# -- the kernel's large interfaces ------------------------------------------------------------------------------------
_BPF, _PERF, _USERFAULT = number(321, 280), number(298, 241), number(323, 282)
_SYSLOG, _PERSONALITY, _QUOTACTL = number(103, 116), number(135, 92), number(179, 60)
_FANOTIFY = number(300, 262)


def _kernel() -> list[Try]:
    tries: list[Try] = [
        ("loads a program of BPF (socket filter)", lambda: _bpf_program(1)),
        ("loads a program of BPF (tracing)", lambda: _bpf_program(5)),
        ("makes a map of BPF", lambda: call(_BPF, 0, _padded(struct.pack("=5I", 2, 4, 4, 1, 0)), 128)),
        ("counts its own instructions (perf)", lambda: _perf(1, 0, exclude_kernel=True)),
        ("counts what the kernel does for it (perf)", lambda: _perf(1, 0, exclude_kernel=False)),
        ("counts the whole machine (perf)", lambda: _perf(1, 0, exclude_kernel=False, whole=True)),
        ("makes an io_uring", lambda: call(425, 4, ctypes.create_string_buffer(120))),
        ("handles faults (userfaultfd)", lambda: call(_USERFAULT, os.O_CLOEXEC)),
        ("handles its own faults (userfaultfd)", lambda: call(_USERFAULT, os.O_CLOEXEC | 1)),
        ("reads the kernel's messages", lambda: call(_SYSLOG, 3, ctypes.create_string_buffer(1024), 1024)),
        ("asks for the size of the kernel's messages", lambda: call(_SYSLOG, 10, None, 0)),
        ("watches whole file systems (fanotify)", lambda: call(_FANOTIFY, 0x4, 0)),
        ("watches files (fanotify)", lambda: call(_FANOTIFY, 0x200, 0)),
        ("makes secret memory", lambda: call(447, 0)),
        ("restricts itself (landlock)", lambda: call(444, None, 0, 1)),
        ("lists security modules", lambda: _lsm()),
        ("makes a key of memory protection", lambda: call(number(330, 289), 0, 0)),
        ("asks for quotas", lambda: call(_QUOTACTL, 0x80000400, b"/dev/root", 0, ctypes.create_string_buffer(8))),
    ]
    for name, value in (
        ("none", 0), ("what it is", 0xFFFFFFFF), ("32 bits", 8), ("an old release", 0x0020000),
        ("no random addresses", 0x0040000), ("readable is executable", 0x0400000), ("page zero", 0x0100000),
    ):  # fmt: skip
        tries.append((f"personality: {name}", lambda v=value: call(_PERSONALITY, v)))
    if os.uname().machine == "x86_64":
        tries += [
            ("takes the ports of devices (iopl)", lambda: call(172, 3)),
            ("takes a port of a device (ioperm)", lambda: call(173, 0x80, 1, 1)),
            ("reads its descriptor table (modify_ldt)", lambda: call(154, 0, ctypes.create_string_buffer(64), 64) >= 0),
            ("changes its descriptor table (modify_ldt)", _ldt),
        ]
    return tries


def _padded(data: bytes, size: int = 128) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, size)


def _bpf_program(kind: int) -> None:
    code = ctypes.create_string_buffer(struct.pack("=QQ", 0xB7, 0x95))  # r0 = 0; exit
    licence = ctypes.create_string_buffer(b"GPL")
    words = struct.pack("=IIQQ", kind, 2, ctypes.addressof(code), ctypes.addressof(licence))
    call(_BPF, 5, _padded(words), 128)


def _perf(kind: int, event: int, *, exclude_kernel: bool, whole: bool = False) -> None:
    flags = (1 << 5 | 1 << 6) if exclude_kernel else 0
    attribute = _padded(struct.pack("=IIQQQQQ", kind, 128, event, 0, 0, 0, flags))
    call(_PERF, attribute, -1 if whole else 0, 0 if whole else -1, -1, 0)


def _lsm() -> None:
    size = ctypes.create_string_buffer(struct.pack("=I", 256))
    call(461, ctypes.create_string_buffer(256), size, 0)


def _ldt() -> None:
    entry = struct.pack("=4I", 0, 0, 0, 0x28)  # an empty one
    call(154, 1, ctypes.create_string_buffer(entry), 16)


# -- clocks, names, limits --------------------------------------------------------------------------------------------
def _times() -> list[Try]:
    def tick() -> None:
        state = ctypes.create_string_buffer(208)
        libc.adjtimex(state)
        struct.pack_into("=I", state, 0, 0x4000)  # ADJ_TICK, to what it is already
        if libc.adjtimex(state) == -1:
            raise OSError(ctypes.get_errno(), "")

    timer = number(222, 107)
    event = struct.pack("=QII", 0, 0, 1)  # SIGEV_NONE
    return [
        ("sets the clock", tick),
        ("wakes a sleeping machine (timers)", lambda: call(timer, 8, _padded(event), ctypes.create_string_buffer(8))),
        ("makes a timer", lambda: call(timer, 1, _padded(event), ctypes.create_string_buffer(8))),
    ]


def _own() -> list[Try]:
    return [
        ("sets the host's name", lambda: call(number(170, 161), b"wall", 4)),
        ("sets the domain's name", lambda: call(number(171, 162), b"wall", 4)),
        ("becomes another user", lambda: os.setresuid(1, 1, 1)),
        ("becomes another group", lambda: os.setresgid(1, 1, 1)),
        ("sets its groups", lambda: os.setgroups([1])),
        ("gives a file away", lambda: _own_file(lambda path: os.chown(path, 1, 1))),
        ("makes a file setuid", lambda: _own_file(lambda path: os.chmod(path, 0o4755))),
        ("raises its priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
        ("takes a processor for itself (FIFO)", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
        ("takes the disk for itself", lambda: call(number(251, 30), 1, 0, 1 << 13)),
        ("raises its limit of files", lambda: _raise(resource.RLIMIT_NOFILE)),
        ("raises its limit of processes", lambda: _raise(resource.RLIMIT_NPROC)),
        ("locks all of its memory", lambda: _lock_all()),
        ("changes its securebits", lambda: _prctl(28, 1 << 4)),
        ("keeps capabilities over setuid", lambda: _prctl(8, 1)),
        ("becomes traceable by all", lambda: _prctl(0x59616D61, -1)),
        ("names its program's file anew", lambda: _prctl(35, 13, os.open("/proc/self/exe", os.O_RDONLY), 0, 0)),
    ]


def _own_file(action: Callable[[str], None]) -> None:
    path = f"/tmp/own-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    try:
        action(path)
    finally:
        os.unlink(path)


def _raise(which: int) -> bool:
    soft, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY:
        return True
    try:
        resource.setrlimit(which, (soft, hard + 1))
    except ValueError:  # Python's word for EPERM
        return False
    return True


def _lock_all() -> None:
    if libc.mlockall(1) == -1:
        raise OSError(ctypes.get_errno(), "")


def _prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if libc.prctl(option, *[ctypes.c_ulong(a & (1 << 64) - 1) for a in padded]) == -1:
        raise OSError(ctypes.get_errno(), "")
