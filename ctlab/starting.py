"""A container's spec and endpoints become the messages that start, attach and detach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import engines, filters
from .executing import processes
from .images.reference import Reference
from .kernel.capabilities import DEFAULT
from .plan import limits as limits_plan
from .plan import network as network_plan
from .plan import ops, rootfs
from .plan import start as plan
from .runtime import messages
from .spec import ContainerSpec, EndpointSpec

if TYPE_CHECKING:
    from .container import Container


def links(container: Container) -> list[list[Any]]:
    """[endpoint key, name of the node's end] for the sampler."""
    return [
        [container._endpoint_keys[number], network_plan.veth_name(container._instance, number)]
        for number in sorted(container._endpoints)
    ]


def operations(container: Container) -> tuple[list[ops.Operation], list[ops.Operation]]:
    """(in the node, inside) of a container's next start, or of the one that runs."""
    endpoints = container.endpoints
    return (
        plan.in_node(container.name, container._instance, endpoints),
        plan.inside(container.spec, container._instance, endpoints),
    )


def name_endpoints(container: Container) -> list[list[Any]]:
    """[network, addresses] for the resolver."""
    return [[e.network, [a.partition("/")[0] for a in e.addresses]] for e in container.endpoints]


def start_message(container: Container, image: Reference, top: dict[str, str], cgroup_version: str) -> messages.Start:
    """The whole order for one start."""
    spec = container.spec
    # What the lab keeps ready: the system image, a network of its own, the default capabilities (bounded in advance).
    plain = image.kind == "system" and spec.network_mode == "bridge" and set(spec.capabilities) == set(DEFAULT)
    again = container.started_at is not None
    prepare = None
    if again or not plain:
        prepare = ops.encode(rootfs.prepare(image.key if image.path else image.kind, top))
    before = limits_plan.prepared(container.lab._client.facts["controllers"])
    writes = limits_plan.plan(spec.limits, cgroup_version, before) if cgroup_version != "none" else []
    in_node, inside = operations(container)
    return messages.Start(
        id=container.id,
        key=container._number,
        name=spec.name,
        prepare=None if plain else prepare,
        filter=filters.own(spec, engines.kernel_release(container.lab)),
        prepare_again=prepare if again else None,
        network=network_word(spec),
        node_operations=ops.encode(in_node),
        inside=ops.encode(inside),
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


def detach_message(container: Container, endpoint: EndpointSpec) -> messages.Detach:
    """The order to take an endpoint away; the default route moves to a network that is left."""
    left, inside = plan.detached(container.endpoints, endpoint)
    container._endpoints = {one.number: one for one in left}
    in_node = network_plan.detach(container._instance, endpoint)
    return messages.Detach(
        container.id, ops.encode(in_node), ops.encode(inside), name_endpoints(container), links(container)
    )
