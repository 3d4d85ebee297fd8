"""One SOCK_SEQPACKET packet with descriptors beside it: what every message between the lab's processes travels in.

A body over `INLINE_LIMIT` travels as a memfd (a packet over the socket's buffer, about 212 KB, is EMSGSIZE). At most
253 descriptors a packet (SCM_MAX_FD). Lean: see `kernel.lean`. `_socket` is the class that `socket.socket` extends.
"""

from __future__ import annotations

import _socket
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INLINE_LIMIT = 100_000
SCM_CREDENTIALS = 2
_CREDENTIALS = struct.Struct("=iII")
_ANCILLARY = _socket.CMSG_SPACE(253 * 4) + _socket.CMSG_SPACE(_CREDENTIALS.size)
_BODY_IN_MEMFD = b"\0memfd"
MSG_CMSG_CLOEXEC = 0x40000000  # linux/socket.h


def send(
    connection: _socket.socket,
    body: bytes,
    descriptors: Sequence[int] = (),
    *,
    process: int | None = None,
    flags: int = 0,
) -> None:
    """Send one packet. `process`: a pid of ours that the receiver is told in its own PID namespace.

    `flags`: for example MSG_DONTWAIT, which raises BlockingIOError when the receiver has not read enough yet.
    """
    passed = list(descriptors)
    memfd = -1
    if len(body) > INLINE_LIMIT:
        memfd = os.memfd_create("ctlab-message", os.MFD_CLOEXEC)
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(memfd, rest) :]
        passed.append(memfd)
        body = _BODY_IN_MEMFD
    ancillary: list[tuple[int, int, bytes]] = []
    if passed:
        numbers = struct.pack(f"={len(passed)}i", *passed)
        ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers))
    if process is not None:
        ancillary.append((_socket.SOL_SOCKET, SCM_CREDENTIALS, _CREDENTIALS.pack(process, os.getuid(), os.getgid())))
    try:
        if ancillary:
            connection.sendmsg([body], ancillary, _socket.MSG_NOSIGNAL | flags)
        else:
            connection.send(body, _socket.MSG_NOSIGNAL | flags)
    finally:
        if memfd >= 0:
            os.close(memfd)


def receive(connection: _socket.socket, flags: int = 0) -> tuple[bytes, list[int], int]:
    """One packet as (body, descriptors, sender's or named process id). The body is empty at the end of file.

    The process id is 0 unless SO_PASSCRED is set on `connection`. Raises OSError EMFILE where descriptors came that
    there was no room for.
    """
    flags |= MSG_CMSG_CLOEXEC
    try:
        body, ancillary, got, _ = connection.recvmsg(INLINE_LIMIT + 1000, _ANCILLARY, flags)
    except ConnectionResetError:
        # Said once when the other end died with something of ours unread; what it had sent before is still there.
        body, ancillary, got, _ = connection.recvmsg(INLINE_LIMIT + 1000, _ANCILLARY, flags)
    descriptors: list[int] = []
    process = 0
    for level, kind, data in ancillary:
        if level != _socket.SOL_SOCKET:
            continue
        if kind == _socket.SCM_RIGHTS:
            count = len(data) // 4
            descriptors.extend(struct.unpack(f"={count}i", data[: 4 * count]))
        elif kind == SCM_CREDENTIALS:
            process = _CREDENTIALS.unpack(data)[0]
    if got & _socket.MSG_CTRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError(24, "descriptors that came with a message were lost: this process has too many open")
    if body == _BODY_IN_MEMFD:
        memfd = descriptors.pop()
        try:
            body = _whole(memfd)
        finally:
            os.close(memfd)
    return body, descriptors, process if body else 0


def _whole(memfd: int) -> bytes:
    size = os.fstat(memfd).st_size
    whole = bytearray()
    while len(whole) < size:
        piece = os.pread(memfd, size - len(whole), len(whole))
        if not piece:
            break
        whole += piece
    return bytes(whole)
