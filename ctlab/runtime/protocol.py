"""Messages between the owner, the keeper and the supervisor: one JSON value a packet, descriptors beside it.

Between owner and supervisor those of `messages`, as lists; all others are objects that both ends know.

JSON, since what comes from inside the lab is read outside it and must not be able to run code there;
`benchmarks/message_format.py` has the figures. What breaks the rules is a `Surprise`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from . import packets, shapes
from .packets import Surprise

Message = dict[str, Any]

MOST_VALUES = 1_000_000  # in a message from inside: each costs some 60 bytes of memory here, and 2 there

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


def decode(body: bytes, most_values: int = 0) -> Message:
    """The object that these bytes are. Raises Surprise, as `_value` does, if they are none."""
    message = _value(body, most_values)
    if type(message) is not dict:
        raise Surprise(f"a message that is no object but a {type(message).__name__}")
    return message


def pack(message: tuple[object, ...]) -> bytes:
    """One of `messages` as it travels."""
    return _encoder.encode([type(message).__name__, *message]).encode("utf-8", "surrogateescape")


def unpack(body: bytes, kinds: Mapping[str, Any], most_values: int = 0) -> Any:
    """The message, of one of these kinds of `messages`, that these bytes are. Raises Surprise."""
    return shapes.read(_value(body, most_values), kinds)


def _value(body: bytes, most_values: int) -> Any:
    """What these bytes are. Raises Surprise if they are no JSON, or have more than `most_values` (0: any).

    Bytes that are no UTF-8 can be part of a text, as they can be of a file's name: they come as surrogates.
    """
    # Counted before anything is made of it. Commas in texts count too: no honest text has that many.
    if most_values and len(body) > packets.INLINE_LIMIT and sum(map(body.count, (b",", b"[", b"{"))) > most_values:
        raise Surprise(f"a message of more than {most_values} values")
    text = body.decode("utf-8", "surrogateescape")
    try:
        value, end = _decoder.raw_decode(text)  # without a search for blanks around it, which nobody sends
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Surprise(f"what is no message ({why})") from None
    if end != len(text):
        raise Surprise("a message with something behind it")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


_decoder = json.JSONDecoder(parse_constant=_no_number)


def receive(
    connection: socket.socket,
    flags: int = 0,
    *,
    most_bytes: int = packets.LARGEST_BODY_BYTES,
    most_descriptors: int = packets.MOST_DESCRIPTORS,
    most_values: int = 0,
) -> tuple[Message | None, list[int], int]:
    """One message as (message, descriptors, sender's or named process id). (None, [], 0) at the end of file.

    The process id is 0 unless SO_PASSCRED is set on `connection`. Raises OSError and Surprise as `packets.receive` and
    `decode` do.
    """
    body, descriptors, process = packets.receive(
        connection, flags, most_bytes=most_bytes, most_descriptors=most_descriptors
    )
    if not body:
        if descriptors:
            packets.discard(descriptors)
            raise Surprise("descriptors without a message")
        return None, [], 0
    try:
        return decode(body, most_values), descriptors, process
    except Surprise:
        packets.discard(descriptors)
        raise


def received(connection: socket.socket) -> Message | None:
    """The next message; None at the end of file, and of what can't be received."""
    try:
        return receive(connection)[0]
    except OSError:
        return None


def failure(error: BaseException) -> Message:
    """How an exception travels: kind, one line, errno."""
    number = getattr(error, "errno", None) or getattr(error, "number", 0) or 0
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return {"error": type(error).__name__, "message": text, "errno": number}
