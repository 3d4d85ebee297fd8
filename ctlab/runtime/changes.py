"""Verbs that change a container while it runs: pause, limits, endpoints, name."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any

from ..kernel import netlink, syscalls
from ..plan import ops
from . import ends, executor, inside, messages
from .calls import Call, Refused
from .record import Record

if TYPE_CHECKING:
    from .supervisor import Supervisor


def pause(supervisor: Supervisor, call: Call) -> None:
    """Freeze or thaw all processes of a container."""
    record = supervisor.record(call.message.id)
    slot = record.slot
    if slot is None:
        raise Refused("StateError", f"container {record.name} isn't running")
    if slot.cgroup is None:
        raise Refused(
            "Unsupported", "pause needs a cgroup of the container's own, and this lab has none (see %lab doctor)"
        )
    if call.message.frozen:
        slot.cgroup.freeze()
        record.state = "paused"
    else:
        slot.cgroup.thaw()
        record.state = "running"
    call.reply(messages.State(record.state))
    supervisor.tell(messages.Changed(record.id, record.state))


def limits(supervisor: Supervisor, call: Call) -> None:
    """Change limits while it runs; a refused write takes the earlier ones back."""
    record = supervisor.record(call.message.id)
    slot = record.slot
    if slot is None:
        call.reply(messages.Ok())  # they hold from the next start on
        return
    if slot.cgroup is None:
        raise Refused("LimitRefused", "this lab has no cgroup")
    memory = call.message.memory_bytes
    if memory is not None:
        usage = slot.cgroup.squeeze(memory)
        if usage is not None and usage > memory:
            call.reply(messages.LimitRefusal(-1, errno.EBUSY, usage))
            return
    done = 0
    try:
        for controller, file, value, optional in call.message.writes:
            try:
                slot.cgroup.write(controller, file, value)
            except OSError as error:
                if not (optional and error.errno == errno.ENOENT):
                    raise
            done += 1
    except OSError as error:
        for controller, file, value, _ in call.message.undo:
            with contextlib.suppress(OSError):
                slot.cgroup.write(controller, file, value)
        call.reply(messages.LimitRefusal(done, error.errno or 0, slot.cgroup.usage_bytes()))
        return
    call.reply(messages.Ok())


def enter_network(record: Record) -> None:
    """Move this process into the container's network namespace; the caller moves it back."""
    syscalls.setns(record.pidfd, syscalls.CLONE_NEWNET)


def _inside_network(supervisor: Supervisor, record: Record) -> netlink.Netlink:
    """A netlink socket in the container's network namespace."""
    enter_network(record)
    try:
        return netlink.Netlink()
    finally:
        syscalls.setns(supervisor.own_network, syscalls.CLONE_NEWNET)


def attach(supervisor: Supervisor, call: Call) -> None:
    """Give a running container one more endpoint."""
    message = call.message
    record = supervisor.record(message.id)
    if record.slot is not None:
        try:
            record.node_undo += _attach(supervisor, record, message)
        except (OSError, executor.Failure):
            if not ends.ending(record):  # else as with one that has ended: it has it from its next start on
                raise
    _rewire(supervisor, record, message)
    call.reply(messages.Ok())


def _attach(supervisor: Supervisor, record: Record, message: messages.Attach) -> list[Any]:
    """Make it and configure its inside; the operations that undo it."""
    undo = supervisor.node.perform(ops.decode(message.node_operations), peer_pid=record.pid)
    try:
        with contextlib.closing(_inside_network(supervisor, record)) as link:
            inside.configure_network(link, ops.decode(message.inside))
    except OSError:
        supervisor.node.undo(undo)
        raise
    return undo


def detach(supervisor: Supervisor, call: Call) -> None:
    """Take an endpoint away."""
    message = call.message
    record = supervisor.record(message.id)
    if record.slot is not None:
        try:
            supervisor.node.perform(ops.decode(message.node_operations))
            if message.inside:
                _move_default_route(supervisor, record, ops.decode(message.inside))
        except (OSError, executor.Failure):
            if not ends.ending(record):  # else as with one that has ended
                raise
    _rewire(supervisor, record, message)
    call.reply(messages.Ok())


def _move_default_route(supervisor: Supervisor, record: Record, operations: list[Any]) -> None:
    """To what is left; the container may have taken that away itself."""
    try:
        with contextlib.closing(_inside_network(supervisor, record)) as link:
            inside.configure_network(link, operations)
    except OSError as error:
        if not ends.ending(record):
            why = error.strerror or str(error)
            supervisor.tell(messages.Note(f"{record.name} has no default route any more: {why}"))


def _rewire(supervisor: Supervisor, record: Record, message: messages.Attach | messages.Detach) -> None:
    record.links = message.links
    if record.slot is not None:
        supervisor.services.name(record.name, message.endpoints)
        supervisor.services.sample_links(record)


def rename(supervisor: Supervisor, call: Call) -> None:
    """The container is called otherwise from now on."""
    record = supervisor.record(call.message.id)
    supervisor.services.name(record.name, [])
    record.name = call.message.name
    if record.slot is not None:
        supervisor.services.name(record.name, call.message.endpoints)
    call.reply(messages.Ok())


VERBS = {
    messages.Pause: pause,
    messages.Limits: limits,
    messages.Attach: attach,
    messages.Detach: detach,
    messages.Rename: rename,
}
