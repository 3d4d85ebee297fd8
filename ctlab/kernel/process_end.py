"""How a process has ended, in the words of a message."""

from __future__ import annotations

import os
import select
import signal

_END_SECONDS = 1.0
_WHY = {  # of the signals that something else than a bug sends
    "SIGKILL": "something killed it; where memory is short, the kernel does",
    "SIGXFSZ": "files may be too small here (ulimit -f): raise that limit",
}


def why(end: str) -> str:
    """What to look for after such an end, which is as `how` has it."""
    return _WHY.get(end, "it gave no reason; %lab doctor looks for one")


def at_start(pidfd: int) -> str:
    """Of a child that was to do something first, and whose socket has ended: how it did, and what to look for."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(_END_SECONDS * 1000)  # what it has open is closed a moment before
    end = how(pidfd)
    return f"ended at start{f' ({end})' if end else ''}: {why(end)}"


def how(pidfd: int) -> str:
    """``SIGKILL`` or ``status 1`` of a child of ours, which stays to be waited for; "" while it runs or is unknown."""
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # SIGCHLD is ignored here, so nobody can tell
        return ""
    if ended is None:
        return ""
    if ended.si_code == os.CLD_EXITED:
        return f"status {ended.si_status}"
    try:
        return signal.Signals(ended.si_status).name
    except ValueError:  # a real-time signal has no name
        return f"signal {ended.si_status}"
