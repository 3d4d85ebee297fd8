"""The nursery: a child of the supervisor that makes slots, so that the supervisor never waits for one.

The first processes are cloned with CLONE_PARENT: they are the supervisor's children, which it reaps itself.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, NoReturn

from ..kernel import cgroup, netlink
from ..plan import ops
from . import birth, protocol


def main(control: socket.socket, folders: cgroup.LabFolders | None, *, single_id: bool) -> NoReturn:
    """Serve ``{"operations": …}`` (what a slot is) and ``{"make": number}`` until the supervisor goes."""
    link = netlink.Netlink()
    operations: list[Any] = []
    while True:
        message, _, _ = protocol.receive(control)
        if message is None:
            os._exit(0)
        if "operations" in message:
            operations = ops.decode(message["operations"])
            continue
        order = birth.Order(operations, message["make"], spare=True, sibling=True)
        try:
            made = birth.make(order, folders, link, single_id=single_id)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            protocol.send(control, {"failed": order.serial, "message": f"{name} in {error.strerror}"})
            continue
        descriptors = [made.pidfd, made.status.detach(), made.out, made.err]
        protocol.send(
            control,
            {"made": order.serial, "pid": made.pid, "spare": [made.spare.number, made.spare.name]},
            descriptors,
        )
        for descriptor in descriptors:
            os.close(descriptor)
