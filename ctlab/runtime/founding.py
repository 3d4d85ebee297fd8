"""What a keeper makes before there is a lab: what lies outside, and the supervisor."""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

from ..errors import CtlabError
from ..kernel import cgroup_discover, cgroup_mounts, cgroup_outside, idmap, process_count, process_end
from . import orders, protocol, seed, storage_size

if TYPE_CHECKING:
    from .keeper import Keeper


def found(keeper: Keeper) -> None:
    """Make the outside folders and the supervisor; tell the owner."""
    # Each folder is written down before it is made: we may be killed between any two lines.
    keeper.folder.record(tried_in=cgroup_mounts.candidates(), tried_since=time.monotonic_ns())
    delegation = cgroup_discover.discover()
    keeper.leaf = delegation.leaf
    mapping, keeper.ids = idmap.reserve(idmap.choose(), keeper.lab_id)
    if delegation.version != "none":
        parents = {*delegation.parents.values(), *([delegation.unified] if delegation.unified else [])}
        keeper.folder.record(cgroups=[os.path.join(parent, f"ctlab-{keeper.lab_id}") for parent in sorted(parents)])
        keeper.cgroup = cgroup_outside.make_lab(delegation, keeper.lab_id, mapping.first_uid, mapping.first_gid)
    ours, theirs = protocol.pair()
    folders = keeper.cgroup.open() if keeper.cgroup else {}
    leaf = keeper.cgroup.open_leaf() if keeper.cgroup else None
    size = keeper.config.get("storage") or storage_size.default_bytes(in_vm=keeper.port)
    facts = {
        "cgroup_version": delegation.version,
        "cgroup_folders": list(folders),
        "leaf": leaf is not None,
        "single_id": mapping.single,
        "by_root": os.getuid() == 0,
        "interval_seconds": keeper.config["interval"],
        "host_top": _host_top(),
        "storage_bytes": size,
        "storage_inodes": storage_size.inodes(size),
        "name": keeper.config["name"],
        "port": keeper.port,
    }
    read = [keeper.reader.archive, keeper.reader.done]
    descriptors = [theirs.fileno(), *read, *folders.values(), *([] if leaf is None else [leaf])]
    pid, keeper.supervisor_pidfd = _bear(keeper, facts, descriptors)
    theirs.close()
    os.close(seed.CALLS)
    os.close(seed.EVENTS)
    if keeper.port:
        os.close(seed.PORT)
    for descriptor in (keeper.reader.done, *descriptors[3:]):
        os.close(descriptor)
    try:
        idmap.write(pid, mapping)
        keeper.user_namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, CtlabError):
        if keeper.wait_for_supervisor(0):
            raise RuntimeError(f"its supervisor {process_end.at_start(keeper.supervisor_pidfd)}") from None
        raise
    keeper.reader.mapped()
    keeper.channel = ours
    _go(keeper, "identity")
    _go(keeper, "run")  # by now its parent-death signal is set
    protocol.send(
        keeper.control,
        {
            "ready": True,
            "supervisor": pid,
            "keeper": os.getpid(),
            "mapping": mapping.describe(),
            "single_id": mapping.single,
            "cgroup": delegation.version,
            "controllers": list(delegation.controllers),
            "pids_by": _pids_by(delegation),
            "cgroup_reason": delegation.reason,
            "cgroup_remedy": delegation.remedy,
            "runtime_folder": keeper.folder.path,
            "cgroup_paths": keeper.cgroup.paths() if keeper.cgroup else [],
        },
    )


def _bear(keeper: Keeper, facts: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
    """Let the seed clone the supervisor: (pid, pidfd)."""
    if not _readable_without_privilege():
        from . import supervisor  # noqa: F401 - imported here, since a clone in a user namespace of its own can't

        born = seed.bear(facts, [*descriptors], sibling=False, before=keeper.folder.forget)
        _end_seed(keeper)
        return born
    try:
        orders.send(keeper.planted, facts, descriptors)
        _await(keeper, keeper.planted)
        answer, given = orders.receive(keeper.planted)
    except (BrokenPipeError, ConnectionResetError):
        answer = None
    if answer is None:
        raise RuntimeError(f"the seed of its supervisor {process_end.at_start(os.pidfd_open(keeper.seed))}")
    _end_seed(keeper)
    if not given:
        raise OSError(answer["errno"], answer["message"])
    return answer["pid"], given[0]


def _end_seed(keeper: Keeper) -> None:
    """It has nothing more to do."""
    keeper.planted.close()
    os.kill(keeper.seed, signal.SIGKILL)  # who has stopped it would hold us up
    os.waitpid(keeper.seed, 0)


def _go(keeper: Keeper, where: str) -> None:
    """Tell the supervisor to take its next step, and wait until it has."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it has said last says why
        protocol.send(keeper.channel, {"go": where})
    _await(keeper, keeper.channel)
    answer = protocol.received(keeper.channel)
    if answer is None:
        raise RuntimeError(f"its supervisor {process_end.at_start(keeper.supervisor_pidfd)}")
    if "error" in answer:
        raise RuntimeError(answer["message"])


def _await(keeper: Keeper, connection: socket.socket | _socket.socket) -> None:
    """Wait for the next message of a process that we have made, as long as there is somebody who wants the lab."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(keeper.owner_pidfd, select.POLLIN)
    poll.register(keeper.control, 0)  # POLLHUP: it was closed
    if connection.fileno() not in (ready := keeper.reader.wait(poll)):
        raise RuntimeError(f"its owner {'has ended' if keeper.owner_pidfd in ready else 'wants it no longer'}")


def _readable_without_privilege() -> bool:
    """Whether our files can be read by user 0 without root's privileges (in another's home they may not be)."""
    if os.geteuid():
        return True
    # Of the library a module that isn't frozen into the interpreter, whose file may be missing.
    for file in (os.path.abspath(__file__), os.path.abspath(contextlib.__file__)):
        status = os.stat(file)
        if status.st_uid and not status.st_mode & stat.S_IROTH:
            return False
        while file != "/":
            file = os.path.dirname(file)
            status = os.stat(file)
            if status.st_uid and not status.st_mode & stat.S_IXOTH:
                return False
    return True


def _pids_by(delegation: cgroup_discover.Delegation) -> str:
    """What holds the default number of processes of a container: ``cgroup``, ``rlimit`` (of the lab's), ``none``."""
    if delegation.version != "none" and "pids" in delegation.controllers:
        return "cgroup"
    return "rlimit" if process_count.per_namespace(os.uname().release) else "none"


def _host_top() -> dict[str, str]:
    """This machine's top-level entries: a link's target, or ``folder``."""
    top = {}
    with os.scandir("/") as entries:
        for entry in entries:
            if entry.is_symlink():
                top[entry.name] = os.readlink(entry.path)
            elif entry.is_dir():
                top[entry.name] = "folder"
    return top
