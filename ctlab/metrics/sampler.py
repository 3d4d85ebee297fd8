"""The process that reads the counters.

Runs in a child forked inside the lab: one thread, standard library, everything imported before the fork (after it
there may be no file system to import from). It is told what to read over a SEQPACKET socket and writes rows into
two rings; it never waits for a reader. Ticks lie on a fixed grid of the monotonic clock, so that lateness doesn't
add up; a deadline that passed during a long tick is skipped and counted, never made up for.

Messages are JSON objects with descriptors beside them (SCM_RIGHTS):

====================================================================================================  ===========
``{"do": "folders", "source": "cgroup-v1", "controllers": ["cpuacct", "memory", ...]}``                 a folder each,
                                                                                                       of the lab's
``{"do": "add", "key": 1, "group": "c7"}`` (a folder in those)                                          –
``{"do": "add", "key": 1, "pid": 7}`` (the pid as that /proc shows it; and ``"namespace": inode``       a /proc; may be
of the PID namespace: the process may have ended meanwhile)                                             left out later
``{"do": "node", "name": "host"}``                                                                      netlink socket
``{"do": "endpoints", "key": 1, "links": [[endpoint key, interface index], ...], "node": "host"}``      –
``{"do": "remove", "key": 1}``, ``{"do": "interval", "seconds": 0.5}``, ``pause``, ``resume``, ``stop``   –
``{"do": "now"}`` (read everything once more, beside the grid)                                        –
====================================================================================================  ===========

The interfaces named are the node's ends of the veth pairs: what they send, the container receives. An
``endpoints`` message replaces the container's list. Any message may carry ``"reply": n``; once it has been carried
out ``{"reply": n}`` comes back. What fails is answered ``{"error": text, "do": ...}``. End of file ends the process.

What is read at each tick is kept open as far as this process's limit goes; what is beyond is opened each time, which
takes longer, and one ``{"note": text}`` says so.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import resource
import select
import socket
import time
from typing import Any

from ctlab.kernel import link_stats, proc_stats
from ctlab.kernel.kept_files import Room
from ctlab.metrics.columns import NETWORK
from ctlab.metrics.ring import STATE, Ring
from ctlab.metrics.sources import CgroupSource, ProcSource, Source

SLOW_SECONDS = 1.0
_NETWORK_NAN = (math.nan,) * len(NETWORK)
_Message = dict[str, Any]


class _Container:
    """What is known of one container between ticks."""

    __slots__ = ("base", "key", "last", "links", "node", "slow_due", "source")

    def __init__(self, key: int, source: Source) -> None:
        self.key = key
        self.source = source
        self.slow_due = 0.0
        self.node = ""
        self.links: dict[int, int] | None = None  # endpoint key -> interface index; None: nobody said
        self.last: dict[int, tuple[int, ...]] = {}  # endpoint key -> newest counters
        self.base = [0] * len(NETWORK)  # what endpoints that were taken away had counted: sums must not fall


class Sampler:
    """The state of the process; `run` is its main loop."""

    def __init__(self, control: socket.socket, containers: Ring, endpoints: Ring, interval: float) -> None:
        self._control = control
        self._rings = (containers, endpoints)
        self._interval = interval
        self._containers: dict[int, _Container] = {}
        self._nodes: dict[str, link_stats.LinkCounters] = {}
        self._processes: proc_stats.ProcessTable | None = None
        self._folders: tuple[str, dict[str, int]] = ("", {})  # the kind of cgroups, controller -> the lab's folder
        self._room = Room.of_process()
        self._lack_said = False
        self._paused = False
        self._stopped = False
        self._next = time.monotonic() + interval
        self._errors = 0
        self._state: dict[str, float] = dict.fromkeys(STATE, 0)
        self._state.update(interval_seconds=interval, writer_pid=os.getpid(), started_ns=time.time_ns())
        self._publish()

    # ---- the loop

    def run(self) -> None:
        """Take ticks and messages until `stop` or the end of the control socket."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while not self._stopped:
            if self._paused:
                poll.poll(None)
                self._receive()
                continue
            left = self._next - time.monotonic()
            # poll counts whole milliseconds and rounds up: the last one is slept exactly.
            if left > 0.001:
                if poll.poll(int(left * 1000 - 0.5)):
                    self._receive()
                continue
            if left > 0:
                time.sleep(left)
            self._tick()
            if poll.poll(0):  # ticks that take longer than the interval must not keep messages waiting
                self._receive()

    def _tick(self) -> None:
        """Read everything once, and set the next deadline."""
        began = time.monotonic()
        late = max(0.0, began - self._next)
        self._write(self._sample(list(self._containers.values()), began))
        ended = time.monotonic()
        missed = max(0, math.floor((ended - self._next) / self._interval))
        self._next += (missed + 1) * self._interval
        state, took = self._state, ended - began
        state["ticks"] += 1
        state["missed_ticks"] += missed
        state["late_ticks"] += late > self._interval / 10
        state["lateness_seconds"] = late
        state["lateness_seconds_total"] += late
        state["lateness_seconds_max"] = max(state["lateness_seconds_max"], late)
        state["tick_seconds"] = took
        state["tick_seconds_total"] += took
        state["tick_seconds_max"] = max(state["tick_seconds_max"], took)
        self._publish()
        self._say_lack()

    def _write(self, sampled: tuple[list[list[float]], list[list[float]]]) -> None:
        for ring, new in zip(self._rings, sampled, strict=True):
            for start in range(0, len(new), ring.capacity):
                ring.append_rows(new[start : start + ring.capacity])

    def _say_lack(self) -> None:
        """Say once that not everything can be kept open."""
        if self._room.lacked and not self._lack_said:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            text = (
                f"the lab's sampler may have {most} files open (the hard limit of the process that owns the lab, "
                "ulimit -Hn), too few to keep those of all containers: it opens the others at each sample, which takes "
                "longer"
            )
            self._lack_said = self._answer({"note": text})

    def _publish(self) -> None:
        """Write what the process says about itself into both headers."""
        errors = self._errors + (self._processes.errors if self._processes else 0)
        self._state["read_errors"] = errors + sum(one.source.errors() for one in self._containers.values())
        self._state["cpu_seconds"] = time.process_time()
        self._state["paused"] = int(self._paused)
        for ring in self._rings:
            for name, value in self._state.items():
                ring.set_state(name, value)

    # ---- reading

    def _sample(
        self, containers: list[_Container], now: float | None = None
    ) -> tuple[list[list[float]], list[list[float]]]:
        """One row for each container that is there, and one for each of its endpoints.

        `now`: only those of the expensive files whose turn it is then; None: all of them, and it stays their turn.
        """
        stamp = time.time_ns()
        links: dict[str, tuple[int, dict[int, link_stats.Counters]]] = {}
        for node in {container.node for container in containers if container.links}:
            counters = self._nodes.get(node)
            if counters is not None:
                try:
                    found = counters.read()
                    links[node] = (time.monotonic_ns(), found)
                except OSError:
                    self._errors += 1
        if self._processes is not None:
            self._processes.refresh()
        rows: list[list[float]] = []
        endpoint_rows: list[list[float]] = []
        for container in containers:
            slow = now is None or now >= container.slow_due
            values = container.source.read(slow)
            if values is None:
                continue
            read = time.monotonic_ns()
            if slow and now is not None:
                # Spread over ticks, so that no tick pays for all containers at once.
                ahead = SLOW_SECONDS if container.slow_due else SLOW_SECONDS * (1 + container.key % 10 / 10)
                container.slow_due = now + ahead
            network = self._network(container, links.get(container.node), stamp, endpoint_rows)
            rows.append([stamp, read, container.key, container.source.code, *values, *network])
        return rows, endpoint_rows

    def _network(
        self,
        container: _Container,
        dump: tuple[int, dict[int, link_stats.Counters]] | None,
        stamp: int,
        endpoint_rows: list[list[float]],
    ) -> tuple[float, ...]:
        """The sums over a container's endpoints; adds a row for each endpoint that was found."""
        if container.links is None:
            return _NETWORK_NAN
        if not container.links:
            return tuple(float(value) for value in container.base)
        if dump is None:
            return _NETWORK_NAN
        read, found = dump
        sums = list(container.base)
        complete = True
        for endpoint, index in container.links.items():
            node_side = found.get(index)
            if node_side is None:
                complete = False
                continue
            counters = link_stats.swapped(node_side)
            container.last[endpoint] = counters
            for number, value in enumerate(counters):
                sums[number] += value
            endpoint_rows.append([stamp, read, container.key, endpoint, *map(float, counters)])
        return tuple(map(float, sums)) if complete else _NETWORK_NAN

    # ---- messages

    def _receive(self) -> None:
        """Take one message and do what it says; an empty one is the end of the file."""
        try:
            body, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 253)
        except OSError:
            self._stopped = True
            return
        if not body:
            self._stopped = True
            return
        message: _Message = {}
        try:
            message = json.loads(body)
            self._obey(message, descriptors)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._answer({"error": f"{type(error).__name__}: {error}", "do": str(message.get("do", ""))})
        finally:
            for descriptor in descriptors:  # those that were taken over are no longer in the list
                os.close(descriptor)
        if isinstance(message, dict) and "reply" in message:
            self._answer({"reply": message["reply"]})

    def _answer(self, answer: _Message) -> bool:
        """Answer if there is room, and whether: the sampler never waits for whoever started it."""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(answer).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return True
        return False

    def _obey(self, message: _Message, descriptors: list[int]) -> None:
        do = message["do"]
        if do == "add":
            self._add(message, descriptors)
        elif do == "remove":
            self._remove(int(message["key"]))
        elif do == "endpoints":
            self._set_endpoints(message)
        elif do == "folders":
            self._close_folders()
            self._folders = str(message["source"]), dict(zip(message["controllers"], descriptors, strict=True))
            descriptors.clear()
        elif do == "node":
            old = self._nodes.pop(message["name"], None)
            if old is not None:
                old.close()
            if descriptors:  # without a socket the node is forgotten
                sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, fileno=descriptors.pop())
                self._nodes[message["name"]] = link_stats.LinkCounters(sock)
        elif do == "interval":
            seconds = float(message["seconds"])
            if not 0.001 <= seconds <= 3600:
                raise ValueError("an interval is between 0.001 and 3600 seconds")
            self._interval = self._state["interval_seconds"] = seconds
            self._next = time.monotonic() + seconds
        elif do in ("pause", "resume"):
            self._paused = do == "pause"
            self._next = time.monotonic() + self._interval
        elif do == "now":
            if not self._paused:
                self._write(self._sample(list(self._containers.values())))
        elif do == "stop":
            self._stopped = True
        else:
            raise ValueError(f"no such message: {do}")
        self._publish()

    def _add(self, message: _Message, descriptors: list[int]) -> None:
        key = int(message["key"])
        source: Source
        if "pid" in message:
            if descriptors and self._processes is None:
                self._processes = proc_stats.ProcessTable(descriptors.pop(), self._room)
            if self._processes is None:
                raise ValueError("the first container counted by /proc must bring a /proc")
            namespace = message.get("namespace")
            source = ProcSource(self._processes, int(message["pid"]), None if namespace is None else int(namespace))
        else:
            source = CgroupSource(*self._folders, str(message["group"]), self._room)
        old = self._containers.get(key)
        if old is not None:
            old.source.close()
        self._containers[key] = _Container(key, source)

    def _remove(self, key: int) -> None:
        """Take a last sample if the counters can still be read, then forget the container."""
        container = self._containers.pop(key, None)
        if container is None:
            return  # it ended before it was worth reading
        self._write(self._sample([container]))
        self._errors += container.source.errors()
        container.source.close()

    def _set_endpoints(self, message: _Message) -> None:
        container = self._containers[int(message["key"])]
        links = {int(link[0]): int(link[1]) for link in message["links"]}
        container.node = str(message["node"])
        for endpoint in container.last.keys() - links.keys():
            for number, value in enumerate(container.last.pop(endpoint)):
                container.base[number] += value
        container.links = links

    def _close_folders(self) -> None:
        for descriptor in self._folders[1].values():
            os.close(descriptor)
        self._folders = ("", {})

    def close(self) -> None:
        """Close everything that was given; a netlink socket would keep its network namespace alive."""
        for container in self._containers.values():
            container.source.close()
        for node in self._nodes.values():
            node.close()
        if self._processes is not None:
            self._processes.close()
        self._close_folders()
        self._control.close()
        for ring in self._rings:
            ring.close()


def main(control: socket.socket, containers_ring_fd: int, endpoints_ring_fd: int, interval_seconds: float) -> None:
    """Run the sampler until it is told to stop; returns then. The caller ends the process.

    `control`: SOCK_SEQPACKET. The rings must have the schemas of `columns`. Takes over all three descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()  # what came by the fork is never collected here: its pages stay shared
    rings = [Ring.attach(fd, writable=True) for fd in (containers_ring_fd, endpoints_ring_fd)]
    sampler = Sampler(control, rings[0], rings[1], interval_seconds)
    try:
        sampler.run()
    finally:
        sampler.close()
