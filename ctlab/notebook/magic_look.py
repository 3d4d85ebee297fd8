"""%container: the verbs that only look: ps, logs, inspect, top, wait, stats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CtlabError, TimedOut
from .magic_context import Context, Facts

if TYPE_CHECKING:
    from ..container import Container

_LISTED = ("running", "paused")
_END_SECONDS = 0.3


def listing(context: Context) -> Any:
    """`%container ps`: Handles; with -q the names."""
    from ..cards import as_of, container_row
    from ..handles import Handles
    from ..values import CONTAINER

    lab, everything = context.lab_or_none, bool(context.option("all"))
    if lab is None:
        return [] if context.option("quiet") else Handles[Any]([], lambda _: {}, "container", "no lab runs here")

    found = [one for one in lab.containers if everything or one.state in _LISTED]
    ended = len(lab.containers) - len(found)
    note = f"{as_of()}{f'; {ended} that ended: ps -a' if ended else ''}"
    made = Handles(found, container_row, "container", note, values=CONTAINER)
    return made.keys() if context.option("quiet") else made


def logs(context: Context) -> Any:
    """`%container logs CONTAINER`: Logs; with -f shown as it comes."""
    [name] = context.subjects
    container = context.lab[name]
    chosen = {
        "tail": context.option("tail"), "since": context.option("since"),
        "timestamps": bool(context.option("timestamps")),
    }  # fmt: skip
    if not context.option("follow"):
        found = container.logs(**chosen)
        if not found and container.state == "running" and container.command and not container.spec.tty:
            print(
                f"{name} has written nothing that is shown; many programs keep back what they write into a pipe: "
                "run it with -t, a Python program with -e PYTHONUNBUFFERED=1"
            )
        return found
    from .display import CellSink

    sink = CellSink(context.magics.output_bytes)
    try:
        container.follow(sink, **chosen)
        goes_on = _goes_on(container)
    except KeyboardInterrupt:
        sink.flush()
        print("(no longer followed; it goes on)" if container.state in _LISTED else "(no longer followed)")
    else:
        if goes_on:
            sink.flush()
            print(f"({name} goes on, but nothing in it writes to its output any more; what exec writes, exec shows)")
    finally:
        sink.finish(f"%container logs {container.name}")
    return None


def _goes_on(container: Container) -> bool:
    """Whether it outlives its output: of an end that comes with that one hears a moment later."""
    try:
        container.wait(_END_SECONDS)
    except TimedOut:
        return True
    except CtlabError:  # it is gone
        pass
    return False


def inspect(context: Context) -> Any:
    """`%container inspect CONTAINER…`: a dictionary, shown as JSON, on a page as a card."""
    return Facts.of("container", {container.name: container.inspect() for container in context.containers()})


@dataclass(frozen=True)
class Row:
    """One process, as `Container.top` has it."""

    name: str
    facts: dict[str, Any]


def top(context: Context) -> Any:
    """`%container top CONTAINER`: Handles, by pid and by program."""
    from ..cards import as_of
    from ..handles import Handles

    [name] = context.subjects
    rows = [Row(str(facts["command"]).split(" ")[0], facts) for facts in context.lab[name].top()]
    return Handles(rows, lambda row: row.facts, "process", as_of())


def wait(context: Context) -> Any:
    """`%container wait CONTAINER…`: the status; of several a dictionary by name."""
    timeout = context.option("timeout")
    found = context.containers()
    statuses = {container.name: container.wait(timeout) for container in found}
    return statuses[found[0].name] if len(found) == 1 else statuses


def stats(context: Context) -> Any:
    """`%container stats [CONTAINER…]`: Handles, docker's table of each container that runs."""
    from ..cards import as_of
    from ..usage import usage

    lab = context.lab
    chosen = context.containers() if context.subjects else [one for one in lab.containers if one.state in _LISTED]
    return usage(lab, chosen, as_of())


VERBS = {
    f"container {name}": verb
    for name, verb in {
        "ps": listing, "logs": logs, "inspect": inspect, "top": top, "wait": wait, "stats": stats,
    }.items()
}  # fmt: skip
