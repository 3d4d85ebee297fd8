"""A map for a terminal: a tree of nodes, networks and the containers on them. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from ctlab.notebook.map_model import OUTSIDE, SIGNS, Element, World, read


def map_text(elements: Iterable[Element], *, title: str = "") -> str:
    """The lab as lines of text, without a final newline.

    A container on several networks stands below each of them, and says so; one on none stands below ``(no network)``.
    """
    world = read(elements)
    lines = [f"{title}: {world.summary()}" if title else world.summary()]
    for group in world.groups():
        lines.append("(between nodes)" if group == OUTSIDE else _clean(world.label(group)))
        branches = [_network(world, key) for key in world.networks if world.parent[key] == group]
        alone = [key for key in world.containers if world.parent[key] == group and not world.networks_of[key]]
        if alone:
            branches.append(("(no network)", _table([_container(world, key) for key in alone])))
        lines += _tree(branches)
    links = [key for key in world.edges if world.ends(key)[1] not in world.networks]
    if links:
        lines.append("links")
        lines += _tree([(_link(world, key), []) for key in links])
    return "\n".join(lines)


def _tree(branches: list[tuple[str, list[str]]]) -> list[str]:
    lines = []
    for index, (name, leaves) in enumerate(branches):
        last = index == len(branches) - 1
        lines.append(("└─ " if last else "├─ ") + name)
        for number, leaf in enumerate(leaves):
            lines.append(("   " if last else "│  ") + ("└─ " if number == len(leaves) - 1 else "├─ ") + leaf)
    return lines


def _network(world: World, network: str) -> tuple[str, list[str]]:
    element = world.elements[network]
    head = "  ".join((world.label(network), str(element.get("driver") or "bridge"), *world.subnets(network)))
    rows = []
    for key in world.edges:
        container, target = world.ends(key)
        if target != network or container not in world.networks_of:
            continue
        edge = world.elements[key]
        others = [world.label(other) for other in world.networks_of[container] if other != network]
        rows.append(
            (
                *_container(world, container),
                _clean(str(edge.get("interface", ""))),
                _clean(str(edge.get("label", ""))),
                f"(also on {_clean(', '.join(others))})" if others else "",
            )
        )
    return _clean(head), _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equally many cells, each column as wide as its widest cell."""
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _container(world: World, key: str) -> tuple[str, str]:
    state, ended = world.state(key), world.ended(key)
    return f"{SIGNS[state]} {_clean(world.label(key))}", _clean(f"{state} ({ended})" if ended else state)


def _link(world: World, key: str) -> str:
    source, target = world.ends(key)
    return _clean(f"{world.label(source)} ─ {world.label(target)}  {world.elements[key].get('label', '')}").rstrip()


def _clean(text: str) -> str:
    """Text without control characters: a name must not be able to move the cursor."""
    return "".join("?" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text)


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )
