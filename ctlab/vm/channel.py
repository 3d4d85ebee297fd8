"""The guest's end of the channel, inside the supervisor's loop: calls that come over the VM's port.

A process between the port and the supervisor would cost an emulated machine two switches a message. Streams of a call
get pipes here; what the owner maps natively (rings) is mirrored: changes are sent, and applied to a copy there.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..metrics.ring import Ring
from ..runtime import messages, packets, protocol
from ..runtime.calls import Call
from ..runtime.log_ring import LogRing
from ..runtime.packets import Surprise
from . import calls, frames
from .streams import Reader, Writer
from .wire import Wire

if TYPE_CHECKING:
    from ..runtime.supervisor import Supervisor

_BATCH_SECONDS = 0.25  # between two batches of samples; never more often than samples are taken
_BATCH_ROWS = 2048
_BUSY_BYTES = 1 << 20  # with so much waiting to be written, no more of a ring is sent


class Channel:
    """All that passes through the port."""

    def __init__(self, supervisor: Supervisor, port: int) -> None:
        self.supervisor = supervisor
        self.wire = Wire(supervisor, port, self._hear, _lost)
        self._waiting: deque[tuple[int, int, bytes]] = deque()  # frames that were read but not yet served
        self._called = False  # a call was served in this round of the loop
        self._taken = 0  # calls, since the other end was told
        self._closed: set[int] = set()  # connections that are over while a call of theirs may be served
        self._serving: dict[int, int] = {}  # connection -> calls that are still to be answered
        self._incoming: dict[int, Writer | _File] = {}
        self._outgoing: dict[int, Reader] = {}
        self._held: dict[int, Callable[[], bool]] = {}  # stream -> tries to send an answer that waits for it
        self._terminals: dict[int, tuple[Reader, Writer]] = {}  # connection -> a person's terminal on it
        self._numbers = 1  # of our streams: odd
        self._logs: dict[int, _Log] = {}
        self._followers: dict[int, tuple[int, int, int]] = {}  # the owner's number -> (the other end's, eventfd, key)
        self._rings: list[tuple[Ring, int]] = []

    # -- frames -----------------------------------------------------------------------------------
    def flush(self) -> None:
        """Called once a round of the loop: write what there is."""
        self.wire.flush()
        self._called = False

    def _hear(self, kind: int, number: int, body: bytes) -> None:
        """Serve a frame. Of calls one a round, as of callers on sockets: others have to be heard in between."""
        if self._waiting or self._called:
            if not self._waiting:
                self.supervisor.after(0.0, self._go_on)
            self._waiting.append((kind, number, body))
            return
        self._try_take(kind, number, body)

    def _go_on(self) -> None:
        while self._waiting and not self._called:
            self._try_take(*self._waiting.popleft())
        if self._waiting:
            self.supervisor.after(0.0, self._go_on)

    def _try_take(self, kind: int, number: int, body: bytes) -> None:
        try:
            self._take(kind, number, body)
        except Exception as error:  # a bug of ours must not end the lab
            self.event(protocol.pack(messages.Note(f"channel: {type(error).__name__}: {error}")))

    def _take(self, kind: int, number: int, body: bytes) -> None:
        if kind == frames.CALL:
            self._called = True
            self._taken += 1
            if self._taken == frames.CALLS_STEP:
                self._taken = 0
                self.wire.send(frames.TAKEN, 0)
            self._call(number, body)
        elif kind == frames.DATA:
            stream = self._incoming.get(number)
            if stream is not None:
                stream.give(body)
        elif kind == frames.END:
            self._end(number, int.from_bytes(body, "little"))
        elif kind == frames.CREDIT:
            reader = self._outgoing.get(number)
            if reader is not None:
                reader.more(int.from_bytes(body, "little"))
                self._try_held(number)
        elif kind == frames.CLOSE:
            if self._serving.get(number):
                self._closed.add(number)
            self._hang_up(number)
        else:
            raise ValueError(f"a frame of unknown kind {kind}")

    def _end(self, number: int, failed: int) -> None:
        stream = self._incoming.pop(number, None)
        if stream is not None:
            stream.end(failed)
            return
        reader = self._outgoing.pop(number, None)
        if reader is not None:  # nobody there reads any more
            reader.close()
            self._try_held(number)

    def _call(self, connection: int, body: bytes) -> None:
        message, described = calls.unpack(body)
        call = ChannelCall(self, connection)
        self._serving[connection] = self._serving.get(connection, 0) + 1
        try:
            call.message = protocol.unpack(message, messages.REQUESTS)
        except Surprise as error:
            call.fail("CtlabError", f"the supervisor was sent {error}")
            return
        if isinstance(call.message, messages.Unfollow):
            self._unfollow(call.message.follower)
        files: list[_File] = []
        try:
            for kind, number in described:
                if kind == "f":
                    file = self._incoming[number] = _File(self, number)
                    files.append(file)
                    call.descriptors.append(file.descriptor)
                else:
                    call.descriptors.append(self._descriptor(call, kind, number))
        except OSError as error:  # too many open
            for file in files:
                self.refuse(file.number)
            call.reply(calls.refusal(error))
            call.close_descriptors()
            return
        waiting = len(files)
        if not waiting:
            self.supervisor.dispatch(call)
            return

        def whole() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting:
                return
            failed = next((file.failed for file in files if file.failed is not None), None)
            if failed is None:
                self.supervisor.dispatch(call)
            else:  # half of a file must not be taken for the whole
                call.reply(calls.refusal(failed))
                call.close_descriptors()

        for file in files:
            file.then = whole

    def _descriptor(self, call: ChannelCall, kind: str, number: int) -> int:
        if kind == "n":
            return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if kind == "e":
            return self._follow(call, number)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        if kind == "r":
            self._incoming[number] = Writer(self.wire, self.supervisor, number, writing, self._forget_incoming)
            return reading
        os.set_blocking(reading, False)
        call.streams.append(self.send_from(reading, number))
        return writing

    def send_from(self, descriptor: int, number: int = 0) -> Reader:
        """Send what `descriptor` gives as a stream, with a number of ours if it has none yet."""
        if not number:
            self._numbers += 2
            number = self._numbers
        reader = self._outgoing[number] = Reader(self.wire, self.supervisor, number, descriptor, self._forget_outgoing)
        reader.begin()
        return reader

    def _hold(self, readers: list[Reader], send: Callable[[], None]) -> None:
        """Call `send` once all that could be read from these now was sent: an answer comes behind the output."""
        goals = [(reader, reader.sent_bytes + reader.waiting_bytes()) for reader in readers]

        def attempt() -> bool:
            for reader, goal in goals:
                while reader.open and reader.sent_bytes < goal:
                    before = reader.sent_bytes
                    reader.pump()
                    if reader.open and reader.sent_bytes == before:
                        return False
            send()
            return True

        for reader in readers:  # one piece more may be there to read: the end of file
            if reader.open:
                reader.pump()
        if not attempt():
            for reader in readers:
                self._held[reader.number] = attempt

    def _try_held(self, number: int) -> None:
        attempt = self._held.get(number)
        if attempt is not None and attempt():
            self._held = {key: other for key, other in self._held.items() if other is not attempt}

    def _forget_outgoing(self, number: int) -> None:
        self._outgoing.pop(number, None)

    def _forget_incoming(self, number: int) -> None:
        self._incoming.pop(number, None)

    def refuse(self, number: int) -> None:
        """Take no more of a stream that comes."""
        self._incoming.pop(number, None)
        self.wire.send(frames.END, number)

    # -- answers ----------------------------------------------------------------------------------
    def answer(self, call: ChannelCall, message: bytes, described: calls.Described) -> None:
        """Answer a call, unless its connection is over."""
        connection = call.number
        left = self._serving[connection] = self._serving.get(connection, 1) - 1
        if connection not in self._closed:
            body = calls.pack(message, described)
            try:
                frames.fits(body)
            except OSError as error:
                body = calls.pack(protocol.pack(calls.refusal(error)), [])
            self.wire.send(frames.ANSWER, connection, body)
        if left <= 0:
            del self._serving[connection]
            self._closed.discard(connection)

    def is_closed(self, connection: int) -> bool:
        """Whether nobody waits on that connection any more."""
        return connection in self._closed

    def event(self, body: bytes) -> None:
        """Tell the owner of something: one of `messages.EVENTS`, as it travels."""
        self.wire.send(frames.EVENT, 0, calls.pack(body, []))

    def hand_over(self, call: ChannelCall) -> _socket.socket:
        """A socket for whoever answers a call himself; what is written to its other end is passed on."""
        ours, theirs = protocol.pair()

        def said() -> None:
            message, descriptors, _ = packets.receive(ours)
            if not message:
                self.supervisor.off(ours.fileno())
                ours.close()
                return
            described: calls.Described = []
            if descriptors and call.given_up():  # nobody takes terminals any more: they are hung up
                for descriptor in descriptors:
                    os.close(descriptor)
                return
            for descriptor in descriptors:  # terminals that were made inside
                os.set_blocking(descriptor, False)
                reader = self.send_from(descriptor)
                call.streams.append(reader)
                described.append(["r", reader.number])
                if call.message.window is not None:  # a person's, who types into it
                    described.append(["w", self._type_into(call.number, reader, descriptor)])
            if described:  # not the last answer
                self.wire.send(frames.ANSWER, call.number, calls.pack(message, described))
                return
            self._hold(call.streams, lambda: self.answer(call, message, []))

        self.supervisor.on(ours.fileno(), said)
        return theirs

    def _type_into(self, connection: int, reader: Reader, master: int) -> int:
        """The stream of what is typed into a terminal that `reader` reads. Both go with the connection: a hang-up."""
        self._numbers += 2
        number = self._numbers
        writer = Writer(self.wire, self.supervisor, number, os.dup(master), self._forget_incoming)
        self._incoming[number] = writer
        self._terminals[connection] = (reader, writer)
        return number

    def _hang_up(self, connection: int) -> None:
        reader, writer = self._terminals.pop(connection, (None, None))
        if reader is not None and writer is not None:
            if reader.open:
                self.wire.send(frames.END, reader.number)
            reader.close()
            writer.close()
            self._try_held(reader.number)

    # -- rings ------------------------------------------------------------------------------------
    def send_log(self, key: int, ring: int) -> None:
        """Send what a container's log ring has that its copy lacks."""
        log = self._logs.get(key)
        if log is None:
            self._forget_logs()
            log = self._logs[key] = _Log(LogRing(ring, writable=False))
        self._send_log(key, log)

    def _send_log(self, key: int, log: _Log) -> None:
        changes, log.sent = log.ring.changes(log.sent)
        self.wire.send(frames.LOG, key, changes)

    def _forget_logs(self) -> None:
        keys = {record.key for record in self.supervisor.records.values()}
        keys |= {key for _, _, key in self._followers.values()}
        for key in [key for key in self._logs if key not in keys]:
            self._logs.pop(key).ring.close()
            self.wire.send(frames.LOG, key)

    def _follow(self, call: ChannelCall, number: int) -> int:
        record = self.supervisor.records.get(call.message.id)
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        follower = call.message.follower
        if record is None:  # the answer says so
            self.wire.send(frames.TOLD, number, b"end")
            return event
        self.send_log(record.key, record.ring)
        key = record.key
        self._followers[follower] = (number, event, key)

        def told() -> None:
            if follower not in self._followers:
                return  # gone while this waited
            if self.wire.waiting_bytes > _BUSY_BYTES:
                self.supervisor.off(event)  # which stays readable
                self.supervisor.after(_BATCH_SECONDS / 10, wait)
                return
            with contextlib.suppress(BlockingIOError, OSError):
                os.eventfd_read(event)
            log = self._logs.get(key)
            if log is not None:
                self._send_log(key, log)
                self.wire.send(frames.TOLD, number)

        def wait() -> None:
            if follower in self._followers:
                self.supervisor.on(event, told)

        wait()
        return os.dup(event)

    def _unfollow(self, follower: int) -> None:
        number, event, _ = self._followers.pop(follower, (0, -1, 0))
        if event >= 0:
            self.supervisor.off(event)
            os.close(event)
            self.wire.send(frames.TOLD, number, b"end")

    def send_rings(self) -> calls.Described:
        """Mirror the rings of counters from now on."""
        services = self.supervisor.services
        if not self._rings:
            for descriptor in (services.container_ring, services.endpoint_ring):
                self._rings.append((Ring.attach(os.dup(descriptor)), 0))
            self.send_rows()
            interval = max(_BATCH_SECONDS, self.supervisor.start.interval_seconds)
            self.supervisor.after(interval, lambda: self._batch(interval))
        else:
            self.send_rows()
        return [["m", 0], ["m", 1]]

    def send_rows(self) -> None:
        """Send what the rings have that their mirrors lack."""
        for number, (ring, sent) in enumerate(self._rings):
            while True:
                changes, sent = ring.changes(sent, _BATCH_ROWS)
                self.wire.send(frames.ROWS, number, changes)
                if sent >= ring.head or self.wire.waiting_bytes > 16 * _BUSY_BYTES:
                    break
            self._rings[number] = (ring, sent)

    def _batch(self, interval: float) -> None:
        if self.wire.waiting_bytes <= _BUSY_BYTES:
            self.send_rows()
        self.supervisor.after(interval, lambda: self._batch(interval))


class _Log:
    def __init__(self, ring: LogRing) -> None:
        self.ring = ring
        self.sent = 0


class _File:
    """A file's content as it comes, into memory; `then` is called when it is whole, or can't be."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self.number = number
        self.descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
        self.failed: OSError | None = None
        self.then: Callable[[], None] = lambda: None

    def give(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError as error:
            self._channel.refuse(self.number)
            self.end(error.errno or errno.EIO)
            return
        self._channel.wire.send(frames.CREDIT, self.number, len(data).to_bytes(8, "little"))

    def end(self, number: int = 0) -> None:
        if number:
            self.failed = OSError(number, f"a file couldn't be passed into the VM: {_errno(number)}")
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self.then()


def _errno(number: int) -> str:
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


class ChannelCall(Call):
    """A request that came over the port."""

    __slots__ = ("_handed", "channel", "number", "streams")

    def __init__(self, channel: Channel, number: int) -> None:
        super().__init__(None, None, [])
        self.channel = channel
        self.number = number
        self.streams: list[Reader] = []  # what the program writes
        self._handed: _socket.socket | None = None

    def reply(self, answer: tuple[Any, ...], descriptors: list[int] | None = None, process: int | None = None) -> None:
        """Answer. What `descriptors` are is told by its kind."""
        described: calls.Described = []
        channel = self.channel
        if isinstance(answer, messages.Output | messages.Followed) and descriptors:
            record = channel.supervisor.records.get(self.message.id)
            if record is not None:
                channel.send_log(record.key, record.ring)
                described = [["l", record.key]]
        elif isinstance(answer, messages.Counters):
            described = channel.send_rings()
        elif isinstance(self.message, messages.Sampler):
            channel.send_rows()  # those that it asked for, before it hears that they are there
        elif isinstance(answer, messages.Firsts):
            answer = answer._replace(pids=[_pid(pidfd) for pidfd in descriptors or ()])
        elif isinstance(answer, messages.Running):
            answer = answer._replace(pid=process or 0)
        channel.answer(self, protocol.pack(answer), described)

    def given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.channel.is_closed(self.number)

    def hand_over(self) -> _socket.socket:
        """A socket for whoever answers in our place."""
        self._handed = self.channel.hand_over(self)
        return self._handed

    def close_descriptors(self) -> None:
        """Close what came with the request, and what was handed over."""
        super().close_descriptors()
        if self._handed is not None:
            self._handed.close()
            self._handed = None


def _pid(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), 0)


def _lost() -> NoReturn:
    """The host's end is gone: whatever happened to it, this lab is over, and the kernel clears up."""
    os._exit(0)
