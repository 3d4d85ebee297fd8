"""Making a slot: cgroup folders, streams, the cloned first process, and (for a spare) its veth pair.

Used by the nursery for slots in advance and by the supervisor for containers that need something special.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from ..errors import KernelError
from ..kernel import capabilities, cgroup, netlink, syscalls
from . import executor, inside, protocol, slot
from .record import Slot
from .tree import Tree

SPARE_PREFIX = "spare"  # reserved: these interfaces show up nowhere


_DEFAULT = capabilities.mask(capabilities.DEFAULT)


class Order:
    """What to make. `private` is the number of the container's private folder: kept when it is started again."""

    __slots__ = ("again", "keep", "network_of", "operations", "private", "serial", "sibling", "spare")

    def __init__(
        self,
        operations: list[Any],
        serial: int,
        *,
        private: int | None = None,
        network_of: int = -1,
        keep: int = _DEFAULT,
        spare: bool = False,
        sibling: bool = False,
    ) -> None:
        self.operations = operations
        self.serial = serial
        self.again = private is not None
        self.private = serial if private is None else private
        self.network_of = network_of  # pidfd or namespace descriptor of the network namespace to join
        self.keep = keep  # capabilities of the bounding set
        self.spare = spare
        self.sibling = sibling  # the new process is our sibling, not our child: the nursery makes the supervisor's


def make(order: Order, folders: cgroup.LabFolders | None, node_link: netlink.Netlink, *, single_id: bool) -> Slot:
    """Clone a first process; it makes its root by itself while we go on. Nothing is left behind on failure."""
    made = Slot(order.serial, order.private)
    if not order.again:
        Tree.make_private(order.private)
    try:
        if folders is not None:
            made.cgroup = folders.make(f"c{order.serial}")
        _clone(order, made, single_id)
    except (OSError, KernelError):
        if made.cgroup is not None:
            made.cgroup.remove(0.2)
        if not order.again:
            Tree.remove_private(order.private)
        raise
    if order.spare:
        name = f"{SPARE_PREFIX}{order.serial}"
        try:
            node_link.run(
                [
                    netlink.new_veth(name, "eth0", peer_pid=made.pid),
                    netlink.set_link(0, find=name, no_link_local=True),
                    netlink.set_link(0, find=name, up=True),
                ]
            )
            protocol.send(made.status, {"spare": True})
            made.spare = executor.Spare(node_link.index(name), name)
        except OSError:
            end(made)
            raise
    return made


def _clone(order: Order, made: Slot, single_id: bool) -> None:
    made.out, out_write = os.pipe2(os.O_CLOEXEC)
    made.err, err_write = os.pipe2(os.O_CLOEXEC)
    made.status, theirs = protocol.pair()
    flags = inside.namespace_flags([kind for kind in order.operations[0].kinds if kind != "cgroup"])
    clone_into = -1
    join: Callable[[], None] | None = None
    folder = made.cgroup
    if folder is not None:
        descriptor = folder.clone_fd
        clone_into = -1 if descriptor is None else descriptor
        cloned = descriptor is not None

        def join() -> None:
            folder.join(cloned)

    newborn = slot.Birth(
        theirs, order.operations, order.private, join, single_id, (out_write, err_write), order.network_of, order.keep
    )
    try:
        made.pid, made.pidfd = syscalls.clone3(flags, clone_into, sibling=order.sibling)
        if made.pid == 0:
            slot.run(newborn)
        made.mount_namespace = os.open(f"/proc/{made.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        theirs.close()
        os.close(out_write)
        os.close(err_write)
        if folder is not None:
            folder.close()


def end(unused: Slot) -> None:
    """End a slot and close what belongs to it; the folders are the caller's to remove."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(unused.pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, unused.pidfd, os.WEXITED)
    unused.status.close()
    for descriptor in (unused.pidfd, unused.out, unused.err, unused.mount_namespace):
        if descriptor >= 0:
            os.close(descriptor)
