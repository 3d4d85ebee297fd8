"""What the supervisor inherits and has to reap, or a container's end would never be heard of.

The first process of a PID namespace ends only when every process in it has been reaped. A program that was
exec'ed by a runner is the runner's to reap; when the runner dies first (the kernel may kill it for the container's
memory) the program becomes a child of the supervisor that nobody waits for.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .made import Slot
    from .supervisor import Supervisor

_STEP_MS = 100
_WATCH_SECONDS = 0.5


def _zombies_inside() -> list[int]:
    """Dead children of this process in a PID namespace below ours that are not its first process."""
    found = []
    with open("/proc/thread-self/children", encoding="ascii") as file:
        children = file.read().split()
    for pid in children:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith(("State:", "NSpid:")))
            numbers = lines["NSpid"].split()
            if lines["State"].split()[0] == "Z" and len(numbers) > 1 and numbers[-1] != "1":
                found.append(int(pid))
    return found


def reap(supervisor: Supervisor) -> None:
    """Reap what nobody else does; the children of `supervisor.inside` have handlers of their own."""
    with contextlib.suppress(OSError):  # a kernel without the list of children
        for pid in _zombies_inside():
            if pid not in supervisor.inside:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


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
