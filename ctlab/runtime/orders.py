"""Messages among the lab's own processes inside: the supervisor, the nursery, slots before `exec`, runners.

All of them are clones of one interpreter, and nothing that a container runs ever holds one of these sockets, so
`marshal` does: it costs no import (`json` does) and no text. Whoever speaks with the owner uses `protocol`.
Lean: see `kernel.lean`.
"""

from __future__ import annotations

import _socket
import marshal

from . import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]


def pair() -> tuple[_socket.socket, _socket.socket]:
    """A connected pair of close-on-exec SEQPACKET sockets."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)


def send(connection: _socket.socket, message: Message, descriptors: Sequence[int] = (), *, flags: int = 0) -> None:
    """Send one message; `flags`: as of `packets.send`."""
    packets.send(connection, marshal.dumps(message), descriptors, flags=flags)


def receive(connection: _socket.socket) -> tuple[Message | None, list[int]]:
    """One message as (message, descriptors); (None, descriptors) at the end of file."""
    body, descriptors, _ = packets.receive(connection)
    return decode(body), descriptors


def decode(body: bytes) -> Message | None:
    """The message that these bytes are; None: the end of file."""
    return marshal.loads(body) if body else None


def receive_from(connection: _socket.socket) -> tuple[Message | None, int]:
    """One message and the pid of its sender, in our own PID namespace; `connection` has SO_PASSCRED set."""
    body, _, process = packets.receive(connection)
    return (marshal.loads(body) if body else None), process


def answer(caller: _socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Answer an owner's call to run a program, as `messages` has it: Begun, Ended or Failure, made without `json`."""
    if "error" in message:
        said = f'["Failure",{_text(message["error"])},{_text(message["message"])},{int(message["errno"])}]'
    elif "started" in message:
        said = '["Begun"]'
    else:
        said = f'["Ended",{int(message["returncode"])}]'
    packets.send(caller, said.encode("utf-8", "surrogateescape"), descriptors)


def last_words(keeper: _socket.socket, kind: str, text: str, number: int) -> None:
    """Tell the keeper why the supervisor ends, in the form of `protocol`."""
    said = f'{{"error":{_text(kind)},"message":{_text(text)},"errno":{number}}}'
    packets.send(keeper, said.encode("utf-8", "surrogateescape"))


def _text(value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in quoted) + '"'
