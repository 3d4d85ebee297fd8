"""The seed: a small child of the keeper from which the supervisor is cloned, and from that the nursery.

It is made before the keeper imports anything heavy, so that the nursery, the slots and the runners, clones of clones
of it, have a few megabytes only to be copied and taken down (see `kernel.lean`). The supervisor clones the nursery
first and then imports the rest for itself.

The supervisor is the keeper's child (CLONE_PARENT), as PID 1 of the lab's namespaces; the seed ends when it is made.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource

from ..kernel import cgroup, keyring, syscalls, title
from ..kernel.lean import signal
from . import nursery, orders, system_copy, system_read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

CONTROL, CALLS, EVENTS = 3, 4, 5  # descriptors on entry: the owner; the supervisor's calls and events
PORT = 6  # and, in a virtual machine, the port through which the owner calls,
ARCHIVE, DONE, HOLD = 7, 8, 9  # what `system_read.Reader` has
_NAMESPACES = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)


class Start:
    """What the keeper hands over to the supervisor; the descriptors are the supervisor's own."""

    def __init__(self, facts: dict[str, Any], descriptors: list[int]) -> None:
        self.calls = CALLS
        self.events = EVENTS
        self.keeper, archive, done, *rest = descriptors
        self.cgroup_version: str = facts["cgroup_version"]
        self.cgroup_folders = dict(zip(facts["cgroup_folders"], rest, strict=True))
        self.single_id: bool = facts["single_id"]
        self.by_root: bool = facts["by_root"]  # whether the keeper is user 0
        self.interval_seconds: float = facts["interval_seconds"]
        self.host_top: dict[str, str] = facts["host_top"]
        self.system = system_copy.Source(archive, done, self.host_top)
        self.storage_bytes: int = facts["storage_bytes"]  # of the tmpfs that holds what containers write
        self.storage_inodes: int = facts["storage_inodes"]
        self.name: str = facts["name"]
        self.port = PORT if facts["port"] else -1


def plant() -> tuple[_socket.socket, int]:
    """Fork the seed: (the socket over which it is told to bear the supervisor, its pid)."""
    ours, theirs = orders.pair()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            ours.close()
            os.close(CONTROL)
            title.set_title("ctlab seed")
            message, descriptors = orders.receive(theirs)
            if message is not None:
                pid, pidfd = bear(message, descriptors, sibling=True)
                orders.send(theirs, {"pid": pid}, [pidfd])
        except OSError as error:
            orders.send(theirs, {"errno": error.errno or 0, "message": error.strerror or str(error)})
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid


def bear(
    facts: dict[str, Any], descriptors: list[int], *, sibling: bool, before: Callable[[], None] | None = None
) -> tuple[int, int]:
    """Clone the supervisor: (pid, pidfd).

    `descriptors`: its socket to the keeper, what `system_read` gives, its cgroup folders, its v2 leaf.

    `before`: what the clone does first.
    """
    leaf = descriptors.pop() if facts["leaf"] else -1
    pid, pidfd = syscalls.clone3_python(_NAMESPACES, leaf, sibling=sibling)
    if pid == 0:
        if before is not None:
            before()
        _become(Start(facts, descriptors))
    return pid, pidfd


def _become(start: Start) -> NoReturn:
    number = start.keeper
    keeper = _socket.socket(fileno=number)
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        folders = {*start.cgroup_folders.values()}
        system = start.system.descriptors()
        keep = {CALLS, EVENTS, start.keeper, *system, *folders} | ({PORT} if start.port >= 0 else set())
        syscalls.close_all_but(keep)
        for descriptor in keep:
            os.set_inheritable(descriptor, False)
        title.set_title(f"ctlab supervisor {start.name}")
        inside = cgroup.LabFolders(start.cgroup_folders, start.cgroup_version) if start.cgroup_folders else None
        gc.collect()
        gc.freeze()  # what was imported is never looked at again, so its pages stay shared with the children
        ours, theirs = orders.pair()
        pid, pidfd = syscalls.clone3_python(0)
        if pid == 0:
            ours.close()
            nursery.live(theirs, inside, start.system, folders, single_id=start.single_id)
        theirs.close()
        from . import supervisor

        start.keeper = keeper.detach()
        supervisor.main(start, inside, (ours, pid, pidfd))
    except BaseException as error:
        if keeper.fileno() < 0:  # it is the supervisor's by now, which has failed
            keeper = _socket.socket(fileno=number)
        if isinstance(error, OSError) and error.strerror:
            orders.last_words(keeper, "KernelError", error.strerror, error.errno or 0)
        else:
            orders.last_words(keeper, "CtlabError", f"supervisor: {type(error).__name__}: {error}", 0)
    finally:
        os._exit(1)


def main(*, port: bool = False) -> None:
    """Run as the keeper; see its text for the descriptors. `port`: there is a `PORT`, for the supervisor."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the owner's word or death ends a lab
    syscalls.close_range((HOLD if port else EVENTS) + 1)  # what the owner left inheritable isn't ours to hold open
    title.remember()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # the rings are files, of the owner's size or not
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for all of the lab's own processes
    trouble: OSError | None = None
    try:
        keyring.leave()  # before there is anything else of the lab
    except OSError as error:
        trouble = error
    planted = plant()
    reader = system_read.Reader(ARCHIVE, DONE, HOLD) if port else system_read.start()
    from . import keeper

    keeper.main(planted, reader, port=port, trouble=trouble)
