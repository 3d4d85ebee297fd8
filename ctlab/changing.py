"""A container that exists is changed: its name, its limits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from . import creating, executing, network
from .container import Container
from .errors import CtlabError, NameInUse
from .names import check_name, key
from .network import Attachment
from .plan import limits as limits_plan
from .runtime import messages
from .starting import name_endpoints
from .whole import whole

if TYPE_CHECKING:
    from .lab import Lab


def rename(lab: Lab, container: Container, name: str) -> None:
    check_name("container", name)
    with whole(lab):
        container._alive()
        other = lab._containers.get(key(name))
        if other is not None and other is not container:
            raise NameInUse(f"container '{name}' exists ({other.state})")
        spec = dataclasses.replace(container.spec, name=name)
        order = messages.Rename(container.id, name, name_endpoints(container))
        lab._call(order, messages.Ok, undo=[order._replace(name=container.name)])
        del lab._containers[key(container.name)]
        container._spec = spec
        lab._containers[key(name)] = container
        lab._names[container._number] = name
        for number, endpoint_key in list(container._endpoint_keys.items()):
            endpoint = container._endpoints[number]
            lab._endpoint_names[endpoint_key] = (name, endpoint.network, endpoint.interface)
        for endpoint in container.endpoints:
            net = lab._networks[key(endpoint.network)]
            network.release(net, endpoint)
            Attachment(net, name).take_again(endpoint)


def update(lab: Lab, container: Container, wanted: limits_plan.Limits) -> None:
    with whole(lab):
        container._alive()
        spec = dataclasses.replace(container.spec, limits=wanted)
        wanted = creating.check_limits(lab, spec)
        spec = dataclasses.replace(spec, limits=wanted)
        version = lab._client.facts["cgroup"]
        if version != "none":
            writes = limits_plan.changes(container.limits, wanted, version)
            undo = limits_plan.undo(container.limits, wanted, version)
            lower = wanted.memory_bytes if wanted.memory_bytes != container.limits.memory_bytes else None
            write_limits(lab, container, writes, undo, lower)
        counted = executing.processes(container)
        container._spec = spec
        if counted and not executing.processes(container) and container.state in ("running", "paused"):
            # Nobody below the machine's root may raise a hard limit again (prlimit(2): EPERM), not for another either.
            lab.say(
                f"{container.name}: --pids-limit none holds for what is exec'ed from now on, for all after a restart; "
                f"what runs keeps its {counted} (ulimit -u: no cgroup counts processes here)"
            )


def write_limits(lab: Lab, container: Container, writes: list[Any], undo: list[Any], memory: int | None) -> None:
    back = [list(write) for write in undo]
    order = messages.Limits(container.id, [list(write) for write in writes], back, memory)
    with lab._client.borrow() as connection:
        try:
            connection.send(order)
            answer = connection.receive(messages.Ok, messages.LimitRefusal).message
        except (CtlabError, OSError):
            raise
        except BaseException:
            connection.send_only([order._replace(writes=back, memory_bytes=None)])
            raise
    if isinstance(answer, messages.LimitRefusal):
        if answer.write < 0 and memory is not None:
            raise limits_plan.below_usage(memory, answer.usage_bytes or 0)
        if not 0 <= answer.write < len(writes):
            raise lab._client.end_for("word of a limit that wasn't to be written")
        raise limits_plan.refused(writes[answer.write], answer.errno, answer.usage_bytes)
