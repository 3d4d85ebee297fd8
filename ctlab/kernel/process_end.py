"""How a process has ended, in the words of a message."""

from __future__ import annotations

import os
import signal


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
