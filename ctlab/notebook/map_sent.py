"""What the browser is sent of a map: each element with where it is drawn. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ctlab.notebook.map_geometry import Geometry
from ctlab.notebook.map_model import OUTSIDE, World

# What the browser needs of an element; anything else (a handle, an address object) stays in Python.
_SENT = ("id", "kind", "label", "parent", "state", "driver", "source", "target")


def for_browser(world: World, drawn: Geometry, hues: Mapping[str, int]) -> list[dict[str, object]]:
    """The elements as `TopologyWidget.elements` has them: JSON, nodes first, edges last."""
    sent = []
    for key in (*world.nodes, *world.networks, *world.containers, *world.edges):
        element = world.elements[key]
        data: dict[str, object] = {name: str(element[name]) for name in _SENT if element.get(name)}
        data["label"] = world.label(key) if "source" not in element else str(element.get("label") or "")
        if key in drawn.places:
            data["x"], data["y"] = drawn.places[key]
        if key in world.networks:
            data["subnets"] = list(world.subnets(key))
        if key in world.containers:
            data.update(kind="container", state=world.state(key), ended=world.ended(key))
        if key in drawn.wires:
            data["wire"] = drawn.wires[key]
        if key in drawn.labels:
            shown = drawn.labels[key]
            data["shown"], data["shown_at"] = shown.text, shown.at
        if world.parent.get(key) == OUTSIDE:
            data.pop("parent", None)
        if (network := str(element.get("target", key))) in hues:
            data["hue"] = hues[network]
        sent.append(data)
    return sent
