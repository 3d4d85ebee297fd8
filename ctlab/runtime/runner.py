"""A runner: a child of the supervisor that waits to run one program in one container.

It is made in advance and enters the container when it is told what to run. The program is its child, spawned
with vfork semantics (a fork of this interpreter would double the time), born in the container's PID namespace and
cgroup; the runner itself stays invisible to the container, waits for the end, answers the caller and exits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from typing import Any, NoReturn

from ..kernel import capabilities, cgroup, spawn, syscalls
from . import program, protocol, slot

_NAMESPACES = {  # the mount namespace last: with it goes the root
    "pid": syscalls.CLONE_NEWPID,  # of the children
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "mnt": syscalls.CLONE_NEWNS,
}
_ALL = sum(_NAMESPACES.values())


def main(control: socket.socket, folders: cgroup.LabFolders | None, *, single_id: bool) -> NoReturn:
    """Wait for one order, carry it out, exit."""
    capabilities.drop_bounding(capabilities.mask(capabilities.GRANTABLE))
    _rehearse()
    order, descriptors, _ = protocol.receive(control)
    if order is None:
        os._exit(0)
    # Descriptors: the caller's connection, the container's cgroup folder, its pidfd or namespaces, the streams.
    caller = socket.socket(fileno=descriptors.pop(0))
    try:
        answer = _carry_out(control, caller, order, descriptors, folders, single_id)
    except program.ProgramError as error:
        answer = {"error": error.kind, "message": str(error), "errno": error.errno}
    except OSError as error:
        answer = {"error": "KernelError", "message": error.strerror or str(error), "errno": error.errno or 0}
    except BaseException as error:
        answer = {"error": "CtlabError", "message": f"{type(error).__name__}: {error}", "errno": 0}
    with contextlib.suppress(OSError):
        if not order["detached"] or "error" in answer:
            protocol.send(caller, answer)
    with contextlib.suppress(OSError):
        protocol.send(control, {"answered": True, **answer})
    os._exit(0)


def _rehearse() -> None:
    """Go through the motions once while nobody waits.

    A fresh fork shares its pages with its parent; each one that Python touches first has to be copied, and a third
    of the time of an `exec` would go there.
    """
    ours, theirs = protocol.pair()
    sample = {"argv": ["/"], "environment": ["PATH=/", "HOME="], "capabilities": list(capabilities.DEFAULT)}
    protocol.send(ours, sample, [ours.fileno()])
    order, descriptors, _ = protocol.receive(theirs)
    assert order is not None
    for descriptor in descriptors:
        os.close(descriptor)
    ours.close()
    theirs.close()
    capabilities.mask(order["capabilities"])
    program.resolve_user("0")
    variables = program.environment(order["environment"], "/")
    program.enter_folder("/")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a folder can't be executed
        spawn.spawn(order["argv"][0], order["argv"], variables, dict.fromkeys(range(3), null))
    os.close(null)


def _carry_out(
    control: socket.socket,
    caller: socket.socket,
    order: dict[str, Any],
    descriptors: list[int],
    folders: cgroup.LabFolders | None,
    single_id: bool,
) -> dict[str, Any]:
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    folder = descriptors.pop(0) if order["unified"] else -1
    if folders is not None:
        # Version 1 is joined by this single thread, and inherited; version 2 the program is born in.
        # Only root may write to the folder, and who isn't has become another user by then: moved before, which is slow.
        born_in = spawn.CAN_SET_CGROUP and order["user"].partition(":")[0] in ("0", "root", "")
        folders.adopt(order["cgroup"], order["controllers"]).join(cloned=folder < 0 or born_in)
        if folder >= 0 and not born_in:
            os.close(folder)
            folder = -1
    if order["namespaces"]:
        for kind in order["namespaces"]:
            syscalls.setns(descriptors.pop(0), _NAMESPACES[kind])
    else:
        syscalls.setns(descriptors.pop(0), _ALL)
    streams = descriptors
    if order["tty"]:
        masters, (out, err) = slot.terminals()
        protocol.send(caller, {"started": True}, masters)
        for master in masters:
            os.close(master)
        streams = [streams[0], out, err, *streams[3:]]
    while len(streams) < 3:
        streams.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    targets = dict(enumerate(streams[:3]))
    if order.get("script_descriptor") is not None:
        targets[order["script_descriptor"]] = streams[3]
    keep = capabilities.mask(order["capabilities"])
    home = program.become(order["user"], keep, single_id=single_id)
    variables = program.environment(order["environment"], home)
    program.enter_folder(order["workdir"])
    path = program.find(order["argv"][0], variables.get("PATH", program.DEFAULT_PATH))
    try:
        pid = spawn.spawn(path, order["argv"], variables, targets, folder)
    except OSError as error:
        raise program.exec_error(path, error) from None
    for descriptor in (*streams, folder):
        if descriptor >= 0:
            os.close(descriptor)
    if order["detached"]:
        protocol.send(caller, {"started": True})
    return {"returncode": _wait(control, pid)}


def _wait(control: socket.socket, pid: int) -> int:
    """Wait for the program; signals come over the control socket meanwhile."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == pidfd:
                status = os.waitid(os.P_PID, pid, os.WEXITED)
                assert status is not None
                return status.si_status if status.si_code == os.CLD_EXITED else 128 + status.si_status
            message, _, _ = protocol.receive(control)
            if message is None:
                os._exit(0)
            try:
                signal.pidfd_send_signal(pidfd, message["signal"])
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise
