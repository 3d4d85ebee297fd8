"""Containers come into being: from keywords to a program that runs, or to nothing at all.

Specs are checked, addresses taken, the order sent; whatever fails gives everything back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import ending, engines, filters, network, sampled_names, ticks, units
from .container import Container
from .errors import AddressError, BadInput, CtlabError, NameInUse, NotFound
from .executing import body_descriptor, in_container
from .images import reference
from .ipam import parse_mac
from .names import auto_names, expand_pattern, key
from .network import Attachment, Network
from .plan import limits as limits_plan
from .request import check_exists, check_source, container_spec, several
from .runtime import messages, packets
from .spec import ContainerSpec
from .spelling import option
from .starting import network_word, start_message
from .whole import Deferred, whole

if TYPE_CHECKING:
    from .lab import Lab

DEFAULT_NETWORK = "bridge"
_numbers_of_starts = itertools.count(1)


def create(lab: Lab, names: list[str], argv: list[str], keywords: dict[str, Any]) -> list[Container]:
    exists = keywords.pop("exists", None)
    check_exists(exists)
    networks = network_names(lab, keywords)
    addresses = {name: keywords.pop(name, None) for name in ("ip", "ip6", "mac_address")}
    node = keywords.get("node")
    if node is not None and node != "host":
        raise NotFound(f"no node '{node}'; there is: host")
    body = [(word, keywords.pop(word, None)) for word in ("stdin", "script")]
    specs = [container_spec(name, argv, networks, keywords) for name in names]
    engines.check_mounts(lab, specs[0].mounts)
    image = find_image(lab, specs[0].image, specs[0].command)
    limits = check_limits(lab, specs[0])
    release = engines.kernel_release(lab)
    filters.own(specs[0], release)  # compiled here, so that one that is too large ends nothing that exists
    specs = [dataclasses.replace(spec, limits=limits) for spec in specs]
    replaced: dict[str, Container] = {}
    kept: list[Container] = []
    for spec in specs:
        old = lab._containers.get(key(spec.name))
        if old is None:
            continue
        if exists == "keep":
            kept.append(old)
        elif exists == "error" or (exists is None and ticks.same(old.tick)):
            raise NameInUse(
                f"container '{spec.name}' exists ({old.state}); "
                f"remove it first, choose another name, or {option('exists', 'replace')}"
            )
        else:
            replaced[spec.name] = old
    if kept:
        if len(specs) > 1:
            raise BadInput(f"{option('exists', 'keep')} doesn't go with {option('count', len(specs))}")
        return kept
    if replaced:
        _rehearse(lab, specs, replaced, addresses)
    if engines.vm_facts(lab) is None and (said := filters.reopened(specs[0], release)):
        lab.say(f"{names[0]}{' …' if len(names) > 1 else ''}: {said}")
    sampled_names.make_room(lab)
    with whole(lab) as deferred:
        return _make(lab, specs, replaced, addresses, body, image, deferred)


def _rehearse(
    lab: Lab, specs: list[ContainerSpec], replaced: Mapping[str, Container], asked: Mapping[str, Any]
) -> None:
    """Raise what would fail here once the old ones are gone: addresses are taken on copies, with theirs given back."""
    if asked["mac_address"] is not None:
        parse_mac(asked["mac_address"])
    if any(spec.network_mode == f"container:{old.id}" for spec in specs for old in replaced.values()):
        raise BadInput(
            f"{option('network', 'container:NAME')}: container '{specs[0].name}' is replaced, and its network with it"
        )
    copies = {
        name: Network(lab, net.spec, [pool.copy() for pool in net.pools]) for name, net in list(lab._networks.items())
    }
    for old in replaced.values():
        for endpoint in old.endpoints:
            network.release(copies[key(endpoint.network)], endpoint)
    for spec in specs:
        for position, name in enumerate(spec.networks):
            if (net := copies.get(key(name))) is not None:  # else it is made for them
                first = position == 0
                Attachment(net, spec.name).take(asked["ip"] if first else None, asked["ip6"] if first else None)
    _ask(lab, specs[0], len(specs), replaced.values(), again=False, named=bool(specs[0].networks))


def _ask(lab: Lab, spec: ContainerSpec, count: int, ended: Iterable[Container], *, again: bool, named: bool) -> None:
    """Raise what the inside knows to be in the way of so many starts once those containers have ended."""
    ids, writes = [one.id for one in ended], bool(spec.command)
    ask = messages.MayStart(ids, count, writes, again=again, network=network_word(spec), named=named)
    try:
        lab._call(ask, messages.Ok)
    except CtlabError as error:
        raise in_container(error, spec.name, spec.command, spec.image) from None


def names_for(lab: Lab, name: Any, count: Any) -> list[str]:
    """What the containers of one `run` are called; where nobody says it, by the first numbers that are free."""
    if count is None and name is not None:
        return [name]
    names = expand_pattern("container", str(name or "c{n}"), 1 if count is None else count)
    return names if name else auto_names("c", [c.name for c in list(lab._containers.values())], len(names))


def _make(
    lab: Lab,
    specs: list[ContainerSpec],
    replaced: Mapping[str, Container],
    addresses: Mapping[str, Any],
    body: list[tuple[str, Any]],
    image: reference.Reference,
    deferred: Deferred,
) -> list[Container]:
    """Checked specs become containers that run. What fails or is interrupted leaves none, nor a network for them."""
    new_network: Network | None = None
    if DEFAULT_NETWORK not in lab._networks and any(DEFAULT_NETWORK in spec.networks for spec in specs):
        new_network = lab.network(DEFAULT_NETWORK)
    before = {name: automatic_addresses(lab, old) for name, old in replaced.items()}
    for old in replaced.values():
        ran = units.format_duration(max(0.0, time.time() - (old.started_at or old.created_at)), 2)
        lab.say(f"replaced {old.name} ({old.cell + ', ' if old.cell else ''}ran {ran})")
        ending.remove(lab, old, f"replaced in {ticks.cell() or 'a later call'}: take lab['{old.name}']")
    made: list[Container] = []
    attachments: list[Attachment] = []
    try:
        for spec in specs:
            container = Container(lab, secrets.token_hex(6), next(lab._numbers), spec)
            made.append(container)
            container._body = next(((word, text) for word, text in body if text is not None), None)
            wanted = before.get(spec.name, {})
            for position, network_name in enumerate(spec.networks):
                attachments.append(attach(lab, container, network_name, position, addresses, wanted))
        orders = [order(lab, container, image) for container in made]
        announce(lab, made)
        pids = start_all(lab, made, orders)
        deferred.check()
    except BaseException:
        try:
            for container in made:
                if not lab.gone:
                    with contextlib.suppress(CtlabError):  # interrupted, it may have started after all
                        lab._call(messages.Remove(container.id), messages.Ok)
        finally:
            for attachment in attachments:
                attachment.give_back()
            for container in made:
                container._gone = "it never ran"
                if lab._containers.get(key(container.name)) is container:
                    del lab._containers[key(container.name)]
                sampled_names.removed(lab, [container._number], container._endpoint_keys.values())
        if new_network is not None and not new_network.containers and not lab.gone:
            new_network.remove()
        raise
    for container, pid in zip(made, pids, strict=True):
        started(lab, container, pid)
    return made


def announce(lab: Lab, made: list[Container]) -> None:
    """Register before the start, so that an event of a program that is quicker than its answer finds it."""
    for container in made:
        lab._containers[key(container.name)] = container
        lab._names[container._number] = container.name


def start_all(lab: Lab, made: list[Container], orders: list[messages.Start]) -> list[int]:
    """Their pids, as this process sees them; 0 for one that has ended already."""
    undo = [messages.Remove(container.id) for container in made]
    if len(made) == 1:
        return [call_start(lab, made[0], orders[0], undo[0])]
    try:
        lab._client.allow([path for one in orders for path in one.mounts])
        lab._call(messages.StartMany(orders), messages.Ok, undo=undo)
    except CtlabError as error:
        raise type(error)(f"of {len(made)} containers none was left running: {error}") from None
    return pids_of_batch(lab, made)


_PIDFDS_AT_ONCE = 200  # a message carries 253 descriptors at most (SCM_MAX_FD)


def pids_of_batch(lab: Lab, made: list[Container]) -> list[int]:
    """Out of a VM no descriptor comes: there the answer has the pids themselves, as the guest numbers them."""
    pids: dict[str, int] = {}
    for first in range(0, len(made), _PIDFDS_AT_ONCE):
        ids = [container.id for container in made[first : first + _PIDFDS_AT_ONCE]]
        reply = lab._call(messages.FirstProcesses(ids), messages.Firsts)
        try:
            found = reply.message.pids if lab._client.in_vm else [_pid(pidfd) for pidfd in reply.descriptors]
        finally:
            packets.discard(reply.descriptors)
        if len(found) != len(reply.message.ids):
            raise lab._client.end_for(f"{len(found)} first processes of {len(reply.message.ids)} containers")
        pids.update(zip(reply.message.ids, found, strict=True))
    return [max(0, pids.get(container.id, 0)) for container in made]


def _pid(pidfd: int) -> int:
    """The process that it stands for, as it is numbered here; 0 for anything else."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii", errors="replace") as file:
        numbers = [line.split()[1] for line in file if line.startswith("Pid:\t")]
    return int(numbers[0]) if numbers and numbers[0].isdigit() else 0


def call_start(lab: Lab, container: Container, message: messages.Start, undo: messages.Remove | messages.Signal) -> int:
    descriptors = [body_descriptor(container._body[1])] if container._body else []
    lab._client.allow(message.mounts)
    try:
        return lab._call(message, messages.Running, descriptors, undo=[undo]).process
    except CtlabError as error:
        raise in_container(error, container.name, container.command, container.image) from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def started(lab: Lab, container: Container, pid: int) -> None:
    container._pid = pid or None
    container._start = container._instance
    container.started_at = time.time()
    if container._state == "created":
        container._state, container.finished_at = "running", None
    elif container.finished_at is not None:  # it was quicker than the answer to its start, and its end is known
        container.started_at = min(container.started_at, container.finished_at)


def network_names(lab: Lab, keywords: dict[str, Any]) -> tuple[str, ...]:
    names = several(keywords.pop("networks", None)) + several(keywords.pop("network", None))
    if not names:
        return (DEFAULT_NETWORK,)
    if len(names) > 1 and any(name in ("host", "none") or name.startswith("container:") for name in names):
        raise BadInput("network host, none and container:NAME can't be joined by others")
    if names[0] in ("host", "none"):
        return (names[0],)
    if names[0].startswith("container:"):
        return (f"container:{lab._container(names[0].partition(':')[2]).id}",)
    if len({key(name) for name in names}) < len(names):
        raise BadInput(f"network '{names[0]}' is named twice")
    return tuple(DEFAULT_NETWORK if name == DEFAULT_NETWORK else lab._network(name).name for name in names)


def attach(
    lab: Lab,
    container: Container,
    network_name: str,
    position: int,
    asked: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> Attachment:
    net = lab._networks[key(network_name)]
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
    container._endpoints[number] = attachment.endpoint(number, f"{lab.name}/{container.name}/{net.name}", mac, default)
    endpoint_key = next(lab._endpoint_numbers)
    container._endpoint_keys[number] = endpoint_key
    lab._endpoint_names[endpoint_key] = (container.name, net.name, f"eth{number}")
    if ip is not None or ip6 is not None:
        container._requested.add(number)
    return attachment


def automatic_addresses(lab: Lab, container: Container) -> dict[str, tuple[str, ...]]:
    return {e.network: e.addresses for number, e in container._endpoints.items() if number not in container._requested}


def find_image(lab: Lab, text: str, command: tuple[str, ...]) -> reference.Reference:
    image = reference.parse(text, command)
    if image.kind in ("folder", "archive") and image.key not in lab._images:
        engines.check_image(lab, text, image.path)
        if image.kind == "folder":
            path = engines.guest_path(lab, image.path)
            lab._client.allow([path])
            lab._call(messages.Image(image.key, "folder", path), messages.Ok)
        else:
            from .images import plain

            descriptor = plain.open_archive(image.path, text, in_vm=lab.engine == "vm")
            try:
                engines.check_archive(lab, text, os.fstat(descriptor).st_size)
                lab._call(messages.Image(image.key, "archive", ""), messages.Ok, [descriptor])
            finally:
                os.close(descriptor)
        lab._images.add(image.key)
    return image


def check_limits(lab: Lab, spec: ContainerSpec) -> limits_plan.Limits:
    """The limits that the container will have; LimitRefused for one that was asked for and can't be set here."""
    limits_plan.check(spec.limits, engines.cpus(lab))
    facts = lab._client.facts
    controllers = facts["controllers"] if facts["cgroup"] != "none" else ()
    absent = limits_plan.missing(spec.limits, controllers)
    if absent:
        raise limits_plan.unavailable(absent, facts["cgroup_reason"], facts["cgroup_remedy"])
    vm = engines.vm_facts(lab)
    counted = (_machine_cpus(), "this machine's") if vm is None else (vm["cpus"], "the VM's")
    for note in limits_plan.notes(spec.limits, *counted):
        lab.say(note)
    return limits_plan.settle(spec.limits, controllers)


def prepared_limits(lab: Lab) -> list[list[Any]]:
    """The limits that every container's folder is given before anybody asks for one, as writes."""
    facts = lab._client.facts
    if facts["cgroup"] == "none":
        return []
    return [list(write) for write in limits_plan.plan(limits_plan.prepared(facts["controllers"]), facts["cgroup"])]


def order(lab: Lab, container: Container, image: reference.Reference) -> messages.Start:
    container._instance = next(_numbers_of_starts)
    message = start_message(container, image, lab._top, lab._client.facts["cgroup"])
    container._processes = message.processes
    return message


def start(lab: Lab, container: Container) -> None:
    with lab._lock:
        image = find_image(lab, container.image, container.command)
        check_limits(lab, container.spec)
        with whole(lab):
            container._alive()
            if container.state in ("running", "paused"):
                return  # another thread was quicker
            before = container._state, container._returncode, container._oom_killed
            container._state, container._returncode, container._oom_killed = "created", None, False
            message = order(lab, container, image)
            undo = messages.Signal(container.id, 9, only_if_seen=False, start=0)
            try:
                pid = call_start(lab, container, message, undo)
            except BaseException:
                container._state, container._returncode, container._oom_killed = before
                raise
            started(lab, container, pid)


def check_restart(container: Container) -> None:
    """Raise what is known to be in the way of another start of a container that runs: it goes on then."""
    container._alive()
    for mount in container.spec.mounts:
        check_source(mount.source)
    _ask(container.lab, container.spec, 1, [container], again=True, named=bool(container.endpoints))


@functools.cache
def _machine_cpus() -> int:
    """How many CPUs there are; read once, since it takes as long as all checks together."""
    return os.cpu_count() or 1
