"""Verbs that start containers: a slot, its limits, its links, its orders, and the word to go."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import select
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel import capabilities, launcher
from ..plan import ops
from . import admission, ends, executor, messages, orders, packets, pool, program, room, storage
from .calls import Call, Refused
from .context import Filter
from .log_ring import LogRing
from .made import Slot
from .record import Record

if TYPE_CHECKING:
    from .supervisor import Supervisor

_ROOM_TRIES = 50  # of a start for what has just ended
_ROOM_STEP_SECONDS = 0.01  # until what a start, or what has ended, has is given back


def start(supervisor: Supervisor, call: Call, tries: int = _ROOM_TRIES) -> None:
    """Start a container, new or again; the answer comes once its program has been exec'ed."""
    message: messages.Start = call.message
    record = supervisor.record(message.id) if message.prepare_again is not None else None
    if record is not None and record.streams and tries and room.left() < room.AGAIN:
        # It has just ended, and the collector is about to meet the end of its streams.
        _later(supervisor, call, lambda: start(supervisor, call, tries - 1))
        return
    admission.check(supervisor, room.SLOT if record is None else room.AGAIN, named=bool(message.endpoints))
    if record is not None and record.slot is not None:
        raise Refused("StateError", f"container {message.name} is running already")
    again = record is not None
    if record is None:
        record = Record(message.id, message.key, message.name, LogRing.create())
        supervisor.records[record.id] = record
    _try(supervisor, call, record, again, _ROOM_TRIES)


def _try(supervisor: Supervisor, call: Call, record: Record, again: bool, tries: int) -> None:
    """Start it; where the kernel has no room, after a while, if it is about to have that of what has just ended."""
    try:
        _start(supervisor, call, record, again)
    except BaseException as error:
        if isinstance(error, admission.Full) and tries and supervisor.now() < supervisor.freed_until:
            supervisor.catch_up()
            _later(supervisor, call, lambda: _try(supervisor, call, supervisor.record(record.id), again, tries - 1))
            return
        ends.unmake(supervisor, record, again)
        raise


def _later(supervisor: Supervisor, call: Call, verb: Callable[[], None]) -> None:
    def late() -> None:
        if call.given_up():
            call.close_descriptors()
        else:
            supervisor.dispatch(call, lambda *_: verb())

    supervisor.after(_ROOM_STEP_SECONDS, late)


def _start(supervisor: Supervisor, call: Call, record: Record, again: bool) -> None:
    message: messages.Start = call.message
    record.marks = []
    record.mark("received")
    operations = ops.decode(message.node_operations)
    first = next((operation for operation in operations if isinstance(operation, ops.MakeVeth)), None)
    slot = None
    record.filter = _filter(message.filter)
    pooled = message.prepare is None and record.filter is None and not again
    if pooled and first is not None and first.peer == "eth0":
        slot = supervisor.pool.take()
    if slot is None:
        slot = _make_slot(supervisor, message, record, again)
    record.mark("slot")
    record.slot, record.private = slot, slot.private
    record.starter, record.go_sent, record.state = call, False, "starting"
    record.returncode, record.oom_killed, record.oom_before = None, False, 0  # each start has a fresh cgroup
    record.restarting, record.remove_at_exit = again, message.remove_at_exit
    record.start_number = message.start
    execute = ops.decode(message.inside[-1:])[0]
    assert isinstance(execute, ops.Execute)
    record.path, record.workdir, record.lacks = "", execute.workdir, []
    own = launcher.INIT_PASSES_ON if execute.init else None
    record.init_sees = own if execute.argv else launcher.INIT_ENDS_BY
    record.terminals = []
    supervisor.on(slot.pidfd, lambda: ends.ended(supervisor, record, _status))
    supervisor.on(slot.status.fileno(), lambda: _status(supervisor, record))
    _limit(slot, message.limits)
    record.mark("limits")
    mounts: list[int] = []
    hardware = [[first.peer, first.peer_mac, first.mtu]] if slot.spare is not None and first is not None else []
    orders = {
        "operations": message.inside, "hardware": hardware, "body": message.body, "processes": message.processes,
    }  # fmt: skip
    try:
        for path in message.mounts:
            mounts.append(supervisor.detached_mount(path, message.idmap))
        sent = [*mounts, *call.descriptors]
        # With one link, which is there already, the inside is configured while we do the node's side.
        early = slot.spare is not None and sum(isinstance(operation, ops.MakeVeth) for operation in operations) == 1
        if early:
            _order(slot, orders, sent)
        try:
            record.node_undo = supervisor.node.perform(operations, peer_pid=slot.pid, spare=slot.spare)
        except executor.Failure as error:
            # The first process is dead, or its interface is gone with it: what it said is the reason.
            if error.errno == errno.ESRCH or (error.errno == errno.ENODEV and _has_spoken(slot)):
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
    record.fresh_links = [(name,) for name in made]
    if slot.spare is not None:
        # It may be too young to carry packets, and somebody may be renaming it.
        record.fresh_links[0] = (slot.spare.name, made[0])
        if _carries(record.fresh_links[0]):
            del record.fresh_links[0]
    slot.spare = None
    record.links = message.links
    if message.endpoints:
        supervisor.services.name(record.name, message.endpoints)
    if not execute.tty and not record.fresh_links:
        # The node's side is done and nothing else has to be asked: it may run as soon as it is ready itself.
        _collect(supervisor, record, slot)
        _go(supervisor, record, slot)


def _filter(program: str | None) -> Filter | None:
    """A container's own filter of system calls, as it travels: the program in base64. None: the lab's."""
    return None if program is None else Filter(late=base64.b64decode(program))


def _order(slot: Slot, order: dict[str, Any], mounts: list[int]) -> None:
    """Send a first process its orders; if it has died already, raise what it said last."""
    try:
        orders.send(slot.status, order, mounts)
    except (BrokenPipeError, ConnectionResetError):
        _last_words(slot)
        raise


def _has_spoken(slot: Slot) -> bool:
    """Whether something can be read from a first process at once, its end included."""
    poll = select.poll()
    poll.register(slot.status, select.POLLIN)
    return bool(poll.poll(0))


def _last_words(slot: Slot) -> None:
    """Raise what a dead first process gave as the reason, if it gave one."""
    said, _ = orders.receive(slot.status)
    if said is not None and "error" in said:
        raise Refused(said["error"], _with_quota(said)["message"], said["errno"]) from None


def _with_quota(said: dict[str, Any]) -> dict[str, Any]:
    """What a first process died of, with the quota, or the full storage, named where it is one."""
    if (named := storage.named(said, starting=True)) is not said:
        return named
    if said["errno"] == errno.ENOSPC and not said["message"].startswith(("write", "folder")):
        # Not a full file system: detached mounts are counted as mount namespaces, too.
        return said | {"message": admission.no_room(said["message"], errno.ENOSPC)}
    return said


# Where an encoded Execute has its capabilities: behind its own name.
_CAPABILITIES = 1 + ops.Execute._fields.index("capabilities")


def _make_slot(supervisor: Supervisor, message: messages.Start, record: Record, again: bool) -> Slot:
    given = message.prepare or message.prepare_again
    operations = ops.decode(given) if given else supervisor.pool.operations
    network = message.network
    joined = -1
    if network != "own":
        operations = pool.without_network(operations)
        if network != "node":
            joined = admission.shared_network(supervisor, network)
    try:
        return supervisor.pool.make(
            operations,
            capabilities.mask(message.inside[-1][_CAPABILITIES]),
            record.filter,
            private=record.private if again else None,
            network_of=joined,
        )
    except OSError as error:
        if error.errno == errno.ENOSPC and (full := storage.hint()):
            raise Refused("KernelError", full, error.errno) from None
        if error.errno in (errno.ENOSPC, errno.EAGAIN, errno.ENOMEM):
            raise admission.Full(error) from None
        raise


def _limit(slot: Slot, writes: list[list[Any]]) -> None:
    for controller, file, value, optional in writes:
        if slot.cgroup is None:
            raise Refused("LimitRefused", f"no cgroup here to write {file} to")
        try:
            slot.cgroup.write(controller, file, value)
        except OSError as error:
            if optional and error.errno == errno.ENOENT:
                continue
            name = errno.errorcode.get(error.errno or 0, "?")
            raise Refused("LimitRefused", f"the kernel refused {file} = {value}: {name}", error.errno or 0) from error


def _status(supervisor: Supervisor, record: Record) -> None:
    """The first process says how far it is; its end of file means that the program has been exec'ed."""
    slot = record.slot
    if slot is None:
        return
    body, descriptors, _ = packets.receive(slot.status)
    failure = launcher.read_report(body)
    if failure is not None:
        error = program.launch_error(failure, record.path, record.workdir, record.lacks)
        message: orders.Message | None = {"error": error.kind, "message": str(error), "errno": error.errno}
    else:
        message = orders.decode(body)
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
        record.path, record.lacks = message["path"], message["lacks"]
        if record.go_sent:
            return
        _go_when_up(supervisor, record, slot, _CARRIER_TRIES)
        try:
            _collect(supervisor, record, slot)
        except Refused as error:
            _give_up(supervisor, record, {"error": error.kind, "message": str(error), "errno": error.errno})
    elif "error" in message:
        _give_up(supervisor, record, _with_quota(message))


def _give_up(supervisor: Supervisor, record: Record, failure: dict[str, Any]) -> None:
    starter, record.starter = record.starter, None
    again = record.restarting
    ends.kill_slot(supervisor, record)
    ends.unmake(supervisor, record, again)
    if starter is not None:
        starter.fail(failure["error"], failure["message"], failure["errno"])


_SAMPLE_AFTER_SECONDS = 0.005
_REPORT_SECONDS = 2.0  # as of an exec's
_CARRIER_TRIES = 100
_CARRIER_STEP_SECONDS = 0.001


def _go_when_up(supervisor: Supervisor, record: Record, slot: Slot, tries: int) -> None:
    """Let the program run once its links carry packets: a pair made just now needs the kernel's link watch first."""
    if record.slot is not slot:
        return
    if record.fresh_links and tries:
        record.fresh_links = [names for names in record.fresh_links if not _carries(names)]
        if record.fresh_links:
            supervisor.after(_CARRIER_STEP_SECONDS, lambda: _go_when_up(supervisor, record, slot, tries - 1))
            return
    _go(supervisor, record, slot)


def _collect(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    """Hand what it will write to the collector."""
    out, err = record.terminals or (slot.out, slot.err)
    supervisor.services.outputs.collect(record, out, err)
    for descriptor in {slot.out, slot.err} - {out, err}:
        os.close(descriptor)
    slot.out = slot.err = -1
    record.terminals = []


def _go(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    record.mark("go")
    supervisor.after(0.0, supervisor.pool.refill_soon)
    record.go_sent = True
    with contextlib.suppress(OSError):  # it has died: its pidfd says so
        orders.send(slot.status, {"go": True})
    if record.filter is not None:
        supervisor.after(_REPORT_SECONDS, lambda: _report_is_late(supervisor, record, slot))


def _report_is_late(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    """A filter of its own may keep the launcher from closing its report: then the program runs, and nobody says so."""
    if record.slot is slot and record.starter is not None and slot.status.fileno() >= 0:
        supervisor.off(slot.status.fileno())
        slot.status.close()
        _running(supervisor, record)


def _carries(names: tuple[str, ...]) -> bool:
    """Whether the link that has one of these names is up; True where there is none of them any more."""
    for name in names:
        try:
            with open(f"/sys/class/net/{name}/operstate", encoding="ascii") as file:
                return file.read().strip() == "up"
        except OSError:
            continue
    return True


def _running(supervisor: Supervisor, record: Record) -> None:
    starter, record.starter = record.starter, None
    record.state = "running"
    record.mark("executed")
    assert record.slot is not None
    if starter is not None:
        starter.reply(messages.Running(record.marks, 0), process=record.slot.pid)
    slot = record.slot
    # A program that is gone by then leaves no sample; nobody who starts many short ones pays for the sampler.
    supervisor.after(_SAMPLE_AFTER_SECONDS, lambda: _sample(supervisor, record, slot))
    supervisor.after(_SAMPLE_AFTER_SECONDS, lambda: ends.let_holder_go(supervisor, slot))
    supervisor.tell(messages.Started(record.id))


def _sample(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    if record.slot is slot:
        supervisor.services.sample(record)


class _Batch:
    """Starts with one answer: all run, or the first error (and none is left)."""

    def __init__(self, supervisor: Supervisor, call: Call) -> None:
        self._supervisor = supervisor
        self._call = call
        self._rest = deque(call.message.starts)
        self._waiting = len(self._rest)
        self._failed: messages.Failure | None = None
        self._left = -1

    def go_on(self) -> None:
        """Begin what there is room for: a start has more open until its program runs than a container has."""
        pool = self._supervisor.pool
        pool.expect(sum(one.prepare is None and one.filter is None for one in self._rest))
        try:
            while self._rest:
                if self._call.given_up():
                    self._give_up(messages.Failure("CtlabError", "nobody waits for the answer any more", 0))
                    return
                left = room.left()
                if left < room.SLOT and (self._waiting > len(self._rest) or left != self._left):
                    self._left = left
                    self._supervisor.after(_ROOM_STEP_SECONDS, self.go_on)
                    return
                self._begin(self._rest.popleft())
        finally:
            pool.expect(0)

    def _begin(self, message: messages.Start) -> None:
        part = _Part(self, self._call, message)
        try:
            start(self._supervisor, part)
        except Exception as error:
            kind = getattr(error, "kind", "KernelError")
            part.fail(kind, str(error), getattr(error, "errno", 0) or 0)

    def done(self, answer: tuple[Any, ...]) -> None:
        """One of them has its answer."""
        self._waiting -= 1
        if isinstance(answer, messages.Failure):
            self._give_up(answer)
        elif not self._waiting:
            self._finish()

    def _give_up(self, failure: messages.Failure) -> None:
        """Begin no more."""
        self._failed = self._failed or failure
        self._waiting -= len(self._rest)
        self._rest.clear()
        if not self._waiting:
            self._finish()

    def _finish(self) -> None:
        if self._failed is None:
            self._call.reply(messages.Ok())
            return
        for one in self._call.message.starts:
            record = self._supervisor.records.get(one.id)
            if record is not None:
                ends.kill_slot(self._supervisor, record)
                self._supervisor.services.name(record.name, [])
                ends.forget(self._supervisor, record)
        self._call.reply(self._failed)


class _Part(Call):
    """One start of a batch."""

    __slots__ = ("_batch",)

    def __init__(self, batch: _Batch, call: Call, message: messages.Start) -> None:
        super().__init__(call.connection, message, [])
        self._batch = batch

    def reply(self, answer: Any, descriptors: Any = None, process: int | None = None) -> None:
        self._batch.done(answer)


def start_many(supervisor: Supervisor, call: Call) -> None:
    """A batch of starts with one answer."""
    _Batch(supervisor, call).go_on()


VERBS = {messages.Start: start, messages.StartMany: start_many}
