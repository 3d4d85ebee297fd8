"""Slots: containers made in advance, so that a start is a few messages and an `exec`.

A slot has its namespaces, its root, its cgroup folders and a spare veth pair born in the node (moving one in
costs 15 ms). Pool slots are for the `system` image on the default node with a network namespace of their own;
anything else is made when it is asked for, by the same code.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from ..kernel import netlink, syscalls
from ..plan import ops
from . import executor, inside, protocol, slot
from .record import Slot

if TYPE_CHECKING:
    from .supervisor import Supervisor

SPARE_PREFIX = "spare"  # reserved: these interfaces show up nowhere
_QUIET_SECONDS = 0.004  # how long after a start the pool waits before it makes a slot (the program is starting)


class Pool:
    """The slots of one lab."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._ready: list[Slot] = []
        self.operations: list[Any] = []
        self._wanted = 0
        self._next = 0
        self.quiet_until = 0.0

    def configure(self, operations: list[Any], wanted: int) -> None:
        """What makes a slot, and how many to keep."""
        self.operations = operations
        self._wanted = wanted
        while len(self._ready) > wanted:
            self.discard(self._ready.pop())

    def hungry(self) -> bool:
        """Whether a slot is missing."""
        return len(self._ready) < self._wanted

    def feed(self) -> None:
        """Make one slot."""
        try:
            self._ready.append(self.make(self.operations, spare=True))
        except OSError:
            self._wanted = 0  # the machine is full: containers are made when asked for, and say so themselves

    def take(self) -> Slot | None:
        """A ready slot, oldest first."""
        while self._ready:
            found = self._ready.pop(0)
            if os.waitid(os.P_PIDFD, found.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return found
            self.discard(found)
        return None

    def number(self) -> int:
        """A fresh number for a slot: names its cgroup folder and its private folder."""
        self._next += 1
        return self._next

    def make(
        self, operations: list[Any], *, spare: bool, number: int | None = None, network_of: int = -1
    ) -> Slot:
        """Clone a first process; it makes its root by itself while we go on.

        `number`: of a container that is started again, whose private folder is kept.
        `network_of`: pidfd of the process whose network namespace it joins (with no ``net`` in Unshare).
        """
        supervisor = self._supervisor
        private = number if number is not None else self.number()
        serial = self.number() if number is not None else private
        made = Slot(private, None)
        if number is None:
            supervisor.tree.make_private(private)
        try:
            if supervisor.folders is not None:
                made.cgroup = supervisor.folders.make(f"c{serial}")
            out, out_write = os.pipe2(os.O_CLOEXEC)
            err, err_write = os.pipe2(os.O_CLOEXEC)
            ours, theirs = protocol.pair()
            kinds = operations[0].kinds
            flags = inside.namespace_flags([kind for kind in kinds if kind != "cgroup"])
            clone_into = -1
            join = None
            if made.cgroup is not None:
                descriptor = made.cgroup.clone_fd
                clone_into = -1 if descriptor is None else descriptor
                cloned, folder = descriptor is not None, made.cgroup
                join = lambda: folder.join(cloned)  # noqa: E731
            birth = slot.Birth(
                theirs, operations, private, join, supervisor.single_id, (out_write, err_write), network_of
            )
            pid, pidfd = syscalls.clone3(flags, clone_into)
            if pid == 0:
                slot.run(birth)
        except OSError:
            if made.cgroup is not None:
                made.cgroup.remove(0.2)
            if number is None:
                supervisor.tree.remove_private(private)
            raise
        theirs.close()
        os.close(out_write)
        os.close(err_write)
        if made.cgroup is not None:
            made.cgroup.close()
        made.pid, made.pidfd, made.status, made.out, made.err = pid, pidfd, ours, out, err
        if spare:
            name = f"{SPARE_PREFIX}{serial}"
            messages = [
                netlink.new_veth(name, "eth0", peer_pid=pid),
                netlink.set_link(0, find=name, no_link_local=True, up=True),
            ]
            try:
                supervisor.node_link.run(messages)
                protocol.send(ours, {"spare": True})
                made.spare = executor.Spare(supervisor.node_link.index(name), name)
            except OSError:
                self.discard(made)
                raise
        return made

    def discard(self, unused: Slot) -> None:
        """End a slot and remove what was made for it."""
        with contextlib.suppress(ProcessLookupError):
            syscalls_kill(unused.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, unused.pidfd, os.WEXITED)
        unused.status.close()
        for descriptor in (unused.pidfd, unused.out, unused.err):
            if descriptor >= 0:
                os.close(descriptor)
        if unused.cgroup is not None:
            unused.cgroup.remove(1.0)
        self._supervisor.tree.remove_private(unused.number)

    def quiet(self) -> None:
        """A start is under way: leave the CPUs to it for a moment."""
        self.quiet_until = time.monotonic() + _QUIET_SECONDS


def syscalls_kill(pidfd: int) -> None:
    """SIGKILL by pidfd."""
    import signal

    signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def without_network(operations: list[Any]) -> list[Any]:
    """The operations of a slot that keeps, or joins, another network namespace."""
    unshare = operations[0]
    return [ops.Unshare([kind for kind in unshare.kinds if kind != "net"]), *operations[1:]]
