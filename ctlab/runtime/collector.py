"""The collector: reads what containers write and keeps it, so that nobody else ever holds them up.

A child of the supervisor. Control messages (SEQPACKET): add (the read ends of stdout and stderr, the ring),
sync (read all that is there now, then answer), follow (an eventfd to be told by), unfollow, drop. End of file: exit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import sys
import termios
import time
from typing import NoReturn

from . import protocol
from .log_ring import LogRing

_CHUNK = 65536
_ROUNDS = 16  # chunks of one stream in a row: a container that floods does not starve the others


class _Stream:
    def __init__(self, key: int, number: int, descriptor: int) -> None:
        self.key = key
        self.number = number
        self.descriptor = descriptor
        self.total = 0  # bytes read


class Collector:
    """The loop of the process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._streams: dict[int, _Stream] = {}
        self._rings: dict[int, LogRing] = {}
        self._open: dict[int, int] = {}  # key -> number of streams still open
        self._followers: dict[int, dict[int, int]] = {}  # key -> number of a follower -> its eventfd

    def run(self) -> NoReturn:
        """Until the supervisor goes."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._control.fileno():
                    self._obey()
                elif descriptor in self._streams:
                    self._collect(self._streams[descriptor])

    def _obey(self) -> None:
        message, descriptors, _ = protocol.receive(self._control)
        if message is None:
            os._exit(0)
        key = message["key"]
        if message["do"] == "add":
            self._add(key, descriptors)
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
            for follower in self._followers.pop(key, {}).values():
                os.close(follower)

    def _add(self, key: int, descriptors: list[int]) -> None:
        out, err, ring = descriptors
        if key in self._rings:  # the container is started again: the ring goes on
            self._rings[key].ended = False
        else:
            self._rings[key] = LogRing(ring, writable=True)
        os.close(ring)
        self._open[key] = 2
        for number, descriptor in ((1, out), (2, err)):
            os.set_blocking(descriptor, False)
            self._streams[descriptor] = _Stream(key, number, descriptor)
            self._poll.register(descriptor, select.EPOLLIN)

    def _collect(self, stream: _Stream) -> bool:
        """Read what is there, at most a round; True if there may be more."""
        ring = self._rings.get(stream.key)
        for _ in range(_ROUNDS):
            try:
                data = os.read(stream.descriptor, _CHUNK)
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
            if ring is not None:
                ring.append(time.time_ns(), stream.number, data)
            self._tell(stream.key)
        return True

    def _close(self, stream: _Stream) -> None:
        self._poll.unregister(stream.descriptor)
        os.close(stream.descriptor)
        del self._streams[stream.descriptor]
        self._open[stream.key] -= 1
        if not self._open[stream.key]:
            ring = self._rings.get(stream.key)
            if ring is not None:
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


def main(control: socket.socket) -> NoReturn:
    """Run as a forked child."""
    Collector(control).run()
