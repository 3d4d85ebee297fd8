"""What a map shows: the elements that a lab hands over, indexed by how they hang together. Pure.

An element is a dict with ``id`` and ``kind`` and, by kind:

========= ==========================================================================================
node      ``label``
network   ``label``, ``parent`` (a node; absent: it spans nodes), ``driver``, ``subnets`` (list of str)
container ``label``, ``parent`` (a node), ``state`` (one of `STATES`; instead of ``failed`` also ``exited`` with
          a true ``failed``), ``ended`` (how: ``status 3``, ``OOM``, ``SIGTERM``; absent: nothing to say)
endpoint  ``source`` (a container), ``target`` (a network), ``label`` (its address), ``addresses``,
          ``interface``
link      ``source``, ``target`` (containers or nodes), ``label`` (its impairments)
========= ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Element = Mapping[str, object]

STATES = ("running", "created", "paused", "exited", "failed", "removed", "lost")

# A sign as well as a colour, so that a state is seen without colours too. None of them has an emoji form.
SIGNS = {"running": "●", "created": "○", "paused": "‖", "exited": "■", "failed": "▲", "removed": "×", "lost": "!"}

OUTSIDE = ""  # the parent of what belongs to no node


@dataclass(frozen=True)
class World:
    """Elements by what they are, in the order in which they were handed over; all keys are element ids."""

    elements: dict[str, Element]
    nodes: tuple[str, ...]
    networks: tuple[str, ...]
    containers: tuple[str, ...]
    edges: tuple[str, ...]
    parent: dict[str, str]
    """Of each network and container: its node, or `OUTSIDE`."""
    networks_of: dict[str, tuple[str, ...]]
    """Of each container: the networks it is attached to, without repetition."""

    def label(self, key: str) -> str:
        """The text to show for an element."""
        return str(self.elements[key].get("label") or key.partition(":")[2] or key)

    def state(self, key: str) -> str:
        """The state of a container; what isn't one of `STATES` counts as lost."""
        state = str(self.elements[key].get("state", "lost"))
        if state == "exited" and self.elements[key].get("failed"):
            return "failed"
        return state if state in STATES else "lost"

    def ended(self, key: str) -> str:
        """How a container ended, in a word or two; an empty text where there is nothing to say."""
        return str(self.elements[key].get("ended") or "") if self.state(key) in ("exited", "failed") else ""

    def subnets(self, key: str) -> tuple[str, ...]:
        """The subnets of a network."""
        found = self.elements[key].get("subnets") or ()
        return tuple(str(subnet) for subnet in found) if isinstance(found, (list, tuple)) else (str(found),)

    def ends(self, key: str) -> tuple[str, str]:
        """Source and target of an edge."""
        return str(self.elements[key]["source"]), str(self.elements[key]["target"])

    def children(self, node: str) -> list[str]:
        """Networks, then containers, of a node (or of `OUTSIDE`)."""
        return [key for key in (*self.networks, *self.containers) if self.parent[key] == node]

    def groups(self) -> list[str]:
        """The nodes, and `OUTSIDE` at the end if something belongs there."""
        return [*self.nodes, *([OUTSIDE] if self.children(OUTSIDE) else [])]

    def summary(self) -> str:
        """``1 node, 2 networks, 3 containers``: the counts, for captions and screen readers."""
        counts = ((len(self.nodes), "node"), (len(self.networks), "network"), (len(self.containers), "container"))
        return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


def few(world: World) -> bool:
    """Whether a map is small enough for straight wires with labels."""
    return len(world.containers) <= 24 and len(world.edges) <= 36


def read(elements: Iterable[Element]) -> World:
    """Index elements. Edges with an end that isn't there, as a snapshot taken amid changes may have, are left out.

    Of two elements with one id, the later counts.
    """
    known: dict[str, Element] = {str(element["id"]): element for element in elements}
    nodes, networks, containers, edges = [], [], [], []
    for key, element in known.items():
        if "source" in element and "target" in element:
            edges.append(key)
        elif element.get("kind") == "node":
            nodes.append(key)
        elif element.get("kind") == "network":
            networks.append(key)
        else:
            containers.append(key)
    edges = [key for key in edges if known[key]["source"] in known and known[key]["target"] in known]
    node_set, network_set = set(nodes), set(networks)
    parents = {key: str(known[key].get("parent") or OUTSIDE) for key in (*networks, *containers)}
    attached: dict[str, dict[str, None]] = {key: {} for key in containers}
    for key in edges:
        source, target = str(known[key]["source"]), str(known[key]["target"])
        if target in network_set and source in attached:
            attached[source][target] = None
    return World(
        elements=known,
        nodes=tuple(nodes),
        networks=tuple(networks),
        containers=tuple(containers),
        edges=tuple(edges),
        parent={key: parent if parent in node_set else OUTSIDE for key, parent in parents.items()},
        networks_of={key: tuple(found) for key, found in attached.items()},
    )
