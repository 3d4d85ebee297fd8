"""Messages between the lab's processes: one JSON object per SOCK_SEQPACKET packet, descriptors beside it.

JSON, since what comes from inside the lab is read outside it and must not be able to run code there;
`benchmarks/message_format.py` has the figures. A body over `INLINE_LIMIT` travels as a memfd
(a packet over the socket's buffer, about 212 KB, is EMSGSIZE). At most 253 descriptors a packet (SCM_MAX_FD).
"""

from __future__ import annotations

import array
import json
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

INLINE_LIMIT = 100_000
SCM_CREDENTIALS = 2
_CREDENTIALS = struct.Struct("=iII")
_ANCILLARY = socket.CMSG_SPACE(253 * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
_BODY_IN_MEMFD = b"\0memfd"

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
    """Send one message. `process`: a pid of ours that the receiver is told in its own PID namespace.

    `flags`: for example MSG_DONTWAIT, which raises BlockingIOError when the receiver has not read enough yet.
    """
    body = _encoder.encode(message).encode("utf-8", "surrogateescape")
    passed = list(descriptors)
    memfd = -1
    if len(body) > INLINE_LIMIT:
        memfd = os.memfd_create("ctlab-message", os.MFD_CLOEXEC)
        with open(memfd, "wb", closefd=False) as file:
            file.write(body)
        passed.append(memfd)
        body = _BODY_IN_MEMFD
    ancillary: list[tuple[int, int, Any]] = []
    if passed:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed)))
    if process is not None:
        ancillary.append((socket.SOL_SOCKET, SCM_CREDENTIALS, _CREDENTIALS.pack(process, os.getuid(), os.getgid())))
    try:
        if ancillary:
            connection.sendmsg([body], ancillary, socket.MSG_NOSIGNAL | flags)
        else:
            connection.send(body, socket.MSG_NOSIGNAL | flags)
    finally:
        if memfd >= 0:
            os.close(memfd)


def receive(connection: socket.socket, flags: int = 0) -> tuple[Message | None, list[int], int]:
    """One message as (message, descriptors, sender's or named process id). (None, [], 0) at the end of file.

    The process id is 0 unless SO_PASSCRED is set on `connection`.
    """
    flags |= socket.MSG_CMSG_CLOEXEC
    try:
        body, ancillary, _, _ = connection.recvmsg(INLINE_LIMIT + 1000, _ANCILLARY, flags)
    except ConnectionResetError:
        # Said once when the other end died with something of ours unread; what it had sent before is still there.
        body, ancillary, _, _ = connection.recvmsg(INLINE_LIMIT + 1000, _ANCILLARY, flags)
    descriptors: list[int] = []
    process = 0
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % 4])
            descriptors.extend(numbers)
        elif kind == SCM_CREDENTIALS:
            process = _CREDENTIALS.unpack(data)[0]
    if not body:
        return None, descriptors, 0
    if body == _BODY_IN_MEMFD:
        memfd = descriptors.pop()
        with mmap.mmap(memfd, 0, prot=mmap.PROT_READ) as view:
            body = bytes(view)
        os.close(memfd)
    message: Message = json.loads(body.decode("utf-8", "surrogateescape"))
    return message, descriptors, process


def failure(error: BaseException) -> Message:
    """How an exception travels: kind, one line, errno."""
    number = getattr(error, "errno", None) or getattr(error, "number", 0) or 0
    return {"error": type(error).__name__, "message": str(error), "errno": number}
