"""The owner's side: starts the keeper, talks to the supervisor, hears events.

Every thread that calls uses a connection of its own (from a pool) and reads its answer itself, so that a call
costs no switch to another thread. A caller that is interrupted while it waits drops its connection.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import KINDS, CtlabError, KernelError, LabGone, StateError
from . import protocol

_BOOTSTRAP = "import sys;sys.path.insert(0,{parent!r});from ctlab.runtime.keeper import main;main()"
_START_SECONDS = 30.0


class Reply:
    """An answer: the message, the descriptors beside it, the process it speaks of (numbered as here)."""

    __slots__ = ("descriptors", "message", "process")

    def __init__(self, message: protocol.Message, descriptors: list[int], process: int) -> None:
        self.message = message
        self.descriptors = descriptors
        self.process = process

    def __getitem__(self, key: str) -> Any:
        return self.message[key]


def raise_failure(message: protocol.Message) -> None:
    """Raise what a message reports, if it reports a failure."""
    kind = message.get("error")
    if kind is None:
        return
    cls = KINDS.get(kind, CtlabError)
    if issubclass(cls, KernelError):
        raise cls(message["message"], message.get("errno", 0))
    raise cls(message["message"])


class Connection:
    """One call socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def send(self, message: protocol.Message, descriptors: Sequence[int] = ()) -> None:
        """Send a request."""
        protocol.send(self.socket, message, descriptors)

    def receive(self) -> Reply:
        """The next answer. Raises LabGone at the end of file, else what the answer reports."""
        try:
            message, descriptors, process = protocol.receive(self.socket)
        except OSError:
            message, descriptors, process = None, [], 0
        if message is None:
            raise LabGone("the lab is gone: it was stopped, or its supervisor died")
        if "error" in message:
            for descriptor in descriptors:
                os.close(descriptor)
            raise_failure(message)
        return Reply(message, descriptors, process)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class Client:
    """One running lab, as its owner sees it."""

    def __init__(self, name: str, interval_seconds: float) -> None:
        self.id = secrets.token_hex(6)
        self.name = name
        self.facts: protocol.Message = {}
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._control: socket.socket
        self._events: socket.socket
        self._listeners: list[Callable[[protocol.Message], None]] = []
        self._gone = threading.Event()
        self._stopping = False
        self._lock = threading.Lock()
        self.keeper_pid = 0
        self._start(interval_seconds)

    # -- start and stop -------------------------------------------------------------------------
    def _start(self, interval_seconds: float) -> None:
        control, keeper_control = protocol.pair()
        calls, keeper_calls = protocol.pair()
        events, keeper_events = protocol.pair()
        # The numbers 3-5 may be in use here: go through numbers well above them first.
        ends = [_dup_above(end.fileno(), 20) for end in (keeper_control, keeper_calls, keeper_events)]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        words = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP.format(parent=package_parent)]
        actions = [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(ends, (3, 4, 5), strict=True)]
        actions += [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
        errors = os.memfd_create("ctlab-keeper-errors", os.MFD_CLOEXEC)
        actions += [(os.POSIX_SPAWN_DUP2, errors, 2)]
        try:
            self.keeper_pid = os.posix_spawn(
                sys.executable, words, _keeper_environment(), file_actions=actions, setsid=True
            )
        finally:
            for descriptor in (*ends, null):
                os.close(descriptor)
            for end in (keeper_control, keeper_calls, keeper_events):
                end.close()
        try:
            protocol.send(
                control, {"id": self.id, "name": self.name, "owner": os.getpid(), "interval": interval_seconds}
            )
            ready, _, _ = select.select([control], [], [], _START_SECONDS)
            message = protocol.receive(control)[0] if ready else None
            if message is None:
                text = os.pread(errors, 4000, 0).decode(errors="replace").strip().splitlines()
                raise CtlabError(f"the lab's keeper ended at start: {text[-1] if text else 'no reason given'}")
            if "error" in message:
                raise KernelError(f"the lab can't start: {message['message']}", message.get("errno", 0))
        except BaseException:
            for sock in (control, calls, events):
                sock.close()
            self._reap()
            raise
        finally:
            os.close(errors)
        self.facts = message
        self._control, self._events = control, events
        self._idle.put(Connection(calls))
        threading.Thread(target=self._hear, name=f"ctlab-events-{self.name}", daemon=True).start()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.keeper_pid, 0)

    @property
    def gone(self) -> bool:
        """Whether the lab has ended."""
        return self._gone.is_set()

    def stop(self) -> None:
        """End the lab; returns when nothing of it is left."""
        with self._lock:
            if self._stopping:
                self._gone.wait(10.0)
                return
            self._stopping = True
        self.close_connections()
        with contextlib.suppress(OSError):
            protocol.send(self._control, {"do": "stop"})
            ready, _, _ = select.select([self._control], [], [], 15.0)
            if ready:
                protocol.receive(self._control)
        self._reap()
        self._gone.set()
        self._control.close()

    def close_connections(self) -> None:
        """Close every idle connection; what a thread is using it closes itself."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    # -- calls ------------------------------------------------------------------------------------
    def connection(self) -> Connection:
        """A connection for this thread, until `give_back`."""
        if self._gone.is_set() or self._stopping:
            raise LabGone(f"lab {self.name!r} was stopped")
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            # All are in use: the supervisor is given one more over a control connection that is made for it.
            return self._another()

    def _another(self) -> Connection:
        ours, theirs = protocol.pair()
        try:
            protocol.send(self._events, {"connection": True}, [theirs.fileno()])
        except OSError:
            ours.close()
            raise LabGone(f"lab {self.name!r} is gone") from None
        finally:
            theirs.close()
        return Connection(ours)

    def give_back(self, connection: Connection) -> None:
        """The call is over and its answer was read."""
        if self._stopping:
            connection.close()
        else:
            self._idle.put(connection)

    def call(self, message: protocol.Message, descriptors: Sequence[int] = ()) -> Reply:
        """One request and its answer. Raises the `CtlabError` that the answer reports, or LabGone."""
        connection = self.connection()
        try:
            connection.send(message, descriptors)
            reply = connection.receive()
        except CtlabError as error:
            if isinstance(error, LabGone):
                connection.close()
            else:
                self.give_back(connection)
            raise
        except BrokenPipeError:
            connection.close()
            raise LabGone(f"lab {self.name!r} is gone") from None
        except BaseException:
            connection.close()  # interrupted: its answer may still come, and nobody else may get it
            raise
        self.give_back(connection)
        return reply

    # -- events -----------------------------------------------------------------------------------
    def listen(self, listener: Callable[[protocol.Message], None]) -> None:
        """Call `listener` with every event, on the event thread."""
        self._listeners.append(listener)

    def _hear(self) -> None:
        while True:
            try:
                message, _, _ = protocol.receive(self._events)
            except OSError:
                message = None
            if message is None:
                break
            for listener in list(self._listeners):
                with contextlib.suppress(Exception):
                    listener(message)
        unexpected = not self._stopping
        self._gone.set() if unexpected else None
        for listener in list(self._listeners):
            with contextlib.suppress(Exception):
                listener({"event": "gone", "unexpected": unexpected})
        if unexpected:
            self.close_connections()
            self._reap()
        self._events.close()


def _dup_above(descriptor: int, lowest: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)


def _keeper_environment() -> dict[str, str]:
    """What the keeper needs of our environment and nothing else: containers are cloned from it."""
    names = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "HOME", "LANG", "TMPDIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    kept["PYTHONDONTWRITEBYTECODE"] = "1" if not os.access(os.path.dirname(__file__), os.W_OK) else ""
    return kept


def wait_for(condition: Callable[[], bool], timeout_seconds: float | None, step_seconds: float = 0.01) -> bool:
    """Poll a condition that no event announces; False when the time is over."""
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while not condition():
        if until is not None and time.monotonic() >= until:
            return False
        time.sleep(step_seconds)
    return True


__all__ = ["Client", "Connection", "Reply", "StateError", "raise_failure", "wait_for"]
