"""A map as a picture: one SVG, no script, that looks right in light and dark pages and on its own. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise, starmap

from ctlab.notebook import theme
from ctlab.notebook.map_boxes import HEIGHT, NETWORK_HEIGHT, NETWORK_WIDTH, NODE_NAME_SIZE, WIDTH, Box, Point
from ctlab.notebook.map_geometry import Geometry, measure
from ctlab.notebook.map_labels import Label
from ctlab.notebook.map_layout import place
from ctlab.notebook.map_model import SIGNS, Element, World, read
from ctlab.notebook.map_obstacles import Wire
from ctlab.notebook.text_width import pixels, shorten

CUT = 9.0  # of the corners of a lost container's box
BITE = 8.0  # of the notches in a failed one's sides
SLANT = 16.0  # of a network's hexagon
MARGIN = 12.0
ENDED_SIZE = 10.0  # of the line that says how a container ended
CAPTION_ROOM = 640.0  # of a picture that is narrower

_STYLE = (
    ".ctlab-map{background:var(--ctlab-background);max-width:100%;height:auto}"
    ".ctlab-map text{font:12px var(--ctlab-font);fill:var(--ctlab-text);text-anchor:middle;stroke:none}"
    ".ctlab-map .node>rect{fill:var(--ctlab-node);stroke:var(--ctlab-line)}"
    ".ctlab-map .node>text{text-anchor:start;font-weight:600;fill:var(--ctlab-muted)}"
    ".ctlab-map .wire{fill:none;stroke-width:1.5;stroke-linejoin:round}"
    ".ctlab-map .link{stroke:var(--ctlab-text);stroke-width:2.5;stroke-dasharray:2 4;stroke-linecap:round}"
    ".ctlab-map .address{font:10.5px var(--ctlab-mono);paint-order:stroke;stroke:var(--ctlab-node);"
    "stroke-width:4px;stroke-linejoin:round}"
    ".ctlab-map .network>path{fill:var(--ctlab-background);stroke-width:2}"
    ".ctlab-map .network>.subnet{font-size:10.5px;fill:var(--ctlab-muted)}"
    ".ctlab-map .network>.name{font-weight:600}"
    ".ctlab-map .container>.ended{font-size:10px;fill:var(--ctlab-muted)}"
    ".ctlab-map .failed>.ended{fill:var(--ctlab-failed)}"
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
    geometry: Geometry | None = None,
) -> str:
    """The picture of a lab, as the text of an ``<svg>`` element that needs nothing else.

    ``positions`` (pixels, by element id) and ``hues`` (0 to ``theme.HUES`` - 1, by network id) keep a picture like
    the live map; what they don't name is laid out here. ``caption`` is a line below. ``geometry``: where all of it
    is, if that has been computed; ``positions`` then don't matter.
    """
    world = read(elements)
    drawn = geometry or measure(world, place(world.elements.values(), positions))
    colour = {key: (hues or {}).get(key, index) % theme.HUES for index, key in enumerate(world.networks)}
    whole = drawn.whole
    bottom = whole.bottom + (20 if caption else 0)
    parts = [_node(world, key, box) for key, box in drawn.nodes.items()]
    parts += [_wire(world, key, wire, colour) for key, wire in drawn.wires.items()]
    parts += [_network(world, key, drawn.places[key], colour[key]) for key in world.networks]
    parts += [_container(world, key, drawn.places[key]) for key in world.containers]
    parts += [_address(label) for label in drawn.labels.values()]
    if not drawn.places:
        parts.append(_text("caption", whole.left + 4, 24.0, "nothing here yet", 220.0))
    wide = whole.width
    if caption:  # a small world has a caption that is wider than itself
        caption = shorten(caption, max(whole.width, CAPTION_ROOM), 11.0)
        wide = max(wide, 2 + pixels(caption, 11.0))
        parts.append(_text("caption", whole.left + 2, bottom - 3, caption, wide, 11.0))
    left, top = whole.left - MARGIN, whole.top - MARGIN
    width, height = wide + 2 * MARGIN, bottom - whole.top + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{theme.SCOPE} ctlab-map" role="img" '
        f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"<title>{_escape(world.summary())}</title><style>{theme.variables()}{_STYLE}</style>{''.join(parts)}</svg>"
    )


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
        + _text("name", left + 10, top + 17, world.label(key), box.width - 20, NODE_NAME_SIZE)
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
        body = _outline(
            (left + CUT, top), (right - CUT, top), (right, top + CUT), (right, bottom - CUT),
            (right - CUT, bottom), (left + CUT, bottom), (left, bottom - CUT), (left, top + CUT),
        )  # fmt: skip
    elif state == "failed":
        body = _outline(
            (left, top), (right, top), (right - BITE, at[1]), (right, bottom), (left, bottom), (left + BITE, at[1])
        )
    else:
        body = _rect("body", left, top, 0.0, 0 if state in ("exited", "removed") else 8)
    if state == "paused":
        body += _rect("frame", left, top, 3.0, 5)
    ended = world.ended(key)
    label = f'<tspan class="sign">{SIGNS[state]}</tspan> {_escape(shorten(world.label(key), WIDTH - 30))}'
    below = _text("ended", at[0], at[1] + 12, ended, WIDTH - 30, ENDED_SIZE) if ended else ""
    tip = f"{world.label(key)}: {state}" + (f", {ended}" if ended else "")
    return (
        f'<g class="container {state}"><title>{_escape(tip)}</title>{body}'
        f'<text x="{at[0]:.1f}" y="{at[1] - (1 if ended else -4):.1f}">{label}</text>{below}</g>'
    )


def _outline(*corners: Point) -> str:
    return f'<path class="body" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}Z"/>'


def _rect(kind: str, left: float, top: float, inset: float, radius: int) -> str:
    return (
        f'<rect class="{kind}" x="{left + inset:.1f}" y="{top + inset:.1f}" width="{WIDTH - 2 * inset:.1f}" '
        f'height="{HEIGHT - 2 * inset:.1f}" rx="{radius}"/>'
    )


def _wire(world: World, key: str, wire: Wire, colour: Mapping[str, int]) -> str:
    source, target = world.ends(key)
    path = "M{:.1f} {:.1f}".format(*wire[0]) + "".join(starmap(_piece, pairwise(wire)))
    kind = f"hue-{colour[target]}" if target in colour else "link"
    tip = f"{world.label(source)} – {world.label(target)}: {world.label(key)}"
    return f'<path class="wire {kind}" d="{path}"><title>{_escape(tip)}</title></path>'


def _piece(start: Point, end: Point) -> str:
    if start[1] == end[1]:
        return f"H{end[0]:.1f}"
    return f"V{end[1]:.1f}" if start[0] == end[0] else f"L{end[0]:.1f} {end[1]:.1f}"


def _address(label: Label) -> str:
    x, y = label.at
    return f'<text class="address" x="{x:.1f}" y="{y + 4:.1f}">{_escape(label.text)}</text>'
