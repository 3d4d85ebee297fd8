"""The owner's side: starts the keeper, talks to the supervisor, hears events.

Every thread that calls uses a connection of its own (from a pool) and reads its answer itself, so that a call
costs no switch to another thread. A caller that is interrupted while it waits drops its connection.

The supervisor may be whoever has broken out of a container. So nothing that it says is taken for more than it is, and
what can't come from one that keeps to the rules (a `Surprise`) ends the lab: `Client.end_for`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import queue
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import KINDS, CtlabError, KernelError, LabGone, StateError, describe, one_line
from ..kernel import process_end
from . import messages, own_limits, packets, passing, protocol, prune
from .connection import Connection, Event, Reply, Request, T
from .packets import Surprise
from .waiting import readable

_BOOTSTRAP = "import sys;sys.path.insert(0,{parent!r});from ctlab.{module} import main;main()"
_HANDLED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_START_SECONDS = 30.0
_VM_START_SECONDS = 1200.0  # its keeper gives up earlier, with a reason; the first start may fetch a kernel
_STOP_SECONDS = 15.0
_TOLD_SECONDS = 1.0  # what an order waits for to be taken
_STOPPING_SECONDS = 0.01  # between two looks whether somebody else has stopped it
_WHY_SECONDS = 5.0  # until what is known of a lab's death is known here; a VM's keeper waits 4 for its last words
_HIGH = 20  # descriptors of a keeper are below it
_SIGN_SECONDS = 1.0  # between the ends of two sockets of one process that dies

if TYPE_CHECKING:
    from ..vm.options import VmOptions


class Client:
    """One running lab, as its owner sees it."""

    def __init__(
        self,
        name: str,
        interval_seconds: float,
        vm: VmOptions | None = None,
        *,
        storage_bytes: int | None = None,
        born: list[Client] | None = None,
    ) -> None:
        """`born`: a list that it is added to before anything is started, for who has to end it if interrupted."""
        self.id = secrets.token_hex(6)
        self.name = name
        self.facts: protocol.Message = {}
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._control: socket.socket
        self._events: socket.socket
        self._listeners: list[Callable[[Event], None]] = []
        self.found_bug: Callable[[str, Exception], None] = lambda what, error: None  # who notes what a listener raised
        self.say: Callable[[str], None] = lambda line: None  # who tells the person what is left of the lab
        self._gone = False  # no Event: an interrupt inside its `set` would leave it unset
        self._ended = False  # gone, and nothing of it is left
        self._stopping = False
        self._died = False
        self.why_gone = ""  # what is known of its death, once it is `_explained`
        self._explained = False
        self._explaining = threading.Lock()
        self._vm = vm
        self.in_vm = vm is not None
        self._storage_bytes = storage_bytes  # None: the keeper's default, since it knows whose memory it is
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._spawned: list[int] = []  # the keeper's pid, until it was waited for
        self._keeper_pidfd = -1
        self._keeper_lock = threading.Lock()
        self._undo = contextlib.ExitStack()
        if born is not None:
            born.append(self)
        self._start(interval_seconds)

    # -- start and stop -------------------------------------------------------------------------
    def _start(self, interval_seconds: float) -> None:
        try:
            with _memfile() as errors:
                self._start_keeper(interval_seconds, errors, self._undo)
        except OSError as error:
            self.abandon()
            if error.errno is None:  # no call's: what a handler of signals has raised
                raise
            text = f"the lab can't start: {own_limits.words(error)}"
            raise KernelError(text, error.errno or 0) from None
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """End what was begun, whether it has come to be a lab or not; twice is no error."""
        try:
            self._undo.close()
        except BaseException:  # interrupted again: somebody has to wait for the keeper all the same
            threading.Thread(target=self._end_keeper, daemon=True).start()
            raise
        finally:
            self._gone = True
            self._ended = True

    def _start_keeper(self, interval_seconds: float, errors: BinaryIO, undo: contextlib.ExitStack) -> None:
        """Spawn it and wait until it is ready; `undo` ends what was begun, whatever interrupts us."""
        with contextlib.ExitStack() as beyond:  # what is closed here once the keeper has it
            ours, theirs = zip(*(protocol.pair() for _ in range(3)), strict=True)
            control, calls, events = ours
            for end in theirs:
                beyond.callback(end.close)
            undo.callback(self._end_keeper)
            for end in ours:
                undo.callback(end.close)  # before that: by its end the keeper knows
            undo.callback(setattr, self, "_stopping", True)  # first of all: our event thread need do nothing
            actions: list[tuple[Any, ...]] = [
                (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)
            ]
            # The numbers 2-5 may be in use here: go through numbers well above them first.
            for number, descriptor in enumerate((errors.fileno(), *(end.fileno() for end in theirs)), start=2):
                copy = _high_copy(descriptor)
                beyond.callback(os.close, copy)
                actions.append((os.POSIX_SPAWN_DUP2, copy, number))
            package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            module = "runtime.seed" if self._vm is None else "vm.keeper"
            words = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP.format(parent=package_parent, module=module)]
            # Who ignores SIGCHLD can't wait for children, and what is ignored or blocked stays so over an exec.
            spawn = functools.partial(
                os.posix_spawn, sys.executable, file_actions=actions, setsid=True, setsigdef=_HANDLED, setsigmask=()
            )
            # An interrupt comes between two instructions of Python: one puts the pid where `_end_keeper` finds it.
            self._spawned.extend(map(spawn, [words], [_keeper_environment(self._vm is not None)]))
            self._keeper_pidfd = os.pidfd_open(self._spawned[0])
        self._control, self._events = control, events
        with contextlib.suppress(BrokenPipeError):  # it has ended already: below is why
            config = {"id": self.id, "name": self.name, "owner": os.getpid(), "interval": interval_seconds}
            config["storage"] = self._storage_bytes
            protocol.send(control, config | ({} if self._vm is None else {"vm": list(self._vm)}))
        limit_seconds = _START_SECONDS if self._vm is None else _VM_START_SECONDS
        message = None
        with contextlib.suppress(ConnectionResetError):  # it was killed with our message unread
            message = protocol.receive(control)[0] if readable(limit_seconds, control.fileno()) else None
        if message is None:
            said = os.pread(errors.fileno(), 4000, 0).decode(errors="replace").strip().splitlines()
            end = self._keepers_end()
            what = f"ended at start{f' ({end})' if end else ''}" if end or said else "doesn't answer"
            why = said[-1] if said else process_end.why(end)
            raise CtlabError(f"the lab's keeper {what}: {why}")
        if "error" in message:
            kind = KINDS.get(message["error"], KernelError)
            text = f"the lab can't start: {message['message']}"
            raise kind(text, message.get("errno", 0)) if issubclass(kind, KernelError) else kind(text)
        self.facts = message
        self._idle.put(Connection(calls, self))
        threading.Thread(target=self._hear, name=f"ctlab-events-{self.name}", daemon=True).start()

    def _end_keeper(self) -> None:
        """Wait until the keeper, which knows that the lab is to end, has cleaned up; do it in its place if it can't."""
        with self._keeper_lock:
            if not self._spawned:
                return
            with contextlib.suppress(ProcessLookupError):
                if self._keeper_pidfd < 0:
                    self._keeper_pidfd = os.pidfd_open(self._spawned[0])
                signal.pidfd_send_signal(self._keeper_pidfd, signal.SIGCONT)  # it may have been stopped
                if not readable(_STOP_SECONDS, self._keeper_pidfd):
                    signal.pidfd_send_signal(self._keeper_pidfd, signal.SIGKILL)
                    readable(_STOP_SECONDS, self._keeper_pidfd)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._spawned.pop(), os.WNOHANG)
            if self._keeper_pidfd >= 0:
                os.close(self._keeper_pidfd)
            self._keeper_pidfd = -1
        self._clear()

    def _clear(self) -> None:
        """Remove what is left outside, of which there is something only if the keeper was killed."""
        try:
            why = "" if prune.clear(self.id) else "it is still busy"
        except OSError as error:
            why = describe(error)
        except CtlabError as error:
            why = str(error)
        if why:
            self.say(f"lab {self.name} ({self.id}): what it has left outside isn't removed: {why}; the next start of a "
                     "lab tries again, or: python -m ctlab prune")  # fmt: skip

    @property
    def gone(self) -> bool:
        """Whether the lab has ended."""
        return self._gone

    @property
    def died(self) -> bool:
        """Whether it has ended without having been stopped."""
        return self._died

    def stop(self) -> None:
        """End the lab; returns when nothing of it is left. In a fork of the owner it does nothing."""
        if os.getpid() != self._owner:
            return
        first = False
        try:
            with self._lock:
                first, self._stopping = not self._stopping, True
            if first:
                self.close_connections()
                with contextlib.suppress(OSError):
                    protocol.send(self._control, {"do": "stop"})
                self._end_keeper()
            else:
                until = time.monotonic() + 3 * _STOP_SECONDS
                while not self._ended and time.monotonic() < until:
                    time.sleep(_STOPPING_SECONDS)
        except BaseException:  # interrupted: the keeper goes by the end of its socket, and somebody has to wait for it
            if first:
                self._control.close()
                threading.Thread(target=self._end_keeper, daemon=True).start()
            raise
        finally:
            if first:
                self._gone = self._ended = True
                self._control.close()
                self.close_connections()

    def allow(self, paths: Sequence[str]) -> None:
        """Tell the keeper which of this machine's paths the inside may ask it to mount; nothing else is given away."""
        if paths:
            with contextlib.suppress(OSError):  # it is gone: the call that follows says so
                protocol.send(self._control, {"do": "allow", "paths": list(paths)})

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
        if os.getpid() != self._owner:
            raise LabGone(f"lab {self.name!r} belongs to process {self._owner}, of which this is a fork")
        if self._gone or self._stopping:
            raise self._gone_error()
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        # All are in use: the supervisor is given one more over a control connection that is made for it.
        try:
            ours, theirs = protocol.pair()
        except OSError as error:
            text = f"no connection for the call: {own_limits.words(error)}"
            raise KernelError(text, error.errno or 0) from None
        try:
            with theirs:  # without our lock: it may wait until there is room, and a stop must not wait for that
                passing.send(self._events, protocol.encode({"connection": True}), [theirs.fileno()])
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError) and error.errno is not None:
                raise self._gone_error() from None
            raise
        return Connection(ours, self)

    def _gone_error(self) -> StateError:
        """The error for whoever has met the end of a connection, or calls a lab that has gone: with what is known."""
        if not (self._died or self._stopping or self._has_died()):
            return StateError(f"lab {self.name!r} goes on, but has closed this connection: its supervisor may have "
                              "too many open files; remove containers, or raise the limit (ulimit -Hn) and start "
                              "another lab")  # fmt: skip
        if not self._died:
            return LabGone(f"lab {self.name!r} was stopped")
        if not self._explained:
            self._explain()
        why = f": {self.why_gone}" if self.why_gone else ""
        return LabGone(f"lab {self.name!r} died{why}")

    def _has_died(self) -> bool:
        """Whether the lab has died, of which a closed connection is a first sign; the others close with it."""
        signs = select.poll()
        try:
            for sock in (self._events, self._control):
                signs.register(sock, 0)  # a hang-up is told all the same
        except ValueError:  # closed by who has seen its end already
            return True
        if not signs.poll(_SIGN_SECONDS * 1000):
            return False
        self._note_death()
        return True

    def _note_death(self) -> None:
        """Its sockets have ended: it has died, unless somebody stops it."""
        with self._lock:
            if not self._stopping:
                self._died = True
                self._gone = True

    def _explain(self) -> None:
        """Find out why it died. The first to see it does: who hears events may be waiting for a lock that we hold."""
        with self._explaining:
            if not self._explained:
                self.why_gone = self._reason()
                self._explained = True

    def give_back(self, connection: Connection) -> None:
        """The call is over and its answer was read."""
        if self._stopping:
            connection.close()
        else:
            self._idle.put(connection)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Connection]:
        """A connection for one request; afterwards given back, or closed if its answer may still come."""
        connection = self.connection()
        try:
            yield connection
        finally:
            if connection.answered:
                self.give_back(connection)
            else:
                connection.close()

    def call(
        self, request: Request, kind: type[T], descriptors: Sequence[int] = (), undo: Sequence[Request] = ()
    ) -> Reply[T]:
        """One request and its answer, of that kind. Raises the `CtlabError` that the answer reports, or LabGone.

        `undo`: the requests that take it back, sent if the wait for its answer is interrupted.
        """
        with self.borrow() as connection:
            try:
                connection.send(request, descriptors)
                return connection.receive(kind)
            except (CtlabError, OSError):
                raise
            except BaseException:
                connection.send_only(undo)
                raise

    def order(self, request: Request) -> None:
        """One request whose answer is Ok, and is waited for a moment only: who is interrupted anyway wants to go on.

        A supervisor that doesn't answer has the order all the same.
        """
        with self.borrow() as connection:
            connection.send(request)
            if readable(_TOLD_SECONDS, connection.socket.fileno()):
                connection.receive(messages.Ok)

    # -- events -----------------------------------------------------------------------------------
    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event, on the event thread."""
        self._listeners.append(listener)

    def _hear(self) -> None:
        while (event := self._next_event()) is not None:
            self._tell(event)
        self._note_death()
        if self._died:
            self._explain()
        self._tell(messages.Gone(self._died, self.why_gone))
        if self._died:
            self.stop()  # only to wait for the keeper, and to clean up if it is the keeper that died
        self._events.close()

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception as error:  # the events that follow are heard all the same
                self.found_bug(f"{type(event).__name__} wasn't heard", error)

    def _next_event(self) -> Event | None:
        """None once there are no more."""
        try:
            body, _, _ = packets.receive(self._events, most_bytes=packets.INLINE_LIMIT, most_descriptors=0)
            if not body or self._died:
                return None
            event: Event = protocol.unpack(body, messages.EVENTS, protocol.MOST_VALUES)
        except Surprise as error:
            self.end_for(f"as an event {error}")
            return None
        except OSError:
            return None
        return event

    def end_for(self, what: str) -> LabGone:
        """The inside has sent what can't be right: end the lab. Returns the error, which is that of all later calls.

        `what`: half a sentence, in one line.
        """
        with self._lock:
            first = not (self._died or self._stopping)
            if first:
                self._died = True
                self.why_gone = f"its inside sent {what}, so it was ended"
                self._explained = True
                self._gone = True
        if first:
            with contextlib.suppress(OSError):  # the event thread does the rest
                self._events.shutdown(socket.SHUT_RDWR)
        return LabGone(str(self._gone_error()))

    @contextlib.contextmanager
    def doubting(self, what: str) -> Iterator[None]:
        """Within it, memory of the inside is looked at: a ValueError ends the lab. Raises LabGone.

        `what`: whose it is, for example "the output of c1".
        """
        try:
            yield
        except ValueError as error:
            raise self.end_for(f"as {what} {error}") from None

    def _reason(self) -> str:
        """What the keeper says of the lab's death, or what the kernel says of the keeper's."""
        with contextlib.suppress(OSError, Surprise):
            while readable(_WHY_SECONDS, self._control.fileno()):
                message, _, _ = protocol.receive(self._control)
                if message is None:
                    break
                if "why" in message:
                    return "\n".join(map(one_line, str(message["why"]).splitlines()))
        return f"its keeper ended ({end})" if (end := self._keepers_end()) else "its keeper ended"

    def _keepers_end(self) -> str:
        """How the keeper has ended, in a word; "" if nobody can tell."""
        with self._keeper_lock:
            if self._keeper_pidfd < 0 or not readable(_SIGN_SECONDS, self._keeper_pidfd):
                return ""
            return process_end.how(self._keeper_pidfd)


def _memfile() -> BinaryIO:
    """A file in memory for what the keeper has to say if it fails."""
    return os.fdopen(os.memfd_create("ctlab-keeper-errors", os.MFD_CLOEXEC), "rb+", buffering=0)


def _high_copy(descriptor: int) -> int:
    """A copy with a number of at least `_HIGH`. Raises OSError EMFILE where none may be that high, too."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
        raise


def _keeper_environment(for_vm: bool) -> dict[str, str]:
    """What the keeper needs of our environment and nothing else: containers are cloned from it.

    Nothing is cloned from a VM's; it may fetch a kernel (by apt, of which proxies are told so) and keeps it in a cache.
    """
    names = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "HOME", "LANG", "TMPDIR")
    kept = {name: os.environ[name] for name in (os.environ if for_vm else names) if name in os.environ}
    kept["PYTHON_COLORS"] = "0"  # what it says is an error's text; a notebook's own kernel asks for colours
    kept["PYTHONDONTWRITEBYTECODE"] = "1" if not os.access(os.path.dirname(__file__), os.W_OK) else ""
    return kept
