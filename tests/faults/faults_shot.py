"""One SIGKILL, and whether it was what ended the process."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import time
from pathlib import Path

_INFO_EXIT = 1 << 3  # PIDFD_INFO_EXIT
_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info as it was first; the last is the wait status
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # PIDFD_GET_INFO


class Shot:
    """A SIGKILL for one process, which is held by a pidfd: a number may be another's a moment later."""

    def __init__(self, pid: int) -> None:
        self._alive = False
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1
            return
        self._alive = _lives(pid) and not self._dead()
        if self._alive:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def hit(self, seconds: float) -> bool:
        """Whether it lived until then and died of SIGKILL within `seconds`. To be asked once, after its parent has
        had a reason to wait for it.

        Only from Linux 6.15 on does the kernel say how a process has ended that isn't a child: before that, who lived
        a moment ago and is dead now was hit.
        """
        if self._pidfd < 0:
            return False
        until = time.monotonic() + seconds
        try:
            while self._alive and time.monotonic() < until:
                status = _status(self._pidfd) if self._dead() else None
                if status is not None:
                    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                time.sleep(0.002)
            return False
        finally:
            os.close(self._pidfd)

    def _dead(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))


def _lives(pid: int) -> bool:
    """Whether it has memory of its own (what is on its way out has none) and no SIGKILL of somebody else's waits."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    pending = [int(bits, 16) for bits in re.findall(r"^(?:SigPnd|ShdPnd):\s+(\w+)$", text, re.MULTILINE)]
    return "\nVmSize:" in text and not any(bits >> (signal.SIGKILL - 1) & 1 for bits in pending)


def _status(pidfd: int) -> int | None:
    """The wait status of a dead process; None until it has been waited for."""
    answer = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, answer)
    except OSError:  # ENOTTY before Linux 6.13; ESRCH before 6.15, once it has been waited for
        return signal.SIGKILL
    mask, *_, status = _INFO.unpack(answer)
    if mask & _INFO_EXIT:
        return int(status)
    return None
