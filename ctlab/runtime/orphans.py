"""What the supervisor inherits and has to reap, or a container's end would never be heard of.

The first process of a PID namespace ends only when every process in it has been reaped. A program that was
exec'ed by a runner is the runner's to reap; when the runner dies first (the kernel may kill it for the container's
memory) the program becomes a child of the supervisor that nobody waits for, and is ended: its caller has been told so.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .made import Slot
    from .supervisor import Supervisor

_STEP_MS = 100
_WATCH_SECONDS = 0.5


def _inside(supervisor: Supervisor) -> list[tuple[int, bool]]:
    """(pid, whether it has ended) of our children in a PID namespace below ours that nobody else waits for.

    Not the first process of one, nor those in `supervisor.inside`, which have handlers of their own.
    """
    found = []
    with open("/proc/thread-self/children", encoding="ascii") as file:
        children = [int(pid) for pid in file.read().split()]
    for pid in children:
        if pid in supervisor.inside:
            continue
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith(("State:", "NSpid:")))
            numbers = lines["NSpid"].split()
            if len(numbers) > 1 and numbers[-1] != "1":
                found.append((pid, lines["State"].split()[0] == "Z"))
    return found


def reap(supervisor: Supervisor) -> None:
    """Reap what nobody else does."""
    with contextlib.suppress(OSError):  # a kernel without the list of children
        for pid, over in _inside(supervisor):
            if over:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def end(supervisor: Supervisor) -> None:
    """Kill the programs whose runners have been killed, each with its process group.

    Only we reap them, so neither number is anybody else's meanwhile. One that has a terminal has led its session: with
    its end the kernel hangs up what ran in front, and whatever of its jobs was stopped.
    """
    with contextlib.suppress(OSError):
        for pid, over in _inside(supervisor):
            if not over:
                with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
                    os.killpg(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)


def watch(supervisor: Supervisor) -> None:
    """From now on look for orphans now and then: a runner has died before its program."""
    if supervisor.watching_orphans:
        return
    supervisor.watching_orphans = True

    def look() -> None:
        reap(supervisor)
        supervisor.after(_WATCH_SECONDS, look)

    look()


def wait_for(supervisor: Supervisor, slot: Slot, again: Callable[[], None]) -> None:
    """Wait for the end of a first process that has been killed, and reap what it waits for.

    `again`: what is done while it doesn't end, beside that.
    """
    poll = select.poll()
    poll.register(slot.pidfd, select.POLLIN)
    for pidfd in supervisor.inside.values():
        poll.register(pidfd, select.POLLIN)
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_PIDFD, slot.pidfd, os.WEXITED | os.WNOHANG) is None:
            ready = [descriptor for descriptor, _ in poll.poll(_STEP_MS)]
            for descriptor in ready:
                if descriptor != slot.pidfd:
                    poll.unregister(descriptor)
                    supervisor.serve(descriptor)
            if not ready:
                reap(supervisor)
                again()
