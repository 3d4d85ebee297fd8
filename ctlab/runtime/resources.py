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
_EXEC_RESERVE = 256
_FILES_OF_LAB = 1024  # of the owner's; one message sends 253 at most
# Of an owner who may have fewer than this, a quarter is left to himself and the lab, or an eighth by what is exec'ed.
_AMPLE = 4096
_LEAVES, _EXEC_LEAVES = 4, 8


def files() -> int:
    """The open files that every process of a container may have, soft and hard.

    What the owner may have (hard), at most `MOST`, as podman has it, but for what the lab's own processes need to have
    more: the kernel counts the descriptors that a user has sent and nobody has received yet, and refuses all who may
    open fewer (ETOOMANYREFS). So containers meet that first, and the lab can go on passing its own.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST, hard - min(_FILES_OF_LAB, hard // 8)) if hard != resource.RLIM_INFINITY else MOST


def bound_files() -> None:
    """This process is one of a container's."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (files(), files()))


def be_killed_first() -> None:
    """Its place in the queue of the OOM killer. To be called before the process hides (`dumpable`)."""
    with suppress(OSError):  # no /proc of ours in sight: then it is killed when its turn comes
        _raise_oom_score()


def bound_processes(most: int, *, by_exec: bool) -> None:
    """How many processes and threads its user id may have: what the owner may, at most `MOST`, as podman has it.

    `most`, if not 0, stands in for a cgroup where none can be had. The kernel counts all of the lab that has the same
    user id, for each user namespace by itself (Linux 5.14). `by_exec`: of a program that is exec'ed. To be called after
    the last fork and change of ids of ours: only the program is to meet it.
    """
    most = most + (_EXEC_RESERVE if by_exec else 0) if most else MOST
    share = _EXEC_LEAVES if by_exec else _LEAVES
    soft, hard = (_at_most(_left(limit, share), most) for limit in resource.getrlimit(resource.RLIMIT_NPROC))
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


def _left(limit: int, share: int) -> int:
    return limit if limit == resource.RLIM_INFINITY or limit >= _AMPLE else limit - limit // share


def _at_most(limit: int, most: int) -> int:
    return most if limit == resource.RLIM_INFINITY else min(limit, most)


def _raise_oom_score() -> None:
    """Raise our oom_score_adj by `OOM_STEP`; it is never lowered. A program may lower its own again, to the owner's."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        now = int(os.read(descriptor, 16))
        os.write(descriptor, b"%d" % min(_OOM_MOST, now + OOM_STEP))
    finally:
        os.close(descriptor)
