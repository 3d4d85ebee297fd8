"""Every system call once, with arguments that no call can do anything with."""

from __future__ import annotations

import errno
import os
import signal
import struct

from attempt import call

_NOTHING = (-1,) * 6  # no descriptor, no address, no process, no flag combination is that
_RECORD = struct.Struct("=ii")
_SECONDS = 5
_REACHED_BY_SIGNAL = 1000  # stands for an answer: the call was entered and ended or stopped the process


def answers(skip: list[int], last: int) -> dict[int, str]:
    """Number -> "ok", the errno's name, or "SIG…". EPERM and ENOSYS mean that it was refused: by whom can't be seen."""
    found: dict[int, str] = {}
    left = [n for n in range(last + 1) if n not in skip]
    while left:
        for number, code in _run(left):
            found[number] = _text(code)
        left = [n for n in left if n not in found]
    return found


def _text(code: int) -> str:
    if code >= _REACHED_BY_SIGNAL:
        return signal.Signals(code - _REACHED_BY_SIGNAL).name
    return errno.errorcode.get(code, str(code)) if code else "ok"


def _run(numbers: list[int]) -> list[tuple[int, int]]:
    """Try them one after the other in a child; ends early with the one that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for stream in range(3):
            os.close(stream)
        for number in numbers:
            signal.alarm(_SECONDS)  # again for each: alarm(2) itself is among them
            try:
                call(number, *_NOTHING)
                code = 0
            except OSError as error:
                code = error.errno or 0
            os.write(writing, _RECORD.pack(number, code))
        os._exit(0)
    os.close(writing)
    said = b""
    while part := os.read(reading, 65536):
        said += part
    os.close(reading)
    _, status = os.waitpid(child, 0)
    found = [(int(n), int(code)) for n, code in _RECORD.iter_unpack(said)]
    if len(found) < len(numbers):
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else signal.SIGKILL
        found.append((numbers[len(found)], _REACHED_BY_SIGNAL + ended_by))
    return found
