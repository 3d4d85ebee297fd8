"""A lab whose supervisor is the test: it answers the owner as an honest one would, or with anything at all.

There is no keeper, no namespace and no process: what is tested is what the owner makes of what comes from inside.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ctlab import engines, opening
from ctlab.lab import Lab
from ctlab.metrics import columns
from ctlab.metrics.ring import Ring
from ctlab.runtime import client, packets, protocol
from ctlab.runtime.log_ring import LogRing

FACTS: dict[str, Any] = {
    "ready": True, "supervisor": 2, "keeper": 1, "mapping": "", "single_id": False, "cgroup": "none", "controllers": [],
    "cgroup_reason": "a test's", "cgroup_remedy": "", "runtime_folder": "/nowhere", "cgroup_paths": [],
}  # fmt: skip
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
        self.lies: dict[str, Callable[[dict[str, Any]], Answer]] = {}
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
        with contextlib.suppress(OSError):
            while (found := protocol.receive(connection))[0] is not None:
                message, descriptors, _ = found
                body, sent = self.lies.get(message["do"], self.honest)(message)
                with contextlib.suppress(OSError):
                    packets.send(connection, body, sent)
                for descriptor in descriptors:
                    os.close(descriptor)

    def honest(self, message: dict[str, Any]) -> Answer:
        """What an honest one answers, if little is there."""
        sent: Sequence[int] = ()
        answer: dict[str, Any] = {"ok": True}
        verb = message["do"]
        if verb in ("follow", "logs"):
            sent = [self.log]
        elif verb == "rings":
            sent = [ring.fd for ring in self.rings]
        elif verb == "start":
            answer = {"id": message["id"], "state": "running", "marks": []}
        elif verb == "exec":
            answer = {"started": True} if message["detached"] else {"returncode": 0, "stays": False}
        elif verb == "wait":
            answer = {"returncode": 0, "oom_killed": False, "state": "exited", "start": 1}
        elif verb == "pidfds":
            answer = {"ids": []}
        elif verb == "signal":
            answer = {"seen": True}
        elif verb == "pause":
            answer = {"state": "paused" if message["frozen"] else "running"}
        elif verb == "facts":
            answer = {"state": "running", "returncode": None, "namespaces": {}}
        elif verb in ("top", "costs"):
            answer = {"processes": [] if verb == "top" else {}}
        elif verb == "names":
            answer = {"names": []}
        elif verb == "kind":
            answer = {"kind": "file"}
        elif verb == "listening":
            answer = {"ports": [80]}
        elif verb == "dump":
            answer = {"reply": ""}
        return json.dumps(answer).encode(), sent

    def tell(self, body: bytes, descriptors: Sequence[int] = ()) -> None:
        """An event."""
        packets.send(self.owner.their_events, body, descriptors)

    def close(self) -> None:
        """What is left."""
        self.owner.their_calls.close()
        self.owner.their_events.close()
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
