"""The collector: reads what containers write and keeps it, so that nobody else ever holds them up.

A child of the supervisor. Control messages (SEQPACKET): add (the read ends of stdout and stderr, the ring),
sync (read all that is there now, then answer), follow (an eventfd to be told by), unfollow, drop. End of file: exit.
It says of itself which runs have ended: both of their streams have. One that dies is followed by another, which is
given all of it again (see `outputs`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import sys
import termios
import time
from typing import NoReturn

from . import protocol
from .log_ring import LogRing
from .staging import CHUNK_BYTES, Staging

_SAY_AGAIN_SECONDS = 0.05  # after the supervisor had no room for what ended
_ROUNDS = 16  # chunks of one stream in a row: a container that floods does not starve the others


class _Stream:
    def __init__(self, key: int, run: int, number: int, descriptor: int) -> None:
        self.key = key
        self.run = run
        self.number = number
        self.descriptor = descriptor
        self.total = 0  # bytes read
        self.pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)


class Collector:
    """The loop of the process."""

    def __init__(self, control: socket.socket, staging: Staging) -> None:
        self._control = control
        self._staging = staging
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._streams: dict[int, _Stream] = {}
        self._rings: dict[int, LogRing] = {}
        self._open: dict[int, int] = {}  # run -> number of streams still open
        self._newest: dict[int, int] = {}  # key -> its newest run
        self._ended: list[int] = []  # runs, of which the supervisor hasn't been told yet
        self._followers: dict[int, dict[int, int]] = {}  # key -> number of a follower -> its eventfd

    def run(self) -> NoReturn:
        """Until the supervisor goes."""
        while True:
            for descriptor, _ in self._poll.poll(_SAY_AGAIN_SECONDS if self._ended else None):
                if descriptor == self._control.fileno():
                    self._obey()
                elif descriptor in self._streams:
                    self._collect(self._streams[descriptor])
            if self._ended:
                self._say_ended()

    def _say_ended(self) -> None:
        """Without waiting for a supervisor that may be waiting for us."""
        with contextlib.suppress(BlockingIOError):
            protocol.send(self._control, {"ended": self._ended}, flags=socket.MSG_DONTWAIT)
            self._ended = []

    def _obey(self) -> None:
        message, descriptors, _ = protocol.receive(self._control)
        if message is None:
            os._exit(0)
        key = message["key"]
        if message["do"] == "add":
            self._add(key, message["run"], descriptors)
        elif message["do"] == "sync":
            for stream in [s for s in self._streams.values() if s.key == key]:
                # Only what is there now: a container that floods would keep us here for ever.
                goal = stream.total + _waiting(stream.descriptor)
                while stream.descriptor in self._streams and stream.total < goal and self._collect(stream):
                    pass
            protocol.send(self._control, {"synced": message["sync"]})
        elif message["do"] == "follow":
            self._followers.setdefault(key, {})[message["follower"]] = descriptors[0]
            self._tell(key)
        elif message["do"] == "unfollow":
            descriptor = self._followers.get(key, {}).pop(message["follower"], -1)
            if descriptor >= 0:
                os.close(descriptor)
        elif message["do"] == "drop":
            for stream in [s for s in self._streams.values() if s.key == key]:
                self._close(stream)
            if key in self._rings:
                self._rings.pop(key).close()
            self._newest.pop(key, None)
            for follower in self._followers.pop(key, {}).values():
                os.close(follower)

    def _add(self, key: int, run: int, descriptors: list[int]) -> None:
        out, err, descriptor = descriptors
        ring = self._rings.get(key)
        if ring is None:  # else the container is started again: the ring goes on
            ring = self._rings[key] = LogRing(descriptor, writable=True)
        os.close(descriptor)
        ring.ended = False
        number, data = self._staging.left(run, ring)
        if data:
            ring.append(time.time_ns(), number, data)
        self._open[run] = 2
        self._newest[key] = run
        for number, descriptor in ((1, out), (2, err)):
            os.set_blocking(descriptor, False)
            self._streams[descriptor] = _Stream(key, run, number, descriptor)
            self._poll.register(descriptor, select.EPOLLIN)

    def _collect(self, stream: _Stream) -> bool:
        """Read what is there, at most a round; True if there may be more."""
        ring = self._rings[stream.key]
        for _ in range(_ROUNDS):
            try:
                if stream.pipe:
                    data = self._staging.take(stream.descriptor, stream.run, stream.number, ring)
                else:
                    data = os.read(stream.descriptor, CHUNK_BYTES)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: the last slave of a terminal was closed
                    raise
                data = b""
            if not data:
                self._close(stream)
                return False
            stream.total += len(data)
            ring.append(time.time_ns(), stream.number, data)
            self._staging.done()
            self._tell(stream.key)
        return True

    def _close(self, stream: _Stream) -> None:
        self._poll.unregister(stream.descriptor)
        os.close(stream.descriptor)
        del self._streams[stream.descriptor]
        self._open[stream.run] -= 1
        if not self._open[stream.run]:
            del self._open[stream.run]
            self._ended.append(stream.run)
            ring = self._rings.get(stream.key)
            if ring is not None and self._newest[stream.key] == stream.run:
                ring.ended = True
        self._tell(stream.key)

    def _tell(self, key: int) -> None:
        for follower in self._followers.get(key, {}).values():
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(follower, 1)


def _waiting(descriptor: int) -> int:
    """How many bytes a pipe or terminal holds."""
    number = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(number, sys.byteorder)


def main(control: socket.socket, staging: int) -> NoReturn:
    """Run as a forked child. `staging`: the descriptor of the memory that it takes from pipes into."""
    Collector(control, Staging(staging)).run()
