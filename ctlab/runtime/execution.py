"""Verbs that run something in a running container, and that hand out what it wrote."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from ..kernel import capabilities, syscalls
from . import program, protocol, slot
from .record import Record, returncode

if TYPE_CHECKING:
    from .supervisor import Call, Supervisor

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
)

_FLAGS = {  # the mount namespace last: with it goes the root
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "mnt": syscalls.CLONE_NEWNS,
}


def running(supervisor: Supervisor, container_id: str, verb: str) -> Record:
    """The record of a container that runs and isn't paused."""
    from .supervisor import Refused

    record = supervisor.record(container_id)
    if record.slot is None:
        raise Refused("StateError", f"container {record.name} isn't running: start it first")
    if record.state == "paused":
        raise Refused("StateError", f"container {record.name} is paused: unpause it before you {verb}")
    return record


def clone_inside(supervisor: Supervisor, record: Record, *, python: bool = False) -> tuple[int, int]:
    """Clone a child that is born in the container's PID namespace (and v2 cgroup): (pid, pidfd), (0, -1) in it.

    One fork is enough since all containers share the lab's user namespace: the PID namespace for children is
    set, the child made, and set back.
    """
    assert record.slot is not None
    folder = record.slot.cgroup
    clone_into = -1
    if folder is not None and folder.clone_fd is not None:
        clone_into = folder.clone_fd
    syscalls.setns(record.namespaces.get("pid", record.pidfd), syscalls.CLONE_NEWPID)
    try:
        clone = syscalls.clone3_python if python else syscalls.clone3
        pid, pidfd = clone(0, clone_into)
    except OSError:
        syscalls.setns(supervisor.own_pidfd, syscalls.CLONE_NEWPID)
        raise
    if pid == 0:
        return 0, -1
    syscalls.setns(supervisor.own_pidfd, syscalls.CLONE_NEWPID)
    if folder is not None:
        folder.close()
    return pid, pidfd


def enter(record: Record, flags: int = _NAMESPACES) -> None:
    """Move this process into a container's namespaces (all but the PID namespace, which it was born in)."""
    if not record.namespaces:
        syscalls.setns(record.pidfd, flags)
        return
    for kind, flag in _FLAGS.items():
        if flags & flag:
            syscalls.setns(record.namespaces[kind], flag)


def execute(supervisor: Supervisor, call: Call) -> None:
    """Run a program in a container; the answer is its status. With a terminal, a first answer carries the masters."""
    message = call.message
    record = running(supervisor, message["id"], "exec")
    ours, theirs = protocol.pair()
    pid, pidfd = clone_inside(supervisor, record)
    if pid == 0:
        _child(supervisor, record, message, call.descriptors, theirs)
    theirs.close()
    call.close_descriptors()
    supervisor.executions[message["execution"]] = pidfd

    def status() -> None:
        answer, descriptors, _ = protocol.receive(ours)
        if answer is None:
            supervisor.off(ours.fileno())
            ours.close()
            if message["detached"]:
                call.reply({"started": True})
        elif "terminals" in answer:
            call.reply({"started": True}, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            failed.append(answer)

    failed: list[dict[str, Any]] = []

    def ended() -> None:
        state = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if state is None:
            return
        while ours.fileno() >= 0:
            status()
        supervisor.off(pidfd)
        os.close(pidfd)
        supervisor.executions.pop(message["execution"], None)
        if failed:
            call.reply(failed[0])
        elif message["detached"]:
            supervisor.tell(
                {"event": "execution-ended", "execution": message["execution"], "returncode": returncode(state)}
            )
        else:
            call.reply({"returncode": returncode(state)})

    supervisor.on(ours.fileno(), status)
    supervisor.on(pidfd, ended)


def _child(
    supervisor: Supervisor, record: Record, message: dict[str, Any], streams: list[int], status: socket.socket
) -> NoReturn:
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        assert record.slot is not None
        folder = record.slot.cgroup
        if folder is not None:
            folder.join(folder.clone_fd is not None)
        enter(record)
        os.setsid()
        if message["tty"]:
            masters, (out, err) = slot.terminals()
            protocol.send(status, {"terminals": True}, masters)
            streams = [streams[0], out, err, *streams[3:]]
        if len(streams) < 3:
            streams = [*streams, *[os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)] * (3 - len(streams))]
        program.set_up_streams(streams)
        script = message.get("script_descriptor")
        if script is not None:
            os.dup2(streams[3], script, inheritable=True)
        home = program.become(
            message["user"], capabilities.mask(message["capabilities"]), single_id=supervisor.single_id
        )
        variables = program.environment(message["environment"], home)
        program.enter_folder(message["workdir"])
        program.default_signals()
        program.execute(message["argv"], variables)
    except program.ProgramError as error:
        protocol.send(status, {"error": error.kind, "message": str(error), "errno": error.errno})
    except OSError as error:
        protocol.send(status, protocol.failure(error) | {"error": "KernelError"})
    except BaseException as error:
        protocol.send(status, {"error": "CtlabError", "message": f"{type(error).__name__}: {error}", "errno": 0})
    finally:
        os._exit(70)


def signal_execution(supervisor: Supervisor, call: Call) -> None:
    """Send a signal to an exec'ed program."""
    pidfd = supervisor.executions.get(call.message["execution"])
    if pidfd is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, call.message["signal"])
    call.reply({"ok": pidfd is not None})


def logs(supervisor: Supervisor, call: Call) -> None:
    """The ring of a container's output, once all that was written by now is in it."""
    record = supervisor.record(call.message["id"])
    supervisor.services.sync(record, lambda: call.reply({"ok": True}, [record.ring] if record.ring >= 0 else []))


def follow(supervisor: Supervisor, call: Call) -> None:
    """Tell the eventfd that came along whenever there is more output; the answer is the ring."""
    record = supervisor.record(call.message["id"])
    supervisor.services.follow(record, call.descriptors[0])
    call.reply({"ok": True}, [record.ring])
    call.close_descriptors()


VERBS = {"exec": execute, "signal_execution": signal_execution, "logs": logs, "follow": follow}
