"""%container: the verbs that change a container that is there."""

from __future__ import annotations

from typing import Any

from ..names import parse_signal
from .magic_context import Context

_LIMITS = ("memory", "cpus", "cpu_shares", "cpuset_cpus", "pids_limit")


def start(context: Context) -> Any:
    """`%container start CONTAINER…`."""
    return context.each(lambda container: container.start())


def stop(context: Context) -> Any:
    """`%container stop CONTAINER…`."""
    timeout = context.option("timeout")
    return context.each(lambda container: container.stop(timeout))


def kill(context: Context) -> Any:
    """`%container kill CONTAINER…`."""
    signal = context.option("signal", "SIGKILL")
    parse_signal(signal)
    return context.each(lambda container: container.kill(signal))


def restart(context: Context) -> Any:
    """`%container restart CONTAINER…`."""
    timeout = context.option("timeout")
    return context.each(lambda container: container.restart(timeout))


def remove(context: Context) -> Any:
    """`%container rm CONTAINER…`: one that runs is killed, and that is said."""
    found = context.containers(missing_is_fine=bool(context.option("force")))
    for container in found:
        if container.state in ("running", "paused"):
            print(f"{container.name} was {container.state}: killed")
        container.remove()
    return context.shown(found)


def prune(context: Context) -> Any:
    """`%container prune`: the names of what went."""
    found = [container for container in context.lab.containers if container.state in ("exited", "created")]
    for container in found:
        container.remove()
    print(f"removed {', '.join(container.name for container in found)}" if found else "no container to remove")
    return [container.name for container in found] or None


def rename(context: Context) -> Any:
    """`%container rename CONTAINER NEW_NAME`."""
    old, new = context.subjects
    return context.lab[old].rename(new)


def pause(context: Context) -> Any:
    """`%container pause CONTAINER…`."""
    return context.each(lambda container: container.pause())


def unpause(context: Context) -> Any:
    """`%container unpause CONTAINER…`."""
    return context.each(lambda container: container.unpause())


def update(context: Context) -> Any:
    """`%container update CONTAINER…`: limits, while it runs."""
    wanted = {key: context.option(key) for key in _LIMITS if context.option(key) is not None}
    return context.each(lambda container: container.update(**wanted))


VERBS = {
    f"container {name}": verb
    for name, verb in {
        "start": start, "stop": stop, "kill": kill, "restart": restart, "rm": remove, "prune": prune,
        "rename": rename, "pause": pause, "unpause": unpause, "update": update,
    }.items()
}  # fmt: skip
