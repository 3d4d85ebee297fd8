"""Pipes over a wire: all bytes in order, never more under way than there is room for; ends are told both ways."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
from kernel_help import open_descriptors

from ctlab.runtime.packets import Surprise
from ctlab.vm import frames
from ctlab.vm.loop import Loop
from ctlab.vm.streams import WINDOW_BYTES, Reader, Writer
from ctlab.vm.wire import Wire

PATIENCE_SECONDS = 20.0
PIPE_BYTES = 65536


class Ends:
    """Two ends of a wire: `source` reads descriptors and sends, `target` writes what comes."""

    def __init__(self, first: socket.socket, second: socket.socket) -> None:
        self.loop = Loop()
        self.source = Wire(self.loop, first.fileno(), self._to_source, lambda: None)
        self.target = Wire(self.loop, second.fileno(), self._to_target, lambda: None)
        self.readers: dict[int, Reader] = {}
        self.writers: dict[int, Writer] = {}
        self.closed: list[tuple[str, int]] = []
        self.ends: list[bytes] = []  # what came with the END frames
        self.under_way = dict.fromkeys(range(10), 0)
        self.most_under_way = 0

    def stream(self, number: int, source: int, target: int) -> None:
        """Pass on what `source` gives to `target`; both belong to the streams now."""
        self.writers[number] = Writer(self.target, self.loop, number, target, lambda n: self.closed.append(("w", n)))
        reader = Reader(self.source, self.loop, number, source, lambda n: self.closed.append(("r", n)))
        self.readers[number] = reader
        reader.begin()

    def _to_source(self, kind: int, number: int, body: bytes) -> None:
        if kind == frames.CREDIT:
            self.under_way[number] -= int.from_bytes(body, "little")
            self.readers[number].more(int.from_bytes(body, "little"))
        else:
            assert kind == frames.END
            self.readers[number].close()

    def _to_target(self, kind: int, number: int, body: bytes) -> None:
        if kind == frames.DATA:
            self.under_way[number] += len(body)
            self.most_under_way = max(self.most_under_way, self.under_way[number])
            self.writers[number].give(body)
        else:
            assert kind == frames.END
            self.ends.append(body)
            self.writers[number].end(int.from_bytes(body, "little"))

    def flush(self) -> None:
        self.source.flush()
        self.target.flush()

    def run(self, until: Callable[[], bool] = lambda: False, seconds: float = PATIENCE_SECONDS) -> bool:
        """Serve until it is true; it is looked at now and then even if nothing happens here."""
        over = time.monotonic() + seconds
        while not self.loop.run(until, 0.002, self.flush):
            if time.monotonic() >= over:
                return False
        return True

    def settle(self) -> None:
        """Serve until nothing moves any more."""
        before = -1
        while before != (before := sum(reader.sent_bytes for reader in self.readers.values())):
            self.run(seconds=0.05)


@pytest.fixture
def ends() -> Iterator[Ends]:
    first, second = socket.socketpair()
    with first, second:
        made = Ends(first, second)
        yield made
        for stream in (*made.readers.values(), *made.writers.values()):
            stream.close()


def pipe() -> tuple[int, int]:
    """A pipe that neither end waits for."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def drain(descriptor: int, most: int = 1 << 30) -> bytes:
    """What can be read now."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while len(found) < most and (piece := os.read(descriptor, most - len(found))):
            found += piece
    return found


def ended(descriptor: int) -> bool:
    """Whether a read says that no more comes."""
    try:
        return os.read(descriptor, 1) == b""
    except BlockingIOError:
        return False


def test_all_bytes_pass_and_never_more_than_the_window_is_under_way(ends: Ends) -> None:
    data = random.Random(1).randbytes(3 << 20)
    source, into = pipe()
    out, target = pipe()
    ends.stream(1, source, target)
    left, found = memoryview(data), bytearray()
    order = random.Random(2)

    def step() -> bool:
        nonlocal left
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(into, left[: order.randrange(1, 90_000)]) :]
        return read() or not left

    def read() -> bool:
        if order.random() < 0.5:  # slower than the writer
            found.extend(drain(out, order.randrange(1, 90_000)))
        return len(found) == len(data)

    assert ends.run(step)
    os.close(into)
    assert ends.run(read)
    assert bytes(found) == data
    assert ends.run(lambda: len(ends.closed) == 2) and ended(out)
    assert WINDOW_BYTES // 2 < ends.most_under_way <= WINDOW_BYTES
    os.close(out)


def test_one_that_nobody_reads_holds_up_itself_alone(ends: Ends) -> None:
    stuck_source, stuck_into = pipe()
    stuck_out, stuck_target = pipe()
    ends.stream(1, stuck_source, stuck_target)
    source, into = pipe()
    out, target = pipe()
    ends.stream(2, source, target)
    written = 0

    def fill() -> bool:
        nonlocal written
        with contextlib.suppress(BlockingIOError):
            written += os.write(stuck_into, bytes(1 << 20))
        return False

    ends.run(fill, 0.3)
    # Its own two pipes are full, and what may be under way: then whoever writes waits, as with a pipe.
    assert written == ends.readers[1].sent_bytes + PIPE_BYTES
    assert PIPE_BYTES < ends.readers[1].sent_bytes <= WINDOW_BYTES + PIPE_BYTES
    assert ends.source.waiting_bytes == 0  # the wire is free for others
    for number in range(200):
        os.write(into, bytes([number]) * 10_000)
        came = bytearray()
        assert ends.run(lambda came=came: len(came.__iadd__(drain(out))) == 10_000)  # type: ignore[misc] # a default binds
        assert came == bytes([number]) * 10_000
    os.close(into)
    assert ends.run(lambda: ("w", 2) in ends.closed)
    got = bytearray()
    os.close(stuck_into)

    def read_on() -> bool:
        got.extend(drain(stuck_out))
        return len(got) == written and ("w", 1) in ends.closed

    assert ends.run(read_on)
    os.close(stuck_out)
    os.close(out)


def test_an_end_comes_behind_all_that_was_written(ends: Ends) -> None:
    source, into = pipe()
    out, target = pipe()
    ends.stream(1, source, target)
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 18)
    data = os.urandom(200_000)
    assert os.write(into, data) == len(data)
    os.close(into)
    ends.settle()
    assert ends.closed == [("r", 1)]  # its last bytes don't fit into the pipe yet
    found = bytearray()

    def read() -> bool:
        found.extend(drain(out, 1000))
        return len(found) == len(data)

    assert ends.run(read) and bytes(found) == data
    assert ends.run(lambda: ("w", 1) in ends.closed) and ended(out)
    os.close(out)


def test_who_writes_hears_that_nobody_reads_any_more(ends: Ends) -> None:
    source, into = pipe()
    out, target = pipe()
    ends.stream(1, source, target)
    os.close(out)
    os.write(into, b"x")
    assert ends.run(lambda: ends.closed == [("w", 1), ("r", 1)])
    with pytest.raises(BrokenPipeError):
        os.write(into, b"y")
    os.close(into)


def test_one_half_closed_goes_on_in_the_other_direction(ends: Ends) -> None:
    """A socket's two directions are two streams; the end of one says nothing of the other."""
    program, ours = socket.socketpair()
    with program, ours:
        program.setblocking(False)
        out, target = pipe()
        ends.stream(1, os.dup(ours.fileno()), target)
        program.sendall(b"question")
        program.shutdown(socket.SHUT_WR)
        assert ends.run(lambda: len(ends.closed) == 2)
        assert drain(out) == b"question"
        source, into = pipe()
        ends.stream(2, source, os.dup(ours.fileno()))
        os.write(into, b"answer")
        assert ends.run(lambda: ends.readers[2].sent_bytes == 6, 5)
        os.close(into)
        assert ends.run(lambda: ("w", 2) in ends.closed)
        assert program.recv(100) == b"answer"
        os.close(out)


def test_a_file_is_sent_from_where_it_stands_to_its_end(ends: Ends) -> None:
    data = random.Random(3).randbytes(WINDOW_BYTES * 2 + 12345)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        source = os.dup(file.fileno())
    os.lseek(source, 1000, os.SEEK_SET)
    out, target = pipe()
    ends.stream(1, source, target)
    assert ends.readers[1].sent_bytes == WINDOW_BYTES  # no more before some of it has been taken
    found = bytearray()

    def read() -> bool:
        found.extend(drain(out))
        return len(ends.closed) == 2

    assert ends.run(read)
    found.extend(drain(out))
    assert bytes(found) == data[1000:] and ends.ends == [b""]
    os.close(out)


def test_a_device_that_is_always_ready_is_sent_as_fast_as_it_is_read(ends: Ends) -> None:
    out, target = pipe()
    ends.stream(1, os.open("/dev/zero", os.O_RDONLY), target)
    found = 0

    def read() -> bool:
        nonlocal found
        found += len(drain(out))
        return found > 2 * WINDOW_BYTES

    assert ends.run(read)
    assert ends.most_under_way <= WINDOW_BYTES
    os.close(out)
    assert ends.run(lambda: len(ends.closed) == 2)


def test_what_cannot_be_read_is_said_with_its_end(ends: Ends) -> None:
    out, target = pipe()
    ends.stream(1, os.open("/", os.O_RDONLY | os.O_DIRECTORY), target)
    assert ends.run(lambda: len(ends.closed) == 2)
    assert [int.from_bytes(body, "little") for body in ends.ends] == [errno.EISDIR] and ended(out)
    os.close(out)


def test_a_terminal_whose_last_user_is_gone_has_ended(ends: Ends) -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    out, target = pipe()
    ends.stream(1, master, target)
    os.write(slave, b"last words\n")
    assert ends.run(lambda: ends.readers[1].sent_bytes > 0)
    os.close(slave)
    assert ends.run(lambda: len(ends.closed) == 2)
    assert drain(out) == b"last words\r\n" and ends.ends == [b""]
    os.close(out)


def test_streams_that_are_over_hold_no_descriptor(ends: Ends) -> None:
    before = open_descriptors()
    for number in range(8):
        source, into = pipe()
        out, target = pipe()
        ends.stream(number, source, target)
        os.write(into, b"some")
        if number % 2:
            os.close(out)
            os.close(into)
        else:
            os.close(into)
            assert ends.run(lambda number=number: ("w", number) in ends.closed)  # type: ignore[misc] # a default binds
            os.close(out)
    assert ends.run(lambda: len(ends.closed) == 16)
    assert sorted(ends.closed) == sorted((end, number) for number in range(8) for end in "rw")
    assert open_descriptors() == before


def test_more_than_the_window_is_not_kept() -> None:
    first, second = socket.socketpair()
    reading, writing = os.pipe()
    loop = Loop()
    writer = Writer(Wire(loop, first.detach(), lambda *_: None, lambda: None), loop, 2, writing)
    for _ in range((WINDOW_BYTES + PIPE_BYTES) // 4096 - 1):
        writer.give(bytes(4096))  # the pipe takes its part, the window the rest
    with pytest.raises(Surprise, match="more than 262144 bytes of a stream that weren't asked for"):
        for _ in range(2):
            writer.give(bytes(4096))
    writer.close()
    os.close(reading)
    second.close()


def test_credit_beyond_the_window_is_refused() -> None:
    """A file of any size, whose receiver grants more than was sent: no more than the window is under way."""
    first, second = socket.socketpair()
    loop, sent = Loop(), []
    wire = Wire(loop, first.detach(), lambda *_: None, lambda: None)
    wire.send = lambda kind, number, body=b"": sent.append(len(body))  # type: ignore[method-assign] # to count
    reader = Reader(wire, loop, 2, os.open("/dev/zero", os.O_RDONLY))
    reader.begin()
    assert sum(sent) == WINDOW_BYTES
    for credit in (1 << 62, WINDOW_BYTES + 1):
        with pytest.raises(Surprise, match="room for more of a stream than 262144 bytes"):
            reader.more(credit)
    assert sum(sent) == WINDOW_BYTES
    reader.more(WINDOW_BYTES)
    assert sum(sent) == 2 * WINDOW_BYTES
    reader.close()
    second.close()
