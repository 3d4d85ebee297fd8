"""What a CALL and an ANSWER carry beside the message: descriptions of the descriptors.

The message itself passes as the bytes that it is, so that only who it is meant for decodes it.
Body: 4 bytes, how long the part beside it is (0: there is none), that part as JSON, the message.

A descriptor is described as [kind, number]:
  "r", "w"   a stream that the receiver reads, or writes
  "f"        a file's content: comes as a stream, and the receiver waits for all of it, since a file can be sought in
  "n"        /dev/null
  "e"        an eventfd, whose news travel as TOLD
  "l"        a container's log ring, by its key
  "m"        a ring of counters: 0 containers, 1 endpoints
"""

from __future__ import annotations

import json
import struct
from typing import Any

from ..runtime import messages, packets
from ..runtime.packets import Surprise

_LENGTH = struct.Struct("=I")
_LARGEST_BESIDE_BYTES = 1 << 14  # of 253 descriptions
_LARGEST_NUMBER = 0xFFFFFFFF
KINDS = "rwfnelm"

Described = list[list[Any]]


def pack(message: bytes, described: Described) -> bytes:
    """The body of a CALL or an ANSWER."""
    if not described:
        return b"\0\0\0\0" + message
    beside = json.dumps(described).encode()
    return _LENGTH.pack(len(beside)) + beside + message


def unpack(body: bytes, kinds: str = KINDS, most: int = packets.MOST_DESCRIPTORS) -> tuple[bytes, Described]:
    """(message, descriptions).

    Raises Surprise unless there is a message, with `most` descriptions at most, of `kinds`.
    """
    if len(body) <= _LENGTH.size:  # as a packet nothing would be an end of file
        raise Surprise("a call or an answer that is cut off")
    (length,) = _LENGTH.unpack_from(body)
    if not length:
        return body[_LENGTH.size :], []
    end = _LENGTH.size + length
    if end >= len(body) or length > _LARGEST_BESIDE_BYTES:
        raise Surprise(f"a call or an answer with {length} bytes beside it")
    try:
        described = json.loads(body[_LENGTH.size : end])
    except (ValueError, RecursionError):
        raise Surprise("a call or an answer with nonsense beside it") from None
    if type(described) is not list:
        raise Surprise("a call or an answer with nonsense beside it")
    if len(described) > most or not all(_is_description(one, kinds) for one in described):
        raise Surprise("descriptions of descriptors that nobody asked for")
    return body[end:], described


def _is_description(one: object, kinds: str) -> bool:
    return (
        type(one) is list and len(one) == 2 and type(one[0]) is str and len(one[0]) == 1 and one[0] in kinds
        and type(one[1]) is int and 0 <= one[1] <= _LARGEST_NUMBER
    )  # fmt: skip


def refusal(error: OSError) -> messages.Failure:
    """The answer to a call that couldn't be passed on, or whose answer couldn't."""
    return messages.Failure("KernelError", error.strerror or str(error), error.errno or 0)
