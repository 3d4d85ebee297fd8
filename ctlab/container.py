"""`Container`: the handle that people hold."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import copying, output, ticks, units
from .completed import Completed, Logs, Process, signal_of
from .errors import BadInput, CtlabError, LabGone, NotFound, ProgramNotFound, StateError, TimedOut
from .execution import Execution, Kept, Sink
from .interrupts import Interrupts
from .kernel.capabilities import DEFAULT
from .names import key, nearest, parse_signal
from .plan import limits as limits_plan
from .request import SCRIPT_DESCRIPTOR, environment, limits_of, several
from .runtime.client import readable, readable_of
from .runtime.program import DEFAULT_PATH
from .spec import ContainerSpec, EndpointSpec
from .words_of_command import split_command

if TYPE_CHECKING:
    import pandas

    from .lab import Lab

# How long the last of its output may take to get here on a busy machine; the end of its streams is told.
_LAST_OUTPUT_SECONDS = 5.0


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
        self.created_at = time.time()
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self._instance = 0

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
        """Whether the kernel killed something in it for reaching the memory limit."""
        return self._oom_killed

    @property
    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """Its attachments to networks."""
        return tuple(self._endpoints[number] for number in sorted(self._endpoints))

    @property
    def addresses(self) -> dict[str, str]:
        """Network → first address, without prefix length."""
        return {e.network: e.addresses[0].partition("/")[0] for e in self.endpoints if e.addresses}

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

    def address(self, network: str | None = None, version: int = 4) -> IPv4Interface | IPv6Interface:
        """Its address on a network (on the first one, without a name). NotFound if it has none there."""
        for endpoint in self.endpoints:
            if network is None or key(endpoint.network) == key(network):
                for text in endpoint.addresses:
                    if ip_interface(text).version == version:
                        return ip_interface(text)
        where = f"on network '{network}'" if network else "on any network"
        raise NotFound(f"{self.name} has no IPv{version} address {where}; it has {self.addresses or 'none'}")

    def _alive(self) -> None:
        if self._gone:
            raise StateError(f"container {self.name}: {self._gone}")
        if self.lab.gone:
            raise LabGone(f"container {self.name}: lab '{self.lab.name}' was stopped")

    # -- its life ---------------------------------------------------------------------------------
    def start(self) -> Container:
        """Start it (again): the same command, addresses and files."""
        self._alive()
        if self.state in ("running", "paused"):
            return self
        from . import creating

        creating.start(self.lab, self)
        return self

    def stop(self, timeout: float | None = None) -> Container:
        """Stop signal, then SIGKILL after `timeout` seconds. A program that can't see the signal is killed at once."""
        self._alive()
        if self.state == "paused":
            self.unpause()
        if self.state != "running":
            return self
        number = parse_signal(self._spec.stop_signal)
        try:
            seen = self.lab._call({"do": "signal", "id": self.id, "signal": number, "only_if_seen": True})["seen"]
            if seen:
                grace = self._spec.stop_timeout_seconds if timeout is None else timeout
                with contextlib.suppress(TimeoutError):
                    self.wait(grace)
                    return self
            else:
                self.lab.say(
                    f"{self.name}: its first process doesn't catch {self._spec.stop_signal}, and PID 1 of a namespace "
                    "never sees a signal that it doesn't catch: killed at once"
                )
            self.lab._call({"do": "signal", "id": self.id, "signal": 9})
        except StateError:
            if self.lab.gone:
                raise
        self.wait()
        return self

    def kill(self, signal: str | int = "SIGKILL") -> Container:
        """Send a signal to its first process."""
        self._alive()
        number = parse_signal(signal)
        reply = self.lab._call({"do": "signal", "id": self.id, "signal": number})
        if not reply["seen"]:
            self.lab.say(
                f"{self.name}: its first process doesn't catch {signal}; as PID 1 of its namespace it never sees it"
            )
        if number == 9:
            self.wait()
        return self

    def restart(self, timeout: float | None = None) -> Container:
        """Stop, then start."""
        return self.stop(timeout).start()

    def pause(self) -> Container:
        """Freeze all its processes."""
        self._alive()
        self._set_state(self.lab._call({"do": "pause", "id": self.id, "frozen": True})["state"])
        return self

    def unpause(self) -> Container:
        """Let them go on."""
        self._alive()
        if self.state != "paused":
            raise StateError(f"container {self.name} isn't paused, it is {self.state}")
        self._set_state(self.lab._call({"do": "pause", "id": self.id, "frozen": False})["state"])
        return self

    def remove(self, force: bool = True) -> None:
        """Kill it if it runs, then forget it and all it wrote."""
        self._alive()
        self.lab._remove(self)

    def rename(self, name: str) -> Container:
        """Call it otherwise; its address stays, the old name no longer resolves."""
        self._alive()
        from . import changing

        changing.rename(self.lab, self, name)
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Its status once it has ended. TimeoutError after `timeout` seconds; the container goes on then."""
        if self._returncode is not None and self._state in ("exited", "removed"):
            return self._returncode
        self._alive()
        client = self.lab._client
        connection = client.connection()
        try:
            connection.send({"do": "wait", "id": self.id})
            if timeout is not None and not readable(timeout, connection.socket.fileno()):
                raise TimedOut(f"container {self.name} still runs after {timeout:g} s")
            reply = connection.receive()
        except StateError:
            connection.close()
            raise
        except NotFound:
            client.give_back(connection)
            if self._returncode is not None:
                return self._returncode
            raise
        except BaseException:
            connection.close()
            raise
        client.give_back(connection)
        self._exited(reply.message)
        return int(reply["returncode"])

    def update(self, **keywords: Any) -> Container:
        """Change limits while it runs: cpus, cpu_shares, cpuset_cpus, memory, pids_limit. A failure changes nothing."""
        self._alive()
        known = ("cpus", "cpu_shares", "cpuset_cpus", "memory", "pids_limit")
        for word in keywords:
            if word not in known:
                from .request import unknown_keyword

                raise unknown_keyword(word, known)
        from . import changing

        changing.update(self.lab, self, limits_of(keywords, self.limits))
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
        user: str | None = None,
        tty: bool = False,
        detach: bool = False,
        sink: Sink | None = None,
    ) -> Completed | Process:
        """Run a program in it and wait for its end: a `Completed`. With `detach`, a `Process` at once.

        `command`: a list is argv; a str is split into words (quotes work, no shell).
        Raises ProgramNotFound, StateError (not running, paused).
        """
        argv = split_command(command)
        execution = Execution(self, argv, self._exec_options(env, workdir, user, env_file=env_file, tty=tty))
        self._alive()
        if self.state == "created":
            raise StateError(f"container {self.name} isn't running: start it first")
        data = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            if not detach:
                return execution.run(data, tty=tty, sink=sink)
            descriptors = [] if data is None else [body_descriptor(data)]
            try:
                execution.start(descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except (ProgramNotFound, NotFound) as error:
            raise in_container(error, self.name, argv) from None
        return Process(execution)

    def script(
        self,
        text: str,
        *,
        env: Mapping[str, Any] | Iterable[str] | None = None,
        env_file: str | Iterable[str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        tty: bool = False,
        detach: bool = False,
        sink: Sink | None = None,
    ) -> Completed | Process:
        """Let the container's /bin/sh read a script from a descriptor of its own; its stdin is /dev/null."""
        self._alive()
        descriptor = body_descriptor(text)
        try:
            settings = self._exec_options(env, workdir, user, env_file=env_file, tty=tty)
            argv = ["/bin/sh", f"/dev/fd/{SCRIPT_DESCRIPTOR}"]
            execution = Execution(self, argv, settings | {"script_descriptor": SCRIPT_DESCRIPTOR})
            if detach:
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                try:
                    execution.start([null, null, null, descriptor])
                finally:
                    os.close(null)
                return Process(execution)
            return execution.run(None, tty=tty, sink=sink, extra=[descriptor])
        finally:
            os.close(descriptor)

    def _exec_options(
        self,
        env: Mapping[str, Any] | Iterable[str] | None,
        workdir: str | None,
        user: str | None,
        *,
        env_file: str | Iterable[str] | None = None,
        tty: bool = False,
    ) -> dict[str, Any]:
        own = dict(environment(env, several(env_file)))
        pairs = dict(default_environment(self._spec, tty=tty)) | dict(self._spec.env) | own
        return {
            "environment": [f"{name}={value}" for name, value in pairs.items()],
            "workdir": workdir or self._spec.workdir,
            "user": user or self._spec.user,
            "capabilities": list(DEFAULT if self._spec.capabilities is None else self._spec.capabilities),
        }

    # -- what it wrote ------------------------------------------------------------------------------
    def logs(self, *, tail: int | None = None, since: str | float | None = None, timestamps: bool = False) -> Logs:
        """What it wrote to stdout and stderr, as far as it is kept."""
        self._alive()
        seconds = units.parse_duration(since) if since is not None else None
        return output.logs(self, tail=tail, since_seconds=seconds, timestamps=timestamps)

    def follow(
        self,
        sink: Sink,
        *,
        from_start: bool = True,
        tail: int | None = None,
        since: str | float | None = None,
        timestamps: bool = False,
    ) -> None:
        """Give its output to `sink(stream, text)` as it comes, until it ends. Interrupting ends the following only.

        `from_start`, `tail` (lines), `since` (a time ago): how much of what it wrote before comes first.
        """
        self._alive()
        seconds = units.parse_duration(since) if since is not None else None
        with output.Follower(self, timestamps=timestamps) as follower:
            if not from_start:
                follower.skip(follower.head)
            elif tail is not None or seconds is not None:
                follower.give_earlier(sink, tail, seconds)
            for stream, text in follower.pieces():
                sink(stream, text)

    def stream_until_end(self, sink: Sink) -> Completed:
        """Show its output while it runs (a foreground run); an interrupt goes to the program.

        The `Completed` holds what was seen, at most 64 MB a stream, also where the lab keeps less; `dropped_bytes`
        is what was written faster than it could be read here.
        """
        client = self.lab._client
        connection = client.connection()
        connection.send({"do": "wait", "id": self.id})
        reply = None
        seen = Kept(sink)
        with output.Follower(self) as follower, Interrupts(self._interrupt) as interrupts:
            while True:
                interrupts.step()
                going_on = follower.read(seen)
                if reply is not None and not going_on:
                    break
                wait_seconds = interrupts.timeout_seconds()
                watched = [follower.fileno(), interrupts.fileno()]
                if reply is None:
                    watched.append(connection.socket.fileno())
                else:
                    wait_seconds = _LAST_OUTPUT_SECONDS
                ready = readable_of(wait_seconds, watched)
                if reply is not None and not ready:
                    break
                if connection.socket.fileno() in ready:
                    reply = connection.receive()
            client.give_back(connection)
            self._exited(reply.message)
            interrupts.reraise()
        return Completed(
            int(reply["returncode"]), seen.text(1), seen.text(2),
            (self.finished_at or time.time()) - (self.started_at or self.created_at), self.name, self.command,
            seen.dropped_bytes + follower.missed_bytes, self._oom_killed,
        )  # fmt: skip

    def _interrupt(self, name: str) -> None:
        number = parse_signal(name)
        reply = self.lab._call({"do": "signal", "id": self.id, "signal": number})
        if not reply["seen"]:
            self.lab._call({"do": "signal", "id": self.id, "signal": 9})

    # -- files --------------------------------------------------------------------------------------
    def copy_out(self, source: str, destination: str | os.PathLike[str]) -> Path:
        """Copy a file or folder out of it. Links are resolved inside it; nothing is written outside `destination`."""
        self._alive()
        return copying.copy_out(self, source, destination)

    def copy_in(self, source: str | os.PathLike[str], destination: str) -> str:
        """Copy a file or folder into it."""
        self._alive()
        return copying.copy_in(self, source, destination)

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> str:
        """Write a file in it; folders above it are made."""
        self._alive()
        return copying.write(self, path, content.encode() if isinstance(content, str) else content, mode)

    # -- looking ------------------------------------------------------------------------------------
    def top(self) -> list[dict[str, Any]]:
        """Its processes: pid (inside), parent, user, state, cpu_seconds, memory_bytes, command."""
        self._alive()
        found: list[dict[str, Any]] = self.lab._call({"do": "top", "id": self.id})["processes"]
        return found

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
    def _set_state(self, state: str) -> None:
        self._state = state
        self.lab._changed()

    def _exited(self, message: Mapping[str, Any]) -> None:
        if self._state in ("exited", "removed") or message["start"] != self._instance:
            return  # told already, or of an earlier start
        self._returncode = message["returncode"]
        self._oom_killed = bool(message["oom_killed"])
        self._pid = None
        self.finished_at = time.time()
        self._set_state("exited")

    def failure(self) -> Completed:
        """The last run as a `Completed`, with what is kept of its output."""
        text = self.logs()
        return Completed(
            self._returncode if self._returncode is not None else -1, text.stdout, text.stderr,
            (self.finished_at or time.time()) - (self.started_at or self.created_at), self.name, self.command,
            text.dropped_bytes, self._oom_killed,
        )  # fmt: skip

    def __repr__(self) -> str:
        status = self.state
        if status == "exited":
            how = signal_of(self._returncode or 0) or self._returncode
            status = f"exited ({'OOMKilled' if self._oom_killed else how})"
        where = (
            " ".join(f"{network} {address}" for network, address in self.addresses.items()) or self._spec.network_mode
        )
        return f"<Container {self.name}: {status}, {where}>"

    def _repr_html_(self) -> str:
        from .cards import container_card

        return container_card(self)


def in_container(error: CtlabError, name: str, command: Sequence[str]) -> CtlabError:
    """The same error, with the container's name; a program that is hidden inside is named with the way to show it."""
    text = f"container {name}: {error}"
    if isinstance(error, ProgramNotFound) and "no program" in text and command and "/" not in command[0]:
        path = shutil.which(command[0])
        if path is not None:
            place = f"/mnt/{command[0]}"  # /usr belongs to nobody inside, and nothing new can be made there
            text += f"; this machine has one that is hidden inside: -v {path}:{place}:ro shows it as {place}"
    made = type(error).__new__(type(error))
    made.__dict__.update(error.__dict__)
    made.args = (text,)
    return made


def body_descriptor(body: str | bytes) -> int:
    """A descriptor from which a program reads `body`."""
    data = memoryview(body.encode() if isinstance(body, str) else body)
    descriptor = os.memfd_create("body", os.MFD_CLOEXEC)
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def default_environment(spec: ContainerSpec, *, tty: bool = False) -> tuple[tuple[str, str], ...]:
    """What every program in a container gets: nothing of the notebook's own environment."""
    terminal = "dumb" if spec.tty or tty else "xterm"
    return (("PATH", DEFAULT_PATH), ("TERM", terminal), ("HOSTNAME", spec.hostname), ("HOME", ""))


def unknown(name: str, known: Iterable[str]) -> NotFound:
    """The error for a container that isn't there."""
    names = list(known)
    near = nearest(name, names)
    tail = f"; did you mean '{near}'?" if near else f"; there are: {', '.join(names)}" if names else "; there are none"
    return NotFound(f"no container '{name}'{tail}")


__all__ = ["BadInput", "Container", "default_environment", "unknown"]
