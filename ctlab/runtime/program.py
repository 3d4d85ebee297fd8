"""The last steps before a program runs: who it is, what it may do, what it has open, where it is found."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from ..kernel import capabilities, launcher, syscalls
from ..kernel.lean import signal, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _loaded_by_all() -> tuple[str, ...]:
    """The files that nearly every program opens before it does anything: the loader, its cache, the C library."""
    found = ["/bin/sh", "/usr/bin/env", "/etc/ld.so.cache"]
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            path = line.rstrip("\n").partition("/")[2]
            name = path.rpartition("/")[2]
            if name.startswith(("libc.so", "ld-", "libc-", "ld.")) and f"/{path}" not in found:
                found.append(f"/{path}")
    return tuple(found)


LOADED_BY_ALL = _loaded_by_all()  # read at import, outside the lab
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class ProgramError(Exception):
    """A program that can't be run; `kind` is the error class that the owner raises."""

    def __init__(self, kind: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.errno = number


def find(name: str, path: str, workdir: str = "") -> str:
    """The path of a program, as execvp(3) finds it, to be executed in `workdir`.

    Raises `ProgramError` (ProgramNotFound) with what was looked for and where.
    """
    if "/" in name:
        _check_executable(os.path.join(workdir, name), name)
        return name
    forbidden = ""
    for folder in path.split(":"):
        candidate = os.path.join(workdir, folder or ".", name)
        _, executable, mode = syscalls.look(candidate)
        if stat.S_ISREG(mode):
            if executable:
                return candidate
            forbidden = candidate
    if forbidden:
        raise ProgramError("ProgramNotFound", f"{forbidden} isn't executable (EACCES)", errno.EACCES)
    raise ProgramError("ProgramNotFound", f"no program {name!r} in {path}", errno.ENOENT)


def open_path(path: str, flags: int) -> int:
    """Open a path of the container while we may still hold what lies outside: no link through /proc is followed."""
    return syscalls.openat2(syscalls.AT_FDCWD, path, flags | os.O_CLOEXEC, syscalls.RESOLVE_NO_MAGICLINKS)


def _check_executable(path: str, shown: str) -> None:
    number, executable, mode = syscalls.look(path)
    if number == errno.ELOOP:
        return  # through a link of /proc: what it leads to, the launcher will see, which holds nothing of ours
    if number:
        raise ProgramError(
            "ProgramNotFound", f"no program {shown!r} in the container ({errno.errorcode[number]})", number
        )  # fmt: skip
    if stat.S_ISDIR(mode):
        raise ProgramError("ProgramNotFound", f"{shown} is a folder, not a program (EISDIR)", errno.EISDIR)
    if not executable:
        raise ProgramError("ProgramNotFound", f"{shown} isn't executable (EACCES)", errno.EACCES)


_ACCOUNTS_BYTES = 1 << 20  # of /etc/passwd and /etc/group are read


def _lines(path: str) -> list[list[str]]:
    """The entries of a file that is the container's to write: no pipe is waited for, no endless file is read."""
    try:
        descriptor = open_path(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = os.read(descriptor, _ACCOUNTS_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    finally:
        os.close(descriptor)
    return [line.split(":") for line in text.splitlines()]


_NO_ID = 0xFFFFFFFF  # -1, with which setresuid(2) changes nothing


def _number(text: str) -> int | None:
    """The id that a word is; None if it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_NO_ID))) or int(text) >= _NO_ID:
        return None
    return int(text)


def _id(text: str, of: str) -> int:
    number = _number(text)
    if number is None:
        raise ProgramError("BadInput", f"{of}: {text[:20]!r} isn't a number of a user or group", errno.EINVAL)
    return number


def resolve_user(user: str) -> tuple[int, int, list[int], str]:
    """(uid, gid, supplementary groups, home) of ``name``, ``uid``, ``name:group`` or ``uid:gid``.

    Names are looked up in the container's own /etc/passwd and /etc/group.
    """
    name, _, group = user.partition(":")
    if name in ("0", "root", "") and not group:
        return 0, 0, [0], "/root"
    accounts = [entry for entry in _lines("/etc/passwd") if len(entry) >= 7]
    found = next((entry for entry in accounts if entry[0] == name or entry[2] == name), None)
    if found is None and not name.isdigit():
        raise ProgramError("NotFound", f"no user {name!r} in the container's /etc/passwd")
    where = f"user {name} in the container's /etc/passwd" if found else f"user {name[:20]}"
    uid = _id(found[2] if found else name, where)
    gid = _id(found[3], where) if found else 0
    home = found[5] if found else "/"
    groups = [entry for entry in _lines("/etc/group") if len(entry) >= 4]
    if group:
        entry = next((entry for entry in groups if entry[0] == group or entry[2] == group), None)
        if entry is None and not group.isdigit():
            raise ProgramError("NotFound", f"no group {group!r} in the container's /etc/group")
        gid = _id(entry[2] if entry else group, f"group {group[:20]}")
        return uid, gid, [gid], home
    login = found[0] if found else name
    extra = [_number(entry[2]) for entry in groups if login in entry[3].split(",")]
    return uid, gid, sorted({gid, *(number for number in extra if number is not None)}), home


def become(user: str, keep: int, *, single_id: bool, bounded: bool = False) -> str:
    """Take the user's ids and give up every capability outside `keep`; returns the home folder.

    `bounded`: the bounding set is `keep` already.

    A user other than root keeps no capability at all (they are in the bounding set only, as with Docker).
    """
    uid, gid, groups, home = resolve_user(user)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # until exec nobody inside may look into this process
    if not bounded:
        capabilities.drop_bounding(keep)
    if single_id:
        if (uid, gid) != (0, 0):
            raise ProgramError(
                "Unsupported",
                f"user {user}: this lab maps only your own id, as user 0; why, and what to do: id-range in %lab doctor",
                errno.EINVAL,
            )
    else:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise ProgramError(
                "BadInput", f"user {user}: ids {uid}:{gid} aren't mapped in this lab (0-65535 are)", error.errno or 0
            ) from None
    if uid == 0:
        syscalls.capset(keep, keep, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    return home


def place(targets: Mapping[int, int]) -> None:
    """Give open descriptors the numbers that they are to have when the program runs. `targets`: there → here."""
    high = {}
    for there, here in targets.items():
        high[there] = here if here >= launcher.HIGH else fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, launcher.HIGH)
    for there, here in high.items():
        os.dup2(here, there, inheritable=True)


def default_signals() -> None:
    """What Python changed back to the default, and nothing blocked."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def environment(entries: Sequence[str], home: str) -> dict[str, str]:
    """``NAME=value`` entries as a dictionary, HOME filled in."""
    variables = dict(entry.split("=", 1) for entry in entries)
    variables["HOME"] = variables.get("HOME") or home
    return variables


def lacking(path: str, workdir: str, keep: int) -> list[str]:
    """The capabilities without which the kernel won't execute a program of the container that we are in."""
    return capabilities.lacking(os.path.join(workdir, path), keep)


def launch_error(failure: tuple[int, int], path: str, workdir: str, lacks: Sequence[str] = ()) -> ProgramError:
    """The error for what the launcher has reported: (step, errno). `lacks`: see `lacking`."""
    step, number = failure
    name, text = errno.errorcode.get(number, str(number)), os.strerror(number)
    if step == launcher.WORKING_DIRECTORY:
        return ProgramError("NotFound", f"working directory {workdir}: {name} ({text})", number)
    hint = ""
    if number == errno.ENOEXEC:
        hint = "; a script needs a #! line"
    elif number == errno.ENOENT:
        hint = "; the interpreter that it names isn't in the container"
    elif number == errno.EPERM and lacks:
        options = " ".join(f"--cap-add {capability}" for capability in lacks)
        hint = f"; its file has capabilities that the container lacks: {options}"
    return ProgramError("ProgramNotFound", f"can't execute {path}: {name} ({text}){hint}", number)


def birth_error(error: OSError) -> ProgramError | OSError:
    """The error for a program that could not be born: EAGAIN is a limit of processes, others are what they are."""
    if error.errno != errno.EAGAIN:
        return error
    return ProgramError(
        "KernelError",
        "no further process can be made in the container: EAGAIN (it is at its limit of processes; "
        "update --pids-limit raises it, kill ends who uses it up)",
        errno.EAGAIN,
    )
