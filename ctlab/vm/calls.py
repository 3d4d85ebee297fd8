"""What a CALL and an ANSWER carry beside the message: descriptions of the descriptors, a process id.

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

_LENGTH = struct.Struct("=I")

Described = list[list[Any]]


def pack(message: bytes, described: Described, process: int = 0) -> bytes:
    """The body of a CALL or an ANSWER."""
    if not described and not process:
        return b"\0\0\0\0" + message
    beside = json.dumps([described, process]).encode()
    return _LENGTH.pack(len(beside)) + beside + message


def unpack(body: bytes) -> tuple[bytes, Described, int]:
    """(message, descriptions, process id)."""
    (length,) = _LENGTH.unpack_from(body)
    if not length:
        return body[4:], [], 0
    described, process = json.loads(body[4 : 4 + length])
    return body[4 + length :], described, process


def refusal(error: OSError) -> dict[str, Any]:
    """The answer to a call that couldn't be passed on, or whose answer couldn't."""
    return {"error": "KernelError", "message": error.strerror or str(error), "errno": error.errno or 0}
