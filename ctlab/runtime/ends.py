"""How containers end: by themselves, by a signal, by a failed start, by removal; and who waits for it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel import launcher, syscalls
from . import execution, messages, orphans, storage
from .calls import Call, Refused
from .made import Slot
from .record import Record, returncode

if TYPE_CHECKING:
    from .supervisor import Supervisor

_INITS_ENDS = (launcher.FAILED_STATUS, 128 + signal.SIGSYS)
_LEFTOVER_SECONDS = 0.3  # the kernel takes a namespace down in some ten milliseconds
_FREED_SECONDS = 0.5  # the kernel gives a namespace back by and by
_REMOVED_KEPT = 100
_EXITING = 4  # PF_EXITING, of the flags in /proc/PID/stat
_STORAGE_TRIES, _STORAGE_STEP_SECONDS = 200, 0.01  # a removal waits so long for a full storage to have room again
_STILL_FULL_SECONDS = 5.0


def ended(supervisor: Supervisor, record: Record, hear: Callable[[Supervisor, Record], None]) -> None:
    """The first process has ended, and with it everything in its PID namespace.

    `hear` reads what it still had to say of its start.
    """
    slot = record.slot
    if slot is None:
        return
    status = os.waitid(os.P_PIDFD, slot.pidfd, os.WEXITED | os.WNOHANG)
    if status is None:
        return
    if record.starter is not None:
        # Ended before we heard of the exec: either it failed (its message is waiting) or it was that quick.
        while record.slot is not None and record.starter is not None and slot.status.fileno() >= 0:
            hear(supervisor, record)
        if record.slot is None:
            return
        if record.starter is not None:
            starter, record.starter = record.starter, None
            forget_slot(supervisor, record)
            unmake(supervisor, record, record.restarting)
            starter.fail("CtlabError", "the container ended before its program ran")
            return
    record.returncode = returncode(status)
    record.state = "exited"
    if record.filter is not None and record.init_sees is not None and record.returncode in _INITS_ENDS:
        who = "which" if record.init_sees is launcher.INIT_ENDS_BY else "as its program did, or as"
        text = f"{who} its init does where its filter of system calls refuses wait4 or rt_sigtimedwait"
        supervisor.tell(messages.Note(f"{record.name}: ended with {record.returncode}, {text}"))
    if slot.cgroup is not None:
        with contextlib.suppress(OSError):
            grown = (slot.cgroup.oom_kills() or 0) > record.oom_before
            record.oom_killed = grown and record.returncode != 0  # what ended well wasn't ended by that
    answer = record.ended = exit_message(record)
    waiters, record.waiters = record.waiters, []
    for waiter in waiters:  # first: whoever waits should not pay for the clearing away
        waiter.reply(answer)
    supervisor.services.name(record.name, [])
    forget_slot(supervisor, record)
    supervisor.tell(messages.Exited(record.id, *answer))
    if record.remove_at_exit:
        forget(supervisor, record)


def why_gone(supervisor: Supervisor, record: Record, slot: Slot | None) -> str:
    """Why something failed in that run of a container: if it was removed, or has ended; else "".

    As soon as its first process begins to end nobody can enter it; we hear of it when all its processes have ended.
    """
    if slot is None:
        return ""
    if supervisor.records.get(record.id) is not record:
        return f"container {record.name}: it was removed"
    over = record.slot is not slot or ending(record)
    return f"container {record.name} isn't running: its first process has ended" if over else ""


def ending(record: Record) -> bool:
    """Whether its first process is about to end, and has left its namespaces."""
    try:
        with open(f"/proc/{record.pid}/stat", encoding="utf-8", errors="replace") as file:
            return bool(int(file.read().rpartition(")")[2].split()[6]) & _EXITING)
    except OSError:
        return True


def exit_message(record: Record) -> messages.Exit:
    """What `wait` answers."""
    return messages.Exit(record.returncode, record.oom_killed, record.state, record.start_number)


def kill_slot(supervisor: Supervisor, record: Record) -> None:
    slot = record.slot
    if slot is None:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
    end_below(record)
    orphans.wait_for(supervisor, slot, lambda: end_below(record))
    forget_slot(supervisor, record)


def end_below(record: Record) -> None:
    """What a container under a filter of its own has frozen itself would outlive its SIGKILL; who freezes goes, too."""
    if record.filter is not None and record.slot is not None and record.slot.cgroup is not None:
        with contextlib.suppress(OSError):
            record.slot.cgroup.end_below()


def forget_slot(supervisor: Supervisor, record: Record) -> None:
    """The processes are gone: close what belonged to them; the folders go when nobody waits."""
    slot, record.slot = record.slot, None
    if slot is None:
        return
    supervisor.freed_until = supervisor.now() + _FREED_SECONDS
    execution.let_runners_go(record)
    supervisor.off(slot.pidfd)
    os.close(slot.pidfd)
    if slot.status.fileno() >= 0:
        supervisor.off(slot.status.fileno())
        slot.status.close()
    for descriptor in (slot.out, slot.err, *record.terminals):
        if descriptor >= 0:
            os.close(descriptor)
    record.terminals = []
    links = [number for _, veth in record.links if (number := supervisor.node.close(veth))]

    def clear() -> None:
        let_holder_go(supervisor, slot)
        folder = slot.cgroup

        def read() -> None:
            if folder is not None:
                _remove_folder(supervisor, folder, 50)

        supervisor.services.sample_last(record, slot, read)
        supervisor.pool.bury(slot.serial)

    supervisor.later(clear)
    if links:
        supervisor.after(_LEFTOVER_SECONDS, lambda: supervisor.node.delete_leftovers(links))


def let_holder_go(supervisor: Supervisor, slot: Slot) -> None:
    """The slot's memory is needed no more, or by the slot alone: end the process that shares it."""
    pidfd, slot.holder = slot.holder, -1
    if pidfd < 0:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def ended() -> None:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None:
            supervisor.off(pidfd)
            os.close(pidfd)

    supervisor.on(pidfd, ended)


def _remove_folder(supervisor: Supervisor, folder: Any, tries: int) -> None:
    if not folder.remove(0.0) and tries:
        supervisor.after(0.02, lambda: _remove_folder(supervisor, folder, tries - 1))


def unmake(supervisor: Supervisor, record: Record, again: bool) -> None:
    """A start failed: take back the node's side, and forget the container if it is new."""
    if record.slot is not None:
        kill_slot(supervisor, record)
    supervisor.node.undo(record.node_undo)
    record.node_undo = []
    supervisor.services.name(record.name, [])
    record.starter = None
    if again:
        record.state = "exited"
    else:
        forget(supervisor, record)


def wait(supervisor: Supervisor, call: Call) -> None:
    """Answer when the container has exited."""
    record, number = supervisor.record(call.message.id), call.message.start
    if record.ended is not None and number and record.start_number > number:
        ended = record.ended
        unknown = messages.Exit(None, False, "exited", number)  # there was another since
        call.reply(ended if ended.start == number else unknown)
    elif record.slot is None:
        call.reply(exit_message(record))
    else:
        record.waiters = [waiter for waiter in record.waiters if not waiter.given_up()]  # some gave up
        record.waiters.append(call)


def send_signal(supervisor: Supervisor, call: Call) -> None:
    """Send a signal to the first process. Answers whether that process would see it at all."""
    record = supervisor.record(call.message.id)
    if record.slot is None:
        raise Refused("StateError", f"container {record.name} isn't running")
    if call.message.start not in (0, record.start_number):
        raise Refused("StateError", f"container {record.name} has ended, and was started again")
    number = call.message.signal
    seen = number in (signal.SIGKILL, signal.SIGSTOP) or catches(record, number)
    if seen or not call.message.only_if_seen:
        if number == signal.SIGKILL and record.state == "paused" and record.slot.cgroup is not None:
            record.slot.cgroup.thaw()
        memory_killed(record)  # what was killed earlier isn't why it ends now
        signal.pidfd_send_signal(record.pidfd, number)
        if number == signal.SIGKILL:
            end_below(record)
    call.reply(messages.Seen(seen))


def memory_killed(record: Record) -> bool:
    """Whether something in it was killed for its memory limit since this was last asked: then that is accounted for."""
    if record.slot is None:
        return record.oom_killed
    before = record.oom_before
    if record.slot.cgroup is not None:
        with contextlib.suppress(OSError):
            record.oom_before = record.slot.cgroup.oom_kills() or 0
    return record.oom_before > before


def memory_kills(supervisor: Supervisor, call: Call) -> None:
    """An exec's program has ended by SIGKILL: the owner asks whether the limit of memory was the reason."""
    call.reply(messages.Killed(memory_killed(supervisor.record(call.message.id))))


def catches(record: Record, number: int) -> bool:
    """Whether the first process would see a signal: PID 1 of a namespace sees what it handles or waits for.

    Who waits for signals (tini, systemd, our init) blocks them, and does not while it waits: then it is in that call.
    """
    if record.init_sees is not None:
        return number in record.init_sees
    return (
        has_signal(record.pid, "SigCgt", number) or has_signal(record.pid, "SigBlk", number)
        or _waits_for_signals(record.pid)
    )  # fmt: skip


def _waits_for_signals(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        return int(file.read().split()[0]) == syscalls.RT_SIGTIMEDWAIT
    return False


def has_signal(pid: int, which: str, number: int) -> bool:
    """Whether a signal is in one of the sets that /proc shows of a process: ``SigCgt``, ``SigIgn``, ``SigBlk``."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{which}:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return False


def remove(supervisor: Supervisor, call: Call) -> None:
    """Kill if it runs, then forget the container and all it wrote; of one that has gone already there is nothing."""
    record = supervisor.records.get(call.message.id)
    if record is None:
        call.reply(messages.Ok())
        return
    if record.slot is not None:
        if record.state == "paused" and record.slot.cgroup is not None:
            with contextlib.suppress(OSError):
                record.slot.cgroup.thaw()
        kill_slot(supervisor, record)
        supervisor.services.name(record.name, [])
        record.returncode, record.state = 128 + signal.SIGKILL, "removed"
        for waiter in record.waiters:
            waiter.reply(exit_message(record))
        record.waiters = []
    full = bool(storage.hint()) and supervisor.now() >= supervisor.full_until
    forget(supervisor, record)
    _answer_with_room(supervisor, call, _STORAGE_TRIES if full else 0)


def _answer_with_room(supervisor: Supervisor, call: Call, tries: int) -> None:
    """Say that it is removed; of a full storage once there is room again, for which it may have been removed."""
    full = tries and storage.hint()
    if full and tries > 1:
        supervisor.after(_STORAGE_STEP_SECONDS, lambda: _answer_with_room(supervisor, call, tries - 1))
        return
    if full:  # it wasn't what fills it; the next ones need not wait as long again
        supervisor.full_until = supervisor.now() + _STILL_FULL_SECONDS
    call.reply(messages.Ok())


def forget(supervisor: Supervisor, record: Record) -> None:
    if supervisor.records.pop(record.id, None) is not None:
        supervisor.removed[record.id] = record.name
        if len(supervisor.removed) > _REMOVED_KEPT:
            del supervisor.removed[next(iter(supervisor.removed))]
    supervisor.services.outputs.forget(record)
    os.close(record.ring)
    record.ring = -1
    if record.private >= 0:
        supervisor.later(lambda: supervisor.pool.clear_away(record.private))
        if storage.hint():
            supervisor.catch_up()


VERBS = {
    messages.Wait: wait,
    messages.Signal: send_signal,
    messages.Remove: remove,
    messages.MemoryKills: memory_kills,
}
