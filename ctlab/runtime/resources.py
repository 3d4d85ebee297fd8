"""What bounds each process of a container besides its cgroup: open files, processes, and who is killed first.

Called by what becomes one (a slot, a runner); the lab's own processes stay as their owner is. Lean: see `kernel.lean`.
"""

from __future__ import annotations

import os
import resource

from ..kernel.lean import suppress

MOST = 1 << 20  # podman's default of open files and of processes, where the owner may have as many
OOM_STEP = 500  # of 1000: half of the memory there is, so anything in a container counts before the notebook
_OOM_MOST = 1000
# Programs that are exec'ed may go beyond what stops a container's own, or a flood would lock out who comes to end it.
EXEC_RESERVE = 256


def bound() -> None:
    """The limits that every process of a container has, and its place in the queue of the OOM killer.

    Open files: soft and hard what the owner may have (hard), at most `MOST`. Processes: the owner's limits, at most
    `MOST`. This is what podman gives, rootless and rootful. To be called before the process hides (`dumpable`).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _at_most(hard, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    limits = resource.getrlimit(resource.RLIMIT_NPROC)
    soft, hard = (_at_most(limit, MOST) for limit in limits)
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    with suppress(OSError):  # no /proc of ours in sight: then it is killed when its turn comes
        _be_killed_first()


def bound_processes(most: int) -> None:
    """Allow `most` processes and threads of this user id in the lab (0: no such limit); for good.

    It stands in for a cgroup where none can be had, and counts all of the lab that has the same user id: the kernel
    counts so for each user namespace (Linux 5.14). To be called after the last fork and change of ids of ours: only
    the program is to meet it.
    """
    if not most:
        return
    soft, hard = (_at_most(limit, most) for limit in resource.getrlimit(resource.RLIMIT_NPROC))
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


def _at_most(limit: int, most: int) -> int:
    return most if limit == resource.RLIM_INFINITY else min(limit, most)


def _be_killed_first() -> None:
    """Raise our oom_score_adj by `OOM_STEP`; it is never lowered. A program may lower its own again, to the owner's."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        now = int(os.read(descriptor, 16))
        os.write(descriptor, b"%d" % min(_OOM_MOST, now + OOM_STEP))
    finally:
        os.close(descriptor)
