"""``python -m ctlab shell LAB CONTAINER [-- COMMAND]``: a program in a container, in the terminal that this runs in.

The terminal is in raw mode meanwhile, and only bytes pass between it and the container's own: no descriptor of it, and
nothing of its environment. Where standard input or output isn't a terminal, the program gets pipes instead of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .errors import KINDS, CtlabError, LabGone, ProgramNotFound, describe, one_line
from .runtime import answers, door, messages, packets, protocol
from .runtime.packets import Surprise

FAILED, NOT_FOUND = 125, 127  # exit statuses of our own, as `docker exec` has them
_CHUNK_BYTES = 65536
_ANSWER_BYTES = 65536  # of the owner at most
_TYPED_BYTES = 65536  # of what is typed (pasted) are kept; for more, the terminal has to wait
_BUSY_SECONDS = 2.0
_LEFT_RUNNING_SECONDS = 0.2  # after its end: something that it left running may hold its terminal or pipes
_ENDING_SECONDS = 0.5  # between the end of a container's programs and its own
_ENDING_STEP_SECONDS = 0.05
_WINDOW = struct.Struct("=4H")
_HANGUP = 128 + signal.SIGHUP


def main(lab: str, container: str, command: Sequence[str]) -> int:
    """Run it: the exit status, which is the program's (128 + n if signal n ended it)."""
    try:
        with door.connect(lab) as connection:
            return _shell(connection, container, command)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except CtlabError as error:
        print(f"ctlab: {error}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, ProgramNotFound) else FAILED
    except (OSError, termios.error) as error:
        why = describe(error) if isinstance(error, OSError) else str(error.args[-1])
        print(f"ctlab: can't go on with lab {lab}: {why}", file=sys.stderr)
        return FAILED


def _shell(connection: socket.socket, container: str, command: Sequence[str]) -> int:
    on_terminal = os.isatty(0) and os.isatty(1)
    window = _window() if on_terminal else None
    with contextlib.suppress(BrokenPipeError):  # it didn't want to hear us: its answer says why
        protocol.send(connection, {"container": container, "argv": list(command), "window": window})
    if not _readable(connection, _BUSY_SECONDS):
        print("ctlab: the lab's notebook is busy; waiting for it (Ctrl-C gives up)", file=sys.stderr)
    about, descriptors = _begun(connection, container, 1 if on_terminal else 4)
    with socket.socket(fileno=descriptors.pop(0)) as calls:
        program = _Program(calls, about, descriptors, on_terminal=on_terminal)
        try:
            return program.run()
        finally:
            program.close()


class _About(NamedTuple):
    """What the owner says of the program that it has begun: its number, the container's id and name, the lab's name."""

    execution: int
    id: str
    container: str
    lab: str


def _begun(connection: socket.socket, container: str, most: int) -> tuple[_About, list[int]]:
    """The owner's answer and the `most` descriptors that come with it. Raises CtlabError."""
    try:
        message, descriptors, _ = protocol.receive(connection, most_bytes=_ANSWER_BYTES, most_descriptors=most)
    except Surprise as error:
        raise CtlabError(f"lab of container {container}: its notebook has answered with {error}") from None
    if message is None:
        raise LabGone(f"lab of container {container}: its notebook has ended")
    said = [message.get(field) for field in _About._fields]
    right = type(said[0]) is int and all(type(one) is str for one in said[1:]) and len(descriptors) == most
    if right:
        return _About(*said), descriptors  # type: ignore[arg-type]
    packets.discard(descriptors)
    if "error" in message:
        raise _error(str(message["error"]), str(message.get("message", "")))
    raise CtlabError(f"lab of container {container}: its notebook has answered with something else")


def _error(kind: str, text: str, where: str = "") -> CtlabError:
    """The error that was reported; its text may come from inside."""
    return KINDS.get(kind, CtlabError)(where + one_line(text))


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _window() -> list[int]:
    """The size of the person's terminal: [rows, columns]."""
    rows, columns, _, _ = _WINDOW.unpack(fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(_WINDOW.size)))
    return [rows, columns]


class _Program:
    """A program that runs in the container, and the bytes between it and us."""

    def __init__(self, calls: socket.socket, about: _About, pipes: Sequence[int], *, on_terminal: bool) -> None:
        self._calls = calls
        self._about = about
        self._on_terminal = on_terminal
        self._modes: list[Any] | None = None  # of the person's terminal, once they are changed
        self._input = -1  # what the program reads
        self._outputs: dict[int, int] = {}  # what it writes -> where that goes here
        self._typed = bytearray()
        self._stdin_open = True
        self._line_open = False  # the last that was shown is no whole line
        self._returncode: int | None = None
        self._signals = 0
        self._unanswered = 0  # calls of ours, beside the one that runs it
        if pipes:
            self._input, out, err = pipes
            self._outputs = {out: 1, err: 2}
            for descriptor in pipes:  # what is in them somebody inside may take before us
                os.set_blocking(descriptor, False)

    # -- the loop -----------------------------------------------------------------------------------
    def run(self) -> int:
        """Relay until its end. Raises CtlabError."""
        try:
            with _signals() as told:
                returncode = self._relay(told)
        finally:
            self._restore()
        if returncode == 128 + signal.SIGKILL:
            self._tell_of_the_end()
        return returncode

    def _relay(self, told: socket.socket) -> int:
        silent_since = 0.0
        while self._returncode is None or self._outputs:
            poll = self._poll(told)
            wait_seconds = None
            if self._returncode is not None:
                silent_since = silent_since or time.monotonic()
                wait_seconds = max(0.0, silent_since + _LEFT_RUNNING_SECONDS - time.monotonic())
            events = poll.poll(None if wait_seconds is None else wait_seconds * 1000)
            if not events:
                break
            for descriptor, _ in events:
                if descriptor == told.fileno():
                    for number in told.recv(64):
                        if (ended := self._signal(number)) is not None:
                            return ended
                elif descriptor == self._calls.fileno():
                    self._answer()
                elif descriptor in self._outputs:
                    silent_since = 0.0
                    self._show(descriptor)
                elif descriptor == self._input:
                    self._type()
                elif descriptor == 0 and not self._read():
                    return _HANGUP
        assert self._returncode is not None
        return self._returncode

    def _poll(self, told: socket.socket) -> select.poll:
        poll = select.poll()
        poll.register(told, select.POLLIN)
        if self._returncode is None:
            poll.register(self._calls, select.POLLIN)
            if self._input >= 0 and self._stdin_open and len(self._typed) < _TYPED_BYTES:
                poll.register(0, select.POLLIN)
        if self._input >= 0 and self._typed:
            poll.register(self._input, select.POLLOUT)
        for descriptor in self._outputs:
            poll.register(descriptor, select.POLLIN)
        return poll

    def _answer(self) -> None:
        """The lab says something: that it runs, how it ended, that a size or a signal has been passed on."""
        kinds: tuple[type, ...] = (messages.Ended,)
        if self._on_terminal and self._modes is None:
            kinds += (messages.Begun,)
        if self._unanswered:
            kinds += (messages.Ok,)
        message, descriptors = self._receive(*kinds)
        if isinstance(message, messages.Failure):
            raise _error(message.kind, message.message, f"container {self._about.container}: ")
        if isinstance(message, messages.Begun):
            self._take_terminal(descriptors)
        elif isinstance(message, messages.Ended):
            self._returncode = message.returncode & 0xFF
        else:
            self._unanswered -= 1

    def _receive(self, *kinds: type) -> tuple[Any, list[int]]:
        """An answer, which is of one of these kinds or a failure, and its descriptors. Raises LabGone, OSError.

        The supervisor may be whoever has broken out of a container: what it says is looked at as the owner does.
        """
        try:
            body, descriptors, _ = packets.receive(self._calls, most_bytes=packets.INLINE_LIMIT, most_descriptors=2)
            if body:
                return answers.read(body, descriptors, kinds), descriptors
            packets.discard(descriptors)
        except Surprise as error:
            raise self._not_right(str(error)) from None
        except ConnectionError:
            pass
        raise LabGone(f"lab '{self._about.lab}' is gone, and container {self._about.container} with it")

    def _not_right(self, what: str) -> LabGone:
        return LabGone(f"the inside of lab '{self._about.lab}' has sent {what}, so nothing more is taken from it")

    def _take_terminal(self, descriptors: list[int]) -> None:
        """The container's terminal: its master; from a VM two pipes, the second to be written to."""
        if not descriptors or not all(map(answers.is_stream, descriptors)):
            packets.discard(descriptors)
            raise self._not_right("as a terminal what is none")
        output = descriptors[0]
        self._input = descriptors[1] if len(descriptors) > 1 else os.dup(output)
        self._outputs = {output: 1}
        self._modes = termios.tcgetattr(0)
        self._begin()

    def _begin(self) -> None:
        """The person's terminal passes every key on from now on, what was typed already included."""
        with contextlib.suppress(termios.error):  # it is gone: the next read says so
            tty.setraw(0, termios.TCSADRAIN)
        self._resize()  # it may have changed meanwhile

    # -- bytes --------------------------------------------------------------------------------------
    def _read(self) -> bool:
        """Take what is typed; False when the person's terminal is gone."""
        try:
            data = os.read(0, _CHUNK_BYTES)
        except OSError:  # EIO
            data = b""
        self._typed += data
        if not data:
            self._stdin_open = False
            if not self._typed:
                self._end_input()
        return bool(data) or not self._on_terminal

    def _type(self) -> None:
        """Write some of that into what the program reads."""
        try:
            del self._typed[: os.write(self._input, self._typed)]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self._typed.clear()
            self._stdin_open = False
        if not self._typed and not self._stdin_open:
            self._end_input()

    def _end_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
        self._input = -1

    def _show(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return  # somebody else has read it
        except OSError:  # EIO: a terminal without a program
            data = b""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._outputs[descriptor], rest) :]
        except OSError:  # nobody reads ours: the program hears of it by its own
            data = b""
        if data:
            self._line_open = not data.endswith(b"\n")
        else:
            del self._outputs[descriptor]
            os.close(descriptor)

    # -- signals ------------------------------------------------------------------------------------
    def _signal(self, number: int) -> int | None:
        """Somebody has sent us a signal: what to exit with if that is our end."""
        if number in (signal.SIGWINCH, signal.SIGCONT):
            if self._modes is not None:  # whoever had stopped us has changed them
                self._begin() if number == signal.SIGCONT else self._resize()
            return None
        if self._on_terminal:  # with our end of it the container's terminal is hung up
            return 128 + number
        self._signals += 1
        passed = number if self._signals == 1 else signal.SIGKILL
        self._call(messages.SignalExecution(self._about.execution, int(passed), group=True))
        return None

    def _resize(self) -> None:
        with contextlib.suppress(OSError):  # the person's terminal is gone
            self._call(messages.ResizeExecution(self._about.execution, _window()))

    def _call(self, request: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # the lab is gone: its connection says so
            packets.send(self._calls, protocol.pack(request))
            self._unanswered += 1

    # -- the end ------------------------------------------------------------------------------------
    def _restore(self) -> None:
        """Give the person's terminal its modes back."""
        if self._modes is not None:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # which would stop us if we are in its background
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
            self._modes = None
            if self._line_open:
                with contextlib.suppress(OSError):
                    os.write(1, b"\n")

    def _tell_of_the_end(self) -> None:
        """It was killed: say so if that was the end of its container."""
        until = time.monotonic() + _ENDING_SECONDS
        while time.monotonic() < until:
            self._call(messages.Kind(self._about.id, "/"))
            while isinstance(message := self._receive(messages.Lies, messages.Ok)[0], messages.Ok):
                pass  # of what was asked before
            if isinstance(message, messages.Failure) and message.kind in ("StateError", "NotFound"):
                print(f"ctlab: container {self._about.container} has ended", file=sys.stderr)
                return
            time.sleep(_ENDING_STEP_SECONDS)

    def close(self) -> None:
        """Close what was ours of its streams."""
        self._end_input()
        for descriptor in self._outputs:
            os.close(descriptor)
        self._outputs = {}


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket from which the numbers of signals come, instead of their effect."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    noted = (signal.SIGWINCH, signal.SIGCONT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.signal(number, lambda *_: None) for number in noted}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()
