"""A container's output shown as it comes, and its last run as a `Completed`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import output, units
from .completed import Completed
from .errors import CtlabError
from .execution import Kept, Sink
from .interrupts import Interrupted, Interrupts
from .names import parse_signal
from .runtime import messages
from .runtime.waiting import readable_of

if TYPE_CHECKING:
    from .container import Container

# How long the last of its output may take to get here on a busy machine; the end of its streams is told.
_LAST_OUTPUT_SECONDS = 5.0


def follow(
    container: Container,
    sink: Sink | None,
    *,
    from_start: bool,
    tail: int | None,
    since: str | float | None,
    timestamps: bool,
) -> None:
    """See `Container.follow`."""
    sink = sink or _print
    seconds = units.parse_duration(since) if since is not None else None
    with output.Follower(container, timestamps=timestamps) as follower:
        if not from_start:
            follower.skip(follower.head)
        elif tail is not None or seconds is not None:
            follower.give_earlier(sink, tail, seconds)
        for stream, text in follower.pieces():
            sink(stream, text)


def _print(stream: int, text: str) -> None:
    print(text, end="", flush=True, file=sys.stderr if stream == 2 else sys.stdout)


def stream_until_end(container: Container, sink: Sink) -> Completed:
    """See `Container.stream_until_end`."""
    start = container._start

    def send(name: str) -> None:
        container.lab._client.order(messages.Interrupt(container.id, parse_signal(name), start))

    try:
        return _stream_until_end(container, sink, send, start)
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:
            raise
        with contextlib.suppress(CtlabError):  # it came before we were ready for it, or when all was over
            send("SIGINT")
        raise Interrupted(f"{container.name}: interrupted; the program was sent SIGINT") from None


def _stream_until_end(container: Container, sink: Sink, send: Callable[[str], None], start: int) -> Completed:
    told: messages.Exit | None = None
    seen = Kept(sink)
    with container.lab._client.borrow() as connection:
        connection.send(messages.Wait(container.id, start))
        with output.Follower(container) as follower, Interrupts(send) as interrupts:
            while True:
                interrupts.step()
                going_on = follower.read(seen)
                if told is not None and not going_on:
                    break
                wait_seconds = interrupts.timeout_seconds()
                watched = [follower.fileno(), interrupts.fileno()]
                if told is None:
                    watched.append(connection.socket.fileno())
                else:
                    wait_seconds = _LAST_OUTPUT_SECONDS
                ready = readable_of(wait_seconds, watched)
                if told is not None and not ready:
                    break
                if connection.socket.fileno() in ready:
                    told = connection.receive(messages.Exit).message
            container._exited(told)
            interrupts.reraise(container.name)
    return _completed(container, -1 if told.returncode is None else told.returncode, seen.text(1), seen.text(2),
                      seen.dropped_bytes + follower.missed_bytes)  # fmt: skip


def last_run(container: Container) -> Completed:
    """The last run as a `Completed`, with what is kept of its output."""
    text = container.logs()
    status = container.returncode if container.returncode is not None else -1
    return _completed(container, status, text.stdout, text.stderr, text.dropped_bytes)


def _completed(container: Container, status: int, stdout: str, stderr: str, dropped_bytes: int) -> Completed:
    ended = container.finished_at or time.time()
    return Completed(
        status, stdout, stderr, ended - (container.started_at or container.created_at), container.name,
        container.command, dropped_bytes, container.oom_killed,
    )  # fmt: skip
