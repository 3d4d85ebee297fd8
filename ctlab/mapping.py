"""What the map shows: the lab's objects as plain elements, and as a graph."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from . import cards, units
from .apart import ready
from .completed import ended
from .errors import NotFound
from .inspecting import inspect_container

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab


def elements(lab: Lab) -> list[dict[str, object]]:
    """Nodes, networks, containers and endpoints, as `ctlab.notebook.map_model` wants them."""
    with lab._lock:
        containers = list(lab._containers.values())
        networks = list(lab._networks.values())
    found: list[dict[str, object]] = [{"id": "node:host", "kind": "node", "label": "host"}]
    for net in networks:
        found.append(
            {
                "id": f"network:{net.name}", "kind": "network", "label": net.name, "parent": "node:host",
                "driver": net.driver, "subnets": list(net.subnets),
            }
        )  # fmt: skip
    for container in containers:
        found.append(
            {
                "id": f"container:{container.name}", "kind": "container", "label": container.name,
                "parent": "node:host", "state": container.state, **_ending(container),
            }
        )  # fmt: skip
        for endpoint in container.endpoints:
            found.append(
                {
                    "id": f"endpoint:{container.name}:{endpoint.network}", "kind": "endpoint",
                    "source": f"container:{container.name}", "target": f"network:{endpoint.network}",
                    "label": endpoint.bare[0] if endpoint.addresses else "",
                    "addresses": list(endpoint.addresses), "interface": endpoint.interface,
                }
            )  # fmt: skip
    return found


def _ending(container: Container) -> dict[str, object]:
    """Of one that has ended: how, unless with status 0, and whether it failed."""
    if container.state != "exited":
        return {}
    how, failed = ended(container.returncode, container.oom_killed)
    return {"ended": f"status {how}" if how.isdigit() else how, "failed": failed} if how != "0" else {}


def details(lab: Lab, element_id: str) -> dict[str, object]:
    """What to show of one element; NotFound if it is gone."""
    kind, _, name = element_id.partition(":")
    if kind == "container":
        return _container_details(lab, name)
    if kind == "network":
        return dict(lab._network(name).inspect())
    if kind == "endpoint":
        owner, _, network = name.rpartition(":")
        for endpoint in lab._container(owner).endpoints:
            if endpoint.network == network:
                return {
                    "container": owner, "network": network, "interface": endpoint.interface, "mac": endpoint.mac,
                    "addresses": list(endpoint.addresses), "mtu": endpoint.mtu,
                }  # fmt: skip
    if kind == "node":
        status = lab.status()
        return {"node": name, "lab": lab.name, "ids": status["ids"], "cgroup": status["cgroup"]}
    raise NotFound(f"nothing on the map is called '{element_id}'")


def _container_details(lab: Lab, name: str) -> dict[str, object]:
    """What a person looks for first comes first; the whole is `inspect`'s."""
    pid = cards.pid_label(lab)
    facts = inspect_container(lab._container(name))
    limits = {k: units.format_size(v) if k.endswith("_bytes") else v for k, v in facts["limits"].items()}
    usage = facts["memory_usage_bytes"]
    mounts = [
        f"{mount['target']} from {mount['source']}{', read-only' if mount['read_only'] else ''}"
        for mount in facts["mounts"]
    ]
    found: dict[str, object] = {
        "state": facts["state"],
        "command": shlex.join(facts["command"]) or "none: it idles",
        "addresses": [
            f"{endpoint['network']}: {' '.join(endpoint['addresses'])} ({endpoint['interface']}, {endpoint['mac']})"
            for endpoint in facts["endpoints"]
        ]
        or f"network {facts['network_mode']}",
        "limits": limits or "none",
        "memory": units.format_size(usage) if usage else "",
        pid: facts["pid"],
        "returncode": facts["returncode"],
        "OOMKilled": "yes" if facts["oom_killed"] else "",
        "namespaces": facts["namespaces"],
        "image": facts["image"],
        "mounts": mounts,
        "env": facts["env"],
        "user": facts["user"],
        "hostname": facts["hostname"],
        "started": facts["started_at"],
        "finished": facts["finished_at"],
        "id": facts["id"],
    }
    return {key: value for key, value in found.items() if value not in (None, [], {}, "")}


def graph(lab: Lab) -> Any:
    """A networkx MultiGraph: keys ``container:web``, ``network:blue``, ``node:host``; an edge for each endpoint."""
    try:
        ready("networkx")
        import networkx
    except ImportError:
        from .errors import Unsupported

        raise Unsupported("lab.graph() needs networkx: pip install ctlab[graph]") from None
    made = networkx.MultiGraph(lab=lab.name)
    found = elements(lab)
    for element in found:
        if element["kind"] != "endpoint":
            made.add_node(element["id"], **{k: v for k, v in element.items() if k != "id"})
    for element in found:
        if element["kind"] == "endpoint":
            attributes = {k: v for k, v in element.items() if k not in ("id", "source", "target")}
            made.add_edge(element["source"], element["target"], key=element["id"], **attributes)
    for net in lab.networks:
        made.add_edge("node:host", f"network:{net.name}", key=f"bridge:{net.name}", kind="bridge")
    return made
