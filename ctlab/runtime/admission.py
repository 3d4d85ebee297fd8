"""Whether a container can be started, as far as that is known before anything is made, or ended, for it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import messages, room
from .calls import Call, Refused

if TYPE_CHECKING:
    from .record import Record
    from .supervisor import Supervisor


def check(supervisor: Supervisor, least: int, *, named: bool) -> None:
    """Refuse a start without the helpers that it needs, or with less than `least` descriptors left.

    What else is asked for needs some, too. `named`: it has addresses, for the resolver.
    """
    supervisor.services.needed(named=named)
    if room.left() < least:
        supervisor.pool.make_room()
        if room.left() < least:
            raise Refused("KernelError", room.full(), errno.EMFILE)


class Full(Refused):
    """A quota of the machine is used up; maybe by what has just ended."""

    def __init__(self, error: OSError) -> None:
        number = error.errno or 0
        super().__init__("KernelError", no_room(error.strerror or "", number), number)


def no_room(what: str, number: int) -> str:
    """The message for a quota of the machine that is used up: `what` is the call that the kernel refused."""
    call = what.partition("(")[0].partition(":")[0]
    return (
        f"the kernel has no room for another container: {call} gave {errno.errorcode[number]}; a quota is used up: "
        "/proc/sys/user/max_*_namespaces, a cgroup's pids.max or cgroup.max.descendants"
    )


def shared_network(supervisor: Supervisor, container_id: str) -> int:
    """The first process of the container whose network another one shares."""
    pidfd = supervisor.record(container_id).pidfd
    if pidfd < 0:
        raise Refused("StateError", "the container whose network is to be shared isn't running")
    return pidfd


def may_start(supervisor: Supervisor, call: Call) -> None:
    """Answer whether something could be started once those containers have ended: nothing is ended for nothing."""
    message: messages.MayStart = call.message
    if message.network not in ("own", "node"):
        shared_network(supervisor, message.network)
    ending = [record for record in map(supervisor.records.get, message.ended) if record is not None]
    least = room.AGAIN if message.again else room.SLOT
    least += (message.starts - 1) * (room.RUNS + room.WRITES * message.writes)  # they come one after the other
    given_back = sum(_open(record) - message.again for record in ending)  # who runs again has its ring still
    check(supervisor, least - given_back, named=message.named)
    call.reply(messages.Ok())


def _open(record: Record) -> int:
    """How many descriptors there are of a container: its ring, its process, its streams."""
    streams = {descriptor for both in record.streams.values() for descriptor in both}
    return 1 + (record.slot is not None) + len(streams)


VERBS: dict[type, Callable[[Supervisor, Call], None]] = {messages.MayStart: may_start}
