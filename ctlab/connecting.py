"""Networks of a lab: created again, connected, disconnected, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import creating, ending, network, sampled_names, ticks
from .container import Container
from .errors import CtlabError, NameInUse, StateError
from .names import check_name, key
from .network import Attachment, Network, plan_network
from .plan import network as network_plan
from .plan import ops
from .request import check_exists
from .runtime import messages
from .spec import NetworkSpec
from .spelling import option
from .starting import attach_message, detach_message, links, name_endpoints
from .whole import whole

if TYPE_CHECKING:
    from .lab import Lab


def create_network(lab: Lab, name: str, exists: str | None, options: dict[str, Any]) -> Network:
    lab._alive()
    check_name("network", name)
    with whole(lab):
        old = lab._networks.get(key(name))
        others = [net for net in list(lab._networks.values()) if net is not old]
        spec, pools = plan_network(name, others, lab_id=lab._client.id, **options)
        if old is not None:
            kept = existing_network(lab, old, spec, options.get("subnet") is None, exists)
            if kept is not None:
                return kept
        make = messages.Perform(ops.encode(network_plan.create(spec)))
        lab._call(make, messages.Ok, undo=[_removal(spec)])
        made = Network(lab, spec, pools)
        lab._networks[key(name)] = made
    return made


def _removal(spec: NetworkSpec) -> messages.Perform:
    return messages.Perform(ops.encode(network_plan.remove(spec)))


def existing_network(lab: Lab, old: Network, spec: Any, any_subnet: bool, exists: str | None) -> Network | None:
    """The rule for a network created again: kept when it is the same, re-made when nothing else hangs on it."""
    check_exists(exists)
    same = old.spec == spec or (any_subnet and _alike(old.spec, spec))
    if exists == "keep":
        return old
    if exists == "error" or (exists is None and ticks.same(old.tick)):
        raise NameInUse(
            f"network '{old.name}' exists ({' '.join(old.subnets)}); {option('exists', 'replace')} makes it anew"
        )
    if exists is None and same:
        old.tick, old.cell = ticks.now(), ticks.cell()
        lab.say(f"network {old.name}: unchanged")
        return old
    here = ticks.cell_id()
    hanging = [c.name for c in old.containers if not ticks.same(c.tick) and (here is None or c.cell_id != here)]
    if hanging:
        raise StateError(
            f"network '{old.name}' can't be made anew: {', '.join(hanging)} of other cells "
            f"{'hang' if len(hanging) > 1 else 'hangs'} on it; remove {'them' if len(hanging) > 1 else 'it'} first"
        )
    gone = old.containers
    for container in gone:
        ending.remove(lab, container, f"it was removed with network '{old.name}', which was made anew")
    remove_network(lab, old)
    also = f" and what hung on it: {', '.join(container.name for container in gone)}" if gone else ""
    lab.say(f"replaced network {old.name} ({old.cell}){also}")
    return None


def _alike(old: NetworkSpec, new: NetworkSpec) -> bool:
    """Whether two networks differ at most in the subnets that were chosen for them."""
    versions = [sorted(":" in subnet for subnet in spec.subnets) for spec in (old, new)]
    return (old.driver, old.mtu, old.internal, versions[0]) == (new.driver, new.mtu, new.internal, versions[1])


def connect(lab: Lab, net: Network, container: Container, ip: Any, ip6: Any, mac: Any) -> Container:
    sampled_names.make_room(lab)
    with whole(lab):
        net._there()
        container._alive()
        if any(e.network == net.name for e in container.endpoints):
            raise StateError(f"container {container.name} is on network '{net.name}' already")
        if container.spec.network_mode != "bridge":
            raise StateError(
                f"container {container.name} has network {container.spec.network_mode}: it can't be connected"
            )
        asked = {"ip": ip, "ip6": ip6, "mac_address": mac}
        before = name_endpoints(container), links(container)
        attachment = creating.attach(lab, container, net.name, 0, asked, {})
        number = next(n for n, e in container._endpoints.items() if e.network == net.name)
        away = network_plan.detach(container._instance, container._endpoints[number])
        undo = messages.Detach(container.id, ops.encode(away), [], *before)
        try:
            lab._call(attach_message(container, number), messages.Ok, undo=[undo])
        except BaseException:
            attachment.give_back()
            del container._endpoints[number]
            container._requested.discard(number)
            sampled_names.removed(lab, (), [container._endpoint_keys.pop(number)])
            raise
    return container


def disconnect(lab: Lab, net: Network, container: Container) -> Container:
    with whole(lab):
        net._there()
        container._alive()  # in here: what another thread removes beside us has given its addresses back
        number = next((n for n, e in container._endpoints.items() if e.network == net.name), None)
        if number is None:
            raise StateError(f"container {container.name} isn't on network '{net.name}'")
        before = dict(container._endpoints)
        endpoint = container._endpoints.pop(number)
        endpoint_key = container._endpoint_keys.pop(number)
        message = detach_message(container, endpoint)
        network.release(net, endpoint)
        try:
            lab._call(message, messages.Ok)
        except CtlabError:
            Attachment(net, container.name).take_again(endpoint)
            container._endpoints, container._endpoint_keys[number] = before, endpoint_key
            raise
        finally:  # also after an interrupt that waited long enough: the supervisor has the order
            if number not in container._endpoints:
                container._requested.discard(number)
                sampled_names.removed(lab, (), [endpoint_key])
    return container


def remove_network(lab: Lab, net: Network) -> None:
    with whole(lab):
        net._there()
        attached = [c.name for c in net.containers]
        if attached:
            raise StateError(
                f"network '{net.name}' has containers on it: {', '.join(attached)}; disconnect or remove them"
            )
        del lab._networks[key(net.name)]
        try:
            lab._call(_removal(net.spec), messages.Ok)
        except CtlabError:
            lab._networks[key(net.name)] = net
            raise
