"""Verbs that make, change and end containers: start, wait, signal, pause, limits, attach, detach, remove."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING, Any

from ..kernel import capabilities, netlink, syscalls
from ..plan import ops
from . import execution, executor, inside, orphans, pool, protocol
from .log_ring import LogRing
from .record import Record, Slot, returncode

if TYPE_CHECKING:
    from .supervisor import Call, Supervisor


def _refuse(kind: str, message: str, number: int = 0) -> Exception:
    from .supervisor import Refused

    return Refused(kind, message, number)


def start(supervisor: Supervisor, call: Call) -> None:
    """Start a container, new or again; the answer comes once its program has been exec'ed."""
    message = call.message
    record = supervisor.records.get(message["id"])
    if record is not None and record.slot is not None:
        raise _refuse("StateError", f"container {message['name']} is running already")
    again = record is not None
    if record is None:
        record = Record(message["id"], message["key"], message["name"], LogRing.create())
        supervisor.records[record.id] = record
    try:
        _start(supervisor, call, record, again)
    except BaseException:
        _unmake(supervisor, record, again)
        raise


def _start(supervisor: Supervisor, call: Call, record: Record, again: bool) -> None:
    message = call.message
    record.marks = []
    record.mark("received")
    operations = ops.decode(message["node_operations"])
    first = next((operation for operation in operations if isinstance(operation, ops.MakeVeth)), None)
    slot = None
    if message["prepare"] is None and not again and first is not None and first.peer == "eth0":
        slot = supervisor.pool.take()
    if slot is None:
        slot = _make_slot(supervisor, message, record, again)
    record.mark("slot")
    record.slot, record.private = slot, slot.private
    record.starter, record.go_sent, record.state = call, False, "starting"
    record.returncode, record.oom_killed = None, False
    record.restarting, record.remove_at_exit = again, message["remove_at_exit"]
    record.start_number = message["start"]
    record.terminals = []
    supervisor.on(slot.pidfd, lambda: _ended(supervisor, record))
    supervisor.on(slot.status.fileno(), lambda: _status(supervisor, record))
    _limit(slot, message["limits"])
    record.mark("limits")
    mounts = [supervisor.detached_mount(path, message["idmap"]) for path in message["mounts"]]
    hardware = [[first.peer, first.peer_mac, first.mtu]] if slot.spare is not None and first is not None else []
    orders = {"operations": message["inside"], "hardware": hardware, "body": message["body"]}
    sent = [*mounts, *call.descriptors]
    try:
        # With one link, which is there already, the inside is configured while we do the node's side.
        early = slot.spare is not None and sum(isinstance(operation, ops.MakeVeth) for operation in operations) == 1
        if early:
            _order(slot, orders, sent)
        try:
            record.node_undo = supervisor.node.perform(operations, peer_pid=slot.pid, spare=slot.spare)
        except executor.Failure as error:
            if error.errno == errno.ESRCH:  # the first process is dead: what it said is the reason
                _last_words(slot)
            raise
        if not early:
            _order(slot, orders, sent)
    finally:
        for mount in mounts:
            os.close(mount)
    call.close_descriptors()
    record.mark("node")
    made = [operation.name for operation in operations if isinstance(operation, ops.MakeVeth)]
    record.fresh_links = made[1:] if slot.spare is not None else made
    slot.spare = None
    record.links = message["links"]
    if message["endpoints"]:
        supervisor.services.name(record.name, message["endpoints"])
    execute = ops.decode(message["inside"][-1:])[0]
    assert isinstance(execute, ops.Execute)
    if execute.argv and not execute.init and not execute.tty and not record.fresh_links:
        # The node's side is done and nothing else has to be asked: it may run as soon as it is ready itself.
        _collect(supervisor, record, slot)
        _go(supervisor, record, slot)


def _order(slot: Slot, orders: dict[str, Any], mounts: list[int]) -> None:
    """Send a first process its orders; if it has died already, raise what it said last."""
    try:
        protocol.send(slot.status, orders, mounts)
    except (BrokenPipeError, ConnectionResetError):
        _last_words(slot)
        raise


def _last_words(slot: Slot) -> None:
    """Raise what a dead first process gave as the reason, if it gave one."""
    said, _, _ = protocol.receive(slot.status)
    if said is not None and "error" in said:
        raise _refuse(said["error"], _with_quota(said)["message"], said["errno"]) from None


def _with_quota(said: dict[str, Any]) -> dict[str, Any]:
    """What a first process died of, with the quota named where it is one."""
    if said["errno"] == errno.ENOSPC and not said["message"].startswith(("WriteFile", "Folder", "write")):
        # Not a full file system: detached mounts are counted as mount namespaces, too.
        return said | {"message": no_room(said["message"], errno.ENOSPC)}
    return said


# Where an encoded Execute has its capabilities: behind its own name.
_CAPABILITIES = 1 + ops.Execute._fields.index("capabilities")


def _make_slot(supervisor: Supervisor, message: dict[str, Any], record: Record, again: bool) -> Slot:
    given = message["prepare"] or message["prepare_again"]
    operations = ops.decode(given) if given else supervisor.pool.operations
    network = message["network"]
    joined = -1
    if network != "own":
        operations = pool.without_network(operations)
        if network != "node":
            other = supervisor.record(network)
            joined = other.namespaces.get("net", other.pidfd)
            if joined < 0:
                raise _refuse("StateError", "the container whose network is to be shared isn't running")
    try:
        return supervisor.pool.make(
            operations,
            capabilities.mask(message["inside"][-1][_CAPABILITIES]),
            private=record.private if again else None,
            network_of=joined,
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EAGAIN, errno.ENOMEM):
            raise _refuse("KernelError", no_room(error.strerror or "", error.errno), error.errno) from None
        raise


def no_room(what: str, number: int) -> str:
    """The message for a quota of the machine that is used up: `what` is the call that the kernel refused."""
    call = what.partition("(")[0].partition(":")[0]
    return (
        f"the kernel has no room for another container: {call} gave {errno.errorcode[number]}; a quota is used up: "
        "/proc/sys/user/max_*_namespaces, a cgroup's pids.max or cgroup.max.descendants"
    )


def _limit(slot: Slot, writes: list[list[Any]]) -> None:
    for controller, file, value, optional in writes:
        if slot.cgroup is None:
            raise _refuse("LimitRefused", f"no cgroup here to write {file} to")
        try:
            slot.cgroup.write(controller, file, value)
        except OSError as error:
            if optional and error.errno == errno.ENOENT:
                continue
            raise _refuse("LimitRefused", f"{controller}\t{file}\t{value}", error.errno or 0) from error


def _status(supervisor: Supervisor, record: Record) -> None:
    """The first process says how far it is; its end of file means that the program has been exec'ed."""
    slot = record.slot
    if slot is None:
        return
    message, descriptors, _ = protocol.receive(slot.status)
    if message is None:
        supervisor.off(slot.status.fileno())
        slot.status.close()
        if record.go_sent and record.starter is not None:
            _running(supervisor, record)
        return
    if "terminals" in message:
        record.terminals = descriptors
    elif "configured" in message:
        record.marks += [(what, moment) for what, moment in message["marks"]]
        record.mark("configured")
        if record.go_sent:
            return
        if message["init"]:
            record.namespaces = namespace_descriptors(slot.pid)
        _go_when_up(supervisor, record, slot, _CARRIER_TRIES)
        _collect(supervisor, record, slot)
    elif "error" in message:
        starter, record.starter = record.starter, None
        again = record.restarting
        _kill_slot(supervisor, record)
        _unmake(supervisor, record, again)
        if starter is not None:
            starter.reply(_with_quota(message))


_SAMPLE_AFTER_SECONDS = 0.005
_CARRIER_TRIES = 100
_CARRIER_STEP_SECONDS = 0.001


def _go_when_up(supervisor: Supervisor, record: Record, slot: Slot, tries: int) -> None:
    """Let the program run once its links carry packets: a pair made just now needs the kernel's link watch first."""
    if record.slot is not slot:
        return
    if record.fresh_links and tries:
        record.fresh_links = [name for name in record.fresh_links if not _carries(name)]
        if record.fresh_links:
            supervisor.after(_CARRIER_STEP_SECONDS, lambda: _go_when_up(supervisor, record, slot, tries - 1))
            return
    _go(supervisor, record, slot)


def _collect(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    """Hand what it will write to the collector."""
    out, err = record.terminals or (slot.out, slot.err)
    supervisor.services.collect(record, out, err)
    for descriptor in {out, err, slot.out, slot.err}:
        os.close(descriptor)
    slot.out = slot.err = -1
    record.terminals = []


def _go(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    record.mark("go")
    supervisor.later(supervisor.pool.refill_soon)
    record.go_sent = True
    with contextlib.suppress(OSError):  # it has died: its pidfd says so
        protocol.send(slot.status, {"go": True})


def _carries(name: str) -> bool:
    try:
        with open(f"/sys/class/net/{name}/operstate", encoding="ascii") as file:
            return file.read().strip() == "up"
    except OSError:
        return True


def namespace_descriptors(pid: int) -> dict[str, int]:
    """The namespaces of a process that will hide itself: an init of ours isn't dumpable, so a pidfd won't do."""
    return {
        kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        for kind in ("mnt", "pid", "net", "uts", "ipc", "cgroup")
    }


def _running(supervisor: Supervisor, record: Record) -> None:
    starter, record.starter = record.starter, None
    record.state = "running"
    record.mark("executed")
    assert record.slot is not None
    if starter is not None:
        starter.reply({"id": record.id, "state": "running", "marks": record.marks}, process=record.slot.pid)
    slot = record.slot
    # A program that is gone by then leaves no sample; nobody who starts many short ones pays for the sampler.
    supervisor.after(_SAMPLE_AFTER_SECONDS, lambda: _sample(supervisor, record, slot))
    supervisor.tell({"event": "started", "id": record.id})
    if record.slot.cgroup is not None:
        with contextlib.suppress(OSError):
            record.oom_before = record.slot.cgroup.oom_kills() or 0


def _sample(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    if record.slot is slot:
        supervisor.services.sample(record)


def _ended(supervisor: Supervisor, record: Record) -> None:
    """The first process has ended, and with it everything in its PID namespace."""
    slot = record.slot
    if slot is None:
        return
    status = os.waitid(os.P_PIDFD, slot.pidfd, os.WEXITED | os.WNOHANG)
    if status is None:
        return
    if record.starter is not None:
        # Ended before we heard of the exec: either it failed (its message is waiting) or it was that quick.
        while record.slot is not None and record.starter is not None and slot.status.fileno() >= 0:
            _status(supervisor, record)
        if record.slot is None:
            return
        if record.starter is not None:
            starter, record.starter = record.starter, None
            _forget_slot(supervisor, record)
            _unmake(supervisor, record, record.restarting)
            starter.reply({"error": "CtlabError", "message": "the container ended before its program ran", "errno": 0})
            return
    record.returncode = returncode(status)
    record.state = "exited"
    if slot.cgroup is not None:
        with contextlib.suppress(OSError):
            record.oom_killed = (slot.cgroup.oom_kills() or 0) > record.oom_before
    answer = exit_message(record)
    waiters, record.waiters = record.waiters, []
    for waiter in waiters:  # first: whoever waits should not pay for the clearing away
        waiter.reply(answer)
    supervisor.services.name(record.name, [])
    _forget_slot(supervisor, record)
    supervisor.tell({"event": "exited", "id": record.id, **answer})
    if record.remove_at_exit:
        _remove(supervisor, record)


def exit_message(record: Record) -> dict[str, Any]:
    """What `wait` answers."""
    return {
        "returncode": record.returncode,
        "oom_killed": record.oom_killed,
        "state": record.state,
        "start": record.start_number,
    }


def _kill_slot(supervisor: Supervisor, record: Record) -> None:
    slot = record.slot
    if slot is None:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
    orphans.wait_for(supervisor, slot)
    _forget_slot(supervisor, record)


def _forget_slot(supervisor: Supervisor, record: Record) -> None:
    """The processes are gone: close what belonged to them; the folders go when nobody waits."""
    slot, record.slot = record.slot, None
    if slot is None:
        return
    execution.let_runners_go(record)
    supervisor.off(slot.pidfd)
    os.close(slot.pidfd)
    if slot.status.fileno() >= 0:
        supervisor.off(slot.status.fileno())
        slot.status.close()
    for descriptor in (slot.out, slot.err, *record.terminals, *record.namespaces.values()):
        if descriptor >= 0:
            os.close(descriptor)
    record.terminals, record.namespaces = [], {}

    def clear() -> None:
        supervisor.services.sample_no_more(record)
        if slot.mount_namespace >= 0:
            supervisor.pool.bury(slot.mount_namespace)
        folder = slot.cgroup
        if folder is not None and not folder.remove(0.0):
            supervisor.after(0.02, lambda: _remove_folder(supervisor, folder, 50))

    supervisor.later(clear)


def _remove_folder(supervisor: Supervisor, folder: Any, tries: int) -> None:
    if not folder.remove(0.0) and tries:
        supervisor.after(0.02, lambda: _remove_folder(supervisor, folder, tries - 1))


def _unmake(supervisor: Supervisor, record: Record, again: bool) -> None:
    """A start failed: take back the node's side, and forget the container if it is new."""
    if record.slot is not None:
        _kill_slot(supervisor, record)
    supervisor.node.undo(record.node_undo)
    record.node_undo = []
    supervisor.services.name(record.name, [])
    record.starter = None
    if again:
        record.state = "exited"
    else:
        _remove(supervisor, record)


def wait(supervisor: Supervisor, call: Call) -> None:
    """Answer when the container has exited."""
    record = supervisor.record(call.message["id"])
    if record.slot is None:
        call.reply(exit_message(record))
    else:
        record.waiters.append(call)


def send_signal(supervisor: Supervisor, call: Call) -> None:
    """Send a signal to the first process. Answers whether that process would see it at all."""
    record = supervisor.record(call.message["id"])
    if record.slot is None:
        raise _refuse("StateError", f"container {record.name} isn't running")
    number = call.message["signal"]
    seen = number in (signal.SIGKILL, signal.SIGSTOP) or catches(record.pid, number)
    if seen or not call.message.get("only_if_seen"):
        if number == signal.SIGKILL and record.state == "paused" and record.slot.cgroup is not None:
            record.slot.cgroup.thaw()
        signal.pidfd_send_signal(record.pidfd, number)
    call.reply({"seen": seen})


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: PID 1 of a namespace sees no other (pid_namespaces(7))."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return False


def pause(supervisor: Supervisor, call: Call) -> None:
    """Freeze or thaw all processes of a container."""
    record = supervisor.record(call.message["id"])
    slot = record.slot
    if slot is None:
        raise _refuse("StateError", f"container {record.name} isn't running")
    if slot.cgroup is None:
        raise _refuse(
            "Unsupported", "pause needs a cgroup of the container's own, and this lab has none (see %lab doctor)"
        )
    if call.message["frozen"]:
        slot.cgroup.freeze()
        record.state = "paused"
    else:
        slot.cgroup.thaw()
        record.state = "running"
    call.reply({"state": record.state})
    supervisor.tell({"event": record.state, "id": record.id})


def limits(supervisor: Supervisor, call: Call) -> None:
    """Change limits while it runs; a refused write takes the earlier ones back."""
    record = supervisor.record(call.message["id"])
    slot = record.slot
    if slot is None:
        call.reply({"ok": True})  # they hold from the next start on
        return
    if slot.cgroup is None:
        raise _refuse("LimitRefused", "this lab has no cgroup")
    memory = call.message.get("memory_bytes")
    if memory is not None:
        usage = slot.cgroup.squeeze(memory)
        if usage is not None and usage > memory:
            call.reply({"error": "LimitRefused", "message": "usage", "errno": errno.EBUSY, "usage_bytes": usage})
            return
    done = 0
    try:
        for controller, file, value, optional in call.message["writes"]:
            try:
                slot.cgroup.write(controller, file, value)
            except OSError as error:
                if not (optional and error.errno == errno.ENOENT):
                    raise
            done += 1
    except OSError as error:
        for controller, file, value, _ in call.message["undo"]:
            with contextlib.suppress(OSError):
                slot.cgroup.write(controller, file, value)
        call.reply(
            {
                "error": "LimitRefused", "message": "write", "errno": error.errno or 0, "write": done,
                "usage_bytes": slot.cgroup.usage_bytes(),
            }
        )  # fmt: skip
        return
    call.reply({"ok": True})


def enter_network(record: Record) -> None:
    """Move this process into the container's network namespace; the caller moves it back."""
    if record.namespaces:
        syscalls.setns(record.namespaces["net"], syscalls.CLONE_NEWNET)
    else:
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
    record = supervisor.record(message["id"])
    if record.slot is not None:
        undo = supervisor.node.perform(ops.decode(message["node_operations"]), peer_pid=record.pid)
        try:
            link = _inside_network(supervisor, record)
            try:
                inside.configure_network(link, ops.decode(message["inside"]))
            finally:
                link.close()
        except OSError:
            supervisor.node.undo(undo)
            raise
        record.node_undo += undo
    _rewire(supervisor, record, message)
    call.reply({"ok": True})


def detach(supervisor: Supervisor, call: Call) -> None:
    """Take an endpoint away."""
    message = call.message
    record = supervisor.record(message["id"])
    if record.slot is not None:
        supervisor.node.perform(ops.decode(message["node_operations"]))
        if message["inside"]:  # the default route moves to what is left
            link = _inside_network(supervisor, record)
            try:
                with contextlib.suppress(OSError):
                    inside.configure_network(link, ops.decode(message["inside"]))
            finally:
                link.close()
    _rewire(supervisor, record, message)
    call.reply({"ok": True})


def _rewire(supervisor: Supervisor, record: Record, message: dict[str, Any]) -> None:
    record.links = message["links"]
    if record.slot is not None:
        supervisor.services.name(record.name, message["endpoints"])
        supervisor.services.sample_links(record)


def rename(supervisor: Supervisor, call: Call) -> None:
    """The container is called otherwise from now on."""
    record = supervisor.record(call.message["id"])
    supervisor.services.name(record.name, [])
    record.name = call.message["name"]
    if record.slot is not None:
        supervisor.services.name(record.name, call.message["endpoints"])
    call.reply({"ok": True})


def remove(supervisor: Supervisor, call: Call) -> None:
    """Kill if it runs, then forget the container and all it wrote."""
    record = supervisor.record(call.message["id"])
    if record.slot is not None:
        if record.state == "paused" and record.slot.cgroup is not None:
            with contextlib.suppress(OSError):
                record.slot.cgroup.thaw()
        _kill_slot(supervisor, record)
        supervisor.services.name(record.name, [])
        record.returncode, record.state = 128 + signal.SIGKILL, "removed"
        for waiter in record.waiters:
            waiter.reply(exit_message(record))
        record.waiters = []
    _remove(supervisor, record)
    call.reply({"ok": True})


def _remove(supervisor: Supervisor, record: Record) -> None:
    supervisor.records.pop(record.id, None)
    supervisor.services.forget_output(record)
    os.close(record.ring)
    record.ring = -1
    if record.private >= 0:
        supervisor.later(lambda: supervisor.pool.clear_away(record.private))


def start_many(supervisor: Supervisor, call: Call) -> None:
    """A batch of starts with one answer: the ids that run, or the first error (and none is left)."""
    from .supervisor import Call as OneCall

    class Part(OneCall):
        __slots__ = ()

        def reply(self, answer: Any, descriptors: Any = None, process: int | None = None) -> None:
            batch.done(self, answer)

    class Batch:
        def __init__(self) -> None:
            self.waiting = len(call.message["starts"])
            self.failed: dict[str, Any] | None = None

        def done(self, part: Part, answer: dict[str, Any]) -> None:
            self.waiting -= 1
            if "error" in answer and self.failed is None:
                self.failed = {**answer, "name": part.message["name"]}
            if not self.waiting:
                self.finish()

        def finish(self) -> None:
            if self.failed is not None:
                for one in call.message["starts"]:
                    record = supervisor.records.get(one["id"])
                    if record is not None:
                        _kill_slot(supervisor, record)
                        supervisor.services.name(record.name, [])
                        _remove(supervisor, record)
                call.reply(self.failed)
                return
            call.reply({"ok": True})

    batch = Batch()
    for message in call.message["starts"]:
        part = Part(call.connection, message, [])
        try:
            start(supervisor, part)
        except Exception as error:
            kind = getattr(error, "kind", "KernelError")
            part.reply({"error": kind, "message": str(error), "errno": getattr(error, "errno", 0) or 0})


VERBS = {
    "start": start,
    "start_many": start_many,
    "wait": wait,
    "signal": send_signal,
    "pause": pause,
    "limits": limits,
    "attach": attach,
    "detach": detach,
    "rename": rename,
    "remove": remove,
}
