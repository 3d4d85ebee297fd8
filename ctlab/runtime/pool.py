"""Slots kept ready: containers made in advance by the nursery, so that a start is a few messages and an `exec`.

A slot has its namespaces, its root, its cgroup folders and a spare veth pair born in the node (moving one in
costs 15 ms). Pool slots are for the `system` image on the default node with a network namespace of their own;
anything else is made when it is asked for, by the same code (`birth`).
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select
from typing import TYPE_CHECKING, Any

from ..plan import ops
from . import birth, burial, messages, nursery, orders, room, storage, system_copy
from .calls import Refused
from .context import Filter
from .made import Slot, Spare
from .record import Runner

if TYPE_CHECKING:
    from .supervisor import Supervisor

RUNNERS = 4  # kept waiting for `exec`
MOST_SLOTS = 24  # what bursts can make of the number asked for
_AT_ONCE = 2  # slots being made at a time
_AHEAD = 8  # slots being made for starts that wait for them
_QUIET_SECONDS = 0.01  # after a start, before the pool is filled again
_PATIENCE_SECONDS = 0.3  # with a nursery that has been asked for a slot
_COPY_SECONDS = 5.0  # with a nursery that makes the copy of the system
_READ_SECONDS = 25.0  # for who reads what it is made of, which has 20 itself
_BUSY_SECONDS = 0.1  # before a nursery that couldn't be asked is asked again
_FULL_SECONDS = 5.0  # after a slot that could not be made
_SHRINK_SECONDS = 20.0  # after a burst, before the pool is as small as before


class Pool:
    """The slots of one lab."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._ready: list[Slot] = []
        self.operations: list[Any] = []
        self.limits: list[list[Any]] = []  # of every container, written before it is asked for
        self._wanted = 0
        self._coming = 0
        self._silent = False  # the nursery hasn't answered in time: it buries something large, or hangs
        self._expected = 0  # starts of the present batch that are still to take one
        self._next = 0
        self._goal = 0  # how many slots to have at present, at least `_wanted`
        self._was_full = False  # since it was made larger
        self._busy_until = 0.0
        self._timer_set = self._shrink_set = False
        self._runners: list[Runner] = []
        self._runners_coming = 0
        self._asked: set[int] = set()  # numbers of slots that the nursery is to make
        self._dead: list[int] = []  # those whose mounts it is to take down, and couldn't be told of yet
        self._form: dict[str, Any] | None = None  # what the nursery was told of what it makes
        self._no_system = ""  # why there is no copy of the system
        self._hear()

    def _hear(self) -> None:
        """Hear the nursery that there is."""
        control = self._supervisor.services.nursery.control
        assert control is not None
        self._heard = select.poll()
        self._heard.register(control, select.POLLIN)
        self._supervisor.on(control.fileno(), self._nursery_says_unasked)

    def renew(self) -> None:
        """The nursery has died: bury what it was making, and let the new one, if there is one, make it anew."""
        self._coming = self._runners_coming = 0
        asked, self._asked = self._asked, set()
        self._dead.clear()  # what it held is gone with it
        burial.half_made(self._supervisor, asked, {slot.private for slot in self._ready})
        self._supervisor.settle_names()
        if self._supervisor.services.nursery.control is None:
            self._wanted = self._goal = 0  # containers are made when asked for
            return
        self._hear()
        if self._form is not None:
            self._ask(self._form)
            self.refill()

    def configure(self, operations: list[list[Any]], limits: list[list[Any]], wanted: int, filter_: Filter) -> None:
        """What makes a slot (encoded), the limits and the filter of system calls that it has, how many to keep."""
        self.operations = ops.decode(operations)
        control = self._supervisor.services.nursery.control
        self._wanted = self._goal = 0 if control is None or self._no_system else wanted
        self.limits = limits
        self._supervisor.context.filter = filter_
        filters = [filter_.early, filter_.late]
        self._form = {"operations": operations, "limits": limits, "filter": filters}
        if control is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next one is told
                orders.send(control, self._form)
        while len(self._ready) > wanted:
            self.discard(self._ready.pop())
        self.refill()

    def refill(self) -> None:
        """Order what is missing, a few at a time, while nobody starts anything.

        Making a slot takes both CPUs of a small machine for some milliseconds; whoever starts containers one after
        the other wants them now. Only when the last slot is gone the next is ordered at once.
        """
        self._timer_set = False
        if self._supervisor.now() < self._busy_until and self._ready and (self._runners or self._runners_coming):
            self.refill_soon()
            return
        for _ in range(_AT_ONCE - self._coming):
            if len(self._ready) + self._coming < self._goal:
                self._order(awaited=False)
        while self._goal and len(self._runners) + self._runners_coming < RUNNERS:
            if not self._ask({"runner": True}):
                break
            self._runners_coming += 1
        if self._goal and not self._coming and len(self._ready) < self._goal and not self._timer_set:
            self._timer_set = True  # it has too much to do to be asked, or there is no room
            self._supervisor.after(_BUSY_SECONDS if self._has_room() else _FULL_SECONDS, self.refill)

    def _has_room(self) -> bool:
        """Whether one more slot may be ordered: containers need their descriptors more."""
        return room.left() >= room.SLOT * (self._coming + 1)

    def make_room(self) -> None:
        """Give up what was made in advance, so that what it has open can be a container's."""
        while self._ready and room.left() < room.SLOT:
            self.discard(self._ready.pop())

    def refill_soon(self) -> None:
        """Look a moment later whether something is missing; at once if nothing is left."""
        if (not self._ready and not self._coming) or (not self._runners and not self._runners_coming):
            self.refill()
        elif not self._timer_set:
            self._timer_set = True
            self._supervisor.after(_QUIET_SECONDS, self.refill)

    def _used(self) -> None:
        """A slot was taken. A burst that nearly empties a full pool makes it larger for the next one, for a while."""
        self._busy_until = self._supervisor.now() + _QUIET_SECONDS
        self._expected = max(0, self._expected - 1)
        if len(self._ready) <= 1 and self._wanted and self._was_full:
            self._was_full = False
            self._goal = min(max(MOST_SLOTS, self._wanted), self._goal * 2)
            if not self._shrink_set:
                self._shrink_set = True
                self._supervisor.after(_SHRINK_SECONDS, self._shrink)

    def _pause(self) -> None:
        """Make no slots for a while."""
        wanted, self._goal = self._wanted, 0
        self._supervisor.after(_FULL_SECONDS, lambda: self._again(wanted))

    def _again(self, wanted: int) -> None:
        """Try again after a failure."""
        if not self._goal and self._wanted == wanted:
            self._goal = wanted
            self.refill()

    def _shrink(self) -> None:
        if self._supervisor.now() < self._busy_until + _SHRINK_SECONDS / 2:
            self._supervisor.after(_SHRINK_SECONDS, self._shrink)
            return
        self._shrink_set = False
        self._goal = self._wanted
        while len(self._ready) > self._goal:
            self.discard(self._ready.pop())

    def take_runner(self, filter_: Filter | None) -> Runner:
        """A process ready to run something in a container; made here and now if none is waiting.

        `filter_`: of system calls, where it isn't the lab's.
        """
        while self._runners and filter_ is None:
            found = self._runners.pop(0)
            if os.waitid(os.P_PIDFD, found.pidfd, os.WEXITED | os.WNOHANG) is None:
                return found
            found.control.close()
            os.close(found.pidfd)
        ours, theirs = orders.pair()
        supervisor = self._supervisor
        context = supervisor.context
        pidfd = nursery.new_runner(ours, theirs, context, filter_ or context.filter, sibling=False)
        return Runner(ours, pidfd)

    def _nursery_says_unasked(self) -> None:
        if self._heard.poll(0):  # else a call that was served before this has taken it meanwhile
            self._nursery_says()

    def _nursery_says(self) -> None:
        self._silent = False
        try:
            control = self._supervisor.services.nursery.control
            assert control is not None
            message, descriptors = orders.receive(control)
        except OSError:  # no room for its descriptors: whatever it was, it won't come again
            self._coming = self._runners_coming = 0
            raise
        if message is None:
            self._supervisor.services.nursery.died()
            return
        if "note" in message:
            self._supervisor.tell(messages.Note(f"nursery: {message['note']}"))
            return
        if "renamed" in message:
            self._supervisor.renamed(message["renamed"])
            return
        if "copied" in message:
            self._copied(message)
            return
        if "runner" in message:
            self._runners_coming = max(0, self._runners_coming - 1)
            self._runners.append(Runner(_socket.socket(fileno=descriptors[1]), descriptors[0]))
            return
        if "runner-failed" in message:
            self._runners_coming = max(0, self._runners_coming - 1)
            return
        self._coming = max(0, self._coming - 1)
        self._asked.discard(message["made"] if "made" in message else message["failed"])
        if "failed" in message:
            for pid in message["born"]:  # killed by the nursery, but our children
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED)
            if self._no_system:
                return  # it was ordered before that was known
            # The machine is full, for now: meanwhile containers are made when asked for, and say so themselves.
            why = storage.hint() or message["message"]
            self._supervisor.tell(messages.Note(f"no slot could be made: {why}"))
            self._pause()
            return
        made = Slot(message["made"], message["made"])
        made.pid = message["pid"]
        made.pidfd, status, made.out, made.err, made.holder = descriptors
        made.status = _socket.socket(fileno=status)
        made.spare = Spare(*message["spare"])
        if self._supervisor.folders is not None:
            made.cgroup = self._supervisor.folders.adopt(f"c{made.serial}")
        spare = len(self._ready) >= max(1, self._goal) and not self._expected  # of a batch that has failed
        if spare or self._no_system:  # or its root lies on nothing
            self.discard(made)
            return
        self._ready.append(made)
        self._was_full = self._was_full or len(self._ready) >= self._goal
        if len(self._ready) + self._coming < self._goal:
            self.refill_soon()

    def _copied(self, message: dict[str, Any]) -> None:
        """The copy that containers of the image `system` lie on is there, or can't be had."""
        context = self._supervisor.context
        if context.system is not None:
            context.system.close()
            context.system = None
        if not message["copied"]:
            self._no_system = (
                f"the image system can't be had: this machine's /etc and /var: {message['why']}; start another lab, or "
                "use another image"
            )
            self._wanted = self._goal = 0  # whoever starts one hears of it
            self._coming = 0  # nor does anybody wait for one that is being made on nothing
        for note in message["notes"]:
            self._supervisor.tell(messages.Note(note))

    def _need_copy(self) -> None:
        """Wait for that copy. Raises Refused where there will be none."""
        while self._supervisor.context.system is not None:
            if self._supervisor.services.nursery.control is None:
                if not self._supervisor.context.system.wait(_READ_SECONDS):
                    text = "the image system can't be had yet: who reads this machine's /etc doesn't answer"
                    raise Refused("KernelError", text)
                self._copied(system_copy.Copy(self._supervisor.context.system).attach())
            elif self._heard.poll(_COPY_SECONDS * 1000):
                self._nursery_says()
            else:  # one that hangs in it holds nobody up for ever
                self._supervisor.services.nursery.died()
        if self._no_system:
            raise Refused("KernelError", self._no_system)

    def expect(self, count: int) -> None:
        """So many starts follow one another at once, each of which will take a slot (0: that is over)."""
        self._expected = count
        if count:
            self._order_ahead()

    def _order_ahead(self) -> None:
        """Order what the starts at hand will have to wait for; not too many, or the answers would fill the socket."""
        if self._goal:
            for _ in range(min(max(1, self._expected) - len(self._ready), _AHEAD) - self._coming):
                self._order(awaited=True)

    def _order(self, *, awaited: bool) -> None:
        if not self._has_room():
            return
        number = self.number()
        if self._ask({"make": number, "awaited": awaited}):
            self._coming += 1
            self._asked.add(number)

    def _ask(self, message: dict[str, Any], descriptors: list[int] | None = None) -> bool:
        """Ask the nursery for something; False if it is dead, or has so much to do that it can't be asked now."""
        control = self._supervisor.services.nursery.control
        if control is None:
            return False
        try:
            orders.send(control, message, descriptors or (), flags=_socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def take(self) -> Slot | None:
        """A slot, oldest first; one that is being made is waited for. None: make one here."""
        self._order_ahead()
        while self._ready or self._coming:
            if not self._ready:
                if not self._heard.poll(0 if self._silent else _PATIENCE_SECONDS * 1000):
                    self._silent = True
                    return None
                self._nursery_says()
                continue
            found = self._ready.pop(0)
            if os.waitid(os.P_PIDFD, found.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                self._used()
                return found
            self.discard(found)
            self._pause()  # who makes it when asked for hears why it died
        return None

    def number(self) -> int:
        """A fresh number: names a slot's cgroup folder and its private folder."""
        self._next += 1
        return self._next

    def make(
        self,
        operations: list[Any],
        keep: int,
        filter_: Filter | None,
        *,
        private: int | None = None,
        network_of: int = -1,
    ) -> Slot:
        """Make a slot here and now; `keep`: its capabilities, `filter_`: of system calls, where it isn't the lab's."""
        if any(isinstance(one, ops.SystemRoot) for one in operations[:2]):
            self._need_copy()
        order = birth.Order(
            operations, self.number(), limits=self.limits, private=private, network_of=network_of, keep=keep,
            filter_=filter_,
        )  # fmt: skip
        made = birth.make(order, self._supervisor.context, self._supervisor.node_link)
        if made.mount_namespace >= 0:
            self._ask({"hold": made.serial}, [made.mount_namespace])
            os.close(made.mount_namespace)
            made.mount_namespace = -1
        return made

    def bury(self, number: int) -> None:
        """Let the nursery take the mounts of an ended container, or of a slot, down."""
        if self._supervisor.services.nursery.control is None:
            return
        self._dead.append(number)
        if len(self._dead) == 1:
            self._bury()

    def _bury(self) -> None:
        while self._dead and self._ask({"bury": self._dead[0], "private": -1}):
            del self._dead[0]
        if self._dead:  # it has too much to do to be asked
            self._supervisor.after(_BUSY_SECONDS, self._bury)

    def rename(self, number: int, name: str, alias: str) -> bool:
        """Let the nursery give a link its name; whether it will."""
        return self._ask({"rename": number, "name": name, "alias": alias})

    def clear_away(self, private: int) -> None:
        """Let the nursery remove the private folder of a container that is gone for good."""
        if storage.hint() or not self._ask({"bury": -1, "private": private}):
            self._supervisor.tree.remove_private(private)

    def discard(self, unused: Slot) -> None:
        """End a slot and remove what was made for it."""
        birth.end(unused)
        self.bury(unused.serial)
        if unused.cgroup is not None:
            unused.cgroup.remove(1.0)
        self._supervisor.tree.remove_private(unused.private)


def without_network(operations: list[Any]) -> list[Any]:
    """The operations of a slot that keeps, or joins, another network namespace."""
    unshare = operations[0]
    return [ops.Unshare([kind for kind in unshare.kinds if kind != "net"]), *operations[1:]]
