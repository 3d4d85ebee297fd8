"""Networks and endpoints become operations. Driver `bridge`; `host` and `none` need none."""

from __future__ import annotations

import hashlib
import ipaddress

from ..spec import EndpointSpec, NetworkSpec
from . import ops

INTERFACE_NAME_LIMIT = 15  # IFNAMSIZ less its final zero byte


def short_name(prefix: str, name: str) -> str:
    """An interface name: `prefix` + `name`, or a digest of the name where that is too long or not ASCII."""
    plain = prefix + name
    if len(plain) <= INTERFACE_NAME_LIMIT and plain.isascii():
        return plain
    return prefix + hashlib.sha256(name.encode()).hexdigest()[: INTERFACE_NAME_LIMIT - len(prefix)]


def bridge_name(network: str) -> str:
    """The bridge of a network, as it is called in its node."""
    return short_name("br-", network)


def bridge_mac(name: str) -> str:
    """A fixed, locally administered MAC, so that a bridge does not change its address with its ports."""
    digest = hashlib.sha256(name.encode()).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def veth_name(instance: int, number: int) -> str:
    """The node's end of endpoint `number` of the lab's start number `instance`.

    A start has names of its own, since the pair of an ended container vanishes only some time later.
    """
    return f"v{instance}.{number}"


def node() -> list[ops.Operation]:
    """What a fresh node needs: loopback up; no forwarding between its networks, whatever the machine's default is."""
    return [
        ops.LinkUp("lo"),
        ops.WriteSysctl("net/ipv4/ip_forward", "0"),
        ops.WriteSysctl("net/ipv6/conf/all/forwarding", "0"),
        ops.WriteSysctl("net/ipv6/conf/default/accept_dad", "0"),
    ]


def create(network: NetworkSpec) -> list[ops.Operation]:
    """A bridge with the gateway addresses of its subnets, and the lab's names answered there."""
    if network.driver != "bridge":
        return []
    bridge = bridge_name(network.name)
    operations: list[ops.Operation] = [ops.MakeBridge(bridge, bridge_mac(network.name), network.mtu)]
    for gateway in network.gateways:
        operations.append(ops.AddAddress(bridge, gateway))
    for gateway in network.gateways:
        operations.append(ops.Listen(str(ipaddress.ip_interface(gateway).ip)))
    return operations


def remove(network: NetworkSpec) -> list[ops.Operation]:
    """What takes `create` back."""
    return ops.inverse(create(network))


def attach(instance: int, name: str, endpoint: EndpointSpec) -> tuple[list[ops.Operation], list[ops.Operation]]:
    """(operations in the node, operations in the container) that make an endpoint."""
    veth = veth_name(instance, endpoint.number)
    in_node: list[ops.Operation] = [
        ops.MakeVeth(
            veth,
            endpoint.interface,
            endpoint.mac,
            endpoint.mtu,
            bridge_name(endpoint.network),
            f"{name}:{endpoint.network}",
        )
    ]
    inside: list[ops.Operation] = [ops.LinkUp(endpoint.interface)]
    inside += [ops.AddAddress(endpoint.interface, address) for address in endpoint.addresses]
    return in_node, inside + default_routes(endpoint)


def default_routes(endpoint: EndpointSpec) -> list[ops.Operation]:
    """The default routes by an endpoint, inside."""
    return [
        ops.AddRoute(endpoint.interface, "::/0" if ":" in gateway else "default", gateway)
        for gateway in endpoint.default_gateways
    ]


def detach(instance: int, endpoint: EndpointSpec) -> list[ops.Operation]:
    """What takes `attach` back: the node's end is deleted, its peer goes with it."""
    return ops.inverse(attach(instance, "", endpoint)[0])
