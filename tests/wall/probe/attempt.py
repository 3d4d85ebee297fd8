"""One try in a child of its own: what it does to a process is over with it, and what never returns is ended."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterable

_SECONDS = 5
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ON_X86 = os.uname().machine == "x86_64"


def call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call by number; whole numbers are passed as 64 bits. Raises OSError with what the kernel answered."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    answer = int(libc.syscall(ctypes.c_long(number), *converted))
    if answer == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), "")
    return answer


def number(x86: int, other: int) -> int:
    """A call's number here: on x86-64, and on architectures with the common table."""
    return x86 if ON_X86 else other


def attempt(action: Callable[[], object]) -> str:
    """How it went: "ok", an errno's name, "refused" (it gave False), "SIG…", or "waits" for what waits for ever."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            signal.alarm(_SECONDS)
            try:
                text = "refused" if action() is False else "ok"
            except OSError as error:
                text = errno.errorcode.get(error.errno or 0, str(error.errno))
            except BaseException as error:
                text = type(error).__name__
            os.write(writing, text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 200).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if said:
        return said
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return "waits" if ended_by == signal.SIGALRM else signal.Signals(ended_by).name if ended_by else "ended"


def able(tries: Iterable[tuple[str, Callable[[], object]]]) -> set[str]:
    """The names of those that succeed. Raises RuntimeError for one that isn't well made."""
    found = set()
    for name, action in tries:
        how = attempt(action)
        if how.endswith("Error"):
            raise RuntimeError(f"{name}: {how}, which no kernel said")
        if how == "ok":
            found.add(name)
    return found
