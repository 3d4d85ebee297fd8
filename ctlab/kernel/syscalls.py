"""System calls that Python's standard library (3.11) lacks, each wrapped once.

Every wrapper raises `OSError` with the errno and a text that names the call and its object.
Calls go through ``ctypes.PyDLL`` where the GIL must stay held over the call (clone), since the child
continues in this interpreter; elsewhere through ``CDLL`` with ``use_errno``.

Sources: man pages section 2 of each call; numbers from asm-generic (the same on x86_64 and arm64 for
every call added after Linux 5.0) and from asm/unistd_64.h where the two differ.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)
_libc_gil = ctypes.PyDLL(None, use_errno=True)

# clone/unshare/setns flags: linux/sched.h
CLONE_VM = 0x00000100
CLONE_PIDFD = 0x00001000
CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# mount flags: linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# prctl: linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

# openat2 resolve flags: linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

# mount API: linux/mount.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
_AT_EACCESS = 0x200
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_IDMAP = 0x00100000

_X86 = os.uname().machine in ("x86_64", "AMD64")
RT_SIGTIMEDWAIT = 128 if _X86 else 137  # as /proc/PID/syscall says it
_SYS_PIVOT_ROOT = 155 if _X86 else 41
_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_SYS_FACCESSAT2 = 439
_SYS_CAPSET = 126 if _X86 else 91


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _path(value: str | bytes | None) -> bytes | None:
    return os.fsencode(value) if value is not None else None


def unshare(flags: int) -> None:
    """unshare(2); `flags` is a union of CLONE_NEW*."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(descriptor: int, flags: int = 0) -> None:
    """setns(2): `descriptor` is a namespace file or, with `flags`, a pidfd (all named namespaces at once)."""
    _check(_libc.setns(descriptor, ctypes.c_int(flags)), f"setns({flags:#x})")


_mount = _libc.mount
_mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    if _mount(_path(source), _path(target), _path(kind), flags, _path(data)):
        _check(-1, f"mount {kind or source or ''} on {target}")


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_path(target), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); with (".", ".") the old root ends up stacked over the new one (man page, NOTES)."""
    _check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), _path(new_root), _path(put_old)), f"pivot_root({new_root})")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), f"sethostname({name})")


_prctl = _libc.prctl
_prctl.argtypes = (
    ctypes.c_int,
    *(ctypes.c_ulong,) * 4,
)  # so that a call builds no objects: it is made 30 times in a row


def prctl(option: int, argument: int = 0, argument3: int = 0) -> int:
    """prctl(2)."""
    result: int = _prctl(option, argument, argument3, 0, 0)
    return result if result >= 0 else _check(result, f"prctl({option})")


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAP_VERSION_3 = 0x20080522


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling thread; each argument is a 64-bit mask of capability numbers."""
    header = _CapHeader(_CAP_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    _check(_libc.syscall(ctypes.c_long(_SYS_CAPSET), ctypes.byref(header), data), "capset")


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2), Linux 5.9."""
    _check(
        _libc.syscall(ctypes.c_long(_SYS_CLOSE_RANGE), ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags)),
        "close_range",
    )


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 that isn't in `keep`."""
    previous = 2
    for descriptor in sorted(keep):
        if descriptor > previous + 1:
            close_range(previous + 1, descriptor - 1)
        previous = descriptor
    close_range(previous + 1)


class CloneArgs(ctypes.Structure):
    """What clone3(2) is told: struct clone_args of linux/sched.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    )  # fmt: skip


_SIGCHLD = 17


def clone3(flags: int, cgroup: int = -1, *, sibling: bool = False) -> tuple[int, int]:
    """clone3(2) without a new stack: returns twice, like fork, and *without Python's fork hooks*.

    Returns (pid, pidfd) in the parent, (0, -1) in the child. Only for a single-threaded process whose
    child makes system calls and then execs or exits by `os._exit`.
    `cgroup` is a v2 directory descriptor for CLONE_INTO_CGROUP. `sibling`: CLONE_PARENT, the new process is the
    child of our parent (which must not be PID 1's own clone: EINVAL from an init).
    """
    pidfd = ctypes.c_int(-1)
    arguments = CloneArgs(
        flags=flags | CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup >= 0 else 0) | (CLONE_PARENT if sibling else 0),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=0 if sibling else _SIGCHLD,  # a sibling takes over ours
        cgroup=max(cgroup, 0),
    )
    pid = _libc_gil.syscall(
        ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments))
    )
    if pid == 0:
        return 0, -1
    _check(pid, f"clone3({flags:#x})")
    return pid, pidfd.value


def clone3_python(flags: int, cgroup: int = -1, *, sibling: bool = False) -> tuple[int, int]:
    """Like `clone3`, with Python's fork hooks around it, for a child that goes on running Python."""
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = -1
    try:
        pid, pidfd = clone3(flags, cgroup, sibling=sibling)
    finally:
        if pid == 0:
            api.PyOS_AfterFork_Child()
        else:
            api.PyOS_AfterFork_Parent()
    return pid, pidfd


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


# Its own copy of `syscall` with the types said once: dozens of these are made for every container.
_openat2 = ctypes.CDLL(None, use_errno=True).syscall
_openat2.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_openat2.restype = ctypes.c_int
_OPENAT2_TRIES = 1000


def openat2(directory: int, path: str | bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), Linux 5.6. Returns a close-on-exec descriptor.

    Within a root "..", also one of a link, is EAGAIN if anybody on the machine renames or mounts something meanwhile:
    it is tried again.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_OPENAT2_TRIES):
        result: int = _openat2(_SYS_OPENAT2, directory, _path(path), ctypes.byref(how), ctypes.sizeof(how))
        if result >= 0:
            return result
        if ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(result, f"open {os.fsdecode(path)}")


_LOOK = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS)
_LOOK_AT, _LOOK_BYTES = ctypes.addressof(_LOOK), ctypes.sizeof(_LOOK)
_faccessat2 = ctypes.CDLL(None, use_errno=True).syscall
_faccessat2.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
_faccessat2.restype = ctypes.c_int


def look(path: str) -> tuple[int, bool, int]:
    """(errno, whether we may execute it, its mode) of a file, to which no link of /proc is followed.

    Raises nothing: a search along PATH misses three times for one hit, before every program. openat2(2) and
    faccessat2(2), Linux 5.8.
    """
    descriptor = _openat2(_SYS_OPENAT2, AT_FDCWD, os.fsencode(path), _LOOK_AT, _LOOK_BYTES)
    if descriptor < 0:
        return ctypes.get_errno(), False, 0
    try:
        denied = _faccessat2(_SYS_FACCESSAT2, descriptor, b"", os.X_OK, AT_EMPTY_PATH | _AT_EACCESS)
        return 0, denied == 0, os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of a mount, as a descriptor."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_OPEN_TREE),
            ctypes.c_int(directory),
            _path(path),
            ctypes.c_uint(flags | OPEN_TREE_CLOEXEC),
        ),
        f"open_tree {path}",
    )


def copy_mount(path: str) -> int:
    """A detached, private copy of the mount tree at a path that has no symbolic link in it, as a descriptor.

    Whoever may write somewhere below could have put a link where there was a folder when the path was chosen.
    """
    try:
        found = openat2(AT_FDCWD, path, os.O_PATH, RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, f"mount {path}: ELOOP (a link has taken its place since it was named)") from None
        raise
    try:
        descriptor = open_tree(found, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH)
    finally:
        os.close(found)
    try:
        # Shared with the machine's mount it would be unmounted there when it is unmounted here.
        mount_setattr(descriptor, 0, recursive=True, propagation=MS_PRIVATE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def move_mount(from_fd: int, to_fd: int, to_path: str = "", from_path: str = "") -> None:
    """move_mount(2): attach a detached mount at the place that `to_fd` (and `to_path`) names."""
    flags = (MOVE_MOUNT_F_EMPTY_PATH if not from_path else 0) | (MOVE_MOUNT_T_EMPTY_PATH if not to_path else 0)
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_MOVE_MOUNT),
            ctypes.c_int(from_fd),
            _path(from_path),
            ctypes.c_int(to_fd),
            _path(to_path),
            ctypes.c_uint(flags),
        ),
        f"move_mount to {to_path or to_fd}",
    )


class _MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def mount_setattr(
    descriptor: int, attr_set: int, *, recursive: bool = False, userns: int = -1, propagation: int = 0
) -> None:
    """mount_setattr(2) on a mount descriptor; `propagation` is MS_PRIVATE or another of its kind, 0 leaves it."""
    attributes = _MountAttr(attr_set, 0, propagation, max(userns, 0))
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_int(descriptor),
            b"",
            ctypes.c_uint(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        ),
        "mount_setattr",
    )
