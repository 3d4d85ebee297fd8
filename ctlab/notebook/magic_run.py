"""%container run and exec, and the same as cell magics: programs, shown while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import engines
from ..ask import NOUNS
from ..ask.readers import is_expected
from ..completed import Completed
from ..errors import BadInput, ProgramFailed
from ..words import join
from .display import CellSink, value_of_streamed
from .magic_context import Context, is_statement

if TYPE_CHECKING:
    from ..container import Container
    from ..lab import Lab

# The magic's option -> the keyword of Lab.run, where they differ.
_KEYWORDS = {"network": "networks", "mount": "mounts", "label": "labels"}
_SAME = (
    "name", "ip", "ip6", "mac_address", "hostname", "memory", "cpus", "cpu_shares", "cpuset_cpus", "pids_limit",
    "env", "env_file", "workdir", "user", "entrypoint", "init", "rm", "read_only", "cap_add", "cap_drop",
    "security_opt", "stop_signal", "stop_timeout", "count", "node", "exists",
)  # fmt: skip
PORT_SECONDS = 10.0
EMULATED_PORT_SECONDS = 60.0  # in a VM whose processor is emulated


def run(context: Context) -> Any:
    """`%container run [IMAGE] [-- COMMAND…]`: the handle with -d or for one that idles, else Completed."""
    keywords: dict[str, Any] = {key: context.option(key) for key in _SAME if context.option(key) is not None}
    keywords |= {new: context.option(old) for old, new in _KEYWORDS.items() if context.option(old) is not None}
    keywords["image"] = str((context.subjects or ["system"])[0])
    command = _command(context)
    if context.body is not None:
        keywords["script" if command is None else "stdin"] = context.body
    detached = bool(context.option("detach"))
    idles = command is None and context.body is None and not keywords.get("entrypoint")
    shown = not detached and not idles
    keywords["tty"] = bool(context.option("tty")) or (shown and not context.option("no_tty"))
    if context.option("explain"):
        from ..imagined import explain_run

        return explain_run(context.lab_or_none, command, keywords, context.vm_to_fill())
    if shown and keywords.get("count", 1) > 1:
        raise BadInput(f"--count {keywords['count']} makes several, and a cell shows one: add -d")
    if shown and context.option("wait"):
        raise BadInput("--wait is for a container that goes on: add -d")
    if context.lab_or_none is None:
        from ..imagined import explain_run

        # What can't be is said before a lab is started for it.
        explain_run(None, command, keywords, context.vm_to_fill())
    lab = context.lab_to_fill()
    removes = shown and keywords.pop("rm", False)  # by us, once its output is there
    keep = not shown or (bool(keywords.get("name")) and not removes)
    made = lab.run(command, **keywords)
    if shown:
        return _show(context, made, keep)
    if context.option("wait"):
        _, port = context.option("wait")
        for container in made if keywords.get("count") else [made]:
            lab.wait_for(container, port, port_seconds(lab))
    return context.keep(made)


def port_seconds(lab: Lab) -> float:
    """How long a program may take until it listens."""
    vm = engines.vm_facts(lab)
    return EMULATED_PORT_SECONDS if vm is not None and vm["acceleration"] == "tcg" else PORT_SECONDS


def _command(context: Context) -> list[str] | None:
    """The command; BadInput for an option that stands where it begins, since no program is called `-u`."""
    command = context.parsed.command
    if command and command[0].startswith("-") and context.subjects:
        subject = context.subjects[0]
        text = f"{command[0]!r} stands where the command begins; options come before {subject}, or before a '--'"
        raise BadInput(f"{text}{_moved(context, subject, command)}")
    return command


def _moved(context: Context, subject: str, command: list[str]) -> str:
    """The line with its options where they belong; nothing where they are none of this verb's."""
    verb = NOUNS["container"].verb(context.parsed.verb)
    assert verb is not None
    at = 0
    while at < len(command) and command[at].startswith("-"):
        name, equals, _ = command[at].lstrip("-").partition("=")
        option = verb.option(name) if command[at].startswith("--") else verb.short_option(name)
        if option is None:
            return ""
        at += 1 if option.is_flag or equals else 2
    start = f"{'%' if context.body is None else '%%'}container {verb.name}"
    rest = ["--", *command[at:]] if command[at:] else []
    return f": {start} {join([*command[:at], subject, *rest])}"


def _show(context: Context, container: Container, keep: bool) -> Any:
    """Show a container's program until it ends; one that nobody named goes with it."""
    sink = CellSink(context.magics.output_bytes, quiet=bool(context.option("quiet")))
    try:
        completed = container.stream_until_end(sink)
    finally:
        sink.flush()
        if not keep and not container.lab.gone:
            container.remove()
    where = f"%container logs {container.name}" if keep else "the result has it: x = %container run …"
    return _finish(context, completed, sink, where)


def execute(context: Context) -> Any:
    """`%container exec CONTAINER -- COMMAND…`: Completed; with -d a Process."""
    [name] = context.subjects
    container = context.lab[name]
    command, body = _command(context), context.body
    options = {key: context.option(key) for key in ("env", "env_file", "workdir", "user")}
    if context.option("detach"):
        if command is None:
            return context.keep(container.script(body or "", detach=True, **options))
        return context.keep(container.exec(command, stdin=body, detach=True, **options))
    sink = CellSink(context.magics.output_bytes, quiet=bool(context.option("quiet")))
    tty = not context.option("no_tty")
    try:
        if command is None:
            completed = container.script(body or "", sink=sink, tty=tty, **options)
        else:
            completed = container.exec(command, stdin=body, sink=sink, tty=tty, **options)
    finally:
        sink.flush()
    assert isinstance(completed, Completed)
    return _finish(context, completed, sink, "the result has it: x = %container exec …")


def _finish(context: Context, completed: Completed, sink: CellSink, where: str) -> Any:
    """Say what wasn't shown, keep the result, and fail unless the status is one that was expected."""
    sink.finish(where, completed.dropped_bytes)
    context.keep(completed)
    expect = context.option("expect", (0,))
    if not is_expected(completed.returncode, expect):
        wanted = "" if expect == (0,) else f" (--expect {_words(expect)})"
        raise ProgramFailed(completed.failure(all_shown=sink.whole) + wanted)
    return value_of_streamed(context.shell, completed) if is_statement(context.shell) else completed


def _words(expect: Any) -> str:
    return expect if isinstance(expect, str) else ",".join(map(str, expect))


VERBS = {"container run": run, "container exec": execute}
