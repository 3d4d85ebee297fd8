"""Network operations as `ip` commands: what a person types in a node, and in a container's network namespace.

The same operation is written differently in the two places, as the executor performs it differently there: an
interface of a container gets no IPv6 link-local address, a node's own (`lo`) keeps what the kernel gives it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import ops
from .render_words import quote

NODE = (
    "# Where to type this: in a root shell of the lab's node, that is in a network and a mount namespace of your own.",
    "# One to try it in: unshare --user --map-root-user --net --mount --pid --fork --mount-proc sh",
)


def node_operation(operation: ops.Operation, netns: str = '"$pid"') -> list[str]:
    """The commands of one operation in a node's network namespace.

    `netns`: a shell word, the process in whose network namespace the peer of a veth is born.
    Raises UnknownOperation for one that isn't a node's.
    """
    ops.check([operation], ops.IN_NODE, "a node")
    return _NODE[type(operation)](operation, netns)


def inside_operation(operation: ops.Operation) -> list[str]:
    """The commands of one operation in a container's network namespace. Raises UnknownOperation for another one."""
    ops.check([operation], ops.IN_NETWORK, "a container's network")
    return _INSIDE[type(operation)](operation)


def node_commands(operations: Iterable[ops.Operation]) -> list[str]:
    """Operations of a node in order, below the lines that say where to type them."""
    return [*NODE, *(line for operation in operations for line in node_operation(operation))]


def endpoint_commands(
    name: str, node_operations: Sequence[ops.Operation], inside: Sequence[ops.Operation]
) -> list[str]:
    """`connect`: one more endpoint for the running container `name`.

    The two lists are what `plan.network.attach` returns. The shell variable `pid` is the container's first process.
    """
    lines = [*NODE, _process(name), "", "# network: one end in the node, the other one in the container's namespace"]
    for operation in node_operations:
        lines += node_operation(operation)
    return lines + entered(inside)


def detach_commands(
    name: str, node_operations: Sequence[ops.Operation], inside: Sequence[ops.Operation] = ()
) -> list[str]:
    """`disconnect`: the node's end is deleted, its peer goes with it; `inside` moves the default route, if it must."""
    lines = [*NODE, *([_process(name)] if inside else []), "", "# network: the other end goes with this one"]
    for operation in node_operations:
        lines += node_operation(operation)
    return lines + entered(inside)


def entered(operations: Iterable[ops.Operation]) -> list[str]:
    """Operations in the network namespace of the process `$pid`."""
    return [f'nsenter --target "$pid" --net {line}' for operation in operations for line in inside_operation(operation)]


def _process(name: str) -> str:
    # Not quoted with '…': inside double quotes of ${…:?…} only these four mean something, and no name has them.
    plain = re.sub(r'[\\"$`}]', "?", name)
    return f': "${{pid:?set it to the number of the first process of {plain}}}"'


def _hardware(mac: str, mtu: int) -> str:
    return (f" address {quote(mac)}" if mac else "") + (f" mtu {mtu}" if mtu else "")


def _up(name: str, settings: str = "") -> list[str]:
    """Up, without an IPv6 link-local address: two commands, since the kernel does "up" first if one asks for both."""
    return [f"ip link set dev {quote(name)} addrgenmode none", f"ip link set dev {quote(name)}{settings} up"]


def _veth(operation: ops.MakeVeth, netns: str) -> list[str]:
    mtu = _hardware("", operation.mtu)  # of the node's end: nobody needs its MAC
    made = (
        f"ip link add name {quote(operation.name)}{mtu}"
        f" master {quote(operation.bridge)} type veth"
        f" peer name {quote(operation.peer)}{_hardware(operation.peer_mac, operation.mtu)} netns {netns}"
    )
    return [made, *_up(operation.name, f" alias {quote(operation.alias)}" if operation.alias else "")]


def _sysctl(operation: ops.WriteSysctl) -> str:
    path = quote(f"/proc/sys/{operation.path}")
    write = f"echo {quote(operation.value)} > {path}"
    # A kernel without IPv6 has nothing to switch off.
    return f"[ ! -e {path} ] || {write}" if operation.path.startswith("net/ipv6/") else write


def _address(operation: ops.AddAddress) -> str:
    address = ipaddress.ip_interface(operation.address)
    device = quote(operation.interface)
    if address.version == 6:
        return f"ip address add {quote(operation.address)} dev {device} nodad"
    broadcast = f" broadcast {address.network.broadcast_address}" if address.network.prefixlen < 31 else ""
    return f"ip address add {quote(operation.address)}{broadcast} dev {device}"


def _route(operation: ops.AddRoute) -> str:
    six = ":" in (operation.gateway or operation.destination)
    family = " -6" if six else ""
    destination = "default" if operation.destination in ("::/0", "0.0.0.0/0") else operation.destination
    via = f" via {quote(operation.gateway)}" if operation.gateway else ""
    return f"ip{family} route add {quote(destination)}{via} dev {quote(operation.interface)}"


_NODE: dict[type[Any], Callable[[Any, str], list[str]]] = {
    ops.MakeBridge: lambda one, _: [
        f"ip link add name {quote(one.name)}{_hardware(one.mac, one.mtu)} type bridge", *_up(one.name)
    ],
    ops.MakeVeth: _veth,
    ops.DeleteLink: lambda one, _: [f"ip link delete dev {quote(one.name)}"],
    ops.WriteSysctl: lambda one, _: [_sysctl(one)],
    ops.Listen: lambda one, _: [
        f"# no command for this: the lab's own DNS answers for the containers' names on {one.address}"
    ],
    ops.StopListening: lambda one, _: [f"# no command for this: the lab's own DNS answers no more on {one.address}"],
    ops.LinkUp: lambda one, _: [f"ip link set dev {quote(one.name)} up"],
    ops.AddAddress: lambda one, _: [_address(one)],
    ops.AddRoute: lambda one, _: [_route(one)],
}  # fmt: skip
_INSIDE: dict[type[Any], Callable[[Any], list[str]]] = {
    ops.LinkUp: lambda one: [f"ip link set dev {quote(one.name)} up"] if one.name == "lo" else _up(one.name),
    ops.AddAddress: lambda one: [_address(one)],
    ops.AddRoute: lambda one: [_route(one)],
}
