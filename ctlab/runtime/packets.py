"""One SOCK_SEQPACKET packet with descriptors beside it: what every message between the lab's processes travels in.

A body over `INLINE_LIMIT` travels as a memfd (a packet over the socket's buffer, about 212 KB, is EMSGSIZE), sealed, so
that the receiver reads what it has measured; one over `LARGEST_BODY_BYTES` doesn't travel. At most 253 descriptors a
packet (SCM_MAX_FD). What comes from inside a lab may be anything: a receiver says how much it takes, and all else is a
`Surprise`. Lean: see `kernel.lean`. `_socket` is the class that `socket.socket` extends.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import struct

from ..kernel import memfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INLINE_LIMIT = 100_000
LARGEST_BODY_BYTES = 64 << 20  # a start takes about 2 KB, the largest answer (a dump) 32 MiB
MOST_DESCRIPTORS = 253  # SCM_MAX_FD
SCM_CREDENTIALS = 2
_CREDENTIALS = struct.Struct("=iII")
_ANCILLARY = _socket.CMSG_SPACE(MOST_DESCRIPTORS * 4) + _socket.CMSG_SPACE(_CREDENTIALS.size)
_BODY_IN_MEMFD = b"\0memfd"
MSG_CMSG_CLOEXEC = 0x40000000  # linux/socket.h


class Surprise(ValueError):
    """Something came that can't come from who keeps to the rules; the text is half a sentence that says what."""


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
    Raises OSError: EMSGSIZE for a body over `LARGEST_BODY_BYTES`.
    """
    passed = list(descriptors)
    carrier = -1
    if len(body) > INLINE_LIMIT:
        if len(body) > LARGEST_BODY_BYTES:
            sizes = f"{len(body) / (1 << 20):.0f} MiB, and it may have {LARGEST_BODY_BYTES >> 20} MiB at most"
            raise OSError(errno.EMSGSIZE, f"the message is too large: {sizes} (EMSGSIZE)")
        carrier = memfd.holding("ctlab-message", body)
        passed.append(carrier)
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
        if carrier >= 0:
            os.close(carrier)


def receive(
    connection: _socket.socket,
    flags: int = 0,
    *,
    most_bytes: int = LARGEST_BODY_BYTES,
    most_descriptors: int = MOST_DESCRIPTORS,
) -> tuple[bytes, list[int], int]:
    """One packet as (body, descriptors, sender's or named process id). The body is empty at the end of file.

    The process id is 0 unless SO_PASSCRED is set on `connection`. `most_bytes` counts for a body in a memfd; what comes
    in the packet itself is little. Raises OSError EMFILE where descriptors came that there was no room for, and
    Surprise for what breaks the rules, with nothing of it left open.
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
        discard(descriptors)
        raise OSError(24, "descriptors that came with a message were lost: this process has too many open")
    try:
        if got & _socket.MSG_TRUNC:
            raise Surprise(f"a packet of more than {INLINE_LIMIT} bytes")
        if body == _BODY_IN_MEMFD:
            if not descriptors:
                raise Surprise("a message whose body didn't come along")
            carrier = descriptors[-1]
            try:
                body = memfd.content(carrier, most_bytes)
            except ValueError as error:
                raise Surprise(f"a message in {error}") from None
            descriptors.pop()
            os.close(carrier)
        if len(descriptors) > most_descriptors:
            raise Surprise(f"a message with {_counted(len(descriptors))}, where {_counted(most_descriptors)} may come")
    except BaseException:
        discard(descriptors)
        raise
    return body, descriptors, process if body else 0


def _counted(number: int) -> str:
    return "no descriptor" if not number else "1 descriptor" if number == 1 else f"{number} descriptors"


def discard(descriptors: Sequence[int]) -> None:
    """Close what nobody has asked for, and wait for none of it.

    The end of a socket or of a file on somebody's own file system may take as long as that somebody likes (SO_LINGER,
    FUSE), so a thread does it, of which nobody waits for the end.
    """
    if not descriptors:
        return
    try:
        _thread.start_new_thread(_close, (tuple(descriptors),))
    except RuntimeError:  # no thread can be had
        _close(tuple(descriptors))


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass  # closed all the same
