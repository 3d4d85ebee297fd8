"""The owner's side of `python -m ctlab shell`: terminals of the same user ask for programs in its containers.

What they get is an ordinary `exec`, begun here, and the connection on which the lab answers it: so nothing that is
typed or printed passes through this process, and a cell that is busy holds no terminal up.

A request is one JSON object: container, argv (empty: a shell), window ([rows, columns], null: pipes instead of a
terminal). The answer: execution, id, container, lab, with the connection and, for pipes, the ends of the program's
stdin, stdout and stderr beside it; or what every failure is (`protocol.failure`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

from . import executing
from .errors import BadInput, CtlabError, StateError, Unsupported
from .execution import Execution
from .runtime import door, messages, protocol
from .runtime.packets import Surprise

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab
    from .runtime.connection import Event

SHELLS = ("/bin/bash", "/bin/sh")
_REQUEST_BYTES = 64 << 10
_REQUEST_SECONDS = 5.0  # one that says nothing doesn't keep others waiting for longer
_LARGEST_SIDE = 0xFFFF


def open_door(lab: Lab) -> None:
    """Let terminals in from now on. Twice is no error. Raises KernelError, Unsupported."""
    with lab._lock:
        if lab._door is None:
            lab._door = Door(lab)


def shell_of(container: Container) -> str:
    """The shell of a container that runs. Raises Unsupported, StateError."""
    for path in SHELLS:
        if container.lab._call(messages.Kind(container.id, path), messages.Lies).message.kind == "file":
            return path
    raise Unsupported(f"there is no shell in container {container.name}: neither {' nor '.join(SHELLS)}")


class Door:
    """One lab's socket and the thread that serves it, until the lab ends."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._listener = door.listen(lab._client.id)
        lab._client.listen(self._heard)
        threading.Thread(target=self._serve, name=f"ctlab-door-{lab.name}", daemon=True).start()

    def _heard(self, event: Event) -> None:
        if isinstance(event, messages.Gone):
            with contextlib.suppress(OSError):  # closed already
                self._listener.shutdown(socket.SHUT_RDWR)  # the thread, which waits in accept, closes it

    def _serve(self) -> None:
        with self._listener:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        self._answer(connection)
                    except OSError:
                        pass  # it is gone, or says nothing
                    except Exception as error:  # whatever it was, the next one is served
                        _refuse(connection, error)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_REQUEST_SECONDS)
        user = door.user_of(connection)
        if user != os.getuid():
            raise Unsupported(f"lab '{self._lab.name}' belongs to user {os.getuid()}, not to you ({user})")
        # Without room for any, descriptors that come along are closed by the kernel.
        body, _, flags, _ = connection.recvmsg(_REQUEST_BYTES)
        if not body:
            return
        if flags & socket.MSG_TRUNC:
            raise BadInput(f"the command has more than {_REQUEST_BYTES >> 10} KiB")
        name, argv, window = _read(body)
        container = self._lab[name]
        check(container)
        execution = Execution(container, argv or [shell_of(container)], executing.settings_in_terminal(container))
        with execution.for_another(window) as descriptors:
            names = {"id": container.id, "container": container.name, "lab": self._lab.name}
            protocol.send(connection, {"execution": execution.number, **names}, descriptors)


def check(container: Container) -> None:
    """Raise StateError unless a container runs."""
    container._alive()
    if container.state != "running":
        raise StateError(f"container {container.name} isn't running, it is {container.state}")


def _read(body: bytes) -> tuple[str, list[str], list[int] | None]:
    """(container, argv, window) of a request. Raises BadInput for what is none."""
    try:
        message = protocol.decode(body)
    except Surprise:
        raise BadInput("what a terminal asked for is no request") from None
    name, argv, window = message.get("container"), message.get("argv"), message.get("window")
    if type(name) is not str or type(argv) is not list or not all(type(word) is str for word in argv):
        raise BadInput("what a terminal asked for is no request: container is a text, argv a list of texts")
    if window is not None and not _is_window(window):
        raise BadInput("what a terminal asked for is no request: window is [rows, columns]")
    if any("\0" in word for word in argv):
        raise BadInput("a word of the command has a NUL in it")
    return name, argv, window


def _is_window(window: object) -> bool:
    return (
        type(window) is list
        and len(window) == 2
        and all(type(side) is int and 0 <= side <= _LARGEST_SIDE for side in window)
    )


def _refuse(connection: socket.socket, error: Exception) -> None:
    failure = protocol.failure(error)
    if not isinstance(error, CtlabError):
        failure["message"] = f"{failure['error']}: {failure['message']}"
    try:
        protocol.send(connection, failure)
    except OSError:
        pass
