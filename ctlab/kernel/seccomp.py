"""Filters of system calls: loading a program for this thread and what comes of it, and trying whether it works.

Sources: seccomp(2), linux/seccomp.h, linux/filter.h. Lean (see `lean`): the programs come ready-made, from
`ctlab.seccomp.compile` in the lab's owner.
"""

from __future__ import annotations

import ctypes
import errno
import os

from . import syscalls

_libc = ctypes.CDLL(None, use_errno=True)

NUMBERS = {"x86_64": 317, "aarch64": 277}
"""The number of seccomp(2) on the machines (of uname) that there are programs for."""

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2
_INSTRUCTION_BYTES = 8
NONE = bytes(_INSTRUCTION_BYTES)
"""A program that the kernel refuses, since it doesn't end: to go through the motions with."""


class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = (("instructions", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: bytes) -> None:
    """Load a filter (struct sock_filter[]) for this thread, for good; what it forks and executes has it too.

    Needs no_new_privs (or CAP_SYS_ADMIN). Filters add up: of several the strictest answer counts. Raises OSError:
    EACCES without either, EINVAL for a program that the kernel doesn't accept or a kernel without filters, ENOMEM
    beyond 32,768 instructions in all.
    """
    instructions, rest = divmod(len(program), _INSTRUCTION_BYTES)
    if rest or not 0 < instructions < 1 << 16:
        raise OSError(errno.EINVAL, f"seccomp: {len(program)} bytes are no program")
    whole = _Program(instructions, program)
    number = NUMBERS.get(os.uname().machine)
    if number is not None:
        # Before Linux 5.16 a filter without SPEC_ALLOW slows down the whole process (no speculation past stores);
        # 4.17 is the first that knows the flag.
        for flags in (_SPEC_ALLOW, 0):
            arguments = ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(flags), ctypes.byref(whole)
            if _libc.syscall(ctypes.c_long(number), *arguments) == 0:
                return
            if ctypes.get_errno() != errno.EINVAL:
                break
        if ctypes.get_errno() != errno.ENOSYS:
            failed = ctypes.get_errno()
            raise OSError(failed, f"seccomp: {os.strerror(failed)}")
    # A filter around this process may hide the newer call and let the older one through.
    syscalls.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(whole))


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
    install(trial())
    if _libc.syscall(ctypes.c_long(_TRIED)) != -1 or ctypes.get_errno() != _TRIED_ANSWER:
        raise OSError(errno.ENOTSUP, "a filter of system calls is accepted, but nothing is filtered")
