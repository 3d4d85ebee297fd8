"""Performs the node's side of a plan and takes it back when a step fails.

Consecutive netlink operations become one batch; a batch is sent early when a later operation needs the
index of a link that it makes.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

from ..kernel import netlink
from ..plan import ops
from .made import Spare


class Failure(Exception):
    """An operation that failed; what was done before it has been undone."""

    def __init__(self, operation: Any, error: OSError) -> None:
        super().__init__(ops.failure(operation, error.errno or 0))
        self.operation = operation
        self.errno = error.errno or 0


class _Plan:
    """One plan while it is performed: the messages that wait to be sent, and what has been begun."""

    def __init__(self, node: NodeExecutor, peer_pid: int | None, spare: Spare | None) -> None:
        self.node = node
        self.peer_pid = peer_pid
        self.spare = spare
        self.begun: list[Any] = []
        self._batch: list[tuple[Any, bytes]] = []
        self._made: set[str] = set()  # links in the batch, which have no index yet

    def add(self, operation: Any, *messages: bytes, makes: str = "") -> None:
        self._batch += [(operation, message) for message in messages]
        if makes:
            self._made.add(makes)

    def index(self, name: str) -> int:
        if name in self._made:
            self.flush()
        return self.node.index(name)

    def flush(self) -> None:
        messages, self._batch = self._batch, []
        self._made.clear()
        try:
            self.node.link.run([message for _, message in messages])
        except netlink.NetlinkError as error:
            failed = messages[error.position][0]
            if error.position == 0 or messages[error.position - 1][0] is not failed:
                self.begun = [one for one in self.begun if one is not failed]  # what is there is somebody else's
            raise Failure(failed, error) from error


class NodeExecutor:
    """One node's network namespace."""

    def __init__(
        self,
        link: netlink.Netlink,
        listen: Callable[[str], None],
        stop_listening: Callable[[str], None],
        rename: Callable[[int, str, str], None],
    ) -> None:
        self.link = link
        self.listen = listen
        self.stop_listening = stop_listening
        self._rename = rename
        self._indices: dict[str, int] = {}
        self._renames_live = False  # whether this kernel renames a link that is up: known after the first spare

    def index(self, name: str) -> int:
        """The index of an interface of the node (bridges are remembered)."""
        found = self._indices.get(name)
        if found is None:
            found = self._indices[name] = self.link.index(name)
        return found

    def perform(self, operations: list[Any], peer_pid: int | None = None, spare: Spare | None = None) -> list[Any]:
        """Perform in order. Returns the operations that undo it all, newest first. Raises `Failure`.

        UnknownOperation, with nothing done, where one of them isn't a node's.
        """
        ops.check(operations, ops.IN_NODE, "a node")
        plan = _Plan(self, peer_pid, spare)
        operation: Any = None
        try:
            for operation in operations:
                plan.begun.append(operation)
                _PERFORM[type(operation)](plan, operation)
            plan.flush()
        except OSError as error:
            self.undo(ops.inverse(plan.begun))
            raise Failure(operation, error) from error
        except BaseException:
            self.undo(ops.inverse(plan.begun))
            raise
        return ops.inverse(operations)

    def use_spare(self, spare: Spare, operation: ops.MakeVeth, master: int) -> None:
        """Put a spare pair's node end into its bridge, and rename it; both ends are up already.

        Renaming takes longer than all the rest (sysfs, notifications), and nothing depends on the name: where the
        kernel renames links that are up, somebody else does it meanwhile; here the link is known by its index.
        """
        if self._renames_live:
            try:
                self.link.run([netlink.set_link(spare.number, master=master, mtu=operation.mtu)])
            except netlink.NetlinkError as error:
                raise Failure(operation, error) from error
            self._indices[operation.name] = spare.number
            self._rename(spare.number, operation.name, operation.alias)
            return
        settings: dict[str, Any] = {
            "name": operation.name,
            "master": master,
            "alias": operation.alias,
            "mtu": operation.mtu,
        }
        try:
            self.link.run([netlink.set_link(spare.number, **settings)])
            self._renames_live = True
        except netlink.NetlinkError as error:
            if error.errno != errno.EBUSY:
                raise Failure(operation, error) from error
            # Before Linux 6.2 an interface that is up can't be renamed.
            try:
                self.link.run(
                    [netlink.set_link(spare.number, up=False), netlink.set_link(spare.number, up=True, **settings)]
                )
            except netlink.NetlinkError as again:
                raise Failure(operation, again) from again

    def delete(self, name: str) -> None:
        """Delete a link, by its index where that is known: a spare may not have its name yet."""
        number = self._indices.pop(name, None)
        self.link.delete_if_there(name, number or 0)

    def close(self, name: str) -> int:
        """The link of a container that has ended: it carries nothing any more. Returns its index, 0 if it is gone.

        It goes with its namespace, and that lives as long as a connection of the dead has something to send: for
        minutes, if the other side takes nothing. Meanwhile the kernel would answer for the address.
        """
        try:
            number = self._indices.pop(name, None) or self.link.index(name)
            self.link.run([netlink.close_port(number)])
        except OSError:
            return 0  # it is gone already
        return number

    def delete_leftovers(self, numbers: list[int]) -> None:
        """Delete those links that haven't gone by themselves."""
        for number in numbers:
            with contextlib.suppress(OSError):
                if self.link.is_there(number):
                    self.link.delete_if_there("", number)

    def undo(self, operations: list[Any]) -> None:
        """Take back what was done; that something is gone already is no error."""
        for operation in operations:
            plan = _Plan(self, None, None)
            with contextlib.suppress(OSError, Failure):
                _PERFORM[type(operation)](plan, operation)
                plan.flush()


def _make_bridge(plan: _Plan, operation: ops.MakeBridge) -> None:
    plan.add(
        operation,
        netlink.new_bridge(operation.name, mac=operation.mac, mtu=operation.mtu),
        netlink.set_link(0, find=operation.name, no_link_local=True),
        netlink.set_link(0, find=operation.name, up=True),
        makes=operation.name,
    )


def _make_veth(plan: _Plan, operation: ops.MakeVeth) -> None:
    master = plan.index(operation.bridge)
    if plan.spare is not None:
        plan.flush()
        spare, plan.spare = plan.spare, None
        plan.node.use_spare(spare, operation, master)
        return
    plan.add(
        operation,
        netlink.new_veth(
            operation.name, operation.peer, peer_pid=plan.peer_pid, peer_mac=operation.peer_mac, mtu=operation.mtu,
            master=master,
        ),
        netlink.set_link(0, find=operation.name, no_link_local=True),
        netlink.set_link(0, find=operation.name, alias=operation.alias, up=True),
    )  # fmt: skip


def _delete_link(plan: _Plan, operation: ops.DeleteLink) -> None:
    plan.flush()
    plan.node.delete(operation.name)


def _link_up(plan: _Plan, operation: ops.LinkUp) -> None:
    plan.add(operation, netlink.set_link(plan.index(operation.name), up=True))


def _add_address(plan: _Plan, operation: ops.AddAddress) -> None:
    plan.add(operation, netlink.new_address(plan.index(operation.interface), operation.address))


def _add_route(plan: _Plan, operation: ops.AddRoute) -> None:
    index = plan.index(operation.interface)
    plan.add(operation, netlink.new_route(index, operation.destination, operation.gateway or None))


def _write_sysctl(plan: _Plan, operation: ops.WriteSysctl) -> None:
    plan.flush()
    try:
        descriptor = os.open(f"/proc/sys/{operation.path}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # for example no IPv6 in this kernel: nothing to switch off
    try:
        os.write(descriptor, operation.value.encode())
    finally:
        os.close(descriptor)


def _listen(plan: _Plan, operation: ops.Listen) -> None:
    plan.flush()
    plan.node.listen(operation.address)


def _stop_listening(plan: _Plan, operation: ops.StopListening) -> None:
    plan.node.stop_listening(operation.address)


_PERFORM: dict[type[Any], Callable[[_Plan, Any], None]] = {
    ops.MakeBridge: _make_bridge,
    ops.MakeVeth: _make_veth,
    ops.DeleteLink: _delete_link,
    ops.LinkUp: _link_up,
    ops.AddAddress: _add_address,
    ops.AddRoute: _add_route,
    ops.WriteSysctl: _write_sysctl,
    ops.Listen: _listen,
    ops.StopListening: _stop_listening,
}
