"""What `ps` shows of a process that was cloned, not exec'ed: its argument area is overwritten in place."""

from __future__ import annotations

import ctypes
import os

from . import syscalls

PR_SET_NAME = 15
_area: tuple[int, int] | None = None


def remember() -> None:
    """Find the argument area (proc(5), stat fields 48 and 49); clones have it at the same place."""
    global _area
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, IndexError, ValueError):
        return
    if 0 < start < end:
        _area = start, end


def set_title(text: str) -> None:
    """Show `text` instead of the command line, as far as there is room."""
    name = ctypes.create_string_buffer(os.fsencode(text)[:15])
    syscalls.prctl(PR_SET_NAME, ctypes.addressof(name))
    if _area is None:
        return
    start, end = _area
    room = end - start
    data = os.fsencode(text)[: room - 1]
    ctypes.memset(start, 0, room)
    ctypes.memmove(start, data, len(data))
