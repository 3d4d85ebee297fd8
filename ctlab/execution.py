"""A program run in a running container: its streams, its end, its signals."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .completed import Completed
from .errors import CtlabError, LabGone, TimedOut, one_line
from .interrupts import Interrupted, Interrupts
from .latch import Latch
from .names import parse_signal
from .runtime import answers, messages, packets
from .runtime.connection import Connection
from .runtime.waiting import ready

if TYPE_CHECKING:
    from .container import Container

Sink = Callable[[int, str], None]
KEPT_BYTES = 64 << 20  # what `Completed` holds at most of each stream
_numbers = itertools.count(1)
_CHUNK = 65536
_LEFT_RUNNING_SECONDS = 0.2  # after its end: something that it left running may hold its streams for ever


class Execution:
    """One run of a program. `run` returns when it has ended; `start` goes on without waiting."""

    def __init__(self, container: Container, command: Sequence[str], options: dict[str, Any]) -> None:
        self._container = container
        self.command = tuple(command)
        self._options = options
        self.number = next(_numbers)
        self.returncode: int | None = None
        self._ended = Latch()

    def _message(self, *, tty: bool, detached: bool, window: Sequence[int] | None = None) -> messages.Exec:
        return messages.Exec(
            id=self._container.id, execution=self.number, argv=list(self.command), tty=tty, detached=detached,
            window=None if window is None else list(window), **self._options,
        )  # fmt: skip

    def run(self, stdin: bytes | None, *, tty: bool, sink: Sink | None, extra: Sequence[int] = ()) -> Completed:
        """Run to the end.

        `stdin`: what the program reads (None: /dev/null). `sink(stream, text)` is called with each piece of
        output as it comes, stream 1 or 2. `extra`: more descriptors (a script). KeyboardInterrupt is passed
        on to the program as SIGINT, then SIGTERM after 2 s, then SIGKILL after 2 more.
        """
        began = time.monotonic()
        with self._container.lab._client.borrow() as connection, contextlib.closing(_Pipes(stdin, tty)) as pipes:
            try:
                connection.send(self._message(tty=tty, detached=False), [*pipes.theirs, *extra])
                pipes.close_theirs()
                reply = self._communicate(connection, pipes, sink, tty=tty)
            except BaseException as error:  # of a sink, of somebody's signal handler: nobody would wait for it any more
                if not connection.answered:
                    connection.send_only([messages.SignalExecution(self.number, 9, group=True)])
                if type(error) is KeyboardInterrupt:
                    what = str(error) or "interrupted; the program was ended"
                    raise Interrupted(f"{self._container.name}: {what}") from None
                raise
        self.returncode = reply.returncode
        return Completed(
            self.returncode,
            pipes.text(1),
            pipes.text(2),
            time.monotonic() - began,
            self._container.name,
            self.command,
            pipes.dropped_bytes,
            self._killed_for_memory(),
        )

    def _killed_for_memory(self) -> bool:
        """Whether its SIGKILL came from the limit of memory of its container, says the kernel's count alone.

        A shell whose program was killed ends with that status, too.
        """
        if self.returncode != 128 + signal.SIGKILL or self._container.limits.memory_bytes is None:
            return False
        try:
            asked = messages.MemoryKills(self._container.id)
            return self._container.lab._call(asked, messages.Killed).message.by_memory
        except CtlabError:  # it has gone with its container
            return self._container.oom_killed

    def _communicate(self, connection: Connection, pipes: _Pipes, sink: Sink | None, *, tty: bool) -> messages.Ended:
        poll = select.poll()
        poll.register(connection.socket, select.POLLIN)
        for descriptor in pipes.readable:
            poll.register(descriptor, select.POLLIN)
        if pipes.writable >= 0:
            poll.register(pipes.writable, select.POLLOUT)
        kinds = (messages.Begun, messages.Ended) if tty else (messages.Ended,)
        reply: messages.Ended | None = None
        with Interrupts(self._interrupt) as interrupts:
            poll.register(interrupts, select.POLLIN)
            while reply is None or pipes.readable:
                interrupts.step()
                wait_seconds = interrupts.timeout_seconds()
                if reply is not None:
                    wait_seconds = _LEFT_RUNNING_SECONDS
                events = ready(poll, wait_seconds)
                if reply is not None and not events:
                    break
                for descriptor, _ in events:
                    if descriptor == interrupts.fileno():
                        continue
                    if descriptor == connection.socket.fileno():
                        answer = connection.receive(*kinds)
                        if isinstance(answer.message, messages.Begun):
                            kinds, connection.answered = (messages.Ended,), False
                            for master in self._terminals(answer.descriptors):
                                pipes.adopt(master)
                                poll.register(master, select.POLLIN)
                        else:
                            reply = answer.message
                            poll.unregister(connection.socket)
                    elif descriptor == pipes.writable:
                        if not pipes.feed():
                            poll.unregister(descriptor)
                            pipes.close_writable()
                    elif not pipes.read(descriptor, sink):
                        poll.unregister(descriptor)
                        pipes.forget(descriptor)
            interrupts.reraise(self._container.name)
        return reply

    def _terminals(self, descriptors: list[int]) -> list[int]:
        """The masters (out of a VM: pipes) of its standard output and error, if that is what they are. Raises LabGone.

        The inside has them too: whatever it reads or sets meanwhile, nobody here waits for it in a read.
        """
        if len(descriptors) != 2 or not all(map(answers.is_stream, descriptors)):
            packets.discard(descriptors)
            raise self._container.lab._client.end_for("as terminals what are none")
        return descriptors

    @contextlib.contextmanager
    def for_another(self, window: Sequence[int] | None) -> Iterator[list[int]]:
        """Begin it for another process of this user, to which the descriptors go; ours are closed at the end.

        The connection on which it is answered, and but for a terminal (of size `window`: rows, columns; its master
        comes with the first answer) our ends of its stdin, stdout and stderr.
        """
        connection = self._container.lab._client.connection()
        pipes = None if window is not None else _Pipes(b"", False)
        try:
            message = self._message(tty=False, detached=False, window=window)
            connection.send(message, [] if pipes is None else pipes.theirs)
            if pipes is None:
                yield [connection.socket.fileno()]
            else:
                pipes.close_theirs()
                yield [connection.socket.fileno(), pipes.writable, *pipes.readable]
        finally:
            connection.close()
            if pipes is not None:
                pipes.close()

    def start(self, descriptors: Sequence[int] = ()) -> None:
        """Start it and go on; its output is dropped. `descriptors`: its stdin (/dev/null without), and what else."""
        lab = self._container.lab
        lab._executions[self.number] = self
        try:
            undo = messages.SignalExecution(self.number, 9, group=True)
            reply = lab._call(self._message(tty=False, detached=True), messages.Begun, descriptors, undo=[undo])
            if reply.descriptors:
                packets.discard(reply.descriptors)
                raise lab._client.end_for("terminals that nobody asked for")
        except BaseException:
            lab._executions.pop(self.number, None)
            raise

    @property
    def title(self) -> str:
        """What it runs and where, in a line."""
        return one_line(f"{' '.join(self.command)} in {self._container.name}", 200)

    def ended(self, returncode: int | None) -> None:
        """The supervisor says that it has ended; None: the lab has, and nobody knows how it ended."""
        self.returncode = returncode
        self._ended.set()

    def wait(self, timeout: float | None) -> int:
        """The status of a started one; TimeoutError, LabGone."""
        if not self._ended.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise TimedOut(f"{' '.join(self.command)} in {self._container.name} still runs after {timeout:g} s")
        if self.returncode is None:
            raise self._lost_error()
        return self.returncode

    def poll(self) -> int | None:
        """The status of a started one, None while it runs; LabGone."""
        if self.lost:
            raise self._lost_error()
        return self.returncode

    @property
    def lost(self) -> bool:
        """Whether its lab has ended, and with it what has a status only if that came before."""
        over = self._container.lab.gone or self._ended.wait(0)  # asked first: the status may come in between
        return over and self.returncode is None

    def _lost_error(self) -> LabGone:
        gone = self._container.lab._client._gone_error()
        return LabGone(f"{' '.join(self.command)} in {self._container.name} has ended with its lab: {gone}")

    def signal(self, signal: str | int) -> None:
        """Send it a signal."""
        self._container.lab._call(messages.SignalExecution(self.number, parse_signal(signal), group=False), messages.Ok)

    def _interrupt(self, signal: str) -> None:
        order = messages.SignalExecution(self.number, parse_signal(signal), group=True)
        self._container.lab._client.order(order)


class Kept:
    """A sink that keeps what it passes on, up to `KEPT_BYTES` characters of each stream."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._texts: dict[int, list[str]] = {1: [], 2: []}
        self._room = {1: KEPT_BYTES, 2: KEPT_BYTES}
        self.dropped_bytes = 0

    def __call__(self, stream: int, text: str) -> None:
        """One piece."""
        kept = text[: self._room[stream]]
        self._texts[stream].append(kept)
        self._room[stream] -= len(kept)
        self.dropped_bytes += len(text[len(kept) :].encode("utf-8", "replace"))
        self._sink(stream, text)

    def text(self, stream: int) -> str:
        """All that was kept of a stream."""
        return "".join(self._texts[stream])


class _Pipes:
    """The three streams on our side."""

    def __init__(self, stdin: bytes | None, tty: bool) -> None:
        self._data = memoryview(stdin or b"")
        self._kept: dict[int, list[bytes]] = {1: [], 2: []}
        self._size = {1: 0, 2: 0}
        self._decoders = {n: codecs.getincrementaldecoder("utf-8")("replace") for n in (1, 2)}
        self._stream: dict[int, int] = {}
        self.dropped_bytes = 0
        self.writable = -1
        self.theirs: list[int] = []
        try:
            self._open(given=stdin is not None, tty=tty)
        except BaseException:  # interrupted, or no room
            self.close()
            raise

    def _open(self, *, given: bool, tty: bool) -> None:
        if given:
            read_end, self.writable = os.pipe2(os.O_CLOEXEC)
            self.theirs.append(read_end)
            os.set_blocking(self.writable, False)
        else:
            self.theirs.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        for stream in (1, 2):
            if tty:  # the supervisor sends the masters of terminals that lie inside; their places stay empty
                self.theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
                continue
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            self._stream[ours] = stream
            self.theirs.append(theirs)

    @property
    def readable(self) -> list[int]:
        return list(self._stream)

    def adopt(self, master: int) -> None:
        """A terminal instead of a pipe: of stdout first, then of stderr."""
        self._stream[master] = len(self._stream) + 1

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs = []

    def feed(self) -> bool:
        """Write some of stdin; False when there is no more, or nobody reads."""
        if self._data:
            try:
                self._data = self._data[os.write(self.writable, self._data[:_CHUNK]) :]
            except BlockingIOError:
                return True
            except OSError:
                return False
        return bool(self._data)

    def close_writable(self) -> None:
        if self.writable >= 0:
            os.close(self.writable)
            self.writable = -1

    def read(self, descriptor: int, sink: Sink | None) -> bool:
        """Read some output; False at the end."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return True  # somebody else has read it
        except OSError:  # EIO: a terminal without a program
            data = b""
        stream = self._stream[descriptor]
        if data:
            room = KEPT_BYTES - self._size[stream]
            self._kept[stream].append(data[:room])
            self._size[stream] += min(len(data), room)
            self.dropped_bytes += max(0, len(data) - room)
        if sink is not None:
            text = self._decoders[stream].decode(data, final=not data)
            if text:
                sink(stream, text)
        return bool(data)

    def forget(self, descriptor: int) -> None:
        del self._stream[descriptor]
        os.close(descriptor)

    def text(self, stream: int) -> str:
        return b"".join(self._kept[stream]).decode("utf-8", "replace")

    def close(self) -> None:
        self.close_theirs()
        self.close_writable()
        for descriptor in list(self._stream):
            self.forget(descriptor)
