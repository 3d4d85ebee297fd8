"""An interrupt of what runs in the foreground, as Ctrl-C in a terminal is one: for the whole process group.

Of a container that is the group of its first process. As PID 1 of its namespace that process sees no signal by which
any other would end. So it is ended for that, and not before the others have done what they do when they are
interrupted: a shell would go on with its next command, and with its end the kernel kills all the others.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import ends, inspection, messages
from .calls import Call, Refused

if TYPE_CHECKING:
    from .made import Slot
    from .record import Record
    from .supervisor import Supervisor


def interrupt(supervisor: Supervisor, call: Call) -> None:
    """A signal to the process group of a container's first process."""
    record, number = supervisor.record(call.message.id), call.message.signal
    slot = record.slot
    if slot is None:
        raise Refused("StateError", f"container {record.name} isn't running")
    if call.message.start not in (0, record.start_number):
        raise Refused("StateError", f"container {record.name} has ended, and was started again")
    ends.memory_killed(record)  # what was killed earlier isn't why it ends now
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            if record.state == "paused" and slot.cgroup is not None:
                slot.cgroup.thaw()
            signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)  # and the kernel kills the others
            ends.thaw_own(record)
        elif ends.catches(record, number) or _ignores(record.pid, number):
            os.killpg(record.pid, number)
            signal.pidfd_send_signal(slot.pidfd, signal.SIGCONT)  # an earlier one may have stopped it here
        else:
            signal.pidfd_send_signal(slot.pidfd, signal.SIGSTOP)
            others = _others(record, number)
            os.killpg(record.pid, number)
            _end_after(supervisor, record, slot, others)
    call.reply(messages.Ok())


def _others(record: Record, number: int) -> list[int]:
    """Pidfds of the others in the group, without those that ignore the signal: a shell's jobs in the background do."""
    found = []
    for pid in inspection.members(record):
        with contextlib.suppress(OSError):  # it has just ended, or there is no room for one more descriptor
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
            if pid != record.pid and int(group) == record.pid and state not in "ZX" and not _ignores(pid, number):
                found.append(os.pidfd_open(pid))
    return found


def _ignores(pid: int, number: int) -> bool:
    return ends.has_signal(pid, "SigIgn", number)


def _end_after(supervisor: Supervisor, record: Record, slot: Slot, others: list[int]) -> None:
    """Kill the first process once these have ended."""
    left = set(others)

    def kill() -> None:
        if record.slot is slot:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)

    def ended(pidfd: int) -> None:
        supervisor.off(pidfd)
        os.close(pidfd)
        left.discard(pidfd)
        if not left:
            kill()

    for pidfd in others:
        supervisor.on(pidfd, functools.partial(ended, pidfd))
    if not others:
        kill()


VERBS: dict[type, Callable[[Supervisor, Call], None]] = {messages.Interrupt: interrupt}
