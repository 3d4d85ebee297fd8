"""`Lab`: one world of containers and networks, owned by this process."""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import connecting, creating, engines, filters, labs, opening, sampled_names, ticks, units
from .ask import python
from .container import Container, unknown
from .errors import BadInput, LabGone, NotFound, describe_bug, one_line
from .handles import Handles
from .hearing import hear
from .interrupts import interruptible
from .keywords import checked
from .names import did_you_mean, is_pattern, key
from .network import Network
from .plan import network as network_plan
from .plan import ops, rootfs
from .request import check_body
from .runtime import messages, own_limits
from .runtime.client import Client
from .runtime.connection import Reply, Request, T
from .spelling import in_a_magic
from .values import CONTAINER, NETWORK
from .words_of_command import split_command

if TYPE_CHECKING:
    from datetime import timedelta
    from ipaddress import IPv4Address, IPv6Address
    from typing import Literal, Never

    import pandas

    from .execution import Execution
    from .metrics.ring import Ring
    from .notebook.topology import Topology
    from .shells import Door
    from .spec import MountSpec

SLOTS = 6
NOTES_KEPT = 1000
BUG = "a bug of ctlab's"  # how a note of one begins


# For ctlab's own parts (the map, magics, charts); a person who types `lab.` and Tab has no use for them.
_CHANGE_SECONDS = 3.0  # how long a stop waits for another thread's change
_MACHINERY = {
    "cell", "changes", "close_views", "details", "endpoints", "map_elements", "on_change", "sampled", "say", "tick",
    "views",
}  # fmt: skip


def _wait_interrupted(_: Lab, container: str | Container, port: int, *__: object, **___: object) -> str:
    name = container if isinstance(container, str) else container.name
    return f"the wait for port {port} of {name}, which goes on"


@own_limits.told
@checked
class Lab:
    """A lab. It starts in the constructor and ends with `with`, `stop()` or this process, never by garbage collection.

    `interval`: seconds between two samples of the counters. `exists`: ``error``, ``replace`` or ``keep`` when a lab
    of that name runs (default: an error in the same cell, replaced in a later one).
    `engine`: ``native``, this machine's kernel; ``vm``, a kernel of its own in a microVM, with `vm_memory` (bytes, or
    text as 1G) and `vm_cpus`; ``auto``, native, and with `vm_if_needed` the VM where this machine's kernel can't
    (None: if the environment has CTLAB_VM_IF_NEEDED=1).
    `storage`: how much its containers may write, all together (bytes, or text as 2G); None: a quarter of the memory.
    Raises Unsupported where this machine can't run containers, with the remedy; NameInUse; BadInput.
    """

    @interruptible(lambda lab, name="lab", **_: f"the start of lab {name!r}; nothing of it is left")
    def __init__(
        self,
        name: str = "lab",
        *,
        interval: float | str = 0.1,
        engine: str = "auto",
        vm_memory: str | int | None = None,
        vm_cpus: int | None = None,
        vm_if_needed: bool | None = None,
        storage: str | int | None = None,
        uplink: bool = False,
        exists: str | None = None,
    ) -> None:
        seconds = opening.check_options(name, interval, uplink)
        chosen = engines.choose(engine, vm_memory, vm_cpus, vm_if_needed)
        storage_bytes = opening.check_storage(storage, engines.vm_memory_bytes(chosen))
        self.name = name
        self.tick, self.cell = ticks.now(), ticks.cell()
        self._lock = threading.RLock()
        self._containers: dict[str, Container] = {}
        self._networks: dict[str, Network] = {}
        self._executions: dict[int, Execution] = {}
        self._numbers = itertools.count(1)
        self._endpoint_numbers = itertools.count(1)
        self._names: dict[int, str] = {}  # the sampler's container key -> name
        self._endpoint_names: dict[int, tuple[str, str, str]] = {}
        self._removed = (
            sampled_names.Removed(self._names, "container_key"),
            sampled_names.Removed(self._endpoint_names, "endpoint_key"),
        )
        self._images: set[str] = set()
        self._listeners: list[Callable[[], None]] = []
        self.changes = 0  # how often something has changed
        self.views: list[Any] = []  # live maps, charts and tables: made static before anything is taken down
        self._rings: Any = None
        self._door: Door | None = None  # where terminals come, once one was asked for
        self._stopped = False
        self._death_told = False  # whether somebody was told who would have used it, see `labs`
        self.notes: list[str] = []
        self._doubts: list[str] = []  # of the counters, to be said when they are asked for
        self.started_at = time.time()
        self.interval_seconds = seconds
        opening.replace_earlier(self, exists)
        opening.check_platform()
        opening.check_files()
        opening.prune(self)
        born: list[Client] = []
        try:
            self._client = engines.start(name, seconds, chosen, self.say, storage_bytes, born)
            self._top = rootfs_top()
            self._client.found_bug, self._client.say = self._found_bug, self.say
            self._client.listen(lambda event: hear(self, event))
            operations = [*network_plan.node()]
            self._call(messages.Perform(ops.encode(operations)), messages.Ok)
            slot = ops.encode(rootfs.prepare("system", self._top))
            limits = creating.prepared_limits(self)
            self._call(messages.Configure(slot, limits, SLOTS, filters.of_lab()), messages.Ok)
            labs.add(self)
        except BaseException:  # interrupted: nobody has a handle of it yet, so nobody else could stop it
            for client in born:
                client.abandon()
            raise

    # -- listings -----------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Container:
        return self._container(name)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Container):
            return self._containers.get(key(name.name)) is name
        return isinstance(name, str) and key(name) in self._containers

    __iter__ = None  # or Python would try lab[0]: its containers are `containers`

    @property
    def containers(self) -> Handles[Container]:
        """All its containers, in order of creation."""
        from .cards import as_of, container_row

        with self._lock:
            found = list(self._containers.values())
        note = as_of() + ("" if engines.vm_facts(self) is None else "; a pid is the VM's")
        return Handles(found, container_row, "container", note, values=CONTAINER, warning=self._gone_warning())

    @property
    def networks(self) -> Handles[Network]:
        """All its networks."""
        from .cards import as_of, network_row

        with self._lock:
            found = list(self._networks.values())
        return Handles(found, network_row, "network", as_of(), values=NETWORK, warning=self._gone_warning())

    @property
    def nodes(self) -> Handles[Any]:
        """Its nodes: in this version the one called host."""
        from .cards import node_row
        from .node import Node

        return Handles([Node(self, "host")], node_row, "node", warning=self._gone_warning())

    def _gone_warning(self) -> str:
        return f"as it was: lab '{self.name}' {self.why_gone}" if self.gone else ""

    @property
    def engine(self) -> str:
        """``native``: on this machine's kernel; ``vm``: on one of its own."""
        return "native" if engines.vm_facts(self) is None else "vm"

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._stopped or self._client.gone

    @property
    def died(self) -> bool:
        """Whether it has ended without having been stopped."""
        return self._client.died and not self._stopped

    @property
    def why_gone(self) -> str:
        """How it has ended, for whoever still looks at it: ``stopped``, or ``died`` and why, in one line. "" before."""
        if not self.died:
            return "stopped" if self.gone else ""
        why = self._client.why_gone.partition("\n")[0]
        return f"died: {why}" if why else "died"

    # -- making -------------------------------------------------------------------------------------
    @interruptible(lambda lab, name, **_: f"the making of network {name!r}; lab.networks says whether it is there")
    def network(
        self,
        name: str,
        *,
        subnet: str | Iterable[str] | None = None,
        driver: str = "bridge",
        gateway: str | Iterable[str] | None = None,
        ipv6: bool = False,
        mtu: int | None = None,
        internal: bool = False,
        exists: str | None = None,
    ) -> Network:
        """Create a network (bridge driver). Without `subnet`, a free IPv4 /24; with `ipv6`, a free /64 as well.

        Raises NameInUse, AddressError (overlap, gateway outside), BadInput, Unsupported (driver).
        """
        options: dict[str, Any] = {
            "subnet": subnet, "driver": driver, "gateway": gateway, "ipv6": ipv6, "mtu": mtu, "internal": internal,
            "exists": exists,
        }  # fmt: skip
        options = python.read(python.NETWORK, options)
        return connecting.create_network(self, name, options.pop("exists", None), options)

    @interruptible(lambda lab, *_, **__: f"the start of a container in lab {lab.name!r}; nothing of it is left")
    # -- written by scripts/write-signatures.py from ctlab/ask
    def run(
        self,
        command: str | Sequence[str] | None = None,
        *,
        image: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        script: str | None = None,
        name: str | None = None,
        networks: str | Network | Iterable[str | Network] | None = None,
        ip: str | IPv4Address | None = None,
        ip6: str | IPv6Address | None = None,
        mac_address: str | None = None,
        hostname: str | None = None,
        memory: int | str | None = None,
        cpus: float | str | None = None,
        cpu_shares: int | str | None = None,
        cpuset_cpus: str | int | Iterable[int] | None = None,
        pids_limit: int | str | None = None,
        mounts: Mapping[str, str] | str | MountSpec | Iterable[str | MountSpec] | None = None,
        env: Mapping[str, Any] | str | Iterable[str] | None = None,
        env_file: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        workdir: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        tty: bool | None = None,
        entrypoint: str | Sequence[str] | None = None,
        init: bool | None = None,
        rm: bool | None = None,
        read_only: bool | None = None,
        cap_add: str | Iterable[str] | None = None,
        cap_drop: str | Iterable[str] | None = None,
        security_opt: str | Iterable[str] | None = None,
        labels: Mapping[str, Any] | str | Iterable[str] | None = None,
        stop_signal: str | int | None = None,
        stop_timeout: float | str | timedelta | None = None,
        count: int | None = None,
        node: str | None = None,
        exists: Literal["error", "keep", "replace"] | None = None,
        network: str | Network | Iterable[str | Network] | None = None,
        **unknown: Never,
    ) -> Any:
        # -- end of what is written
        """Start a container; returns once its program has been exec'ed.

        A keyword is Docker's long option in snake_case, plural if repeatable: `%container run -h`.
        With ``count=20, name="w{n:02}"`` a batch, as `Handles`. Without a command the container idles.
        `pids_limit`: 2048 if nothing is said. Of all limits, "none" is no limit.
        `stdin`: what the command reads (nothing without it). `script`: instead of a command, what /bin/sh runs.
        """
        keywords = python.given(python.RUN, locals(), unknown)
        argv = split_command(command)
        entrypoint = keywords.pop("entrypoint", None)
        if entrypoint:
            argv = [*split_command(entrypoint), *argv]
        count = keywords.pop("count", None)
        check_body(argv, count, keywords)
        self._alive()
        with self._lock:
            names = creating.names_for(self, keywords.pop("name", None), count)
            made = creating.create(self, names, argv, keywords)
        if count is None:
            return made[0]
        from .cards import as_of, container_row

        return Handles(made, container_row, "container", as_of(), values=CONTAINER)

    # -- what handles ask for -------------------------------------------------------------------------
    def _container(self, name: str | Container) -> Container:
        if isinstance(name, Container):
            return name
        if not isinstance(name, str):
            raise BadInput(f"lab[{name!r}]: a container's name is a text, lab['web']; by number: lab.containers[0]")
        found = self._containers.get(key(name))
        if found is None:
            found = next((c for c in list(self._containers.values()) if len(name) >= 4 and c.id.startswith(name)), None)
        if found is None:
            self._alive()
            if key(name) in self._networks:
                raise NotFound(f"no container '{name}': '{name}' is a network, lab.networks['{name}']")
            raise unknown(name, [c.name for c in list(self._containers.values())])
        return found

    def _network(self, name: str) -> Network:
        found = self._networks.get(key(name))
        if found is None:
            if name in ("host", "none"):
                raise BadInput(f"network '{name}' is predefined: there is nothing to inspect, connect or remove")
            if is_pattern(name):
                ways = "%network prune removes all that nothing hangs on" if in_a_magic() else "lab.networks has all"
                raise NotFound(f"no network '{name}': names aren't patterns here; {ways}")
            names = [*[n.name for n in list(self._networks.values())], "host", "none"]
            raise NotFound(f"no network '{name}'{did_you_mean(name, names) or '; there are: ' + ', '.join(names)}")
        return found

    def _network_question(self, container: Container, question: str) -> list[dict[str, Any]]:
        from . import asking

        container._alive()
        names = asking.link_names(self, container.id)
        return (
            asking.routes(self, container.id, names)
            if question == "routes"
            else asking.neighbours(self, container.id, names)
        )

    def _explain(self, container: Container) -> list[str]:
        from .explaining import explain_container

        return explain_container(self, container)

    # -- calls and events -----------------------------------------------------------------------------
    def _alive(self) -> None:
        if self._stopped:
            raise LabGone(f"lab '{self.name}' was stopped")
        if self._client.gone:
            raise self._client._gone_error()

    def _call(
        self, request: Request, kind: type[T], descriptors: Sequence[int] = (), undo: Sequence[Request] = ()
    ) -> Reply[T]:
        return self._client.call(request, kind, descriptors, undo)

    def say(self, line: str) -> None:
        """A line for the person: kept, and printed where somebody reads along."""
        self._note(line)
        if ticks.now() is not None:
            print(line)

    def _note(self, line: str) -> None:
        self.notes.append(line)
        del self.notes[:-NOTES_KEPT]

    def _found_bug(self, what: str, error: Exception) -> None:
        """A note, once, of what a bug has lost on a thread of ours, where nobody waits who could be told."""
        self._note_failure(f"{BUG}: {what}", error)

    def _note_failure(self, what: str, error: Exception) -> None:
        line = one_line(f"{what}: {describe_bug(error)}")
        if line not in self.notes:
            self._note(line)

    def _doubt(self, line: str) -> None:
        """A note on the counters, which is also said with the next frame."""
        if line not in self._doubts and len(self._doubts) < NOTES_KEPT:
            self._doubts.append(line)
            self._note(line)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback`, from any thread, whenever something may have changed; returns what ends that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def _changed(self) -> None:
        self.changes += 1
        for listener in list(self._listeners):
            try:
                listener()
            except Exception as error:  # what has changed has changed all the same
                self._found_bug("a change wasn't shown", error)

    # -- looking --------------------------------------------------------------------------------------
    @interruptible(lambda lab, *_, **__: f"a look at the counters of lab {lab.name!r}, which go on")
    def stats(self, containers: Any = None, metrics: Any = None, last: Any = "30s", **options: Any) -> pandas.DataFrame:
        """The sampled counters as a DataFrame: since, rates, resample, by; see docs/surface.md, Frames."""
        from .measuring import stats

        doubts, self._doubts = self._doubts, []
        for line in doubts:
            warnings.warn(line, RuntimeWarning, stacklevel=2)
        return stats(self, containers=containers, metrics=metrics, last=last, **options)

    def sampled(self) -> tuple[Ring, dict[int, str]]:
        """What a live chart reads: the ring of the containers' counters, and the names of its keys."""
        from .measuring import sampled

        return sampled(self)

    def topology(self, *, keep: bool = False) -> Topology:
        """The live map. The lab's earlier one becomes static, unless `keep`."""
        from .notebook.topology import Topology

        if not keep:
            for view in [view for view in list(self.views) if isinstance(view, Topology)]:
                if self._forget_view(view):
                    view.freeze()
        made = Topology(self)
        self.views.append(made)
        return made

    def map_elements(self) -> list[dict[str, object]]:
        """What the map shows."""
        from .mapping import elements

        return elements(self)

    def details(self, element_id: str) -> dict[str, object]:
        """What to show of one element of the map."""
        from .mapping import details

        return details(self, element_id)

    def graph(self) -> Any:
        """The topology as a networkx MultiGraph (extra `graph`)."""
        from .mapping import graph

        return graph(self)

    def endpoints(self) -> list[dict[str, Any]]:
        """Every endpoint: container, network, interface, mac, addresses."""
        return [
            {
                "container": c.name,
                "network": e.network,
                "interface": e.interface,
                "mac": e.mac,
                "addresses": list(e.addresses),
            }
            for c in list(self._containers.values())
            for e in c.endpoints
        ]

    @interruptible(_wait_interrupted)
    def wait_for(self, container: str | Container, port: int, timeout: float | str = 5.0) -> None:
        """Wait until something in a container listens on a TCP port; TimeoutError."""
        from .measuring import wait_for_port

        if port is None:
            raise BadInput("port=: a number from 1 to 65535, not None")
        wait_for_port(self._container(container), port, units.parse_duration(timeout))

    def status(self) -> dict[str, Any]:
        """The lab in plain values: name, containers, networks, ids, cgroup, what is left of its storage, its costs."""
        facts = self._client.facts
        vm = engines.vm_facts(self)
        costs = self._call(messages.Costs(), messages.Used).message
        return {
            "name": self.name, "id": self._client.id, "engine": self.engine, **({"vm": vm} if vm is not None else {}),
            "containers": len(self._containers),
            "running": sum(c.state == "running" for c in list(self._containers.values())),
            "networks": len(self._networks),
            "ids": engines.ids_words(self), "cgroup": facts["cgroup"], "limits": facts["controllers"],
            "cgroup_reason": facts["cgroup_reason"], "pids_limit": opening.pids_words(facts["pids_by"]),
            "storage": costs.storage, "interval_seconds": self.interval_seconds, "processes": costs.processes,
        }  # fmt: skip

    def _forget_view(self, view: Any) -> bool:
        """Take a live output out of `views`; False if somebody else just has."""
        try:
            self.views.remove(view)
        except ValueError:
            return False
        return True

    def close_views(self) -> None:
        """Make every live output static: it shows the lab as it is now."""
        while self.views:
            try:
                self.views.pop().close()
            except Exception as error:  # a front end that is gone, say, must not keep the lab
                self._note_failure("an output stays as it was", error)

    # -- its end --------------------------------------------------------------------------------------
    @interruptible(lambda lab: f"the stop of lab {lab.name!r}, which ends all the same")
    def stop(self) -> None:
        """End it: every container, network and process; returns when nothing is left. Twice is no error."""
        held: list[bool] = []
        try:
            self._take_lock(held)
            if self._stopped:
                self._client.stop()  # another thread may just be at it
                return
            if True in held:
                self.close_views()
            self._stopped = True
            self._client.stop()
            if True not in held:  # what another thread was at comes to its end now, with LabGone
                self._take_lock(held)
                if True in held:  # else they would wait for it
                    self.close_views()
        except BaseException:
            self._stopped = True
            self._client.stop()
            raise
        finally:
            try:
                for container in list(self._containers.values()):
                    if container._state not in ("exited", "removed"):
                        container._state, container._pid = "lost", None
                labs.discard(self)
            finally:
                if True in held:
                    self._lock.release()
            self._changed()

    def _take_lock(self, held: list[bool]) -> None:
        """Add whether it could be taken in time: taken and said in one call, behind which an interrupt may come."""
        held.extend(map(self._lock.acquire, [True], [_CHANGE_SECONDS]))

    def __enter__(self) -> Lab:
        labs.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        labs.leave(self)
        self.stop()

    def __repr__(self) -> str:
        if self.gone:
            return f"<Lab {self.name}: {'died' if self.died else 'stopped'}>"
        counts = ((len(self._containers), "container"), (len(self._networks), "network"))
        shown = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
        return f"<Lab {self.name}: {shown}, {self.engine}>"

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _MACHINERY]

    def _repr_html_(self) -> str:
        from .cards import lab_card

        return lab_card(self)


def rootfs_top() -> dict[str, str]:
    """This machine's top-level entries as `plan.rootfs` wants them."""
    top = {}
    with os.scandir("/") as entries:
        for entry in entries:
            top[entry.name] = os.readlink(entry.path) if entry.is_symlink() else "folder" if entry.is_dir() else "file"
    return top
