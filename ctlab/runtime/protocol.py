"""Messages between the owner, the keeper and the supervisor: one JSON object a packet, descriptors beside it.

JSON, since what comes from inside the lab is read outside it and must not be able to run code there;
`benchmarks/message_format.py` has the figures.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

from . import packets

Message = dict[str, Any]

_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of close-on-exec SEQPACKET sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(
    connection: socket.socket,
    message: Message,
    descriptors: Sequence[int] = (),
    *,
    process: int | None = None,
    flags: int = 0,
) -> None:
    """Send one message; see `packets.send`."""
    packets.send(connection, encode(message), descriptors, process=process, flags=flags)


def encode(message: Message) -> bytes:
    """A message as it travels."""
    return _encoder.encode(message).encode("utf-8", "surrogateescape")


def decode(body: bytes) -> Message:
    """The message that these bytes are. Raises ValueError, RecursionError if they are none."""
    message: Message = json.loads(body.decode("utf-8", "surrogateescape"))
    if type(message) is not dict:
        raise ValueError(f"a message is an object, not {body[:40]!r}")
    return message


def receive(connection: socket.socket, flags: int = 0) -> tuple[Message | None, list[int], int]:
    """One message as (message, descriptors, sender's or named process id). (None, [], 0) at the end of file.

    The process id is 0 unless SO_PASSCRED is set on `connection`.
    """
    body, descriptors, process = packets.receive(connection, flags)
    if not body:
        return None, descriptors, 0
    return decode(body), descriptors, process


def failure(error: BaseException) -> Message:
    """How an exception travels: kind, one line, errno."""
    number = getattr(error, "errno", None) or getattr(error, "number", 0) or 0
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return {"error": type(error).__name__, "message": text, "errno": number}
