"""The supervisor's helpers, each a forked child: collector, resolver, sampler."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import describe_bug
from ..kernel import netlink, syscalls, title
from ..metrics import columns as metric_columns
from ..metrics import sampler
from ..metrics.ring import Ring
from . import collector, messages, packets, protocol, resolver
from .record import Record

if TYPE_CHECKING:
    from .supervisor import Supervisor


RING_ROWS = 1 << 17  # at ten samples a second: two minutes of a hundred containers; pages are taken when reached


class Services:
    """The helpers of one lab and the messages to them."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._syncing: dict[int, Callable[[], None]] = {}
        self._sync_number = 0
        self.pids: dict[str, int] = {}
        self.container_ring = Ring.create(metric_columns.CONTAINERS_SCHEMA, RING_ROWS).fd
        self.endpoint_ring = Ring.create(metric_columns.ENDPOINTS_SCHEMA, RING_ROWS).fd
        self._collector = self.start("collector", collector.main)
        self._resolver = self.start("resolver", resolver.main)
        interval = supervisor.start.interval_seconds
        containers, endpoints = self.container_ring, self.endpoint_ring
        self._sampler = self.start(
            "sampler",
            lambda control: sampler.main(control, containers, endpoints, interval),
            keep={containers, endpoints},
        )
        link = netlink.Netlink()
        protocol.send(self._sampler, {"do": "node", "name": "host"}, [link.fileno()])
        link.close()
        supervisor.on(self._collector.fileno(), self._collector_says)
        supervisor.on(self._sampler.fileno(), self._sampler_says)

    def start(self, name: str, main: Callable[[socket.socket], Any], keep: set[int] | None = None) -> socket.socket:
        ours, theirs = protocol.pair()
        pid, pidfd = syscalls.clone3_python(0)
        if pid == 0:
            self._become(name, theirs, self._supervisor.events, main, keep or set())
        theirs.close()
        self.watch(name, pid, pidfd)
        return ours

    def watch(self, name: str, pid: int, pidfd: int) -> None:
        """Tell when a helper ends."""
        self.pids[name] = pid
        self._supervisor.on(pidfd, lambda: self._ended(name, pidfd))

    @staticmethod
    def _become(
        name: str, control: socket.socket, report: socket.socket, main: Callable[[socket.socket], Any], keep: set[int]
    ) -> NoReturn:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            syscalls.close_all_but({control.fileno(), report.fileno(), *keep})
            title.set_title(f"ctlab {name}")
            main(control)
        except Exception as error:
            with contextlib.suppress(OSError):
                packets.send(report, protocol.pack(messages.Note(f"{name}: {describe_bug(error)}")))
        finally:
            os._exit(1)

    def _ended(self, name: str, pidfd: int) -> None:
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self._supervisor.off(pidfd)
        os.close(pidfd)
        self._supervisor.tell(messages.HelperDied(name, status.si_status if status else 0))

    # -- collector ------------------------------------------------------------------------------
    def collect(self, record: Record, out: int, err: int) -> None:
        """Keep what a container writes from now on."""
        protocol.send(self._collector, {"do": "add", "key": record.key}, [out, err, record.ring])

    def sync(self, record: Record, then: Callable[[], None]) -> None:
        """Call `then` once everything that was written by now has been collected."""
        self._sync_number += 1
        self._syncing[self._sync_number] = then
        try:
            protocol.send(self._collector, {"do": "sync", "key": record.key, "sync": self._sync_number})
        except OSError:
            del self._syncing[self._sync_number]
            raise

    def follow(self, record: Record, follower: int, eventfd: int) -> None:
        """Tell `eventfd` whenever there is more."""
        protocol.send(self._collector, {"do": "follow", "key": record.key, "follower": follower}, [eventfd])

    def unfollow(self, record: Record, follower: int) -> None:
        """Tell it no more."""
        with contextlib.suppress(OSError):
            protocol.send(self._collector, {"do": "unfollow", "key": record.key, "follower": follower})

    def forget_output(self, record: Record) -> None:
        """The container is removed."""
        with contextlib.suppress(OSError):
            protocol.send(self._collector, {"do": "drop", "key": record.key})

    def _collector_says(self) -> None:
        message, _, _ = protocol.receive(self._collector)
        if message is None:
            self._supervisor.off(self._collector.fileno())
            for then in self._syncing.values():
                then()
            self._syncing.clear()
            return
        self._syncing.pop(message["synced"])()

    # -- resolver -------------------------------------------------------------------------------
    def name(self, name: str, endpoints: list[Any]) -> None:
        """`name` has these addresses: [[network, [address, …]], …]; none: it is gone."""
        with contextlib.suppress(OSError):
            protocol.send(self._resolver, {"name": name, "endpoints": endpoints})

    def listen(self, address: str) -> None:
        """Answer on one more address; returns when it does."""
        protocol.send(self._resolver, {"listen": address})
        protocol.receive(self._resolver)

    def deaf(self, address: str) -> None:
        """Answer no more there."""
        with contextlib.suppress(OSError):
            protocol.send(self._resolver, {"deaf": address})

    # -- sampler --------------------------------------------------------------------------------
    def sample(self, record: Record) -> None:
        """Read this container's counters from now on."""
        slot = record.slot
        if slot is None:
            return
        with contextlib.suppress(OSError):
            if slot.cgroup is not None:
                source, folders = slot.cgroup.stat_fds()
                try:
                    protocol.send(
                        self._sampler,
                        {"do": "add", "key": record.key, "source": source, "controllers": list(folders)},
                        list(folders.values()),
                    )
                finally:
                    for descriptor in folders.values():
                        os.close(descriptor)
            else:
                # An init of ours hides its own; a program that has ended already has none, and is not sampled.
                own = record.namespaces.get("pid", f"/proc/{slot.pid}/ns/pid")
                message = {
                    "do": "add", "key": record.key, "source": "proc", "pid": slot.pid, "namespace": os.stat(own).st_ino,
                }  # fmt: skip
                proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    protocol.send(self._sampler, message, [proc])
                finally:
                    os.close(proc)
            self.sample_links(record)

    def sample_links(self, record: Record) -> None:
        """The container's endpoints have changed."""
        links = []
        for key, veth in record.links:
            with contextlib.suppress(OSError):
                links.append([key, self._supervisor.node.index(veth)])
        with contextlib.suppress(OSError):
            protocol.send(self._sampler, {"do": "endpoints", "key": record.key, "links": links, "node": "host"})

    def sample_no_more(self, record: Record) -> None:
        """The container's program has ended."""
        with contextlib.suppress(OSError):
            protocol.send(self._sampler, {"do": "remove", "key": record.key})

    def sampler_control(self, message: dict[str, Any]) -> None:
        """Pass an order on (interval, pause, resume)."""
        protocol.send(self._sampler, message)

    def _sampler_says(self) -> None:
        message, _, _ = protocol.receive(self._sampler)
        if message is None:
            self._supervisor.off(self._sampler.fileno())
            return
        if "error" in message:
            self._supervisor.tell(messages.SamplerError(message["error"]))
