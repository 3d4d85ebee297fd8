"""A guest that is hostile: whatever comes out of its port, the keeper passes it on or ends that lab, in one line.

Seeded and short; longer with CTLAB_TEST_LONG=1. Any other error than a Surprise, a hang, descriptors that stay open and
memory without bound fail.
"""

from __future__ import annotations

import json
import os
import random
import resource
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kernel_help import no_hang, open_descriptors, tries

from ctlab.metrics import columns
from ctlab.metrics.ring import Ring
from ctlab.runtime import packets, protocol
from ctlab.runtime.log_ring import LogRing
from ctlab.runtime.packets import Surprise
from ctlab.runtime.waiting import readable
from ctlab.vm import calls, frames, keeper
from ctlab.vm.loop import Loop
from ctlab.vm.relay import Relay
from ctlab.vm.wire import Wire

TIMES = tries(1, 100)  # the short form takes about a second for each test
KINDS = (
    frames.ANSWER, frames.EVENT, frames.TAKEN, frames.DATA, frames.END, frames.CREDIT, frames.LOG, frames.TOLD,
    frames.ROWS, frames.BOOT, frames.FATAL, frames.CALL, 99,
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """What takes longer than this hangs."""
    with no_hang(60 * TIMES):
        yield


class World:
    """A relay between an owner and a guest that are both the test."""

    def __init__(self) -> None:
        self.loop = Loop()
        ours, self.port = socket.socketpair()
        self.wire = Wire(self.loop, ours.detach(), lambda *_: None, lambda: None)
        self.port.setblocking(False)
        (self.calls, theirs), (self.events, events) = protocol.pair(), protocol.pair()
        self.relay = Relay(self.loop, self.wire, theirs, events)
        self.asked = 0
        self.ours: list[int] = []

    def ask(self, order: random.Random) -> None:
        """The owner calls, with descriptors of all kinds."""
        if self.asked >= 20:
            return
        self.asked += 1
        given: list[int] = []
        for _ in range(order.randrange(1, 4)):
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            mine, theirs = (reading, writing) if order.random() < 0.5 else (writing, reading)
            self.ours.append(mine)
            given.append(theirs)
        given += [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(order.randrange(2))]
        packets.send(self.calls, b'["Follow","c",1]', given, flags=socket.MSG_DONTWAIT)
        for descriptor in given:
            os.close(descriptor)

    def turn(self) -> None:
        """All that is ready is served once."""
        self.loop.wait(0, lambda handler: handler())
        self.relay.flush()
        try:
            while self.port.recv(1 << 16):
                pass
        except BlockingIOError:
            pass

    def owner_reads(self, order: random.Random) -> None:
        """What has come for the owner, as it comes to a client."""
        for connection in (self.calls, self.events):
            if readable(0, connection.fileno()):
                body, descriptors, _ = packets.receive(connection)
                assert body and len(body) <= frames.LARGEST_BODY_BYTES
                for descriptor in descriptors:
                    os.close(descriptor)

    def close(self) -> None:
        """All of it: a keeper ends."""
        relay = self.relay
        for descriptor in self.ours:
            os.close(descriptor)
        self.turn()  # streams that had ended, and waited for who reads them, are over now
        for stream in (*relay._readers.values(), *relay._writers.values()):
            stream.close()
        for ring, descriptor in relay._logs.values():
            ring.close()
            os.close(descriptor)
        for one in relay._rings:
            one.close()
        for descriptor in (*relay._followers.values(), self.wire._descriptor):
            os.close(descriptor)
        for peer in (relay._events, *relay._connections.values()):
            peer.close()
        for connection in (self.port, self.calls, self.events):
            connection.close()
        self.loop._poll.close()


class Honest:
    """Bodies that an honest guest could send, to be changed a little."""

    def __init__(self) -> None:
        self._descriptors = [LogRing.create()]
        self.log = LogRing(self._descriptors[0], writable=True)
        self.log.append(1, 1, b"something that was written")
        self.rings = [Ring.create(schema, 100) for schema in (columns.CONTAINERS_SCHEMA, columns.ENDPOINTS_SCHEMA)]
        for ring in self.rings:
            ring.append([0] * len(ring.schema.columns))

    def body(self, order: random.Random, kind: int, number: int) -> bytes:
        """One for a frame of that kind."""
        if kind in (frames.ANSWER, frames.EVENT):
            described = [
                [order.choice("rrlmwfne?"), order.choice((0, 1, 3, 5, 7, 2**32))] for _ in range(order.randrange(3))
            ]
            message = order.choice((b'["Ok"]', b'["Note",""]', b"", order.randbytes(20)))
            return calls.pack(message, described if order.random() < 0.5 else [])
        if kind == frames.LOG:
            return b"" if order.random() < 0.1 else self.log.changes(0)[0]
        if kind == frames.ROWS:
            return self.rings[number % 2].changes(0, 10)[0]
        if kind == frames.CREDIT:
            return order.choice((1, 4096, 1 << 18, (1 << 64) - 1)).to_bytes(8, "little")
        return order.randbytes(order.choice((0, 1, 4, 8, 4096, 1 << 17)))

    def close(self) -> None:
        """What it has open."""
        self.log.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for ring in self.rings:
            ring.close()


def changed(order: random.Random, body: bytes) -> bytes:
    """The same, or something near it."""
    if order.random() < 0.6:
        return body
    bad = bytearray(body)
    for _ in range(order.randrange(1, 4)):
        place = order.randrange(len(bad) + 1)
        bad[place : place + order.randrange(5)] = order.randbytes(order.randrange(5))
    return bytes(bad)


def test_frames_that_are_anything() -> None:
    order = random.Random(21)
    honest = Honest()
    before, passed, refused = open_descriptors(), 0, 0
    for _ in range(20 * TIMES):
        world = World()
        for _ in range(300):  # a keeper ends at the first surprise; what comes behind is read by no other code
            if order.random() < 0.2:
                world.ask(order)
                world.turn()
            kind, number = order.choice(KINDS), order.choice((0, 1, 1, 2, 3, 5, 7, 0xFFFFFFFF))
            try:
                world.relay.hear(kind, number, changed(order, honest.body(order, kind, number)))
                passed += 1
            except Surprise as error:
                assert error.args[0] and "\n" not in error.args[0]
                refused += 1
            if order.random() < 0.5:
                world.turn()
                world.owner_reads(order)
        world.close()
    assert passed > 1000 and refused > 50
    honest.close()
    assert open_descriptors() <= before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20  # KiB


STREAMS = {  # of a person's terminal -> why they can't be
    "r3 w4": "stream 4, which isn't one of its own",
    "r3 w3": "stream 3 twice",
    "w3 w3": "stream 3 twice",
    "r3 w5 r7": "descriptions of descriptors that nobody asked for",
}


@pytest.mark.parametrize("said", STREAMS)
def test_streams_of_a_terminal_that_cannot_be(said: str) -> None:
    world = World()
    world.ask(random.Random(5))
    world.turn()
    with pytest.raises(Surprise) as error:
        described = [[word[0], int(word[1])] for word in said.split()]
        world.relay.hear(frames.ANSWER, 1, calls.pack(b'["Begun"]', described))
    assert str(error.value) == STREAMS[said]
    world.close()


def test_a_guest_that_sends_for_ever_is_ended() -> None:
    """What nobody reads is kept up to a bound, whatever it is cut into."""
    order = random.Random(24)
    for kind, body in ((frames.EVENT, b"\0\0\0\0{}"), (frames.LOG, b""), (frames.DATA, b""), (frames.BOOT, b"")):
        world = World()
        try:
            with pytest.raises(Surprise):
                for number in range(500_000):
                    if kind == frames.LOG:
                        world.relay.hear(kind, number, bytes(48))
                    elif kind == frames.DATA:
                        if not world.relay._writers:  # with pipes that nobody reads
                            world.ask(order)
                            world.turn()
                        for stream in list(world.relay._writers):
                            world.relay.hear(kind, stream, body)
                    else:
                        world.relay.hear(kind, number, body)
        finally:
            world.close()


def test_words_of_a_boot_that_are_anything() -> None:
    order = random.Random(22)
    facts = {
        "ready": True, "supervisor": 3, "mapping": "", "single_id": False, "cgroup": "v2", "controllers": ["cpu"],
        "pids_by": "cgroup", "cgroup_reason": "", "cgroup_remedy": "",
    }  # fmt: skip
    values: list[Any] = [None, True, -1, 1 << 70, 1e300, "", "x\x1b[2J", [], [[]], {}, "ready", "init"]
    machine = SimpleNamespace(started=0.0, console_tail=lambda: "")
    ended = accepted = 0
    for _ in range(150 * TIMES):
        found = cast(Any, keeper.Keeper.__new__(keeper.Keeper))
        found.died, found.relay, found.machine, found.boot, found.facts, found._early = "", None, machine, {}, None, []
        for _ in range(200):
            said: dict[str, Any] = {
                "at": order.choice(("init", "python", "ready")),
                "uptime_seconds": 2.0,
                "facts": dict(facts),
            }
            if order.random() < 0.3:
                said[order.choice(list(said))] = json.loads(json.dumps(order.choice(values)))
            if order.random() < 0.3 and isinstance(said["facts"], dict):
                said["facts"][order.choice([*facts, "keeper", "vm"])] = json.loads(json.dumps(order.choice(values)))
            kind = order.choice((frames.BOOT, frames.BOOT, frames.FATAL, frames.EVENT))
            found._hear(kind, 0, changed(order, json.dumps(said).encode()))
        assert "\n" not in found.died.replace("; its console is empty", "")
        assert found.died == "" or found.died.isprintable()
        if found.facts is not None:
            accepted += 1
            assert set(found.facts) == set(facts) and set(found.boot) <= {"init", "python", "ready"}
        ended += bool(found.died)
        assert len(found._early) <= 100
    assert ended > 5 and accepted > 5


def test_a_port_that_gives_anything() -> None:
    """Bytes that are no frames: a length that can't be ends it, and no more is kept than one frame has."""
    order = random.Random(23)
    lost: list[bool] = []
    sizes: list[int] = []
    for _ in range(1500 * TIMES):
        loop = Loop()
        ours, theirs = socket.socketpair()
        del sizes[:]
        wire = Wire(loop, ours.fileno(), lambda *frame: sizes.append(len(frame[2])), lambda: lost.append(True))
        data = b"".join(
            frames.HEADER.pack(order.choice((0, 5, 100, 1 << 16, frames.LARGEST_BODY_BYTES + 1, 1 << 31)), 20, 1)
            + order.randbytes(order.randrange(200))
            for _ in range(20)
        )
        theirs.sendall(data)
        loop.wait(0, lambda handler: handler())
        assert sum(sizes) <= len(data) and len(wire._part) <= len(data)
        ours.close()
        theirs.close()
        loop._poll.close()
    assert lost
