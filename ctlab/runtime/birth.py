"""Making a slot: cgroup folders, streams, the cloned first process, and (for a spare) its veth pair.

Used by the nursery for slots in advance and by the supervisor for containers that need something special.

The memory of a slot made in advance is shared with a *holder*, its parent by vfork, which sleeps in that call until
the slot's `exec`. So `exec` drops one of two users of the memory and does not take it down while somebody waits (0.3
of 1 ms); that is done when the supervisor kills the holder, later. What the slot ran on is the holder's stack, so the
holder must never return from its call: a SIGSTOP is pending for it before the slot does anything, and it stops on
its way out.
"""

from __future__ import annotations

import _socket
import errno
import os

from ..errors import KernelError
from ..kernel import capabilities, cgroup_v1, netlink, syscalls
from ..kernel.lean import signal, suppress
from . import inside, orders, slot
from .made import Slot, Spare
from .tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .context import Context, Filter

SPARE_PREFIX = "spare"  # reserved: these interfaces show up nowhere


_DEFAULT = capabilities.mask(capabilities.DEFAULT)


class Order:
    """What to make. `private` is the number of the container's private folder: kept when it is started again.

    `limits`: writes to its cgroup folder, as (controller, file, value, optional).
    """

    __slots__ = (
        "again",
        "awaited",
        "born",
        "filter",
        "keep",
        "limits",
        "network_of",
        "operations",
        "private",
        "serial",
        "sibling",
        "spare",
    )

    def __init__(
        self,
        operations: list[Any],
        serial: int,
        *,
        limits: list[list[Any]],
        private: int | None = None,
        network_of: int = -1,
        keep: int = _DEFAULT,
        filter_: Filter | None = None,
        spare: bool = False,
        sibling: bool = False,
        awaited: bool = True,
    ) -> None:
        self.operations = operations
        self.serial = serial
        self.limits = limits
        self.born: list[int] = []  # pids that came of it, for who has to wait for them if it fails
        self.again = private is not None
        self.private = serial if private is None else private
        self.network_of = network_of  # pidfd of a process in the network namespace to join
        self.keep = keep  # capabilities of the bounding set
        self.filter = filter_  # of system calls; None: the lab's
        self.awaited = awaited  # a start waits for it already
        self.spare = spare
        self.sibling = sibling  # the new process is our sibling, not our child: the nursery makes the supervisor's


def make(order: Order, context: Context, node_link: netlink.Netlink) -> Slot:
    """Clone a first process; it makes its root by itself while we go on. Nothing is left behind on failure."""
    made = Slot(order.serial, order.private)
    if not order.again:
        Tree.make_private(order.private)
    try:
        if context.folders is not None:
            # Under a filter of its own it may mount what it is in, as a root: that has to be its own everywhere.
            controllers = None if order.filter is None else cgroup_v1.ALL_CONTROLLERS
            made.cgroup = context.folders.make(f"c{order.serial}", controllers)
            for controller, file, value, _ in order.limits:
                made.cgroup.write(controller, file, value)
        if order.spare:
            _clone_held(order, made, context)
            _give_spare(order, made, node_link)
        else:
            _clone(order, made, context)
    except (OSError, KernelError):
        if made.cgroup is not None:
            made.cgroup.remove(0.2)
        if not order.again:
            Tree.remove_private(order.private)
        raise
    return made


def _give_spare(order: Order, made: Slot, node_link: netlink.Netlink) -> None:
    """The veth pair of a slot made in advance; the slot sets its own end up when it hears of it."""
    name = f"{SPARE_PREFIX}{order.serial}"
    try:
        node_link.run(
            [
                netlink.new_veth(name, "eth0", peer_pid=made.pid),
                netlink.set_link(0, find=name, no_link_local=True),
                netlink.set_link(0, find=name, up=True),
            ]
        )
        orders.send(made.status, {"spare": True})
        made.spare = Spare(node_link.index(name), name)
    except OSError:
        end(made)
        raise


def _clone_held(order: Order, made: Slot, context: Context) -> None:
    ours, theirs = orders.pair()
    ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    flags, clone_into, join = _where(order, made)
    descriptors: list[int] = []
    try:
        pid, made.holder = syscalls.clone3(0, sibling=order.sibling)
        order.born.append(pid)
        if pid == 0:
            keep = {theirs.fileno(), clone_into, *context.descriptors()}
            _hold(order, theirs, flags, clone_into, join, keep - {-1}, context)
        theirs.close()
        answer, made.pid = orders.receive_from(ours)
        signal.pidfd_send_signal(made.holder, signal.SIGSTOP)
        if answer is None or "errno" in answer:
            raise OSError((answer or {}).get("errno", errno.ECHILD), (answer or {}).get("message", "the slot died"))
        order.born.append(made.pid)
        made.pidfd = os.pidfd_open(made.pid)
        made.mount_namespace = os.open(f"/proc/{made.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        made.out, out_write = os.pipe2(os.O_CLOEXEC)
        descriptors.append(out_write)
        made.err, err_write = os.pipe2(os.O_CLOEXEC)
        descriptors.append(err_write)
        made.status, status = orders.pair()
        descriptors.append(status.detach())
        orders.send(ours, {"held": True}, descriptors)
    except OSError:
        end(made)
        raise
    finally:
        ours.close()
        for descriptor in descriptors:
            os.close(descriptor)
        if made.cgroup is not None:
            made.cgroup.close()


def _hold(
    order: Order,
    control: _socket.socket,
    flags: int,
    clone_into: int,
    join: Callable[[], None] | None,
    keep: set[int],
    context: Context,
) -> NoReturn:
    """In the holder: bear the slot and sleep. What has an end that somebody waits for may not be open here."""
    try:
        syscalls.close_all_but(keep)
        pid, _ = syscalls.clone3(flags | syscalls.CLONE_VM | syscalls.CLONE_VFORK, clone_into, sibling=True)
    except OSError as error:
        with suppress(OSError):
            orders.send(control, {"errno": error.errno or 0, "message": error.strerror or str(error)})
        os._exit(1)
    while pid:  # not reached: it is stopped, and then killed
        signal.pause()
    with suppress(OSError):
        orders.send(control, {"born": True})
        message, descriptors = orders.receive(control)
        if message is not None:
            out, err, status = descriptors
            where = _socket.socket(fileno=status)
            newborn = slot.Birth(
                where, order.operations, order.private, join, context, order.filter or context.filter, (out, err),
                keep=order.keep, awaited=order.awaited,
            )  # fmt: skip
            slot.run(newborn)
    while True:  # the nursery is gone, and the lab with it in a moment; the holder may not be woken up
        signal.pause()


def _where(order: Order, made: Slot) -> tuple[int, int, Callable[[], None] | None]:
    """The namespaces to be born in, the v2 folder to be born in, how to join the others."""
    flags = inside.namespace_flags([kind for kind in order.operations[0].kinds if kind != "cgroup"])
    folder = made.cgroup
    if folder is None:
        return flags, -1, None
    descriptor = folder.clone_fd
    return flags, -1 if descriptor is None else descriptor, lambda: folder.join(descriptor is not None)


def _clone(order: Order, made: Slot, context: Context) -> None:
    made.out, out_write = os.pipe2(os.O_CLOEXEC)
    made.err, err_write = os.pipe2(os.O_CLOEXEC)
    made.status, theirs = orders.pair()
    flags, clone_into, join = _where(order, made)
    newborn = slot.Birth(
        theirs, order.operations, order.private, join, context, order.filter or context.filter, (out_write, err_write),
        order.network_of, order.keep, awaited=order.awaited,
    )  # fmt: skip
    try:
        made.pid, made.pidfd = syscalls.clone3(flags, clone_into, sibling=order.sibling)
        if made.pid == 0:
            slot.run(newborn)
        with suppress(FileNotFoundError):  # it has died already: why, whoever sends it orders will hear
            made.mount_namespace = os.open(f"/proc/{made.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        end(made)
        raise
    finally:
        theirs.close()
        os.close(out_write)
        os.close(err_write)
        if made.cgroup is not None:
            made.cgroup.close()


def end(unused: Slot) -> None:
    """End a slot and close what belongs to it; the folders are the caller's to remove."""
    for pidfd in (unused.pidfd, unused.holder):
        if pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    if hasattr(unused, "status"):
        unused.status.close()
    for descriptor in (unused.pidfd, unused.holder, unused.out, unused.err, unused.mount_namespace):
        if descriptor >= 0:
            os.close(descriptor)
