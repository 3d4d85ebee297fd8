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


class NodeExecutor:
    """One node's network namespace."""

    def __init__(
        self, link: netlink.Netlink, listen: Callable[[str], None], rename: Callable[[int, str, str], None]
    ) -> None:
        self.link = link
        self._listen = listen
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
        """Perform in order. Returns the operations that undo it all, newest first. Raises `Failure`."""
        undo: list[Any] = []
        batch: list[tuple[Any, bytes]] = []
        made: set[str] = set()

        def flush() -> None:
            nonlocal batch
            messages, batch = batch, []
            made.clear()
            try:
                self.link.run([message for _, message in messages])
            except netlink.NetlinkError as error:
                raise Failure(messages[error.position][0], error) from error

        def need(name: str) -> int:
            if name in made:
                flush()
            return self.index(name)

        operation: Any = None
        try:
            for operation in operations:
                if isinstance(operation, ops.MakeBridge):
                    batch.append((operation, netlink.new_bridge(operation.name, mac=operation.mac, mtu=operation.mtu)))
                    batch.append((operation, netlink.set_link(0, find=operation.name, no_link_local=True)))
                    batch.append((operation, netlink.set_link(0, find=operation.name, up=True)))
                    made.add(operation.name)
                    undo.insert(0, ops.DeleteLink(operation.name))
                elif isinstance(operation, ops.MakeVeth):
                    master = need(operation.bridge)
                    undo.insert(0, ops.DeleteLink(operation.name))
                    if spare is not None:
                        flush()
                        self._use_spare(spare, operation, master)
                        spare = None
                    else:
                        message = netlink.new_veth(
                            operation.name, operation.peer, peer_pid=peer_pid, peer_mac=operation.peer_mac,
                            mtu=operation.mtu, master=master,
                        )  # fmt: skip
                        batch.append((operation, message))
                        batch.append((operation, netlink.set_link(0, find=operation.name, no_link_local=True)))
                        up = netlink.set_link(0, find=operation.name, alias=operation.alias, up=True)
                        batch.append((operation, up))
                elif isinstance(operation, ops.LinkUp):
                    index = need(operation.name)
                    batch.append((operation, netlink.set_link(index, up=True)))
                elif isinstance(operation, ops.AddAddress):
                    index = need(operation.interface)
                    batch.append((operation, netlink.new_address(index, operation.address)))
                elif isinstance(operation, ops.AddRoute):
                    index = need(operation.interface)
                    batch.append(
                        (operation, netlink.new_route(index, operation.destination, operation.gateway or None))
                    )
                elif isinstance(operation, ops.DeleteLink):
                    flush()
                    self._delete(operation.name)
                elif isinstance(operation, ops.WriteSysctl):
                    flush()
                    _write_sysctl(operation)
                elif isinstance(operation, ops.Listen):
                    flush()
                    self._listen(operation.address)
                else:
                    raise TypeError(f"not an operation of a node: {operation}")
            flush()
        except OSError as error:
            self.undo(undo)
            raise Failure(operation, error) from error
        except BaseException:
            self.undo(undo)
            raise
        return undo

    def _use_spare(self, spare: Spare, operation: ops.MakeVeth, master: int) -> None:
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

    def _delete(self, name: str) -> None:
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
            with contextlib.suppress(OSError):
                self._delete(operation.name)


def _write_sysctl(operation: ops.WriteSysctl) -> None:
    try:
        descriptor = os.open(f"/proc/sys/{operation.path}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # for example no IPv6 in this kernel: nothing to switch off
    try:
        os.write(descriptor, operation.value.encode())
    finally:
        os.close(descriptor)
