"""A start as operations: what is made in the node, and what a container's first process does. Pure.

What `--explain` prints and what is sent to a lab are made of the same lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from ..spec import ContainerSpec, EndpointSpec
from . import network, ops, rootfs

NODE_RESOLVER = "127.0.0.11"
_MOST_RESOLVERS = 3  # that a resolv.conf may name


def default_environment(spec: ContainerSpec, *, tty: bool = False) -> dict[str, str]:
    """What every program in a container gets: nothing of the owner's own environment."""
    terminal = "dumb" if spec.tty or tty else "xterm"
    return {"PATH": rootfs.DEFAULT_PATH, "TERM": terminal, "HOSTNAME": spec.hostname, "HOME": ""}


def in_node(name: str, instance: int, endpoints: Iterable[EndpointSpec]) -> list[ops.Operation]:
    """What is made in the node for a container's endpoints. `instance`: which start of the lab's it is."""
    return [one for endpoint in endpoints for one in network.attach(instance, name, endpoint)[0]]


def inside(spec: ContainerSpec, instance: int, endpoints: Sequence[EndpointSpec]) -> list[ops.Operation]:
    """What the first process does before it becomes the program: network, names, mounts, and who it is."""
    operations: list[ops.Operation] = [ops.Hostname(spec.hostname)]
    for endpoint in endpoints:
        operations += network.attach(instance, spec.name, endpoint)[1]
    operations += [
        ops.WriteFile("/etc/hostname", spec.hostname + "\n", 0o644),
        ops.WriteFile("/etc/hosts", hosts_file(spec, endpoints), 0o644),
        ops.WriteFile("/etc/resolv.conf", resolver_file(spec, endpoints), 0o644),
    ]
    operations += [ops.Bind(mount.source, mount.target, mount.read_only) for mount in spec.mounts]
    pairs = default_environment(spec) | dict(spec.env)
    operations.append(
        ops.Execute(
            argv=list(spec.command),
            environment=[f"{name}={value}" for name, value in pairs.items()],
            workdir=spec.workdir,
            user=spec.user,
            capabilities=list(spec.capabilities),
            init=spec.init,
            tty=spec.tty,
            read_only_root=spec.read_only,
        )
    )
    return operations


def hosts_file(spec: ContainerSpec, endpoints: Iterable[EndpointSpec]) -> str:
    """/etc/hosts: itself; the other names come from the lab's DNS."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    names = " ".join(dict.fromkeys((spec.hostname, spec.name)))
    lines += [f"{address.partition('/')[0]} {names}" for endpoint in endpoints for address in endpoint.addresses]
    return "\n".join(lines) + "\n"


def resolver_file(spec: ContainerSpec, endpoints: Iterable[EndpointSpec]) -> str:
    """/etc/resolv.conf: where the lab answers on its networks."""
    servers = [server for endpoint in endpoints for server in endpoint.resolvers]
    if spec.network_mode == "host":
        servers = [NODE_RESOLVER]
    named = "".join(f"nameserver {server}\n" for server in servers[:_MOST_RESOLVERS])
    return named + "options timeout:1 attempts:2\n"


def detached(endpoints: Sequence[EndpointSpec], gone: EndpointSpec) -> tuple[list[EndpointSpec], list[ops.Operation]]:
    """The endpoints that are left, and what is done inside for it: the default route moves to the next that has one."""
    left = [endpoint for endpoint in endpoints if endpoint.number != gone.number]
    if not gone.default_gateways:
        return left, []
    for position, other in enumerate(left):
        if other.gateways:
            left[position] = dataclasses.replace(other, default_gateways=other.gateways)
            return left, network.default_routes(left[position])
    return left, []
