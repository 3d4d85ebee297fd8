"""Elements of maps, as a lab hands them over, for tests of the map."""

from __future__ import annotations

Elements = list[dict[str, object]]


def node(name: str) -> dict[str, object]:
    return {"id": f"node:{name}", "kind": "node", "label": name}


def network(name: str, on: str | None = "host", subnet: str = "10.10.0.0/24") -> dict[str, object]:
    found: dict[str, object] = {"id": f"network:{name}", "kind": "network", "label": name, "driver": "bridge"}
    return {**found, "subnets": [subnet], **({"parent": f"node:{on}"} if on else {})}


def container(name: str, state: str = "running", on: str = "host") -> dict[str, object]:
    return {
        "id": f"container:{name}", "kind": "container", "label": name, "parent": f"node:{on}", "state": state,
    }  # fmt: skip


def endpoint(of: str, to: str, address: str = "10.10.0.2") -> dict[str, object]:
    return {
        "id": f"endpoint:{of}:{to}", "kind": "endpoint", "source": f"container:{of}", "target": f"network:{to}",
        "label": address, "addresses": [f"{address}/24"], "interface": "eth0",
    }  # fmt: skip


def link(name: str, of: str, to: str, label: str = "") -> dict[str, object]:
    return {
        "id": f"link:{name}", "kind": "link", "source": f"container:{of}", "target": f"container:{to}", "label": label,
    }  # fmt: skip


def star(count: int, name: str = "blue") -> Elements:
    """One network and its containers."""
    elements = [node("host"), network(name)]
    for index in range(count):
        elements += [container(f"w{index}"), endpoint(f"w{index}", name, f"10.10.0.{index + 2}")]
    return elements


def routed(count: int) -> Elements:
    """Three networks with ``count`` containers each, and a router on all of them."""
    elements = [node("host")]
    for index, name in enumerate(("blue", "green", "dmz")):
        elements.append(network(name, subnet=f"10.88.{index}.0/24"))
        for number in range(count):
            elements += [
                container(f"{name}{number}"), endpoint(f"{name}{number}", name, f"10.88.{index}.{number + 2}"),
            ]  # fmt: skip
    elements.append(container("router"))
    return elements + [endpoint("router", name, f"10.88.{i}.254") for i, name in enumerate(("blue", "green", "dmz"))]
