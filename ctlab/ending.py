"""Containers end: by a signal, after a wait, by removal; and they are started again."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from . import network, sampled_names
from .errors import CtlabError, NotFound, StateError, TimedOut
from .names import key, parse_signal
from .runtime import messages
from .runtime.waiting import readable
from .whole import whole

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab


_HEARD_SECONDS = 5.0  # an event that was sent before an answer is heard soon behind it, even by a busy notebook


def stop(container: Container, timeout: float | None) -> None:
    """The stop signal, then SIGKILL; a first process that can't see the signal is killed at once."""
    lab, start = container.lab, container._start
    number = parse_signal(container.spec.stop_signal)
    try:
        if container.state == "paused":
            freeze(container, False)
        ask = messages.Signal(container.id, number, only_if_seen=True, start=start)
        if lab._call(ask, messages.Seen).message.seen:
            grace = container.spec.stop_timeout_seconds if timeout is None else timeout
            with contextlib.suppress(TimedOut):
                wait(container, grace, start)
                return
        else:
            lab.say(
                f"{container.name}: its first process doesn't catch {container.spec.stop_signal}, and PID 1 of a "
                "namespace never sees a signal that it doesn't catch: killed at once"
            )
        lab._call(messages.Signal(container.id, 9, only_if_seen=False, start=start), messages.Seen)
    except (StateError, NotFound):  # it has ended meanwhile; NotFound: it went with that (rm), some time ago
        if lab.gone:
            raise
    wait(container, None, start)


def kill(container: Container, signal: str | int) -> None:
    """A signal to the first process; returns after SIGKILL when it has ended."""
    number = parse_signal(signal)
    start = container._start
    order = messages.Signal(container.id, number, only_if_seen=False, start=start)
    try:
        seen = container.lab._call(order, messages.Seen).message.seen
    except NotFound:  # it went when it ended (rm), which is heard on another thread
        raise StateError(f"container {container.name} isn't running") from None
    if not seen:
        container.lab.say(
            f"{container.name}: its first process doesn't catch {signal}; as PID 1 of its namespace it never sees it"
        )
    if number == 9:
        wait(container, None, start)


def freeze(container: Container, frozen: bool) -> None:
    """Pause all its processes, or let them go on."""
    lab = container.lab
    order = messages.Pause(container.id, frozen)
    with whole(lab):
        container._alive()
        state = lab._call(order, messages.State, undo=[order._replace(frozen=not frozen)]).message.state
        if state not in ("running", "paused"):
            raise lab._client.end_for("word of a container in no state that there is")
        if container._state in ("running", "paused"):  # not ended meanwhile
            container._state = state


def wait(container: Container, timeout: float | None, start: int | None = None) -> int:
    """The status once it has ended; TimedOut. `start`: of which start, None for the last one that has come to run.

    Somebody may start it again meanwhile: that one's end isn't waited for.
    """
    returncode = container._returncode
    if returncode is not None and container._state in ("exited", "removed") and start in (None, container._start):
        return returncode
    start = container._start if start is None else start
    container._alive()
    try:
        with container.lab._client.borrow() as connection:
            connection.send(messages.Wait(container.id, start))
            if timeout is not None and not readable(timeout, connection.socket.fileno()):
                raise TimedOut(f"container {container.name} still runs after {timeout:g} s")
            reply = connection.receive(messages.Exit)
    except (StateError, NotFound) as error:  # maybe removed at its end: what tells of that is heard on another thread
        until = time.monotonic() + (_HEARD_SECONDS if container.spec.rm else 0)
        while not (container._returncode is not None or container._gone or container.lab.gone):
            if time.monotonic() >= until:
                break
            time.sleep(0.001)
        if container._returncode is not None:
            return container._returncode
        if isinstance(error, NotFound):  # it names an id
            raise StateError(f"container {container.name}: {container._gone or 'it was removed'}") from None
        raise
    told = reply.message
    if told.returncode is None:
        raise StateError(f"container {container.name} ended before its program ran, or was started again since")
    container._exited(told)
    return told.returncode


def remove(lab: Lab, container: Container, gone: str) -> None:
    """Kill it if it runs, then forget it and all it wrote. `gone`: what its handle says from then on."""
    with whole(lab):
        if container._gone:
            return
        try:
            lab._call(messages.Remove(container.id), messages.Ok)
        except CtlabError:
            raise
        except BaseException:  # an interrupt that waited long enough: the supervisor has the order
            forget(lab, container, gone)
            raise
        forget(lab, container, gone)


def forget(lab: Lab, container: Container, gone: str) -> None:
    """It is gone inside: its addresses are free, its name too."""
    for endpoint in container.endpoints:
        net = lab._networks.get(key(endpoint.network))
        if net is not None:
            network.release(net, endpoint)
    container._gone, container._state, container._pid = gone, "removed", None
    if lab._containers.get(key(container.name)) is container:
        del lab._containers[key(container.name)]
    sampled_names.removed(lab, [container._number], container._endpoint_keys.values())
