"""`Container`: the handle that people hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import copying, ending, executing, following, output, ticks, units
from .ask import python
from .completed import Completed, Logs, Process, signal_of
from .errors import BadInput, LabGone, NotFound, StateError
from .execution import Sink
from .interrupts import interruptible
from .keywords import checked, unknown_keyword
from .names import is_pattern, key, nearest
from .plan import limits as limits_plan
from .request import limits_of
from .runtime import messages, own_limits
from .spec import ContainerSpec, EndpointSpec
from .spelling import in_a_magic
from .words_of_command import split_command

if TYPE_CHECKING:
    import pandas

    from .lab import Lab


_MACHINERY = {"cell", "cell_id", "spec", "tick"}  # for ctlab's own parts, not for whoever types `web.` and Tab


def _interrupted(doing: str) -> Callable[..., str]:
    return lambda container, *_, **__: f"{doing} {container.name}, which is {container.state}"


def _copy_interrupted(container: Container, *_: object, **__: object) -> str:
    return f"a copy of container {container.name}; what has been copied stays"


@own_limits.told
@checked
class Container:
    """A container of a lab. Properties never ask the kernel; methods do. Bound to the id, not to the name."""

    def __init__(self, lab: Lab, container_id: str, number: int, spec: ContainerSpec) -> None:
        self.lab = lab
        self.id = container_id
        self._number = number
        self._spec = spec
        self._state = "created"
        self._pid: int | None = None
        self._returncode: int | None = None
        self._oom_killed = False
        self._endpoints: dict[int, EndpointSpec] = {}
        self._endpoint_keys: dict[int, int] = {}
        self._requested: set[int] = set()  # endpoints whose address was asked for, not chosen
        self._gone = ""
        self._body: tuple[str, str | bytes] | None = None  # ("stdin" or "script", what its program reads)
        self.tick = ticks.now()
        self.cell = ticks.cell()
        self.cell_id = ticks.cell_id()
        self.created_at = time.time()
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self._instance = 0  # the number of the last start that was ordered
        self._start = 0  # and of the last one that has come to run
        self._processes = 0  # what its program was started with, see `executing.processes`

    # -- what is known ----------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Its name."""
        return self._spec.name

    @property
    def spec(self) -> ContainerSpec:
        """What was asked for."""
        return self._spec

    @property
    def state(self) -> str:
        """created, running, paused, exited, removed or lost."""
        if self.lab.gone and self._state not in ("removed", "exited"):
            return "lost"
        return self._state

    @property
    def pid(self) -> int | None:
        """The first process, numbered as this process sees it; None when it doesn't run."""
        return self._pid if self.state in ("running", "paused") else None

    @property
    def returncode(self) -> int | None:
        """The status of the last run: 128 + n when signal n ended it; None while it runs."""
        return self._returncode

    @property
    def oom_killed(self) -> bool:
        """Whether its last run ended since the kernel killed something in it for reaching the memory limit."""
        return self._oom_killed

    @property
    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """Its attachments to networks."""
        return tuple(endpoint for _, endpoint in sorted(self._endpoints.items()))

    @property
    def addresses(self) -> dict[str, str]:
        """Network → one address, without prefix length: IPv4 where it has one. `all_addresses` has the IPv6 one too."""
        return {e.network: e.bare[0] for e in self.endpoints if e.addresses}

    @property
    def all_addresses(self) -> dict[str, str]:
        """Network → every address, IPv4 first, without prefix lengths, as tables and cards show it."""
        return {e.network: " ".join(e.bare) for e in self.endpoints if e.addresses}

    @property
    def command(self) -> tuple[str, ...]:
        """What runs; empty for a container that idles."""
        return self._spec.command

    @property
    def image(self) -> str:
        """The image reference."""
        return self._spec.image

    @property
    def limits(self) -> limits_plan.Limits:
        """Its resource limits; None = unlimited."""
        return self._spec.limits

    def address(self, network: str | None = None, version: int | None = None) -> IPv4Address | IPv6Address:
        """Its address on a network (without a name: on the first one), bare: f"ping {web.address()}". NotFound.

        `version`: 4 or 6; without it the IPv4 one, or the IPv6 one where there is no other.
        """
        if version not in (None, 4, 6):
            raise BadInput(f"address: version {version!r}: 4 or 6")
        for endpoint in self.endpoints:
            if network is None or key(endpoint.network) == key(network):
                for address in map(ip_address, endpoint.bare):
                    if version in (None, address.version):
                        return address
        what = "address" if version is None else f"IPv{version} address"
        where = f"on network '{network}'" if network else "on any network"
        raise NotFound(f"{self.name} has no {what} {where}; it has {self.all_addresses or 'none'}")

    def _alive(self) -> None:
        if self._gone:
            raise StateError(f"container {self.name}: {self._gone}")
        try:
            self.lab._alive()
        except LabGone as error:
            raise LabGone(f"container {self.name}: {error}") from None

    # -- its life ---------------------------------------------------------------------------------
    @interruptible(_interrupted("the start of"))
    def start(self) -> Container:
        """Start it (again): the same command, addresses and files."""
        self._alive()
        if self.state in ("running", "paused"):
            return self
        from . import creating

        creating.start(self.lab, self)
        return self

    @interruptible(_interrupted("the stop of"))
    def stop(self, timeout: float | str | None = None) -> Container:
        """Stop signal, then SIGKILL after `timeout` seconds. A program that can't see the signal is killed at once."""
        seconds = None if timeout is None else units.parse_duration(timeout)  # before anything is sent
        self._alive()
        if self.state in ("running", "paused"):
            ending.stop(self, seconds)
        return self

    @interruptible(_interrupted("the wait for the end of"))
    def kill(self, signal: str | int = "SIGKILL") -> Container:
        """Send a signal to its first process."""
        self._alive()
        ending.kill(self, signal)
        return self

    @interruptible(_interrupted("the restart of"))
    def restart(self, timeout: float | str | None = None) -> Container:
        """Stop, then start. What is known to be in the way of the start is raised before it is stopped."""
        if self.state in ("running", "paused"):
            from . import creating

            creating.check_restart(self)
        return self.stop(timeout).start()

    def pause(self) -> Container:
        """Freeze all its processes."""
        ending.freeze(self, True)
        return self

    def unpause(self) -> Container:
        """Let them go on."""
        self._alive()
        if self.state != "paused":
            raise StateError(f"container {self.name} isn't paused, it is {self.state}")
        ending.freeze(self, False)
        return self

    @interruptible(_interrupted("the removal of"))
    def remove(self) -> None:
        """Kill it if it runs, then forget it and all it wrote."""
        self._alive()
        ending.remove(self.lab, self, "it was removed")

    def rename(self, name: str) -> Container:
        """Call it otherwise; its address stays, the old name no longer resolves."""
        from . import changing

        changing.rename(self.lab, self, name)
        return self

    @interruptible(_interrupted("the wait for the end of"))
    def wait(self, timeout: float | str | None = None) -> int:
        """Its status once it has ended. TimeoutError after `timeout` seconds; the container goes on then.

        What is left until a moment that has passed is negative, and as 0.
        """
        return ending.wait(self, units.parse_time_left(timeout))

    def update(self, **keywords: Any) -> Container:
        """Change limits while it runs: cpus, cpu_shares, cpuset_cpus, memory, pids_limit. A failure changes nothing."""
        for word in keywords:
            if word not in python.LIMITS_ROWS:
                raise unknown_keyword(word, python.LIMITS_ROWS)
        from . import changing

        changing.update(self.lab, self, limits_of(python.read(python.LIMITS_ROWS, keywords), self.limits))
        return self

    # -- running something in it --------------------------------------------------------------------
    def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: str | bytes | None = None,
        env: Mapping[str, Any] | Iterable[str] | None = None,
        env_file: str | Iterable[str] | None = None,
        workdir: str | None = None,
        user: str | int | None = None,
        tty: bool = False,
        detach: bool = False,
        sink: Sink | None = None,
    ) -> Completed | Process:
        """Run a program in it and wait for its end: a `Completed`. With `detach`, a `Process` at once.

        `command`: a list is argv; a str is split into words (quotes work, no shell).
        Raises ProgramNotFound, StateError (not running, paused).
        """
        return executing.execute(
            self, split_command(command), stdin=stdin, env=env, env_file=env_file, workdir=workdir, user=user, tty=tty,
            detach=detach, sink=sink,
        )  # fmt: skip

    def script(
        self,
        text: str,
        *,
        env: Mapping[str, Any] | Iterable[str] | None = None,
        env_file: str | Iterable[str] | None = None,
        workdir: str | None = None,
        user: str | int | None = None,
        tty: bool = False,
        detach: bool = False,
        sink: Sink | None = None,
    ) -> Completed | Process:
        """Let the container's /bin/sh read a script from a descriptor of its own; its stdin is /dev/null."""
        return executing.execute(
            self, [], script=text, env=env, env_file=env_file, workdir=workdir, user=user, tty=tty, detach=detach,
            sink=sink,
        )  # fmt: skip

    # -- what it wrote ------------------------------------------------------------------------------
    def logs(self, *, tail: int | None = None, since: str | float | None = None, timestamps: bool = False) -> Logs:
        """What it wrote to stdout and stderr, as far as it is kept."""
        self._alive()
        seconds = units.parse_duration(since) if since is not None else None
        return output.logs(self, tail=tail, since_seconds=seconds, timestamps=timestamps)

    @interruptible(_interrupted("the following of"))
    def follow(
        self,
        sink: Sink | None = None,
        *,
        from_start: bool = True,
        tail: int | None = None,
        since: str | float | None = None,
        timestamps: bool = False,
    ) -> None:
        """Give its output to `sink(stream, text)` as it comes, until it ends. Interrupting ends the following only.

        `stream` is 1 or 2; without a `sink` it is printed, to our stdout and stderr.
        `from_start`, `tail` (lines), `since` (a time ago): how much of what it wrote before comes first.
        """
        self._alive()
        following.follow(self, sink, from_start=from_start, tail=tail, since=since, timestamps=timestamps)

    def stream_until_end(self, sink: Sink) -> Completed:
        """Show its output while it runs (a foreground run); an interrupt goes to the program.

        The `Completed` holds what was seen, at most 64 MB a stream, also where the lab keeps less; `dropped_bytes`
        is what was written faster than it could be read here.
        """
        return following.stream_until_end(self, sink)

    # -- files --------------------------------------------------------------------------------------
    @interruptible(_copy_interrupted)
    def copy_out(self, source: str, destination: str | os.PathLike[str]) -> Path:
        """Copy a file or folder out of it. Links are resolved inside it; nothing is written outside `destination`."""
        self._alive()
        return copying.copy_out(self, source, destination)

    @interruptible(_copy_interrupted)
    def copy_in(self, source: str | os.PathLike[str], destination: str) -> str:
        """Copy a file or folder into it."""
        self._alive()
        return copying.copy_in(self, source, destination)

    @interruptible(_copy_interrupted)
    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> str:
        """Write a file in it; folders above it are made."""
        self._alive()
        return copying.write(self, path, content.encode() if isinstance(content, str) else content, mode)

    # -- looking ------------------------------------------------------------------------------------
    def top(self) -> list[dict[str, Any]]:
        """Its processes: pid (inside), parent, user, state, cpu_seconds, memory_bytes, command."""
        self._alive()
        found = self.lab._call(messages.Top(self.id), messages.Table).message.processes
        return [dict(zip(process._fields, process, strict=True)) for process in found]

    def inspect(self) -> dict[str, Any]:
        """Everything known of it, as plain values."""
        self._alive()
        from .inspecting import inspect_container

        return inspect_container(self)

    def routes(self) -> list[dict[str, Any]]:
        """Its routing table, as `ip -j route` has it."""
        return self.lab._network_question(self, "routes")

    def neighbours(self) -> list[dict[str, Any]]:
        """Its neighbour table (ARP, NDP)."""
        return self.lab._network_question(self, "neighbours")

    def stats(self, **options: Any) -> pandas.DataFrame:
        """Its counters, as `Lab.stats`."""
        return self.lab.stats(containers=self.name, **options)

    def explain(self) -> str:
        """The commands that make this container."""
        from .plan.render import Commands

        return Commands(self.lab._explain(self))

    # -- kept by the lab ------------------------------------------------------------------------------
    def _exited(self, told: messages.Exit | messages.Exited) -> None:
        if self._state in ("exited", "removed") or told.start != self._instance:
            return  # told already, or of an earlier start
        self._returncode = told.returncode
        self._oom_killed = told.oom_killed
        self._pid = None
        self.finished_at = time.time()
        self._state = "exited"
        self.lab._changed()

    def failure(self) -> Completed:
        """The last run as a `Completed`, with what is kept of its output."""
        return following.last_run(self)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _MACHINERY]

    def __repr__(self) -> str:
        status = self.state
        if status == "exited":
            how = signal_of(self._returncode or 0) or self._returncode
            status = f"exited ({'OOMKilled' if self._oom_killed else how})"
        where = (
            " ".join(f"{network} {address}" for network, address in self.all_addresses.items())
            or self._spec.network_mode
        )
        return f"<Container {self.name}: {status}, {where}>"

    def _repr_html_(self) -> str:
        from .cards import container_card

        return container_card(self)


def unknown(name: str, known: Iterable[str]) -> NotFound:
    """The error for a container that isn't there."""
    names = list(known)
    if is_pattern(name):
        ways = "--all of rm and stop, or {expr} for several" if in_a_magic() else "choose of lab.containers by .name"
        return NotFound(f"no container '{name}': names aren't patterns here; {ways}")
    near = nearest(name, names)
    tail = f"; did you mean '{near}'?" if near else f"; there are: {', '.join(names)}" if names else "; there are none"
    return NotFound(f"no container '{name}'{tail}")
