"""`--explain` for what isn't there yet: a lab that exists only on paper, and the commands that would make it real.

Everything that is decided when something is made (names, addresses, interfaces) is decided here by the same code on
copies, so nothing is taken, nothing is asked of the kernel, and it works where no lab can start.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import creating, engines, filters, network, security_options, ticks
from .ask import python
from .container import Container
from .errors import BadInput, NameInUse, StateError
from .explaining import explain_container, in_vm
from .images import reference
from .keywords import unknown_keyword
from .lab import Lab, rootfs_top
from .names import key
from .network import Network, plan_network
from .plan import network as network_plan
from .plan import start as plan
from .plan.limits import check as check_limits
from .request import check_body, container_spec
from .words_of_command import split_command

if TYPE_CHECKING:
    from .plan.render import Commands


class PaperLab(Lab):
    """A copy of what a lab knows, or an empty one: it can be planned with, and has no processes.

    `vm`: of an empty one, the VM that it would be in (see `engines.imagined_vm`).
    """

    def __init__(self, lab: Lab | None, vm: Mapping[str, Any] | None = None) -> None:
        self.name = lab.name if lab is not None else "lab"
        self._lock = threading.RLock()
        self._stopped = False
        self.notes = []
        self._networks = {}
        for name, net in list((lab._networks if lab is not None else {}).items()):
            copied = Network(self, net.spec, [pool.copy() for pool in net.pools])
            copied.tick, copied.cell = net.tick, net.cell
            self._networks[name] = copied
        self._containers = dict(lab._containers) if lab is not None else {}
        self._endpoint_numbers = itertools.count(1)
        self._endpoint_names = {}
        self._top = lab._top if lab is not None else rootfs_top()
        facts = lab._client.facts if lab is not None else _facts(vm)
        self._client: Any = SimpleNamespace(
            facts=facts, gone=False, died=False, id=lab._client.id if lab is not None else ""
        )

    def say(self, line: str) -> None:
        """Nothing happens, so nothing is said."""


def _facts(vm: Mapping[str, Any] | None) -> dict[str, Any]:
    if vm is not None:
        return {"cgroup": "v2", "controllers": (), "vm": vm}
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {"cgroup": "v2" if unified else "v1", "controllers": ()}


def _commands(lines: Sequence[str]) -> Commands:
    from .plan.render import Commands

    return Commands(lines)


def explain_network(lab: Lab | None, name: str, **options: Any) -> Commands:
    """The commands that would make a network. Raises what making it would: AddressError, NameInUse, …"""
    from .plan.render import network_commands

    paper = PaperLab(lab)
    old = paper._networks.pop(key(name), None)
    if old is not None and ticks.same(old.tick):
        raise NameInUse(f"network '{old.name}' exists ({' '.join(old.subnets)})")
    spec, _ = plan_network(name, list(paper._networks.values()), lab_id=paper._client.id, **options)
    return _commands([*in_vm(paper), *network_commands(spec)])


def explain_removal(networks: Sequence[Network]) -> Commands:
    """The commands that would remove networks; StateError if a container is on one."""
    from .plan.render import node_commands

    for net in networks:
        if net.containers:
            names = ", ".join(container.name for container in net.containers)
            raise StateError(f"network '{net.name}' has containers on it: {names}; disconnect or remove them")
    operations = [operation for net in networks for operation in network_plan.remove(net.spec)]
    if not operations:
        return _commands(["# no network to remove"])
    return _commands([*in_vm(networks[0].lab), *node_commands(operations)])


def explain_connect(net: Network, container: Container, **asked: Any) -> Commands:
    """The commands that would give a container one more interface."""
    from .plan.render import endpoint_commands

    _check_connect(net, container)
    paper = PaperLab(container.lab)
    copied = _copy(paper, container)
    before = set(copied._endpoints)
    creating.attach(paper, copied, net.name, 0, asked, {})
    [number] = set(copied._endpoints) - before
    in_node, inside = network_plan.attach(copied._instance, copied.name, copied._endpoints[number])
    return _commands([*in_vm(paper), *endpoint_commands(copied.name, in_node, inside)])


def _check_connect(net: Network, container: Container) -> None:
    if any(endpoint.network == net.name for endpoint in container.endpoints):
        raise StateError(f"container {container.name} is on network '{net.name}' already")
    mode = container.spec.network_mode
    if mode != "bridge":
        raise StateError(f"container {container.name} has network {mode}: it can't be connected")


def explain_disconnect(net: Network, container: Container) -> Commands:
    """The commands that would take a container's interface away."""
    from .plan.render import detach_commands

    paper = PaperLab(container.lab)
    copied = _copy(paper, container)
    gone = next((endpoint for endpoint in copied.endpoints if endpoint.network == net.name), None)
    if gone is None:
        raise StateError(f"container {container.name} isn't on network '{net.name}'")
    in_node = network_plan.detach(copied._instance, gone)
    inside = plan.detached(copied.endpoints, gone)[1]
    return _commands([*in_vm(paper), *detach_commands(copied.name, in_node, inside)])


def _copy(paper: PaperLab, container: Container) -> Container:
    copied = Container(paper, container.id, container._number, container.spec)
    copied._endpoints = dict(container._endpoints)
    copied._endpoint_keys = dict(container._endpoint_keys)
    copied._instance = container._instance
    return copied


def explain_run(
    lab: Lab | None,
    command: str | Sequence[str] | None,
    keywords: Mapping[str, Any],
    vm: Mapping[str, Any] | None = None,
) -> Commands:
    """The commands that would make one container, or each of a batch, and the network that it needs.

    Raises what making them would: BadInput, Unsupported, AddressError, NameInUse, … `vm`: where no lab runs, the VM
    that one would be in.
    """
    from .plan.render import network_commands

    options = dict(keywords)
    for word in options:
        if word not in python.RUN:
            raise unknown_keyword(word, python.RUN)
    options = python.read(python.RUN, options)
    argv = split_command(command)
    if entrypoint := options.pop("entrypoint", None):
        argv = [*split_command(entrypoint), *argv]
    count = options.pop("count", None)
    check_body(argv, count, options)
    for word in ("stdin", "script"):
        options.pop(word, None)
    paper = PaperLab(lab, vm)
    names = creating.names_for(paper, options.pop("name", None), count)
    exists = options.pop("exists", None)
    networks = creating.network_names(paper, options)
    asked = {word: options.pop(word, None) for word in ("ip", "ip6", "mac_address")}
    lines: list[str] = []
    if creating.DEFAULT_NETWORK in networks and key(creating.DEFAULT_NETWORK) not in paper._networks:
        spec, pools = plan_network(creating.DEFAULT_NETWORK, list(paper._networks.values()))
        paper._networks[key(spec.name)] = Network(paper, spec, pools)
        lines += [*in_vm(paper), *network_commands(spec)]
    for one in names:
        container = _paper_container(paper, container_spec(one, argv, networks, options), exists, asked)
        found = explain_container(paper, container)
        if lines:  # where to type it has been said
            found = ["", *found[next(n for n, line in enumerate(found) if not line.startswith("#")) :]]
        lines += found
    return _commands(lines)


def _paper_container(paper: PaperLab, spec: Any, exists: str | None, asked: Mapping[str, Any]) -> Container:
    """The container that would be made, with the addresses that it would get."""
    image = reference.parse(spec.image, spec.command)
    if image.path:
        engines.check_image(paper, spec.image, image.path)
    engines.check_mounts(paper, spec.mounts)
    check_limits(spec.limits, engines.cpus(paper))
    if spec.seccomp != security_options.DEFAULT:
        filters.own(spec, engines.kernel_release(paper))  # which a profile may be too large for
    old = paper._containers.get(key(spec.name))
    wanted: Mapping[str, Any] = {}
    if old is not None:
        if exists == "keep":
            raise BadInput(f"container '{spec.name}' would be kept: lab['{spec.name}'].explain() shows what made it")
        if exists == "error" or (exists is None and ticks.same(old.tick)):
            raise NameInUse(f"container '{spec.name}' exists ({old.state})")
        wanted = creating.automatic_addresses(paper, old)
        for endpoint in old.endpoints:
            if (net := paper._networks.get(key(endpoint.network))) is not None:
                network.release(net, endpoint)
    container = Container(paper, "", len(paper._containers) + 1, spec)
    container._instance = container._number
    for position, name in enumerate(spec.networks):
        creating.attach(paper, container, name, position, asked, wanted)
    paper._containers[key(spec.name)] = container
    return container
