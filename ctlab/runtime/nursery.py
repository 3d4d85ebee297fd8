"""The nursery: a child of the supervisor that makes slots, and buries what is left of ended containers.

So the supervisor waits for neither.

The first processes are cloned with CLONE_PARENT: they are the supervisor's children, which it reaps itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any, NoReturn

from ..errors import KernelError
from ..kernel import cgroup, netlink, syscalls, title
from ..plan import ops
from . import birth, protocol, runner
from .tree import Tree


def main(control: socket.socket, folders: cgroup.LabFolders | None, *, single_id: bool) -> NoReturn:
    """Serve ``{"operations": …}`` (what a slot is) and ``{"make": number}`` until the supervisor goes."""
    link = netlink.Netlink()
    operations: list[Any] = []
    while True:
        message, given, _ = protocol.receive(control)
        if message is None:
            os._exit(0)
        if "bury" in message:
            for descriptor in given:
                os.close(descriptor)  # the last reference: the mounts of an ended container go here
            if message["bury"] >= 0:
                Tree.remove_private(message["bury"])
            continue
        if "rename" in message:
            with contextlib.suppress(OSError):  # gone already
                link.run([netlink.set_link(message["rename"], name=message["name"], alias=message["alias"])])
            continue
        if "operations" in message:
            operations = ops.decode(message["operations"])
            continue
        if "runner" in message:
            _make_runner(control, folders, single_id)
            continue
        order = birth.Order(operations, message["make"], spare=True, sibling=True)
        try:
            made = birth.make(order, folders, link, single_id=single_id)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            protocol.send(control, {"failed": order.serial, "message": f"{name} in {error.strerror}"})
            continue
        except KernelError as error:  # no cgroup folder is to be had
            protocol.send(control, {"failed": order.serial, "message": str(error)})
            continue
        descriptors = [made.pidfd, made.status.detach(), made.out, made.err, made.mount_namespace]
        protocol.send(
            control,
            {"made": order.serial, "pid": made.pid, "spare": [made.spare.number, made.spare.name]},
            descriptors,
        )
        for descriptor in descriptors:
            os.close(descriptor)


def _make_runner(control: socket.socket, folders: cgroup.LabFolders | None, single_id: bool) -> None:
    ours, theirs = protocol.pair()
    try:
        made = new_runner(ours, theirs, folders, single_id, sibling=True)
    except OSError as error:
        protocol.send(control, {"runner-failed": True, "message": str(error)})
        return
    protocol.send(control, {"runner": True}, [made, ours.fileno()])
    ours.close()
    os.close(made)


def new_runner(
    ours: socket.socket, theirs: socket.socket, folders: cgroup.LabFolders | None, single_id: bool, *, sibling: bool
) -> int:
    """Clone a runner; returns its pidfd. `theirs` is closed here."""
    pid, pidfd = syscalls.clone3_python(0, sibling=sibling)
    if pid == 0:
        try:
            ours.close()
            title.set_title("ctlab runner")
            keep = {theirs.fileno(), *(folders.v1.values() if folders is not None else ())}
            keep |= {folders.unified} if folders is not None and folders.unified is not None else set()
            syscalls.close_all_but(keep)
            runner.main(theirs, folders, single_id=single_id)
        finally:
            os._exit(70)
    theirs.close()
    return pidfd
