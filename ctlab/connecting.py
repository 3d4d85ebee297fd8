"""Networks of a lab: created again, connected, disconnected, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import creating, network, ticks
from .container import Container
from .errors import NameInUse, StateError
from .names import key
from .network import Network
from .plan import network as network_plan
from .plan import ops
from .request import check_exists
from .spec import NetworkSpec
from .starting import attach_message, detach_message

if TYPE_CHECKING:
    from .lab import Lab


def existing_network(lab: Lab, old: Network, spec: Any, any_subnet: bool, exists: str | None) -> Network | None:
    """The rule for a network created again: kept when it is the same, re-made when nothing else hangs on it."""
    check_exists(exists)
    same = old.spec == spec or (any_subnet and _alike(old.spec, spec))
    if exists == "keep":
        return old
    if exists == "error" or (exists is None and ticks.same(old.tick)):
        raise NameInUse(f"network '{old.name}' exists ({' '.join(old.subnets)}); exists='replace' makes it anew")
    if exists is None and same:
        old.tick, old.cell = ticks.now(), ticks.cell()
        lab.say(f"network {old.name}: unchanged")
        return old
    hanging = [c.name for c in old.containers if ticks.same(c.tick) is False]
    if hanging:
        raise StateError(
            f"network '{old.name}' can't be made anew: {', '.join(hanging)} of other cells "
            f"{'hang' if len(hanging) > 1 else 'hangs'} on it; remove {'them' if len(hanging) > 1 else 'it'} first"
        )
    for container in old.containers:
        lab._remove(container)
    remove_network(lab, old)
    lab.say(f"replaced network {old.name} ({old.cell})")
    return None


def _alike(old: NetworkSpec, new: NetworkSpec) -> bool:
    """Whether two networks differ at most in the subnets that were chosen for them."""
    versions = [sorted(":" in subnet for subnet in spec.subnets) for spec in (old, new)]
    return (old.driver, old.mtu, old.internal, versions[0]) == (new.driver, new.mtu, new.internal, versions[1])


def connect(lab: Lab, net: Network, container: Container, ip: Any, ip6: Any, mac: Any) -> Container:
    lab._alive()
    container._alive()
    with lab._lock:
        if any(e.network == net.name for e in container.endpoints):
            raise StateError(f"container {container.name} is on network '{net.name}' already")
        if container.spec.network_mode != "bridge":
            raise StateError(
                f"container {container.name} has network {container.spec.network_mode}: it can't be connected"
            )
        asked = {"ip": ip, "ip6": ip6, "mac_address": mac}
        attachment = creating.attach(lab, container, net.name, 0, asked, {})
        number = next(n for n, e in container._endpoints.items() if e.network == net.name)
        try:
            lab._call(attach_message(container, number))
        except BaseException:
            attachment.give_back()
            del container._endpoints[number]
            container._endpoint_keys.pop(number, None)
            raise
    lab._changed()
    return container


def disconnect(lab: Lab, net: Network, container: Container) -> Container:
    lab._alive()
    container._alive()
    with lab._lock:
        number = next((n for n, e in container._endpoints.items() if e.network == net.name), None)
        if number is None:
            raise StateError(f"container {container.name} isn't on network '{net.name}'")
        endpoint = container._endpoints.pop(number)
        endpoint_key = container._endpoint_keys.pop(number, 0)
        message = detach_message(container, endpoint, lab)
        try:
            lab._call(message)
        except BaseException:
            container._endpoints[number] = endpoint
            container._endpoint_keys[number] = endpoint_key
            raise
        network.release(net, endpoint)
        container._requested.discard(number)
    lab._changed()
    return container


def remove_network(lab: Lab, net: Network) -> None:
    lab._alive()
    with lab._lock:
        attached = [c.name for c in net.containers]
        if attached:
            raise StateError(
                f"network '{net.name}' has containers on it: {', '.join(attached)}; disconnect or remove them"
            )
        deaf = [text.partition("/")[0] for text in net.gateways]
        lab._call({"do": "perform", "operations": ops.encode(network_plan.remove(net.spec)), "deaf": deaf})
        lab._networks.pop(key(net.name), None)
    lab._changed()
