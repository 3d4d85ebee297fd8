"""Programs run in a container that exists, and what a program in a container is given."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .ask import python
from .completed import Completed, Process
from .errors import BadInput, CtlabError, KernelError, NotFound, ProgramNotFound, StateError
from .execution import Execution, Sink
from .plan import limits as limits_plan
from .plan.start import default_environment
from .request import environment, several
from .runtime import own_limits
from .spec import SCRIPT, SCRIPT_DESCRIPTOR

if TYPE_CHECKING:
    from .container import Container


def execute(
    container: Container,
    argv: Sequence[str],
    *,
    stdin: str | bytes | None = None,
    script: str | None = None,
    tty: bool = False,
    detach: bool = False,
    sink: Sink | None = None,
    **options: Any,
) -> Completed | Process:
    """Run `argv`, or a script that /bin/sh reads from a descriptor of its own. `options`: see `_settings`."""
    settings = _settings(container, tty=tty, **options)
    settings["script_descriptor"] = None if script is None else SCRIPT_DESCRIPTOR
    if script is not None:
        argv = list(SCRIPT)
    if not argv:
        raise BadInput(f"exec needs a command: {container.name}.exec(['ls', '-l'])")
    execution = Execution(container, argv, settings)
    container._alive()
    if container.state == "created":
        raise StateError(f"container {container.name} isn't running: start it first")
    try:
        with contextlib.ExitStack() as after:
            extra = []
            if script is not None:
                extra.append(body_descriptor(script))
                after.callback(os.close, extra[0])
            if not detach:
                data = stdin.encode() if isinstance(stdin, str) else stdin
                return execution.run(data, tty=tty, sink=sink, extra=extra)
            streams = []
            if stdin is not None:
                streams.append(body_descriptor(stdin))
                after.callback(os.close, streams[0])
            elif script is not None:  # it comes behind the three streams
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                after.callback(os.close, null)
                streams += [null] * 3
            execution.start([*streams, *extra])
    except (ProgramNotFound, NotFound) as error:
        raise in_container(error, container.name, argv, container.spec.image) from None
    return Process(execution)


def _settings(
    container: Container,
    *,
    env: Mapping[str, Any] | Iterable[str] | None = None,
    env_file: str | Iterable[str] | None = None,
    workdir: str | None = None,
    user: str | int | None = None,
    tty: bool = False,
) -> dict[str, Any]:
    """What the program gets, where nothing else is asked for: what the container's own has."""
    spec = container.spec
    given = python.read(python.PROGRAM, {"env": env, "env_file": env_file, "workdir": workdir, "user": user})
    own = dict(environment(given.get("env"), several(given.get("env_file"))))
    pairs = default_environment(spec, tty=tty) | dict(spec.env) | own
    return {
        "environment": [f"{name}={value}" for name, value in pairs.items()],
        "workdir": given.get("workdir") or spec.workdir,
        "user": given.get("user") or spec.user,
        "capabilities": list(spec.capabilities),
        "processes": processes(container),
    }


def processes(container: Container) -> int:
    """How many processes its user ids may have by RLIMIT_NPROC: the default where no cgroup holds it; 0, no limit."""
    limits = container.limits
    stands_in = limits.pids_default and limits.pids_limit is None
    return limits_plan.PIDS_DEFAULT if stands_in and container.lab._client.facts["pids_by"] == "rlimit" else 0


def settings_in_terminal(container: Container) -> dict[str, Any]:
    """The same for a person's terminal, which understands more than a cell does; nothing is taken from it."""
    settings = _settings(container, env=None if "TERM" in dict(container.spec.env) else {"TERM": "xterm"})
    return settings | {"script_descriptor": None}


def body_descriptor(body: str | bytes) -> int:
    """A descriptor from which a program reads `body`."""
    data = memoryview(body.encode() if isinstance(body, str) else body)
    descriptor = os.memfd_create("body", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BaseException as error:  # interrupted; or EFBIG: a limit on the size of files (ulimit -f) counts here too
        os.close(descriptor)
        if not isinstance(error, OSError):
            raise
        raise KernelError(
            f"can't hold {len(data)} bytes for the program: {own_limits.words(error)}", error.errno or 0
        ) from None
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def in_container(error: CtlabError, name: str, command: Sequence[str], image: str) -> CtlabError:
    """The same error, with the container's name, and what to do.

    That is for a program that is hidden inside, and for a folder that can't be an image: its files belong to nobody
    inside, or what is mounted in it can't be left out.
    """
    text = f"container {name}: {error}"
    making = str(error).startswith(("root overlay:", "write file ", "folder "))
    if making and getattr(error, "number", 0) in (errno.EACCES, errno.EINVAL):
        text += f"; {image} as it is can't be the image of this lab: use a copy that is yours"
        text += ", or the image system, which is this machine's own" if image == "/" else ""
    if isinstance(error, ProgramNotFound) and "no program" in text:
        text += _where_it_is(command, image)
    made = type(error).__new__(type(error))
    made.__dict__.update(error.__dict__)
    made.args = (text,)
    return made


def _where_it_is(command: Sequence[str], image: str) -> str:
    """What to do about a program that isn't inside, "" where nothing helps."""
    if image == "scratch":  # not even a loader: a program of this machine needs its libraries
        return "; scratch is empty: image system has this machine's programs; a static one comes in by -v"
    if image != "system" or not command or "/" in command[0]:
        return ""
    path = shutil.which(command[0])
    if path is None:
        return ""
    place = f"/mnt/{command[0]}"  # /usr belongs to nobody inside, and nothing new can be made there
    return f"; this machine has one that is hidden inside: -v {path}:{place}:ro shows it as {place}"
