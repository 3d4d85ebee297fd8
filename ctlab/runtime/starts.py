"""Verbs that start containers: a slot, its limits, its links, its orders; a batch of them."""

from __future__ import annotations

import base64
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel import capabilities, launcher
from ..plan import ops
from . import admission, ends, executor, first_process, messages, pool, room, storage
from .calls import Call, Refused
from .context import Filter
from .log_ring import LogRing
from .made import Slot
from .record import Record

if TYPE_CHECKING:
    from .supervisor import Supervisor

_TRIES, _STEP_SECONDS = 50, 0.01  # of a start, for what has just ended to be given back: descriptors, namespaces


def start(supervisor: Supervisor, call: Call, tries: int = _TRIES) -> None:
    """Start a container, new or again; the answer comes once its program has been exec'ed."""
    message: messages.Start = call.message
    record = supervisor.record(message.id) if message.prepare_again is not None else None
    if record is not None and record.streams and tries and room.left() < room.AGAIN:
        # It has just ended, and the collector is about to meet the end of its streams.
        _later(supervisor, call, lambda: start(supervisor, call, tries - 1), lambda: None)
        return
    admission.check(supervisor, room.SLOT if record is None else room.AGAIN, named=bool(message.endpoints))
    if record is not None and record.slot is not None:
        raise Refused("StateError", f"container {message.name} is running already")
    again = record is not None
    if record is None:
        record = Record(message.id, message.key, message.name, LogRing.create())
        supervisor.records[record.id] = record
    _try(supervisor, call, record, again, _TRIES)


def _try(supervisor: Supervisor, call: Call, record: Record, again: bool, tries: int) -> None:
    """Start it; where the kernel has no room, after a while, if it is about to have that of what has just ended."""
    try:
        _start(supervisor, call, record, again)
    except BaseException as error:
        if isinstance(error, admission.Full) and tries and supervisor.now() < supervisor.freed_until:
            supervisor.catch_up()

            def once_more() -> None:
                if supervisor.record(record.id).slot is not None:
                    raise Refused("StateError", f"container {record.name} is running already")
                _try(supervisor, call, record, again, tries - 1)

            _later(supervisor, call, once_more, lambda: _unmake_unused(supervisor, record, again))
            return
        ends.unmake(supervisor, record, again)
        raise


def _unmake_unused(supervisor: Supervisor, record: Record, again: bool) -> None:
    if supervisor.records.get(record.id) is record and record.slot is None:
        ends.unmake(supervisor, record, again)


def _later(supervisor: Supervisor, call: Call, verb: Callable[[], None], gave_up: Callable[[], None]) -> None:
    """Try it in a moment; `gave_up`: what is to be done if by then nobody waits for the answer any more."""

    def late() -> None:
        if call.given_up():
            gave_up()
            call.fail("CtlabError", "nobody waits for the answer any more")  # but the batch that it may be a part of
            call.close_descriptors()
        else:
            supervisor.dispatch(call, lambda *_: verb())

    supervisor.after(_STEP_SECONDS, late)


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
    record.starter, record.go_sent, record.configured, record.state = call, False, False, "starting"
    record.returncode, record.oom_killed, record.oom_before = None, False, 0  # each start has a fresh cgroup
    record.restarting, record.remove_at_exit = again, message.remove_at_exit
    record.start_number = message.start
    execute = ops.decode(message.inside[-1:])[0]
    assert isinstance(execute, ops.Execute)
    record.path, record.workdir, record.lacks = "", execute.workdir, []
    own = launcher.INIT_PASSES_ON if execute.init else None
    record.init_sees = own if execute.argv else launcher.INIT_ENDS_BY
    record.terminals = []
    supervisor.on(slot.pidfd, lambda: ends.ended(supervisor, record, first_process.status))
    supervisor.on(slot.status.fileno(), lambda: first_process.status(supervisor, record))
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
            first_process.order(slot, orders, sent)
        try:
            record.node_undo = supervisor.node.perform(operations, peer_pid=slot.pid, spare=slot.spare)
        except executor.Failure as error:
            # The first process is dead, or its interface is gone with it: what it said is the reason.
            if error.errno == errno.ESRCH or (error.errno == errno.ENODEV and first_process.has_spoken(slot)):
                first_process.last_words(slot)
            raise
        if not early:
            first_process.order(slot, orders, sent)
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
        if first_process.carries(record.fresh_links[0]):
            del record.fresh_links[0]
    slot.spare = None
    record.links = message.links
    if message.endpoints:
        supervisor.services.name(record.name, message.endpoints)
    if not execute.tty and not record.fresh_links:
        # The node's side is done and nothing else has to be asked: it may run as soon as it is ready itself.
        first_process.collect(supervisor, record, slot)
        first_process.go(supervisor, record, slot)


def _filter(program: str | None) -> Filter | None:
    """A container's own filter of system calls, as it travels: the program in base64. None: the lab's."""
    return None if program is None else Filter(late=base64.b64decode(program))


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
                    self._supervisor.after(_STEP_SECONDS, self.go_on)
                    return
                self._begin(self._rest.popleft())
        finally:
            pool.expect(0)

    def _begin(self, message: messages.Start) -> None:
        part = _Part(self, self._call, message)
        try:
            start(self._supervisor, part)
        except Exception as error:
            self._supervisor.fail(part, error)

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
