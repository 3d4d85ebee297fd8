"""A map as a picture: one SVG, no script, that looks right in light and dark pages and on its own. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from html import escape

from ctlab.notebook import theme
from ctlab.notebook.map_boxes import (
    HEIGHT,
    NETWORK_HEIGHT,
    NETWORK_WIDTH,
    PADDING,
    WIDTH,
    Box,
    Point,
    around,
    extent,
    node_boxes,
)
from ctlab.notebook.map_layout import few, place
from ctlab.notebook.map_model import SIGNS, Element, World, read

CUT = 9.0  # of the corners of a lost container's box
SLANT = 16.0  # of a network's hexagon
MARGIN = 12.0
LABEL_ROOM = 124.0  # the widest address on a wire
LEVEL, LIFT = 13.0, 9.0  # a wire that rises less than this would strike its address through: it stands above the wire
CAPTION_ROOM = 640.0  # of a picture that is narrower

_STYLE = (
    ".ctlab-map{background:var(--ctlab-background);max-width:100%;height:auto}"
    ".ctlab-map text{font:12px var(--ctlab-font);fill:var(--ctlab-text);text-anchor:middle;stroke:none}"
    ".ctlab-map .node>rect{fill:var(--ctlab-node);stroke:var(--ctlab-line)}"
    ".ctlab-map .node>text{text-anchor:start;font-weight:600;fill:var(--ctlab-muted)}"
    ".ctlab-map .wire{fill:none;stroke-width:1.5}"
    ".ctlab-map .link{stroke:var(--ctlab-text);stroke-width:2.5;stroke-dasharray:2 4;stroke-linecap:round}"
    ".ctlab-map .address{font:10.5px var(--ctlab-mono);paint-order:stroke;stroke:var(--ctlab-node);"
    "stroke-width:4px;stroke-linejoin:round}"
    ".ctlab-map .network>path{fill:var(--ctlab-background);stroke-width:2}"
    ".ctlab-map .network>.subnet{font-size:10.5px;fill:var(--ctlab-muted)}"
    ".ctlab-map .network>.name{font-weight:600}"
    ".ctlab-map .caption{text-anchor:start;font-size:11px;fill:var(--ctlab-muted)}"
    + "".join(
        f".ctlab-map .{state}>.body{{fill:var(--ctlab-{state}-fill);stroke:var(--ctlab-{state});stroke-width:1.5}}"
        f".ctlab-map .{state} .sign{{fill:var(--ctlab-{state})}}"
        for state in SIGNS
    )
    + "".join(f".ctlab-map .hue-{hue}{{stroke:var(--ctlab-hue-{hue})}}" for hue in range(theme.HUES))
    + ".ctlab-map .created>.body{stroke-dasharray:5 3}.ctlab-map .removed>.body{stroke-dasharray:1.5 3}"
    ".ctlab-map .removed text{fill:var(--ctlab-muted)}.ctlab-map .frame{fill:none;stroke:var(--ctlab-paused)}"
)


def map_svg(
    elements: Iterable[Element],
    *,
    positions: Mapping[str, Point] | None = None,
    hues: Mapping[str, int] | None = None,
    caption: str = "",
) -> str:
    """The picture of a lab, as the text of an ``<svg>`` element that needs nothing else.

    ``positions`` (pixels, by element id) and ``hues`` (0 to ``theme.HUES`` - 1, by network id) keep a picture like
    the live map; what they don't name is laid out here. ``caption`` is a line below.
    """
    elements = list(elements)
    world = read(elements)
    places = place(elements, positions)
    colour = {key: (hues or {}).get(key, index) % theme.HUES for index, key in enumerate(world.networks)}
    boxes = node_boxes(world, places)
    whole = (around([extent(world, places), *boxes.values()]) if places else None) or Box(0.0, 0.0, 240.0, 40.0)
    bottom = whole.bottom + (20 if caption else 0)
    parts = [_node(world, key, box) for key, box in boxes.items()]
    parts += [_wire(world, key, places, boxes, colour) for key in world.edges]
    parts += [_network(world, key, places[key], colour[key]) for key in world.networks]
    parts += [_container(world, key, places[key]) for key in world.containers]
    if few(world):
        parts += [_address(world, key, places) for key in world.edges if _address_fits(world, key, places)]
    if not places:
        parts.append(_text("caption", whole.left + 4, 24.0, "nothing here yet", 220.0))
    wide = whole.width
    if caption:  # a small world has a caption that is wider than itself
        caption = shorten(caption, max(whole.width, CAPTION_ROOM), 11.0)
        wide = max(wide, 2 + sum(map(_width, caption)) * 11.0)
        parts.append(_text("caption", whole.left + 2, bottom - 3, caption, wide, 11.0))
    left, top = whole.left - MARGIN, whole.top - MARGIN
    width, height = wide + 2 * MARGIN, bottom - whole.top + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{theme.SCOPE} ctlab-map" role="img" '
        f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"<title>{_escape(world.summary())}</title><style>{theme.variables()}{_STYLE}</style>{''.join(parts)}</svg>"
    )


def shorten(text: str, room: float, size: float = 12.0) -> str:
    """``text``, or as much of it with ``…`` as fits into ``room`` pixels; the widths err on the wide side."""
    widths = [_width(sign) * size for sign in text]
    if sum(widths) <= room:
        return text
    used, kept = size * 0.9, ""
    for sign, width in zip(text, widths, strict=True):
        used += width
        if used > room:
            break
        kept += sign
    return kept + "…"


def _width(sign: str) -> float:
    """The width of a character in ems of a wide sans-serif face."""
    if unicodedata.combining(sign):
        return 0.0
    if unicodedata.east_asian_width(sign) in "WF":
        return 1.1
    if sign in "mwMW@%—…":
        return 1.0
    if sign in "iljtfrI.,:;'|!()[] /":
        return 0.42
    return 0.74 if sign.isupper() else 0.64


def _escape(text: str) -> str:
    """Text for XML: markup escaped, and what XML can't hold (control characters, lone surrogates) shown as ``?``."""
    clean = "".join("�" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text)
    return escape(clean.replace("\ufffe", "�").replace("\uffff", "�"))


def _text(kind: str, x: float, y: float, text: str, room: float, size: float = 12.0) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_escape(shorten(text, room, size))}</text>'


def _node(world: World, key: str, box: Box) -> str:
    left, top = box.left, box.top
    return (
        f'<g class="node"><title>{_escape(world.label(key))}</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="8"/>'
        + _text("name", left + 10, top + 17, world.label(key), box.width - 20, 13.0)
        + "</g>"
    )


def _network(world: World, key: str, at: Point, hue: int) -> str:
    x, y = at
    dx, dy = NETWORK_WIDTH / 2, NETWORK_HEIGHT / 2
    corners = [(-dx, 0), (-dx + SLANT, -dy), (dx - SLANT, -dy), (dx, 0), (dx - SLANT, dy), (-dx + SLANT, dy)]
    path = "M" + "L".join(f"{x + a:.1f} {y + b:.1f}" for a, b in corners) + "Z"
    subnets = world.subnets(key)
    below = subnets[0] + (f" +{len(subnets) - 1}" if len(subnets) > 1 else "") if subnets else ""
    below = below or str(world.elements[key].get("driver", ""))
    tip = ", ".join((world.label(key), str(world.elements[key].get("driver", "bridge")), *subnets))
    return (
        f'<g class="network"><title>{_escape(tip)}</title><path class="hue-{hue}" d="{path}"/>'
        + _text("name", x, y - (2 if below else -4), world.label(key), NETWORK_WIDTH - 2 * SLANT)
        + (_text("subnet", x, y + 14, below, NETWORK_WIDTH - 2 * SLANT + 8, 10.5) if below else "")
        + "</g>"
    )


def _container(world: World, key: str, at: Point) -> str:
    state = world.state(key)
    left, top, right, bottom = at[0] - WIDTH / 2, at[1] - HEIGHT / 2, at[0] + WIDTH / 2, at[1] + HEIGHT / 2
    if state == "lost":
        corners = (
            (left + CUT, top), (right - CUT, top), (right, top + CUT), (right, bottom - CUT),
            (right - CUT, bottom), (left + CUT, bottom), (left, bottom - CUT), (left, top + CUT),
        )  # fmt: skip
        body = f'<path class="body" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}Z"/>'
    else:
        body = _rect("body", left, top, 0.0, 0 if state in ("exited", "removed") else 8)
    if state == "paused":
        body += _rect("frame", left, top, 3.0, 5)
    name = shorten(world.label(key), WIDTH - 30)
    label = f'<tspan class="sign">{SIGNS[state]}</tspan> {_escape(name)}'
    return (
        f'<g class="container {state}"><title>{_escape(f"{world.label(key)}: {state}")}</title>{body}'
        f'<text x="{at[0]:.1f}" y="{at[1] + 4:.1f}">{label}</text></g>'
    )


def _rect(kind: str, left: float, top: float, inset: float, radius: int) -> str:
    return (
        f'<rect class="{kind}" x="{left + inset:.1f}" y="{top + inset:.1f}" width="{WIDTH - 2 * inset:.1f}" '
        f'height="{HEIGHT - 2 * inset:.1f}" rx="{radius}"/>'
    )


def _end(key: str, places: Mapping[str, Point], boxes: Mapping[str, Box]) -> Point:
    """Where an edge ends: the middle of its element, or of the upper border of a node with content."""
    if key in places:
        return places[key]
    box = boxes[key]
    return box.middle[0], box.top


def _wire(
    world: World, key: str, places: Mapping[str, Point], boxes: Mapping[str, Box], colour: Mapping[str, int]
) -> str:
    source, target = world.ends(key)
    (x, y), (to_x, to_y) = _end(source, places, boxes), _end(target, places, boxes)
    link = target not in colour
    side = 1 if to_y > y else -1
    turn = y + side * (HEIGHT / 2 + 6)
    if few(world) or link or abs(to_y - y) < HEIGHT / 2 + PADDING:
        path = f"M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"
    else:  # a trunk with branches: a hundred straight lines would be a fan nobody can follow
        path = f"M{x:.1f} {y:.1f}V{turn:.1f}H{to_x:.1f}V{to_y:.1f}"
    kind = "link" if link else f"hue-{colour[target]}"
    tip = f"{world.label(source)} – {world.label(target)}: {world.label(key)}"
    return f'<path class="wire {kind}" d="{path}"><title>{_escape(tip)}</title></path>'


def _label_point(world: World, key: str, places: Mapping[str, Point]) -> Point:
    """Where an edge's label stands: just off its container for a network, in the middle for a link."""
    source, target = world.ends(key)
    (x, y), (to_x, to_y) = places[source], places[target]
    if target not in world.networks:
        return (x + to_x) / 2, (y + to_y) / 2
    text = shorten(world.label(key), LABEL_ROOM, 10.5)
    dx, dy = to_x - x, to_y - y
    room_x, room_y = WIDTH / 2 + sum(map(_width, text)) * 10.5 / 2 + 2, HEIGHT / 2 + 13
    part = min(room_x / abs(dx) if dx else 1.0, room_y / abs(dy) if dy else 1.0, 0.5)
    return x + dx * part, y + dy * part - (LIFT if abs(dy) < LEVEL else 0.0)


def _address_fits(world: World, key: str, places: Mapping[str, Point]) -> bool:
    return bool(world.elements[key].get("label")) and all(end in places for end in world.ends(key))


def _address(world: World, key: str, places: Mapping[str, Point]) -> str:
    x, y = _label_point(world, key, places)
    return _text("address", x, y + 4, world.label(key), LABEL_ROOM, 10.5)
