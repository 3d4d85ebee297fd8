"""The supervisor's helpers: collector (see `outputs`), nursery (see `pool`), resolver, sampler, and what these hear."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..kernel import netlink
from ..metrics import columns as metric_columns
from ..metrics import sampler
from ..metrics.ring import Ring
from . import messages, nursery, protocol, resolver
from .calls import Refused
from .helper import DEAD, Helper
from .outputs import Outputs
from .record import Record

if TYPE_CHECKING:
    from .made import Slot
    from .supervisor import Supervisor


RING_ROWS = 1 << 17  # at ten samples a second: two minutes of a hundred containers; pages are taken when reached
_SAMPLER_SECONDS = 1.0  # that anybody waits for it


class Services:
    """The helpers of one lab and the messages to them."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.container_ring = Ring.create(metric_columns.CONTAINERS_SCHEMA, RING_ROWS).fd
        self.endpoint_ring = Ring.create(metric_columns.ENDPOINTS_SCHEMA, RING_ROWS).fd
        self.outputs = Outputs(supervisor)
        self._names: dict[str, tuple[str, list[Any]]] = {}  # in lower case -> the name, its endpoints
        self._addresses: dict[str, None] = {}  # that are answered on
        self._resolver = Helper(
            supervisor, "resolver", resolver.main,
            lost="questions for names that came meanwhile have no answer",
            without="no name of a container is found any more",
            renew=self._renew_resolver,
        )  # fmt: skip
        self._resolver.start()
        self._addresses["127.0.0.11"] = None
        self._resolver.send({"listen": "127.0.0.11"})
        containers, endpoints = self.container_ring, self.endpoint_ring
        self._interval = supervisor.start.interval_seconds
        self._paused = False
        self._asked = 0  # orders to the sampler of which the end is waited for
        self._then: dict[int, Callable[[], None]] = {}  # the number of such an order -> what comes after it
        self._sampler = Helper(
            supervisor, "sampler", lambda control: sampler.main(control, containers, endpoints, self._interval),
            lost="the counters of that moment are missing",
            without="there are no newer counters",
            renew=self._renew_sampler, hear=self._sampler_says, keep=lambda: {containers, endpoints},
        )  # fmt: skip
        self._sampler.start()
        self._give_sampler()
        self.nursery: Helper = Helper(
            supervisor, "nursery", lambda control: nursery.again(control, supervisor.context),
            lost="nothing is lost, but starts took longer meanwhile",
            without="starts take longer, since nothing is made in advance",
            renew=lambda: supervisor.pool.renew(), keep=supervisor.context.descriptors,
        )  # fmt: skip

    @property
    def pids(self) -> dict[str, int]:
        """The helpers that there are."""
        helpers = (self.nursery, self.outputs.collector, self._resolver, self._sampler)
        return {helper.name: helper.pid for helper in helpers if helper.control is not None}

    def needed(self, *, named: bool) -> None:
        """Raises Refused where a helper is missing that a start needs, the resolver for one that is `named`."""
        self.outputs.collector.needed()
        if named:
            self._resolver.needed()

    # -- resolver -------------------------------------------------------------------------------
    def name(self, name: str, endpoints: list[Any]) -> None:
        """`name` has these addresses: [[network, [address, …]], …]; none: it is gone."""
        if not endpoints and self._names.pop(name.lower(), None) is None:
            return
        if not endpoints and self._resolver.control is None:
            return
        if endpoints:
            self._resolver.needed()
            self._names[name.lower()] = name, endpoints
        self._resolver.send({"name": name, "endpoints": endpoints})

    def listen(self, address: str) -> None:
        """Answer on one more address; returns when it does. Raises OSError, Refused."""
        self._addresses[address] = None
        control = self._resolver.control
        try:
            self._resolver.send({"listen": address})
            if self._resolver.control is control:  # else a new one has been told of all addresses
                self._listening(address)
        except BaseException:
            del self._addresses[address]
            raise

    def _listening(self, address: str) -> None:
        """Wait until it answers there."""
        told: protocol.Message | None = {}
        while told is not None and told.get("listening") != address:
            told = self._resolver.answer()
        if told is None:
            self._resolver.died()
            self._resolver.needed()
        elif told["errno"]:
            raise OSError(told["errno"], os.strerror(told["errno"]))

    def _renew_resolver(self) -> None:
        if self._resolver.control is None:
            return
        for name, endpoints in self._names.values():
            self._resolver.send({"name": name, "endpoints": endpoints})
        for address in self._addresses:
            self._resolver.send({"listen": address})
        for _ in self._addresses:
            told = self._resolver.answer()
            if told is None:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # it has died again, or is silent
            if told["errno"]:
                why = os.strerror(told["errno"])
                text = f"the lab's resolver, started anew, can't answer on {told['listening']} any more: {why}"
                self._supervisor.tell(messages.Note(text))

    def stop_listening(self, address: str) -> None:
        """Answer no more there."""
        self._addresses.pop(address, None)
        if self._resolver.control is not None:
            self._resolver.send({"stop": address})

    # -- sampler --------------------------------------------------------------------------------
    def sample(self, record: Record) -> None:
        """Read this container's counters from now on."""
        slot = record.slot
        if slot is None or self._sampler.control is None:
            return
        if record.sampled is not None and record.sampled is not slot:
            self.sample_last(record, record.sampled)  # of an earlier run, which is being cleared away
        record.sampled = slot
        with _unless_silent():
            if slot.cgroup is not None:
                self._sampler.send({"do": "add", "key": record.key, "group": slot.cgroup.id})
            else:
                own = f"/proc/{slot.pid}/ns/pid"  # a program that has ended already has none, and is not sampled
                message = {"do": "add", "key": record.key, "pid": slot.pid, "namespace": os.stat(own).st_ino}
                proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._sampler.send(message, [proc])
                finally:
                    os.close(proc)
            self.sample_links(record)

    def sample_links(self, record: Record) -> None:
        """The container's endpoints have changed."""
        if record.sampled is None or self._sampler.control is None:
            return  # it is told of them when the container is worth reading
        links = []
        for key, veth in record.links:
            with contextlib.suppress(OSError):
                links.append([key, self._supervisor.node.index(veth)])
        with _unless_silent():
            self._sampler.send({"do": "endpoints", "key": record.key, "links": links, "node": "host"})

    def sample_last(self, record: Record, slot: Slot, then: Callable[[], None] = lambda: None) -> None:
        """The container's program has ended: read its counters for the last time, of a short one for the first.

        `then`: what is to be done once they have been read, or can't be.
        """
        sampled = record.sampled is slot
        ran = record.sampled is None and record.returncode is not None and slot.cgroup is not None
        if self._sampler.control is None or not (sampled or ran):  # else it has been read, when the next run began
            then()
            return
        record.sampled = None
        if not sampled and slot.cgroup is not None:
            with _unless_silent():
                self._sampler.send({"do": "add", "key": record.key, "group": slot.cgroup.id})
        self._order({"do": "remove", "key": record.key}, then)

    def sample_now(self, then: Callable[[], None]) -> None:
        """Read everything once, also what has only just begun; `then`: when that has been done, or can't be."""
        for record in list(self._supervisor.records.values()):
            if record.state == "running" and record.slot is not None and record.sampled is not record.slot:
                self.sample(record)
        self._order({"do": "now"}, then)

    def _order(self, order: dict[str, Any], then: Callable[[], None]) -> None:
        """Let the sampler do it; `then`: once it says so, has died, or has been silent for a second."""
        number = self._asked = self._asked + 1
        self._then[number] = then
        self._supervisor.after(_SAMPLER_SECONDS, lambda: self._done(number))
        with contextlib.suppress(OSError, Refused):
            self._sampler.send({**order, "reply": number})
            return
        self._done(number)

    def _done(self, number: int) -> None:
        self._then.pop(number, lambda: None)()

    def sampler_control(self, message: dict[str, Any]) -> None:
        """Pass an order on (interval, pause, resume). Raises Refused."""
        self._sampler.needed()
        if message.get("do") == "interval":
            self._interval = message["seconds"]
        else:
            self._paused = message.get("do") == "pause"
        self._sampler.send(message)

    def _give_sampler(self) -> None:
        """What it reads by: the node's links, the folders in which each container has its own."""
        if self._supervisor.folders is not None:
            source, folders = self._supervisor.folders.stat_folders()
            self._sampler.send({"do": "folders", "source": source, "controllers": [*folders]}, [*folders.values()])
        link = netlink.Netlink()
        try:
            self._sampler.send({"do": "node", "name": "host"}, [link.fileno()])
        finally:
            link.close()

    def _renew_sampler(self) -> None:
        for number in list(self._then):  # the dead one won't say it
            self._done(number)
        if self._sampler.control is None:
            return
        self._give_sampler()
        if self._paused:
            self._sampler.send({"do": "pause"})
        for record in list(self._supervisor.records.values()):
            if record.sampled is not None and record.sampled is record.slot:
                self.sample(record)

    def _sampler_says(self, message: protocol.Message) -> None:
        if "error" in message:
            self._supervisor.tell(messages.SamplerError(message["error"]))
        elif "reply" in message:
            self._done(message["reply"])
        elif "note" in message:
            self._supervisor.tell(messages.Note(message["note"]))


@contextlib.contextmanager
def _unless_silent() -> Iterator[None]:
    """What can't be read is not sampled; but that a new sampler takes nothing either has to be heard."""
    try:
        yield
    except OSError as error:
        if error.errno in DEAD:
            raise
