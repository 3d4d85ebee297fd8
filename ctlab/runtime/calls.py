"""A call to the supervisor, and the refusal of one."""

from __future__ import annotations

import _socket
import contextlib
import os
import socket

from . import messages, packets, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Call:
    """A request that is still to be answered, once."""

    __slots__ = ("connection", "descriptors", "message")

    def __init__(self, connection: socket.socket | None, message: Any, descriptors: list[int]) -> None:
        self.connection = connection  # None: it came otherwise, see `vm.channel`
        self.message = message  # one of `messages.REQUESTS`
        self.descriptors = descriptors

    def reply(self, answer: tuple[Any, ...], descriptors: list[int] | None = None, process: int | None = None) -> None:
        """Answer, with one of `messages.ANSWERS`; that the caller is gone is no error."""
        assert self.connection is not None
        body = protocol.pack(answer)
        try:
            if process is not None:
                # A program that was quicker than this answer is reaped already, and its number nobody's.
                with contextlib.suppress(ProcessLookupError):
                    packets.send(self.connection, body, descriptors or (), process=process)
                    return
            packets.send(self.connection, body, descriptors or ())
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:  # it couldn't be sent as it is (descriptors used up): that has to be said at least
            with contextlib.suppress(OSError):
                text = f"the answer couldn't be sent: {error.strerror}"
                failure = messages.Failure("KernelError", text, error.errno or 0)
                packets.send(self.connection, protocol.pack(failure))

    def fail(self, kind: str, text: str, number: int = 0) -> None:
        """Answer that it failed; `kind`: the error class that the owner raises."""
        self.reply(messages.Failure(kind, text, number))

    def given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.connection is None or self.connection.fileno() < 0

    def hand_over(self) -> _socket.socket:
        """The socket on which somebody else is to answer. It is ours to close, in `close_descriptors` at the latest."""
        assert self.connection is not None
        return self.connection

    def close_descriptors(self) -> None:
        """Close what came with the request."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptors = []


class Refused(Exception):
    """A call that can't be served; `kind` is the error class that the owner raises."""

    def __init__(self, kind: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.errno = number
