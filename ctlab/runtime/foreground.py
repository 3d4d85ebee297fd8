"""An interrupt of what runs in the foreground, as Ctrl-C in a terminal is one: for the whole process group.

Of a container that is the group of its first process. As PID 1 of its namespace that process sees no signal by which
any other would end. So it is ended for that, and not before the others have done what they do when they are
interrupted: a shell would go on with its next command, and with its end the kernel kills all the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import ends, inspection, messages
from .calls import Call, Refused

if TYPE_CHECKING:
    from .record import Record
    from .supervisor import Supervisor

_AT_ONCE = 64  # processes that are looked at before others are served


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
            ends.end_below(record)
        elif ends.catches(record, number) or _ignores(record.pid, number):
            if record.interrupted is not None:  # it handles interrupts by now, and isn't to be ended for an earlier one
                record.interrupted.give_up()
                record.interrupted = None
            os.killpg(record.pid, number)
            signal.pidfd_send_signal(slot.pidfd, signal.SIGCONT)  # an earlier one may have stopped it here
        else:
            signal.pidfd_send_signal(slot.pidfd, signal.SIGSTOP)
            group = Group(supervisor, record, number)  # of who is there before the signal
            os.killpg(record.pid, number)
            group.go_on()
    call.reply(messages.Ok())


def _ignores(pid: int, number: int) -> bool:
    return ends.has_signal(pid, "SigIgn", number)


class Group:
    """Waits for what an interrupt has reached, to kill the first process then; by one descriptor, one after the other.

    A container may have thousands of processes that go on, and is interrupted again and again.
    """

    def __init__(self, supervisor: Supervisor, record: Record, number: int) -> None:
        self._supervisor = supervisor
        self._record, self._slot = record, record.slot
        self._number = number
        self._left = [pid for pid in inspection.members(record) if pid != record.pid]
        self._pidfd = -1
        if record.interrupted is not None:  # this one is for all that it has waited for
            record.interrupted.give_up()
        record.interrupted = self

    def go_on(self) -> None:
        """Wait for the next one; kill the first process once there is none."""
        if self._record.interrupted is not self or self._record.slot is not self._slot:
            return
        for _ in range(min(_AT_ONCE, len(self._left))):
            if self._waits_for(self._left.pop()):
                return
        if self._left:
            self._supervisor.after(0.0, self.go_on)
            return
        self._record.interrupted = None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._record.pidfd, signal.SIGKILL)

    def _waits_for(self, pid: int) -> bool:
        """Whether it is of the group, and goes on. Who ignores the signal doesn't count: a shell's background jobs."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
            if int(group) != self._record.pid or state in "ZX" or _ignores(pid, self._number):
                return False
            self._pidfd = os.pidfd_open(pid)
        except OSError:  # it has ended, or there is no room for one more descriptor
            return False
        self._supervisor.on(self._pidfd, self._ended)
        return True

    def _ended(self) -> None:
        self.give_up()
        self.go_on()

    def give_up(self) -> None:
        """Wait no longer for the one that it waits for."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            self._supervisor.off(pidfd)
            os.close(pidfd)


VERBS: dict[type, Callable[[Supervisor, Call], None]] = {messages.Interrupt: interrupt}
