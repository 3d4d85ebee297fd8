"""`Lab`: one world of containers and networks, owned by this process."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import labs, network, ticks, units
from .container import Container, unknown
from .errors import AddressError, BadInput, CtlabError, LabGone, LimitRefused, NameInUse, NotFound, StateError, Unsupported
from .handles import Handles
from .images import reference
from .names import auto_name, check_name, did_you_mean, expand_pattern, key
from .network import Attachment, Network, plan_network
from .plan import limits as limits_plan
from .plan import network as network_plan
from .plan import ops, rootfs
from .request import KEYWORDS, container_spec, several, unknown_keyword
from .runtime.client import Client, Reply
from .spec import ContainerSpec, EndpointSpec
from .starting import start_message
from .words_of_command import split_command

if TYPE_CHECKING:
    import pandas

    from .execution import Execution
    from .notebook.topology import Topology

DEFAULT_NETWORK = "bridge"
SLOTS = 4


class Lab:
    """A lab. It starts in the constructor and ends with `with`, `stop()` or this process, never by garbage collection.

    `interval`: seconds between two samples of the counters. `exists`: ``error``, ``replace`` or ``keep`` when a lab
    of that name runs (default: an error in the same cell, replaced in a later one).
    Raises Unsupported where this machine can't run containers, with the remedy; NameInUse.
    """

    def __init__(
        self,
        name: str = "lab",
        *,
        interval: float | str = 0.1,
        engine: str = "auto",
        uplink: bool = False,
        exists: str | None = None,
    ) -> None:
        check_name("lab", name)
        if engine not in ("auto", "native"):
            raise Unsupported(f"engine '{engine}' isn't in this version; there is: native") if engine == "vm" else BadInput(
                f"no engine '{engine}'{did_you_mean(engine, ['auto', 'native', 'vm'])}; there are: auto, native"
            )
        if uplink:
            raise Unsupported("uplink isn't in this version: a lab's packets stay inside it")
        seconds = units.parse_duration(interval)
        if not 0.01 <= seconds <= 60:
            raise BadInput(f"interval {interval}: from 10 ms to 60 s")
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
        self._images: set[str] = set()
        self._listeners: list[Callable[[], None]] = []
        self._rings: Any = None
        self._stopped = False
        self.notes: list[str] = []
        self.started_at = time.time()
        self.interval_seconds = seconds
        self._give_way(exists)
        _check_platform()
        self._prune()
        try:
            self._client = Client(name, seconds)
        except CtlabError as error:
            raise _why(error) from None
        self._top = rootfs_top()
        self._client.listen(self._hear)
        operations = [*network_plan.node()]
        self._call({"do": "perform", "operations": ops.encode(operations)})
        self._call(
            {"do": "configure", "operations": ops.encode(rootfs.prepare("system", self._top)), "slots": SLOTS}
        )
        labs.add(self)

    def _give_way(self, exists: str | None) -> None:
        for other in labs.running():
            if key(other.name) == key(self.name):
                if exists == "error" or (exists is None and ticks.same(other.tick)):
                    raise NameInUse(f"lab '{self.name}' runs already; stop it first, or exists='replace'")
                if exists == "keep":
                    raise BadInput("exists='keep' makes no new lab: take ctlab.labs.find(name)")
                other.stop()
                self.notes.append(f"replaced lab {self.name} ({other.cell})")

    def _prune(self) -> None:
        from .runtime import prune

        with contextlib.suppress(OSError):
            for line in prune.prune():
                self.say(line)

    # -- listings -----------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Container:
        return self._container(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and key(name) in self._containers

    @property
    def containers(self) -> Handles[Container]:
        """All its containers, in order of creation."""
        from .cards import as_of, container_row

        with self._lock:
            return Handles(list(self._containers.values()), container_row, "container", as_of())

    @property
    def networks(self) -> Handles[Network]:
        """All its networks."""
        from .cards import as_of, network_row

        with self._lock:
            return Handles(list(self._networks.values()), network_row, "network", as_of())

    @property
    def nodes(self) -> Handles[Any]:
        """Its nodes: in this version the one called host."""
        from .cards import node_row
        from .node import Node

        return Handles([Node(self, "host")], node_row, "node")

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._stopped or self._client.gone

    # -- making -------------------------------------------------------------------------------------
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
        explain: bool = False,
    ) -> Network:
        """Create a network (bridge driver). Without `subnet`, a free IPv4 /24; with `ipv6`, a free /64 as well.

        Raises NameInUse, AddressError (overlap, gateway outside), BadInput, Unsupported (driver).
        """
        self._alive()
        options = {
            "subnet": subnet, "driver": driver, "gateway": gateway, "ipv6": ipv6, "mtu": mtu, "internal": internal,
        }  # fmt: skip
        with self._lock:
            old = self._networks.get(key(name))
            others = [n for n in self._networks.values() if n is not old]
            spec, pools = plan_network(name, others, lab_id=self._client.id, **options)  # type: ignore[arg-type]
            if old is not None:
                kept = self._existing_network(old, spec, subnet is None, exists)
                if kept is not None:
                    return kept
            self._call({"do": "perform", "operations": ops.encode(network_plan.create(spec))})
            made = Network(self, spec, pools)
            self._networks[key(name)] = made
        self._changed()
        return made

    def _existing_network(self, old: Network, spec: Any, any_subnet: bool, exists: str | None) -> Network | None:
        """The rule for a network created again: kept when it is the same, re-made when nothing else hangs on it."""
        same = old.spec == spec or (any_subnet and old.spec.driver == spec.driver and old.spec.mtu == spec.mtu)
        if exists == "keep":
            return old
        if exists == "error" or (exists is None and ticks.same(old.tick)):
            raise NameInUse(f"network '{old.name}' exists ({' '.join(old.subnets)}); exists='replace' makes it anew")
        if exists is None and same:
            old.tick, old.cell = ticks.now(), ticks.cell()
            self.say(f"network {old.name}: unchanged")
            return old
        hanging = [c.name for c in old.containers if ticks.same(c.tick) is False]
        if hanging:
            raise StateError(
                f"network '{old.name}' can't be made anew: {', '.join(hanging)} of other cells "
                f"{'hang' if len(hanging) > 1 else 'hangs'} on it; remove {'them' if len(hanging) > 1 else 'it'} first"
            )
        for container in old.containers:
            self._remove(container)
        self._remove_network(old)
        self.say(f"replaced network {old.name} ({old.cell})")
        return None

    def run(self, command: str | Sequence[str] | None = None, **keywords: Any) -> Any:
        """Start a container; returns once its program has been exec'ed.

        A keyword is Docker's long option in snake_case, plural if repeatable: image, name, networks, env, mounts,
        workdir, user, cpus, cpu_shares, cpuset_cpus, memory, pids_limit, hostname, init, rm, tty, ip, ip6,
        mac_address, cap_add, cap_drop, read_only, labels, stop_signal, stop_timeout, exists. With ``count=20,
        name="w{n:02}"`` a batch, as `Handles`. Without a command the container idles.
        """
        for word in keywords:
            if word not in KEYWORDS:
                raise unknown_keyword(word, KEYWORDS)
        if keywords.get("publish"):
            raise unknown_keyword("publish", KEYWORDS)
        argv = split_command(command)
        entrypoint = keywords.pop("entrypoint", None)
        if entrypoint:
            argv = [*split_command(entrypoint), *argv]
        count = keywords.pop("count", None)
        self._alive()
        with self._lock:
            if count is None:
                return self._create([self._free_name(keywords.pop("name", None))], argv, keywords)[0]
            pattern = keywords.pop("name", None) or "c{n}"
            made = self._create(expand_pattern("container", str(pattern), count), argv, keywords)
        from .cards import as_of, container_row

        return Handles(made, container_row, "container", as_of())

    def _free_name(self, name: str | None) -> str:
        return auto_name("c", [c.name for c in self._containers.values()]) if name is None else name

    def _create(self, names: list[str], argv: list[str], keywords: dict[str, Any]) -> list[Container]:
        exists = keywords.pop("exists", None)
        if exists not in (None, "error", "keep", "replace"):
            raise BadInput(f"exists={exists!r}: error, keep or replace")
        networks = self._network_names(keywords)
        addresses = {name: keywords.pop(name, None) for name in ("ip", "ip6", "mac_address")}
        node = keywords.get("node")
        if node is not None and node != "host":
            raise NotFound(f"no node '{node}'; there is: host")
        specs = [container_spec(name, argv, networks, keywords) for name in names]
        image = self._image(specs[0].image, specs[0].command)
        self._check_limits(specs[0])
        replaced: dict[str, Container] = {}
        kept: list[Container] = []
        for spec in specs:
            old = self._containers.get(key(spec.name))
            if old is None:
                continue
            if exists == "keep":
                kept.append(old)
            elif exists == "error" or (exists is None and ticks.same(old.tick)):
                raise NameInUse(
                    f"container '{spec.name}' exists ({old.state}); remove it first, choose another name, or exists='replace'"
                )
            else:
                replaced[spec.name] = old
        if kept:
            if len(specs) > 1:
                raise BadInput("exists='keep' doesn't go with count")
            return kept
        for network_name in dict.fromkeys(name for spec in specs for name in spec.networks):
            if network_name == DEFAULT_NETWORK and DEFAULT_NETWORK not in self._networks:
                self.network(DEFAULT_NETWORK)
        before = {name: self._automatic_addresses(old) for name, old in replaced.items()}
        for old in replaced.values():
            ran = units.format_duration(max(0.0, time.time() - (old.started_at or old.created_at)), 2)
            self.say(f"replaced {old.name} ({old.cell + ', ' if old.cell else ''}ran {ran})")
            self._remove(old, gone=f"replaced in {ticks.cell() or 'a later call'}: take lab['{old.name}']")
        made: list[Container] = []
        attachments: list[Attachment] = []
        try:
            for spec in specs:
                container = Container(self, secrets.token_hex(6), next(self._numbers), spec)
                wanted = before.get(spec.name, {})
                for position, network_name in enumerate(spec.networks):
                    attachments.append(self._attach(container, network_name, position, addresses, wanted))
                made.append(container)
            messages = [self._start_message(container, image) for container in made]
            self._announce(made)
            replies = self._start_all(made, messages)
        except BaseException:
            for attachment in attachments:
                attachment.give_back()
            for container in made:
                container._gone = "it never ran"
                self._containers.pop(key(container.name), None)
            raise
        for container, reply in zip(made, replies, strict=True):
            self._started(container, reply)
        self._changed()
        return made

    def _announce(self, made: list[Container]) -> None:
        """Register before the start, so that an event of a program that is quicker than its answer finds it."""
        for container in made:
            self._containers[key(container.name)] = container
            self._names[container._number] = container.name

    def _start_all(self, made: list[Container], messages: list[dict[str, Any]]) -> list[Reply | None]:
        if len(made) == 1:
            return [self._call_start(made[0], messages[0])]
        try:
            reply = self._call({"do": "start_many", "starts": messages})
        except CtlabError as error:
            raise type(error)(f"of {len(made)} containers none was left running: {error}") from None
        del reply
        return [None] * len(made)

    def _call_start(self, container: Container, message: dict[str, Any]) -> Reply:
        try:
            return self._call(message)
        except LimitRefused as error:
            parts = str(error).split("\t")
            if len(parts) == 3:
                raise LimitRefused(f"{container.name}: the kernel refused {parts[1]} = {parts[2]}") from None
            raise
        except CtlabError as error:
            raise _in_container(error, container) from None

    def _started(self, container: Container, reply: Reply | None) -> None:
        container._pid = (reply.process or None) if reply is not None else None
        container.started_at = time.time()
        if container._state == "created":
            container._state = "running"

    def _network_names(self, keywords: dict[str, Any]) -> tuple[str, ...]:
        names = several(keywords.pop("networks", None)) + several(keywords.pop("network", None))
        if not names:
            return (DEFAULT_NETWORK,)
        if len(names) > 1 and any(name in ("host", "none") or name.startswith("container:") for name in names):
            raise BadInput("network host, none and container:NAME can't be joined by others")
        if names[0] in ("host", "none"):
            return (names[0],)
        if names[0].startswith("container:"):
            return (f"container:{self._container(names[0].partition(':')[2]).id}",)
        if len({key(name) for name in names}) < len(names):
            raise BadInput(f"network '{names[0]}' is named twice")
        return tuple(
            DEFAULT_NETWORK if name == DEFAULT_NETWORK else self._network(name).name for name in names
        )

    def _attach(
        self, container: Container, network_name: str, position: int, asked: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> Attachment:
        net = self._networks[key(network_name)]
        attachment = Attachment(net, container.name)
        ip, ip6 = (asked["ip"], asked["ip6"]) if position == 0 else (None, None)
        old = wanted.get(net.name)
        if old is not None and ip is None and ip6 is None:
            for text in old:  # the same automatic address as before, where it is still to be had
                if ":" in text:
                    ip6 = text.partition("/")[0]
                else:
                    ip = text.partition("/")[0]
            try:
                attachment.take(ip, ip6)
            except AddressError:
                attachment.take(None, None)
            ip = ip6 = None
        else:
            attachment.take(ip, ip6)
        number = next(n for n in itertools.count() if n not in container._endpoints)
        default = not any(e.default_gateways for e in container.endpoints)
        mac = asked["mac_address"] if position == 0 else None
        container._endpoints[number] = attachment.endpoint(number, f"{self.name}/{container.name}/{net.name}", mac, default)
        endpoint_key = next(self._endpoint_numbers)
        container._endpoint_keys[number] = endpoint_key
        self._endpoint_names[endpoint_key] = (container.name, net.name, f"eth{number}")
        if ip is not None or ip6 is not None:
            container._requested.add(number)
        return attachment

    def _automatic_addresses(self, container: Container) -> dict[str, tuple[str, ...]]:
        return {
            e.network: e.addresses for number, e in container._endpoints.items() if number not in container._requested
        }

    def _image(self, text: str, command: tuple[str, ...]) -> reference.Reference:
        image = reference.parse(text, command)
        if image.kind in ("folder", "archive") and image.key not in self._images:
            if image.kind == "folder":
                self._call({"do": "image", "key": image.key, "kind": "folder", "path": image.path})
            else:
                descriptor = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self._call({"do": "image", "key": image.key, "kind": "archive"}, [descriptor])
                finally:
                    os.close(descriptor)
            self._images.add(image.key)
        if image.kind != "system" and not command and image.kind == "archive":
            pass  # a tar file carries no command of its own: the container idles
        return image

    def _check_limits(self, spec: ContainerSpec) -> None:
        limits_plan.check(spec.limits, os.sched_getaffinity(0))
        facts = self._client.facts
        absent = limits_plan.missing(spec.limits, facts["controllers"] if facts["cgroup"] != "none" else ())
        if absent:
            raise limits_plan.unavailable(absent, facts["cgroup_reason"], facts["cgroup_remedy"])
        for note in limits_plan.notes(spec.limits, os.cpu_count() or 1):
            self.say(note)

    def _start_message(self, container: Container, image: reference.Reference) -> dict[str, Any]:
        container._instance = next(self._numbers_of_starts)
        return start_message(container, image, self._top, self._client.facts["cgroup"])

    _numbers_of_starts = itertools.count(1)

    # -- what handles ask for -------------------------------------------------------------------------
    def _start(self, container: Container) -> None:
        with self._lock:
            image = self._image(container.image, container.command)
            self._check_limits(container.spec)
            container._state, container._returncode, container._oom_killed = "created", None, False
            message = self._start_message(container, image)
            try:
                reply = self._call_start(container, message)
            except BaseException:
                container._state = "exited"
                raise
            self._started(container, reply)
        self._changed()

    def _remove(self, container: Container, gone: str = "") -> None:
        with self._lock:
            if container._gone:
                return
            with contextlib.suppress(NotFound):
                self._call({"do": "remove", "id": container.id})
            self._forget(container, gone or "it was removed")
        self._changed()

    def _forget(self, container: Container, gone: str) -> None:
        for endpoint in container.endpoints:
            net = self._networks.get(key(endpoint.network))
            if net is not None:
                network.release(net, endpoint)
        container._gone, container._state, container._pid = gone, "removed", None
        if self._containers.get(key(container.name)) is container:
            del self._containers[key(container.name)]

    def _rename(self, container: Container, name: str) -> None:
        check_name("container", name)
        with self._lock:
            other = self._containers.get(key(name))
            if other is not None and other is not container:
                raise NameInUse(f"container '{name}' exists ({other.state})")
            import dataclasses

            from .starting import name_endpoints

            spec = dataclasses.replace(container.spec, name=name)
            self._call({"do": "rename", "id": container.id, "name": name, "endpoints": name_endpoints(container)})
            del self._containers[key(container.name)]
            container._spec = spec
            self._containers[key(name)] = container
            self._names[container._number] = name
            for number, endpoint_key in container._endpoint_keys.items():
                endpoint = container._endpoints[number]
                self._endpoint_names[endpoint_key] = (name, endpoint.network, endpoint.interface)
            for endpoint in container.endpoints:
                net = self._networks[key(endpoint.network)]
                network.release(net, endpoint)
                attachment = Attachment(net, name)
                four = next((a.partition("/")[0] for a in endpoint.addresses if ":" not in a), None)
                six = next((a.partition("/")[0] for a in endpoint.addresses if ":" in a), None)
                attachment.take(four, six)
        self._changed()

    def _update(self, container: Container, wanted: limits_plan.Limits) -> None:
        import dataclasses

        with self._lock:
            spec = dataclasses.replace(container.spec, limits=wanted)
            self._check_limits(spec)
            version = self._client.facts["cgroup"]
            if version != "none":
                writes = limits_plan.changes(container.limits, wanted, version)
                undo = limits_plan.undo(container.limits, wanted, version)
                lower = wanted.memory_bytes if wanted.memory_bytes != container.limits.memory_bytes else None
                self._write_limits(container, writes, undo, lower)
            container._spec = spec
        self._changed()

    def _write_limits(self, container: Container, writes: list[Any], undo: list[Any], memory: int | None) -> None:
        from .runtime.client import raise_failure

        connection = self._client.connection()
        from .runtime import protocol

        connection.send(
            {
                "do": "limits", "id": container.id, "writes": [list(w) for w in writes], "undo": [list(w) for w in undo],
                "memory_bytes": memory,
            }
        )  # fmt: skip
        message, _, _ = protocol.receive(connection.socket)
        self._client.give_back(connection)
        if message is None:
            raise LabGone(f"lab '{self.name}' is gone")
        if message.get("error") == "LimitRefused" and "usage_bytes" in message:
            if message["message"] == "usage" and memory is not None:
                raise limits_plan.below_usage(memory, message["usage_bytes"])
            raise limits_plan.refused(writes[message["write"]], message["errno"], message["usage_bytes"])
        raise_failure(message)

    def _connect(self, net: Network, container: Container, ip: Any, ip6: Any, mac: Any) -> Container:
        from .starting import attach_message

        self._alive()
        container._alive()
        with self._lock:
            if any(e.network == net.name for e in container.endpoints):
                raise StateError(f"container {container.name} is on network '{net.name}' already")
            if container.spec.network_mode != "bridge":
                raise StateError(f"container {container.name} has network {container.spec.network_mode}: it can't be connected")
            asked = {"ip": ip, "ip6": ip6, "mac_address": mac}
            attachment = self._attach(container, net.name, 0, asked, {})
            number = max(container._endpoints)
            number = next(n for n, e in container._endpoints.items() if e.network == net.name)
            try:
                self._call(attach_message(container, number))
            except BaseException:
                attachment.give_back()
                del container._endpoints[number]
                container._endpoint_keys.pop(number, None)
                raise
        self._changed()
        return container

    def _disconnect(self, net: Network, container: Container) -> Container:
        from .starting import detach_message

        self._alive()
        container._alive()
        with self._lock:
            number = next((n for n, e in container._endpoints.items() if e.network == net.name), None)
            if number is None:
                raise StateError(f"container {container.name} isn't on network '{net.name}'")
            endpoint = container._endpoints.pop(number)
            endpoint_key = container._endpoint_keys.pop(number, 0)
            message = detach_message(container, endpoint, self)
            try:
                self._call(message)
            except BaseException:
                container._endpoints[number] = endpoint
                container._endpoint_keys[number] = endpoint_key
                raise
            network.release(net, endpoint)
            container._requested.discard(number)
        self._changed()
        return container

    def _remove_network(self, net: Network) -> None:
        self._alive()
        with self._lock:
            attached = [c.name for c in net.containers]
            if attached:
                raise StateError(f"network '{net.name}' has containers on it: {', '.join(attached)}; disconnect or remove them")
            deaf = [text.partition("/")[0] for text in net.gateways]
            self._call({"do": "perform", "operations": ops.encode(network_plan.remove(net.spec)), "deaf": deaf})
            self._networks.pop(key(net.name), None)
        self._changed()

    def _container(self, name: str | Container) -> Container:
        if isinstance(name, Container):
            return name
        found = self._containers.get(key(name))
        if found is None:
            found = next((c for c in self._containers.values() if len(name) >= 4 and c.id.startswith(name)), None)
        if found is None:
            self._alive()
            raise unknown(name, [c.name for c in self._containers.values()])
        return found

    def _network(self, name: str) -> Network:
        found = self._networks.get(key(name))
        if found is None:
            names = [*[n.name for n in self._networks.values()], "host", "none"]
            raise NotFound(f"no network '{name}'{did_you_mean(name, names)}; there are: {', '.join(names)}")
        return found

    def _network_question(self, container: Container, question: str) -> list[dict[str, Any]]:
        from . import asking

        container._alive()
        names = asking.link_names(self, container.id)
        return asking.routes(self, container.id, names) if question == "routes" else asking.neighbours(self, container.id, names)

    def _explain(self, container: Container) -> list[str]:
        from .explaining import explain_container

        return explain_container(self, container)

    # -- calls and events -----------------------------------------------------------------------------
    def _alive(self) -> None:
        if self.gone:
            raise LabGone(f"lab '{self.name}' was stopped" if self._stopped else f"lab '{self.name}' died")

    def _call(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> Reply:
        return self._client.call(message, descriptors)

    def say(self, line: str) -> None:
        """A line for the person: kept, and printed where somebody reads along."""
        self.notes.append(line)
        if ticks.now() is not None:
            print(line)

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "execution-ended":
            execution = self._executions.pop(event["execution"], None)
            if execution is not None:
                execution.ended(event["returncode"])
        elif kind == "exited":
            container = next((c for c in list(self._containers.values()) if c.id == event["id"]), None)
            if container is not None:
                container._exited(event)
                if container.spec.rm:
                    with self._lock:
                        self._forget(container, "it was removed when it ended (--rm)")
                    self._changed()
        elif kind == "note":
            self.notes.append(event["text"])
        elif kind in ("gone", "helper-died"):
            if kind == "helper-died":
                self.notes.append(f"the lab's {event['helper']} died (status {event['status']})")
            self._changed()

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback`, from any thread, whenever something may have changed; returns what ends that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def _changed(self) -> None:
        for listener in list(self._listeners):
            with contextlib.suppress(Exception):
                listener()

    # -- looking --------------------------------------------------------------------------------------
    def stats(self, containers: Any = None, metrics: Any = None, last: Any = "30s", **options: Any) -> pandas.DataFrame:
        """The sampled counters as a DataFrame: since, rates, resample, by; see docs/surface.md, Frames."""
        from .measuring import stats

        return stats(self, containers=containers, metrics=metrics, last=last, **options)

    def topology(self) -> Topology:
        """The live map."""
        from .notebook.topology import Topology

        return Topology(self)

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
            {"container": c.name, "network": e.network, "interface": e.interface, "mac": e.mac, "addresses": list(e.addresses)}
            for c in self._containers.values()
            for e in c.endpoints
        ]

    def wait_for(self, container: str | Container, port: int, timeout: float | str = 5.0) -> None:
        """Wait until something in a container listens on a TCP port; TimeoutError."""
        from .measuring import wait_for_port

        wait_for_port(self._container(container), port, units.parse_duration(timeout))

    def status(self) -> dict[str, Any]:
        """The lab in plain values: name, containers, networks, ids, cgroup, what it costs."""
        facts = self._client.facts
        return {
            "name": self.name, "id": self._client.id, "containers": len(self._containers),
            "running": sum(c.state == "running" for c in self._containers.values()), "networks": len(self._networks),
            "ids": facts["mapping"], "cgroup": facts["cgroup"], "limits": facts["controllers"],
            "cgroup_reason": facts["cgroup_reason"], "interval_seconds": self.interval_seconds,
            "processes": self._call({"do": "costs"})["processes"],
        }  # fmt: skip

    # -- its end --------------------------------------------------------------------------------------
    def stop(self) -> None:
        """End it: every container, network and process; returns when nothing is left. Twice is no error."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._client.stop()
            for container in self._containers.values():
                if container._state not in ("exited", "removed"):
                    container._state, container._pid = "lost", None
        labs.discard(self)
        self._changed()

    def __enter__(self) -> Lab:
        labs.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        labs.leave(self)
        self.stop()

    def __repr__(self) -> str:
        if self.gone:
            return f"<Lab {self.name}: stopped>"
        return f"<Lab {self.name}: {len(self._containers)} containers, {len(self._networks)} networks>"

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


def _check_platform() -> None:
    if not sys.platform.startswith("linux"):
        from .doctor import doctor

        raise Unsupported(doctor().why_not)


def _why(error: CtlabError) -> CtlabError:
    """A lab that can't start: what the doctor finds is missing, else what the keeper said."""
    from .doctor import doctor

    with contextlib.suppress(Exception):
        report = doctor()
        if not report.usable:
            return Unsupported(report.why_not)
    return error


def _in_container(error: CtlabError, container: Container) -> CtlabError:
    text = str(error)
    made = type(error).__new__(type(error))
    made.__dict__.update(error.__dict__)
    made.args = (f"container {container.name}: {text}",)
    return made


__all__ = ["EndpointSpec", "Lab"]
