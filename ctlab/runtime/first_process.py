"""What passes between the supervisor and a container's first process, from its orders until its program runs."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import TYPE_CHECKING, Any

from ..kernel import launcher
from . import admission, ends, messages, orders, packets, program, storage
from .calls import Refused
from .made import Slot
from .record import Record

if TYPE_CHECKING:
    from .supervisor import Supervisor

_SAMPLE_AFTER_SECONDS = 0.005
_REPORT_SECONDS = 2.0  # as of an exec's
_CARRIER_TRIES = 100
_CARRIER_STEP_SECONDS = 0.001


def order(slot: Slot, order: dict[str, Any], mounts: list[int]) -> None:
    """Send a first process its orders; if it has died already, raise what it said last."""
    try:
        orders.send(slot.status, order, mounts)
    except (BrokenPipeError, ConnectionResetError):
        last_words(slot)
        raise


def has_spoken(slot: Slot) -> bool:
    """Whether something can be read from a first process at once, its end included."""
    poll = select.poll()
    poll.register(slot.status, select.POLLIN)
    return bool(poll.poll(0))


def last_words(slot: Slot) -> None:
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


def status(supervisor: Supervisor, record: Record) -> None:
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
        record.path, record.lacks, record.configured = message["path"], message["lacks"], True
        if record.go_sent:
            _expect_report(supervisor, record, slot)
            return
        _go_when_up(supervisor, record, slot, _CARRIER_TRIES)
        try:
            collect(supervisor, record, slot)
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


def _go_when_up(supervisor: Supervisor, record: Record, slot: Slot, tries: int) -> None:
    """Let the program run once its links carry packets: a pair made just now needs the kernel's link watch first."""
    if record.slot is not slot:
        return
    if record.fresh_links and tries:
        record.fresh_links = [names for names in record.fresh_links if not carries(names)]
        if record.fresh_links:
            supervisor.after(_CARRIER_STEP_SECONDS, lambda: _go_when_up(supervisor, record, slot, tries - 1))
            return
    go(supervisor, record, slot)


def collect(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    """Hand what it will write to the collector."""
    out, err = record.terminals or (slot.out, slot.err)
    supervisor.services.outputs.collect(record, out, err)
    for descriptor in {slot.out, slot.err} - {out, err}:
        os.close(descriptor)
    slot.out = slot.err = -1
    record.terminals = []


def go(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    record.mark("go")
    supervisor.after(0.0, supervisor.pool.refill_soon)
    record.go_sent = True
    with contextlib.suppress(OSError):  # it has died: its pidfd says so
        orders.send(slot.status, {"go": True})
    _expect_report(supervisor, record, slot)


def _expect_report(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    """Once it is about to execute its program, whichever it has done last: said to go, or heard that it is ready."""
    if record.filter is not None and record.go_sent and record.configured:
        supervisor.after(_REPORT_SECONDS, lambda: _report_is_late(supervisor, record, slot))


def _report_is_late(supervisor: Supervisor, record: Record, slot: Slot) -> None:
    """A filter of its own may keep the launcher from closing its report: then the program runs, and nobody says so."""
    if record.slot is slot and record.starter is not None and slot.status.fileno() >= 0:
        supervisor.off(slot.status.fileno())
        slot.status.close()
        _running(supervisor, record)


def carries(names: tuple[str, ...]) -> bool:
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
    if record.slot is slot and record.sampled is not slot:
        supervisor.services.sample(record)
