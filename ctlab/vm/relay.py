"""The host's end of the channel: the owner's sockets on one side, the VM's port on the other.

The owner's `Client` sees what it sees natively: SEQPACKET sockets, pipes, memfds. Pipes become streams, rings are
copies that the guest's changes are applied to, an eventfd is written when the guest says that there is news.

Who has broken out of a container may hold the guest's end: what can't come from one of ours is a `Surprise`, which ends
the lab. Messages pass as they are: the owner checks them itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import describe
from ..metrics import columns as metric_columns
from ..metrics.ring import Ring
from ..runtime import packets, protocol
from ..runtime.log_ring import LogRing
from ..runtime.packets import Surprise
from ..runtime.services import RING_ROWS
from . import calls, frames
from .loop import Loop
from .streams import Reader, Writer
from .wire import READABLE, WRITABLE, Wire


class Relay:
    """Between one owner and one guest. `lost` is called when the guest's end is gone."""

    def __init__(self, loop: Loop, wire: Wire, first: socket.socket, events: socket.socket) -> None:
        self._loop = loop
        self._wire = wire
        self._connections: dict[int, _Peer] = {}
        self._connection_numbers = 0
        self._stream_numbers = 0  # of ours: even
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}
        self._logs: dict[int, tuple[LogRing, int]] = {}
        self._rings = [
            Ring.create(schema, RING_ROWS)
            for schema in (metric_columns.CONTAINERS_SCHEMA, metric_columns.ENDPOINTS_SCHEMA)
        ]
        self._followers: dict[int, int] = {}  # number -> the owner's eventfd
        self._paused = False
        self._ahead = 0  # calls that the guest may not have begun to serve
        self._events = _Peer(loop, events, self._owner_says)
        self._connect(first)

    def flush(self) -> None:
        """Write what there is. While the guest doesn't keep up, nothing more is taken from the owner."""
        self._wire.flush()
        behind = self._wire.full or self._ahead >= frames.CALLS_AHEAD
        if behind != self._paused:
            self._paused = behind
            for peer in (self._events, *self._connections.values()):
                peer.pause(self._paused)

    # -- from the owner -----------------------------------------------------------------------------
    def _connect(self, connection: socket.socket) -> None:
        self._connection_numbers += 1
        number = self._connection_numbers
        peer = self._connections[number] = _Peer(self._loop, connection, lambda: self._asked(number))
        peer.pause(self._paused)

    def _owner_says(self) -> None:
        """On the event socket comes the far end of one more call connection."""
        try:
            body, descriptors, _ = packets.receive(self._events.socket)
        except ConnectionError:
            body, descriptors = b"", []
        except OSError:
            return  # the descriptor was lost, too many being open: who waits at its other end hears of its end
        if not body:
            self._events.close()
        for descriptor in descriptors:
            self._connect(socket.socket(fileno=descriptor))

    def _asked(self, number: int) -> None:
        peer = self._connections[number]
        try:
            body, descriptors, _ = packets.receive(peer.socket)
        except ConnectionError:
            body, descriptors = b"", []
        except OSError as error:  # too many open
            peer.send(protocol.pack(calls.refusal(error)))
            return
        if not body:
            del self._connections[number]
            peer.close()
            self._wire.send(frames.CLOSE, number)
            return
        described: calls.Described = []
        readers: list[Reader] = []
        try:
            while descriptors:
                described.append(self._describe(descriptors.pop(0), readers))
            call = calls.pack(body, described)
            frames.fits(call)
        except OSError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            for _, given in described:
                self._forget(given)
            peer.send(protocol.pack(calls.refusal(error)))
            return
        self._ahead += 1
        peer.unanswered += 1
        self._wire.send(frames.CALL, number, call)
        for reader in readers:  # behind the call that says what they are
            reader.begin()

    def _forget(self, number: int) -> None:
        """What was described will not be used."""
        stream = self._readers.get(number) or self._writers.get(number)
        if stream is not None:
            stream.close()
        self._told(number, over=True)

    def _describe(self, descriptor: int, readers: list[Reader]) -> list[Any]:
        """What to say of a descriptor of the owner's, which is ours from now on."""
        mode = os.fstat(descriptor).st_mode
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:[eventfd]":
            self._stream_numbers += 2
            self._followers[self._stream_numbers] = descriptor
            return ["e", self._stream_numbers]
        if stat.S_ISCHR(mode) and os.fstat(descriptor).st_rdev == _NULL:
            os.close(descriptor)
            return ["n", 0]
        if stat.S_ISSOCK(mode) or stat.S_ISDIR(mode):
            os.close(descriptor)
            raise OSError(errno.EOPNOTSUPP, "only files, pipes and terminals can be passed into a virtual machine")
        self._stream_numbers += 2
        number = self._stream_numbers
        if access == os.O_WRONLY:
            self._write_to(number, descriptor)
            return ["w", number]
        reader = self._readers[number] = Reader(self._wire, self._loop, number, descriptor, self._forget_reader)
        readers.append(reader)
        return ["f" if stat.S_ISREG(mode) else "r", number]

    def _write_to(self, number: int, descriptor: int) -> None:
        if number in self._writers:
            os.close(descriptor)
            raise Surprise(f"stream {number} twice")
        self._writers[number] = Writer(self._wire, self._loop, number, descriptor, self._forget_writer)

    def _forget_reader(self, number: int) -> None:
        self._readers.pop(number, None)

    def _forget_writer(self, number: int) -> None:
        self._writers.pop(number, None)

    # -- from the guest -----------------------------------------------------------------------------
    def hear(self, kind: int, number: int, body: bytes) -> None:
        """One frame of the guest's supervisor. Raises Surprise."""
        if kind == frames.ANSWER:
            self._answered(number, body)
        elif kind == frames.TAKEN:
            self._ahead -= frames.CALLS_STEP
            if self._ahead < 0:
                raise Surprise("word that it has taken calls which weren't sent")
        elif kind == frames.DATA:
            writer = self._writers.get(number)
            if writer is not None:
                writer.give(body)
        elif kind == frames.END:
            self._ended(number)
        elif kind == frames.CREDIT:
            if len(body) != frames.CREDIT_BYTES:
                raise Surprise(f"a credit in {len(body)} bytes")
            reader = self._readers.get(number)
            if reader is not None:
                reader.more(int.from_bytes(body, "little"))
        elif kind == frames.EVENT:
            if len(body) > packets.INLINE_LIMIT:
                raise Surprise(f"an event of {len(body)} bytes")
            self._events.send(calls.unpack(body, most=0)[0])
        elif kind == frames.LOG:
            self._log(number, body)
        elif kind == frames.TOLD:
            self._told(number, over=bool(body))
        elif kind == frames.ROWS:
            self._apply(self._mirror(number), body)
        else:
            raise Surprise(f"a frame of unknown kind {kind}")

    def _ended(self, number: int) -> None:
        writer = self._writers.pop(number, None)
        if writer is not None:
            writer.end()
        reader = self._readers.pop(number, None)
        if reader is not None:
            reader.close()

    def _answered(self, number: int, body: bytes) -> None:
        message, described = calls.unpack(body, kinds="lmrw", most=_MOST_DESCRIBED)
        peer = self._connections.get(number)
        if peer is None:  # it is over, and nobody reads those streams
            for kind, which in described:
                if kind in "rw":
                    self._wire.send(frames.END, which)
            return
        # One with streams (of terminals that were made inside) comes before the answer itself, once.
        before = bool(described) and described[0][0] == "r"
        if not peer.unanswered or (before and peer.begun):
            raise Surprise("an answer that nobody waits for")
        descriptors: list[int] = []
        try:
            for kind, which in described:
                descriptors.append(self._descriptor(kind, which))
        except Surprise:
            packets.discard(descriptors)
            raise
        except OSError as error:  # too many open
            message = protocol.pack(calls.refusal(error))
            while descriptors:
                os.close(descriptors.pop())
        peer.begun = before
        if not before:
            peer.unanswered -= 1
        peer.send(message, descriptors)

    def _descriptor(self, kind: str, number: int) -> int:
        """For the owner: what the guest has described."""
        if kind == "l":
            if number not in self._logs:
                raise Surprise(f"log ring {number}, which it hasn't told of")
            return os.dup(self._logs[number][1])
        if kind == "m":
            return os.dup(self._mirror(number).fd)
        if not number % 2:
            raise Surprise(f"stream {number}, which isn't one of its own")
        if number in self._writers or number in self._readers:
            raise Surprise(f"stream {number} twice")
        reading, writing = os.pipe2(os.O_CLOEXEC)
        if kind == "w":
            reader = self._readers[number] = Reader(self._wire, self._loop, number, reading, self._forget_reader)
            reader.begin()
            return writing
        self._write_to(number, writing)
        return reading

    def _mirror(self, number: int) -> Ring:
        if number >= len(self._rings):
            raise Surprise(f"rows for ring {number} of {len(self._rings)}")
        return self._rings[number]

    def _log(self, key: int, changes: bytes) -> None:
        if not changes:
            ring, descriptor = self._logs.pop(key, (None, -1))
            if ring is not None:
                ring.close()
                os.close(descriptor)
            return
        if key not in self._logs:
            if len(self._logs) >= _MOST_LOGS:
                raise Surprise(f"the output of more than {_MOST_LOGS} containers")
            try:
                descriptor = LogRing.create()
            except OSError as error:
                raise Surprise(f"the output of {len(self._logs)} containers and more: {describe(error)}") from None
            self._logs[key] = LogRing(descriptor, writable=True), descriptor
        self._apply(self._logs[key][0], changes)

    @staticmethod
    def _apply(ring: LogRing | Ring, changes: bytes) -> None:
        try:
            ring.apply(changes)
        except ValueError as error:
            raise Surprise(str(error)) from None

    def _told(self, number: int, *, over: bool) -> None:
        if over:
            descriptor = self._followers.pop(number, -1)
            if descriptor >= 0:
                os.close(descriptor)
        elif number in self._followers:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._followers[number], 1)


_MOST_KEPT_BYTES = 2 * frames.LARGEST_BODY_BYTES  # for one socket: only a guest gone wrong sends more
_COST_BYTES = 512  # of keeping a message, whatever is in it
_MOST_DESCRIBED = 2  # with an answer: both rings of counters, the streams of both terminals or of a person's one
_MOST_LOGS = 4096  # mirrored, 1 MiB each at most
_NULL = os.stat(os.devnull).st_rdev


class _Peer:
    """A socket of the owner's. One that doesn't read holds nobody up."""

    def __init__(self, loop: Loop, connection: socket.socket, asked: Callable[[], None]) -> None:
        self._loop = loop
        self.socket = connection
        self._asked = asked
        self._kept: deque[tuple[bytes, list[int]]] = deque()
        self._kept_bytes = 0
        self._paused = False
        self._armed = 0
        self.unanswered = 0  # calls
        self.begun = False  # what comes before an answer has come
        self._arm()

    def _arm(self) -> None:
        events = (0 if self._paused else READABLE) | (WRITABLE if self._kept else 0)
        if events == self._armed or self.socket.fileno() < 0:
            return
        if not events:  # no waiting for nothing: an end of file would still be told, again and again
            self._loop.off(self.socket.fileno())
        elif self._armed:
            self._loop.rearm(self.socket.fileno(), events)
        else:
            self._loop.on(self.socket.fileno(), self._ready, events)
        self._armed = events

    def send(self, body: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send now or when there is room; the descriptors are closed here afterwards."""
        self._kept_bytes += len(body) + _COST_BYTES
        if self._kept_bytes > _MOST_KEPT_BYTES:
            raise Surprise(f"more than {_MOST_KEPT_BYTES >> 20} MiB that nobody has read")
        self._kept.append((body, list(descriptors)))
        if len(self._kept) == 1:
            self._send()

    def _send(self) -> None:
        while self._kept:
            body, descriptors = self._kept[0]
            try:
                packets.send(self.socket, body, descriptors, flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except (BrokenPipeError, ConnectionResetError):
                pass  # nobody is there any more; the end of file says so
            except OSError as error:  # descriptors used up: that has to be said at least, or somebody waits for ever
                with contextlib.suppress(OSError):
                    said = OSError(error.errno, f"the answer couldn't be sent: {error.strerror}")
                    packets.send(self.socket, protocol.pack(calls.refusal(said)), flags=socket.MSG_DONTWAIT)
            for descriptor in descriptors:
                os.close(descriptor)
            self._kept.popleft()
            self._kept_bytes -= len(body) + _COST_BYTES
        self._arm()

    def _ready(self) -> None:
        if self._kept:
            self._send()
        if not self._paused and self.socket.fileno() >= 0 and _readable(self.socket):
            self._asked()

    def pause(self, paused: bool) -> None:
        """Read nothing, or again."""
        self._paused = paused
        self._arm()

    def close(self) -> None:
        """Close it."""
        if self._armed:
            self._loop.off(self.socket.fileno())
        self.socket.close()
        while self._kept:
            for descriptor in self._kept.popleft()[1]:
                os.close(descriptor)


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
