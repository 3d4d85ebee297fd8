"""%network and %node: what containers attach to, and where it lies."""

from __future__ import annotations

from typing import Any

from ..errors import NotFound, StateError
from .magic_context import Context, Facts


def create(context: Context) -> Any:
    """`%network create NAME`: the handle; with --explain the commands."""
    options = {
        key: context.option(key) for key in ("driver", "subnet", "gateway", "ipv6", "internal", "mtu", "exists")
        if context.option(key) is not None
    }  # fmt: skip
    [name] = context.subjects
    lab = context.lab_or_none
    if context.option("explain") or lab is None:
        from ..imagined import explain_network

        # Without a lab, what can't be is said before one is started for it.
        commands = explain_network(lab, name, **{key: options[key] for key in options if key != "exists"})
        if context.option("explain"):
            return commands
    return context.lab_to_fill().network(name, **options)


def listing(context: Context) -> Any:
    """`%network ls`."""
    lab = context.lab_or_none
    if context.option("quiet"):
        return [network.name for network in lab.networks] if lab else []
    return lab.networks if lab else _none("network")


def remove(context: Context) -> Any:
    """`%network rm NETWORK…`: the handles."""
    lab = context.lab
    found = []
    for name in dict.fromkeys(context.subjects):
        try:
            found.append(lab.networks[lab._network(name).name])
        except NotFound:
            if not context.option("force"):
                raise
    if context.option("explain"):
        from ..imagined import explain_removal

        return explain_removal(found)
    for network in found:
        if network.containers:
            names = ", ".join(container.name for container in network.containers)
            raise StateError(f"network '{network.name}' has containers on it: {names}; disconnect or remove them")
    for network in found:
        network.remove()
    return _one_or_all(found)


def inspect(context: Context) -> Any:
    """`%network inspect NETWORK…`: a dictionary, shown as JSON, on a page as a card."""
    lab = context.lab
    found = [lab._network(name) for name in dict.fromkeys(context.subjects)]
    return Facts.of("network", {network.name: network.inspect() for network in found})


def connect(context: Context) -> Any:
    """`%network connect NETWORK CONTAINER`: the container."""
    name, container = context.subjects
    network = context.lab._network(name)
    asked = {key: context.option(key) for key in ("ip", "ip6", "mac_address")}
    if context.option("explain"):
        from ..imagined import explain_connect

        return explain_connect(network, context.lab[container], **asked)
    return network.connect(container, **asked)


def disconnect(context: Context) -> Any:
    """`%network disconnect NETWORK CONTAINER`: the container."""
    name, container = context.subjects
    network, handle = context.lab._network(name), context.lab[container]
    if context.option("explain"):
        from ..imagined import explain_disconnect

        return explain_disconnect(network, handle)
    if context.option("force") and all(endpoint.network != network.name for endpoint in handle.endpoints):
        return handle
    return network.disconnect(handle)


def prune(context: Context) -> Any:
    """`%network prune`: the names of what went."""
    found = [network for network in context.lab.networks if not network.containers]
    if context.option("explain"):
        from ..imagined import explain_removal

        return explain_removal(found)
    for network in found:
        network.remove()
    print(f"removed {', '.join(network.name for network in found)}" if found else "no network to remove")
    return [network.name for network in found] or None


def nodes(context: Context) -> Any:
    """`%node ls`."""
    lab = context.lab_or_none
    if context.option("quiet"):
        return [node.name for node in lab.nodes] if lab else []
    return lab.nodes if lab else _none("node")


def _none(kind: str) -> Any:
    from ..handles import Handles

    return Handles[Any]([], lambda _: {}, kind, "no lab runs here")


def _one_or_all(found: list[Any]) -> Any:
    if len(found) == 1:
        return found[0]
    from ..cards import as_of, network_row
    from ..handles import Handles
    from ..values import NETWORK

    return Handles(found, network_row, "network", as_of(), values=NETWORK)


VERBS = {
    "network create": create, "network ls": listing, "network rm": remove, "network inspect": inspect,
    "network connect": connect, "network disconnect": disconnect, "network prune": prune, "node ls": nodes,
}  # fmt: skip
