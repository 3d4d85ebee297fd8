"""Verbs that run something in a running container, and that hand out what it wrote."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from ..kernel import syscalls
from . import messages, orders, orphans, room, terminals
from .calls import Call, Refused
from .record import Record, Runner

if TYPE_CHECKING:
    from .supervisor import Supervisor

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
)

_IDLE_SECONDS = 1.5  # how long a runner stays in its container after a program


def running(supervisor: Supervisor, container_id: str, verb: str) -> Record:
    """The record of a container that runs and isn't paused."""
    record = supervisor.record(container_id)
    if record.slot is None or record.state == "starting":  # its root may not be there yet
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
    syscalls.setns(record.pidfd, syscalls.CLONE_NEWPID)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # born so: nobody in the container can look into the child at any time
    pid = -1
    try:
        clone = syscalls.clone3_python if python else syscalls.clone3
        pid, pidfd = clone(0, clone_into)
    finally:
        if pid != 0:
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            syscalls.setns(supervisor.own_pidfd, syscalls.CLONE_NEWPID)
    if pid == 0:
        return 0, -1
    if folder is not None:
        folder.close()
    return pid, pidfd


def enter(record: Record, flags: int = _NAMESPACES) -> None:
    """Move this process into a container's namespaces (all but the PID namespace, which it was born in)."""
    syscalls.setns(record.pidfd, flags)


def execute(supervisor: Supervisor, call: Call) -> None:
    """Give a runner the order to run a program; it answers the caller itself, with the program's status.

    The runner of the container's last program, if it has the same user and capabilities, is inside already.
    """
    message: messages.Exec = call.message
    record = running(supervisor, message.id, "exec")
    assert record.slot is not None
    window = None if message.window is None else _possible(message.window)
    identity = (message.user, tuple(message.capabilities), message.processes)
    runner = record.runners.pop(identity, None)
    order: dict[str, Any] = {**dict(zip(message._fields, message, strict=True)), "again": runner is not None}
    order |= {"window": window, "name": record.name}
    handed = [call.hand_over().fileno()]
    folder = record.slot.cgroup
    if runner is None:
        runner = supervisor.pool.take_runner(record.filter)
        unified = folder.clone_fd if folder is not None else None
        order |= {
            "late": (record.filter or supervisor.context.filter).late,
            "unified": unified is not None,
            "cgroup": folder.id if folder is not None else "",
            "controllers": list(folder.controllers) if folder is not None else [],
        }
        handed += [unified] if unified is not None else []
        handed.append(record.pidfd)
        runner.record, runner.slot, runner.identity = record, record.slot, identity
        supervisor.on(runner.control.fileno(), lambda: _runner_says(supervisor, runner))
        supervisor.on(runner.pidfd, lambda: _runner_ended(supervisor, runner))
    runner.call = call
    supervisor.executions[message.execution] = runner
    try:
        orders.send(runner.control, order, [*handed, *call.descriptors])
    except OSError:  # it has just died; the caller hears of it from whoever called us, and once
        runner.call = None
        supervisor.executions.pop(message.execution, None)
        raise
    finally:
        call.close_descriptors()
        if folder is not None:
            folder.close()


def _runner_says(supervisor: Supervisor, runner: Runner) -> None:
    answer, _ = orders.receive(runner.control)
    if answer is None:
        supervisor.off(runner.control.fileno())
        return
    if "started" in answer:
        runner.started = True
        return
    call, runner.call, runner.started = runner.call, None, False
    if call is None:
        return
    supervisor.executions.pop(call.message.execution, None)
    if call.message.detached and "error" not in answer:
        supervisor.tell(messages.ExecutionEnded(call.message.execution, answer["returncode"]))
    record = runner.record
    if not answer["stays"]:
        return
    needless = record is None or record.slot is None or record.slot is not runner.slot
    if record is None or needless or runner.identity in record.runners or room.left() < room.SLOT:
        runner.control.shutdown(socket.SHUT_RDWR)  # nobody needs it any more, or others need its room: it exits
        return
    record.runners[runner.identity] = runner
    used = runner.used = runner.used + 1
    supervisor.after(_IDLE_SECONDS, lambda: _let_go(runner, used))


def _let_go(runner: Runner, used: int) -> None:
    """Nothing was run for a while: the runner goes (it waits for an order; the end of file is its last)."""
    record = runner.record
    if runner.used == used and record is not None and record.runners.get(runner.identity) is runner:
        del record.runners[runner.identity]
        runner.control.shutdown(socket.SHUT_RDWR)


def let_runners_go(record: Record) -> None:
    """The container has ended: its idle runners would hold its namespaces."""
    runners, record.runners = record.runners, {}
    for runner in runners.values():
        runner.record = None
        # No SIGKILL: it has told us of the end of its program, and may be about to tell its caller.
        with contextlib.suppress(OSError):
            runner.control.shutdown(socket.SHUT_RDWR)


def _runner_ended(supervisor: Supervisor, runner: Runner) -> None:
    if os.waitid(os.P_PIDFD, runner.pidfd, os.WEXITED | os.WNOHANG) is None:
        return
    while runner.call is not None and runner.control.fileno() in supervisor:
        _runner_says(supervisor, runner)
    supervisor.off(runner.control.fileno())
    supervisor.off(runner.pidfd)
    supervisor.after(0.0, supervisor.pool.refill_soon)
    runner.control.close()
    os.close(runner.pidfd)
    if runner.record is not None and runner.record.runners.get(runner.identity) is runner:
        del runner.record.runners[runner.identity]
    call, runner.call = runner.call, None
    if call is not None:  # it was killed, maybe for memory; its program would live on
        assert runner.record is not None  # only idle ones are let go
        orphans.end(supervisor)
        orphans.watch(supervisor)
        supervisor.executions.pop(call.message.execution, None)
        if runner.started:
            supervisor.tell(messages.ExecutionEnded(call.message.execution, 128 + signal.SIGKILL))
        else:
            ended = runner.record.slot is not runner.slot
            what = "the program was killed with it"
            if not ended:
                what = "the process that waited for the program was killed, and the program with it; run it again"
            call.fail("StateError", f"container {runner.record.name}: {what}")


def signal_execution(supervisor: Supervisor, call: Call) -> None:
    """Send a signal to an exec'ed program, or to its process group."""
    runner = supervisor.executions.get(call.message.execution)
    if runner is not None:
        with contextlib.suppress(OSError):
            orders.send(runner.control, {"signal": call.message.signal, "group": call.message.group})
    call.reply(messages.Ok())


def resize_execution(supervisor: Supervisor, call: Call) -> None:
    """Give the terminal of an exec'ed program another size."""
    runner = supervisor.executions.get(call.message.execution)
    window = _possible(call.message.window)
    if runner is not None:
        with contextlib.suppress(OSError):
            orders.send(runner.control, {"window": window})
    call.reply(messages.Ok())


def _possible(window: list[int]) -> list[int]:
    """The size of a terminal, [rows, columns], that a message asks for, as one can have it. Raises Refused."""
    if len(window) != 2:
        raise Refused("BadInput", "the size of a terminal is rows and columns")
    return [min(max(side, 0), terminals.LARGEST_SIDE) for side in window]


def logs(supervisor: Supervisor, call: Call) -> None:
    """The ring of a container's output, once all that was written by now is in it."""
    record = supervisor.record(call.message.id)

    def collected(why: str) -> None:
        if why := why or ("" if record.ring >= 0 else f"container {record.name}: it was removed"):
            call.fail("StateError", why)
        else:
            call.reply(messages.Output(), [record.ring])

    supervisor.services.outputs.sync(record, collected)


def follow(supervisor: Supervisor, call: Call) -> None:
    """Tell the eventfd that came along whenever there is more output; the answer is the ring."""
    record = supervisor.record(call.message.id)
    supervisor.services.outputs.follow(record, call.message.follower, call.descriptors[0])
    call.reply(messages.Followed(), [record.ring])
    call.close_descriptors()


def unfollow(supervisor: Supervisor, call: Call) -> None:
    """The follower of that number has gone."""
    supervisor.services.outputs.unfollow(supervisor.record(call.message.id), call.message.follower)
    call.reply(messages.Ok())


VERBS = {
    messages.Exec: execute,
    messages.SignalExecution: signal_execution,
    messages.ResizeExecution: resize_execution,
    messages.Logs: logs,
    messages.Follow: follow,
    messages.Unfollow: unfollow,
}
