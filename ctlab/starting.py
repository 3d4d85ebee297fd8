"""A container's spec and endpoints become the messages that start, attach and detach it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from . import engines, filters
from .executing import default_environment, processes
from .images.reference import Reference
from .kernel.capabilities import DEFAULT
from .plan import limits as limits_plan
from .plan import network as network_plan
from .plan import ops, rootfs
from .runtime import messages
from .spec import ContainerSpec, EndpointSpec

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab

NODE_RESOLVER = "127.0.0.11"


def inside_operations(container: Container) -> list[ops.Operation]:
    """What the first process does before it becomes the program: network, names, mounts, and who it is."""
    spec = container.spec
    operations: list[ops.Operation] = [ops.Hostname(spec.hostname)]
    for endpoint in container.endpoints:
        operations += network_plan.attach(container._instance, spec.name, endpoint)[1]
    operations += [
        ops.WriteFile("/etc/hostname", spec.hostname + "\n", 0o644),
        ops.WriteFile("/etc/hosts", hosts_file(container), 0o644),
        ops.WriteFile("/etc/resolv.conf", resolver_file(container), 0o644),
    ]
    operations += [ops.Bind(mount.source, mount.target, mount.read_only) for mount in spec.mounts]
    pairs = dict(default_environment(spec)) | dict(spec.env)
    operations.append(
        ops.Execute(
            argv=list(spec.command),
            environment=[f"{name}={value}" for name, value in pairs.items()],
            workdir=spec.workdir,
            user=spec.user,
            capabilities=list(DEFAULT if spec.capabilities is None else spec.capabilities),
            init=spec.init,
            tty=spec.tty,
            read_only_root=spec.read_only,
        )
    )
    return operations


def hosts_file(container: Container) -> str:
    """/etc/hosts: itself; the other names come from the lab's DNS."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    for endpoint in container.endpoints:
        for address in endpoint.addresses:
            names = dict.fromkeys((container.spec.hostname, container.name))
            lines.append(f"{address.partition('/')[0]} {' '.join(names)}")
    return "\n".join(lines) + "\n"


def resolver_file(container: Container) -> str:
    """/etc/resolv.conf: the gateway of the first network, where the lab answers."""
    servers = []
    for endpoint in container.endpoints:
        net = container.lab._networks.get(endpoint.network.lower())
        servers += [text.partition("/")[0] for text in (net.gateways if net else ())]
    if container.spec.network_mode == "host":
        servers = [NODE_RESOLVER]
    return "".join(f"nameserver {server}\n" for server in servers[:3]) + "options timeout:1 attempts:2\n"


def node_operations(container: Container) -> list[ops.Operation]:
    """What is made in the node for a container's endpoints."""
    return [
        operation
        for endpoint in container.endpoints
        for operation in network_plan.attach(container._instance, container.name, endpoint)[0]
    ]


def links(container: Container) -> list[list[Any]]:
    """[endpoint key, name of the node's end] for the sampler."""
    return [
        [container._endpoint_keys[number], network_plan.veth_name(container._instance, number)]
        for number in sorted(container._endpoints)
    ]


def name_endpoints(container: Container) -> list[list[Any]]:
    """[network, addresses] for the resolver."""
    return [[e.network, [a.partition("/")[0] for a in e.addresses]] for e in container.endpoints]


def start_message(container: Container, image: Reference, top: dict[str, str], cgroup_version: str) -> messages.Start:
    """The whole order for one start."""
    spec = container.spec
    # What the lab keeps ready: the system image, a network of its own, the default capabilities (bounded in advance).
    plain = (
        image.kind == "system"
        and spec.network_mode == "bridge"
        and (spec.capabilities is None or set(spec.capabilities) == set(DEFAULT))
    )
    again = container.started_at is not None
    prepare = None
    if again or not plain:
        prepare = ops.encode(rootfs.prepare(image.key if image.path else image.kind, top))
    before = limits_plan.prepared(container.lab._client.facts["controllers"])
    writes = limits_plan.plan(spec.limits, cgroup_version, before) if cgroup_version != "none" else []
    return messages.Start(
        id=container.id,
        key=container._number,
        name=spec.name,
        prepare=None if plain else prepare,
        filter=filters.own(spec, engines.kernel_release(container.lab)),
        prepare_again=prepare if again else None,
        network=network_word(spec),
        node_operations=ops.encode(node_operations(container)),
        inside=ops.encode(inside_operations(container)),
        limits=[list(write) for write in writes],
        processes=processes(container),
        mounts=[engines.guest_path(container.lab, mount.source) for mount in spec.mounts],
        idmap=True,
        endpoints=name_endpoints(container),
        links=links(container),
        remove_at_exit=spec.rm,
        start=container._instance,
        body=container._body[0] if container._body else "",
    )


def network_word(spec: ContainerSpec) -> str:
    """Whose network it has: ``own``, ``node``, or the id of a container."""
    mode = spec.network_mode
    return "node" if mode == "host" else mode.partition(":")[2] if mode.startswith("container:") else "own"


def attach_message(container: Container, number: int) -> messages.Attach:
    """The order for one more endpoint while it runs."""
    endpoint = container._endpoints[number]
    in_node, inside = network_plan.attach(container._instance, container.name, endpoint)
    return messages.Attach(
        container.id, ops.encode(in_node), ops.encode(inside), name_endpoints(container), links(container)
    )


def detach_message(container: Container, endpoint: EndpointSpec, lab: Lab) -> messages.Detach:
    """The order to take an endpoint away; the default route moves to a network that is left."""
    inside: list[ops.Operation] = []
    if endpoint.default_gateways:
        for number, other in container._endpoints.items():
            net = lab._networks[other.network.lower()]
            if net.spec.internal:
                continue
            gateways = tuple(text.partition("/")[0] for text in net.gateways)
            container._endpoints[number] = dataclasses.replace(other, default_gateways=gateways)
            inside = [ops.AddRoute(other.interface, "::/0" if ":" in g else "default", g) for g in gateways]
            break
    in_node = network_plan.detach(container._instance, endpoint)
    return messages.Detach(
        container.id, ops.encode(in_node), ops.encode(inside), name_endpoints(container), links(container)
    )
