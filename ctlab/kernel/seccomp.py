"""Filters of system calls: loading a program for this thread and what comes of it, and trying whether it works.

Sources: seccomp(2), linux/seccomp.h, linux/filter.h. Lean (see `lean`): the programs come ready-made, from
`ctlab.seccomp.compile` in the lab's owner.
"""

from __future__ import annotations

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)

NUMBERS = {"x86_64": 317, "aarch64": 277}
"""The number of seccomp(2) on the machines (of uname) that there are programs for."""

LOADING = (
    "load the filter of system calls (why it can't be had: %lab doctor; without one: --security-opt seccomp=unconfined)"
)
_PRCTL = {"x86_64": 157, "aarch64": 167}
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2
INSTRUCTION_BYTES = 8
NONE = bytes(INSTRUCTION_BYTES)
"""A program that the kernel refuses, since it doesn't end: to go through the motions with."""


class Program(ctypes.Structure):  # struct sock_fprog
    """A filter as the kernel takes it: how many instructions, and where they are."""

    _fields_ = (("instructions", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def by_prctl() -> bool:
    """Whether a filter has to be loaded by prctl(2) here, and not by seccomp(2).

    The newer call can leave speculation past stores alone (before Linux 5.16 a filter without SPEC_ALLOW slows down the
    whole process), but a filter around this process may hide it and let the older one through.
    """
    return _call(loading(None, by_prctl=False)) != errno.EFAULT  # else it went as far as to look for the program


def loading(program: Program | None, *, by_prctl: bool) -> tuple[int, int, int, int]:
    """The system call that loads a filter, its number first; of None one that gets EFAULT and changes nothing."""
    machine = os.uname().machine
    address = 0 if program is None else ctypes.addressof(program)
    if by_prctl:
        return _PRCTL[machine], _PR_SET_SECCOMP, _MODE_FILTER, address
    return NUMBERS[machine], _SET_MODE_FILTER, _SPEC_ALLOW, address


def _call(words: tuple[int, ...]) -> int:
    """0, or the errno."""
    number, *arguments = words
    return ctypes.get_errno() if _libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments)) else 0


def check() -> None:
    """Raise OSError where no filter can be loaded, whatever it says."""
    failed = _call(loading(None, by_prctl=by_prctl()))
    if failed != errno.EFAULT:
        raise _refused(failed)


def _refused(number: int) -> OSError:
    return OSError(number, f"{LOADING}: {errno.errorcode.get(number, number)} ({os.strerror(number)})")


def install(program: bytes) -> None:
    """Load a filter (struct sock_filter[]) for this thread, for good; what it forks and executes has it too.

    Needs no_new_privs (or CAP_SYS_ADMIN). Filters add up: of several the strictest answer counts. Raises OSError:
    EACCES without either, EINVAL for a program that the kernel doesn't accept or a kernel without filters, ENOMEM
    beyond 32,768 instructions in all.
    """
    if len(program) % INSTRUCTION_BYTES or not 0 < len(program) // INSTRUCTION_BYTES < 1 << 16:
        raise OSError(errno.EINVAL, f"seccomp: {len(program)} bytes are no program")
    if failed := _load(program):
        raise _refused(failed)


def _load(program: bytes) -> int:
    """0, or the errno."""
    whole = Program(len(program) // INSTRUCTION_BYTES, program)
    return _call(loading(whole, by_prctl=by_prctl()))


_TRIED = 0x3FFFFFFF  # no call has it, and on x86_64 it isn't one of x32
_TRIED_ANSWER = errno.EXDEV  # what no kernel answers to a number without a call


def trial() -> bytes:
    """A program that allows everything and answers EXDEV to a call that doesn't exist."""
    rows = (0x20, 0, 0, 0), (0x15, 0, 1, _TRIED), (0x06, 0, 0, 0x50000 | _TRIED_ANSWER), (0x06, 0, 0, 0x7FFF0000)
    words = (part.to_bytes(size, "little") for row in rows for part, size in zip(row, (2, 1, 1, 4), strict=True))
    return b"".join(words)


def probe() -> None:
    """Load a filter and see that it answers; call it in a process that is thrown away, with no_new_privs set.

    Raises OSError with what the kernel said; ENOTSUP where a filter is accepted and doesn't filter.
    """
    if failed := _load(trial()):
        raise OSError(failed, os.strerror(failed))
    if _libc.syscall(ctypes.c_long(_TRIED)) != -1 or ctypes.get_errno() != _TRIED_ANSWER:
        raise OSError(errno.ENOTSUP, "a filter of system calls is accepted, but nothing is filtered")
