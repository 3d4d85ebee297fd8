"""A lab whose supervisor is the test: it answers the owner as an honest one would, or with anything at all.

There is no keeper, no namespace and no process: what is tested is what the owner makes of what comes from inside.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ctlab import engines, opening
from ctlab.lab import Lab
from ctlab.metrics import columns
from ctlab.metrics.ring import Ring
from ctlab.runtime import client, messages, packets, protocol
from ctlab.runtime.log_ring import LogRing

FACTS: dict[str, Any] = {
    "ready": True, "supervisor": 2, "keeper": 1, "mapping": "", "single_id": False, "cgroup": "none", "controllers": [],
    "pids_by": "none", "cgroup_reason": "a test's", "cgroup_remedy": "", "runtime_folder": "/nowhere",
    "cgroup_paths": [],
}  # fmt: skip
DONE = (16).to_bytes(4, "little") + (3).to_bytes(2, "little") + bytes(10)  # the end of a netlink dump
Answer = tuple[bytes, Sequence[int]]


class Client(client.Client):
    """The owner's side as it is, without the processes."""

    def _start(self, interval_seconds: float) -> None:
        ours, theirs = zip(*(protocol.pair() for _ in range(3)), strict=True)
        self._control, calls, self._events = ours
        self.their_control, self.their_calls, self.their_events = theirs
        self.facts = FACTS
        self._idle.put(client.Connection(calls, self))
        threading.Thread(target=self._hear, daemon=True).start()

    def _end_keeper(self) -> None:
        self.their_control.close()  # as its death would


class Supervisor:
    """Serves one client. `lies`: verb → what gives the answer instead, as bytes and descriptors."""

    def __init__(self, owner: Client) -> None:
        self.owner = owner
        self.lies: dict[type, Callable[[Any], Answer]] = {}
        self.log = LogRing.create(1 << 16)
        self.rings = [Ring.create(schema, 100) for schema in (columns.CONTAINERS_SCHEMA, columns.ENDPOINTS_SCHEMA)]
        for serve in (lambda: self._serve(owner.their_calls), self._connect):
            threading.Thread(target=serve, daemon=True).start()

    def _connect(self) -> None:
        with contextlib.suppress(OSError):
            while (found := protocol.receive(self.owner.their_events))[0] is not None:
                connection = socket.socket(fileno=found[1][0])
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while (found := packets.receive(connection))[0]:
                request, descriptors, _ = found
                message = protocol.unpack(request, messages.REQUESTS)
                body, sent = self.lies.get(type(message), self.honest)(message)
                with contextlib.suppress(OSError):
                    packets.send(connection, body, sent)
                for descriptor in descriptors:
                    os.close(descriptor)

    def honest(self, request: Any) -> Answer:
        """What an honest one answers, if little is there."""
        answer, sent = self.answer(request)
        return protocol.pack(answer), sent

    def answer(self, request: Any) -> tuple[tuple[Any, ...], Sequence[int]]:
        """The same as a message, and its descriptors."""
        process = messages.Process(1, 0, 0, "S", 0.5, 4096, "sleep 1")
        found: dict[type, tuple[Any, ...]] = {
            messages.Start: messages.Running([["go", 1]], 0),
            messages.Exec: messages.Begun() if getattr(request, "detached", False) else messages.Ended(0),
            messages.Wait: messages.Exit(0, False, "exited", 1),
            messages.FirstProcesses: messages.Firsts([], []),
            messages.Signal: messages.Seen(True),
            messages.Pause: messages.State("paused" if getattr(request, "frozen", False) else "running"),
            messages.Facts: messages.Known("running", None, {"mnt": 5}, 4096, "folder"),
            messages.MemoryKills: messages.Killed(False),
            messages.Top: messages.Table([process]),
            messages.Costs: messages.Used({"supervisor": {"resident_bytes": 1, "cpu_seconds": 0.5}}, {"bytes": 5}),
            messages.Names: messages.Named(["a", "b/"]),
            messages.Kind: messages.Lies("file"),
            messages.CopyOut: messages.Copied([["x", "a device"]], 1),
            messages.CopyIn: messages.Copied([], 0),
            messages.Listening: messages.Ports([80]),
            messages.Dump: messages.Dumped(DONE.hex()),
            messages.Logs: messages.Output(),
            messages.Follow: messages.Followed(),
            messages.Rings: messages.Counters(),
        }
        sent: Sequence[int] = ()
        if isinstance(request, messages.Logs | messages.Follow):
            sent = [self.log]
        elif isinstance(request, messages.Rings):
            sent = [ring.fd for ring in self.rings]
        return found.get(type(request), messages.Ok()), sent

    def tell(self, body: bytes, descriptors: Sequence[int] = ()) -> None:
        """An event."""
        packets.send(self.owner.their_events, body, descriptors)

    def close(self) -> None:
        """What is left."""
        for connection in (self.owner.their_calls, self.owner.their_events):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # a thread waits in it
            connection.close()
        os.close(self.log)
        for ring in self.rings:
            ring.close()


@contextlib.contextmanager
def hostile_lab(name: str = "hostile") -> Iterator[tuple[Lab, Supervisor]]:
    """A lab and who answers for its inside."""
    made: list[Supervisor] = []

    def start(*_: object) -> Client:
        owner = Client(name, 0.1)
        made.append(Supervisor(owner))
        return owner

    plain = engines.start, opening.prune
    engines.start, opening.prune = start, lambda lab: None  # type: ignore[assignment]
    try:
        with Lab(name, exists="replace") as lab:
            yield lab, made[0]
    finally:
        engines.start, opening.prune = plain
        for supervisor in made:
            supervisor.close()
