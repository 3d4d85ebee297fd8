"""`Spread` as a picture: one SVG, no script, for pages that draw no plotly figure. Pure.

Whatever is needed to read it is also written as attributes of its elements, since some viewers throw a picture's style
away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import theme
from .map_svg import _escape
from .spread import colour, quartiles
from .text_width import pixels, shorten

if TYPE_CHECKING:
    from .spread import Panel, Row

WIDTH = 860.0
MARGIN = 8.0
LABEL_ROOM = 240.0
LANE = 17.0  # of one side in a row
ROW_GAP = 8.0
TITLE = 26.0  # above a panel's rows
TICKS = 26.0  # below them
HEAD = 20.0  # of the legend, and of the title
GREY = "#808890"  # to be read on white and on black, where there is no style

_STYLE = (
    ".ctlab-spread{background:var(--ctlab-background);max-width:100%;height:auto}"
    ".ctlab-spread text{font:11.5px var(--ctlab-font);fill:var(--ctlab-muted)}"
    ".ctlab-spread .title{font-size:12.5px;fill:var(--ctlab-text)}"
    ".ctlab-spread .name{font-size:12px;fill:var(--ctlab-text)}"
    ".ctlab-spread .grid{stroke:var(--ctlab-line);stroke-opacity:.55}"
)


def spread_svg(panels: Sequence[Panel], sides: Sequence[str], title: str = "") -> str:
    """The picture, as the text of an ``<svg>`` element that needs nothing else."""
    labels = [row.what for panel in panels for row in panel.rows]
    left = MARGIN + 10 + min(LABEL_ROOM, max(map(pixels, labels), default=0.0))
    parts, y = [], MARGIN
    parts.append(_legend(sides, y))
    y += HEAD
    if title:
        parts.append(_text("name", MARGIN, y + 12, shorten(title, WIDTH - 2 * MARGIN), "start"))
        y += HEAD
    for panel in panels:
        drawn, height = _panel(panel, sides, left, y)
        parts.append(drawn)
        y += height
    names = ", ".join(panel.quantity for panel in panels) or "nothing measured"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{theme.SCOPE} ctlab-spread" role="img" '
        f'aria-label="{_escape(names)}" viewBox="0 0 {WIDTH:.0f} {y:.0f}" width="{WIDTH:.0f}" height="{y:.0f}" '
        f'font-family="sans-serif" font-size="11.5" fill="{GREY}">'
        f"<style>{theme.variables()}{_STYLE}</style>{''.join(parts)}</svg>"
    )


def _legend(sides: Sequence[str], y: float) -> str:
    parts, x = [], MARGIN
    for number, side in enumerate(sides):
        parts.append(f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="12" height="12" rx="2" fill="{colour(number)}"/>')
        parts.append(_text("name", x + 18, y + 12, side, "start"))
        x += 42 + pixels(side)
    return "".join(parts)


def _panel(panel: Panel, sides: Sequence[str], left: float, y: float) -> tuple[str, float]:
    """One quantity with its rows and its axis, and how high it is."""
    right = WIDTH - MARGIN - 24
    scale = (right - left) / (panel.high - panel.low)
    top, row_height = y + TITLE, LANE * len(sides) + ROW_GAP
    bottom = top + row_height * len(panel.rows)
    parts = [_text("title", left, y + 17, panel.quantity, "start")]
    for power in range(panel.low, panel.high + 1):
        x = left + (power - panel.low) * scale
        parts.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{GREY}" stroke-opacity="0.4"/>')
        parts.append(_text("level", x, bottom + 14, f"{10**power:,}" if power >= 0 else f"{10.0**power:g}", "middle"))

    def place(value: float) -> float:
        return left + (math.log10(value) - panel.low) * scale

    for number, row in enumerate(panel.rows):
        at = top + number * row_height
        middle = at + row_height / 2 + 4
        parts.append(_text("name", left - 10, middle, shorten(row.what, LABEL_ROOM), "end"))
        parts += [_lane(row, side, index, at, place) for index, side in enumerate(sides) if side in row.values]
    return f'<g class="panel">{"".join(parts)}</g>', bottom + TICKS - y


def _lane(row: Row, side: str, index: int, at: float, place: Callable[[float], float]) -> str:
    """The values of one side in one row: dots, a box from quartile to quartile, a line at the median."""
    values = row.values[side]
    y = at + ROW_GAP / 2 + LANE * (index + 0.5)
    low, median, high = quartiles(values)
    # Dots are round caps of almost nothing; beside each other they take three heights, so that more of them are seen.
    dots = "".join(f"M{place(v):.1f} {y + 3.2 * (number % 3 - 1):.1f}h0" for number, v in enumerate(values))
    box = f"M{place(low):.1f} {y - 6:.1f}H{place(high):.1f}v12H{place(low):.1f}z"
    said = f"{row.what}, {side}: median {median:.4g}, quartiles {low:.4g} and {high:.4g}"
    return (
        f'<g fill="none" stroke="{colour(index)}"><title>{_escape(said)}</title>'
        f'<path class="dots" d="{dots}" stroke-width="4" stroke-linecap="round" stroke-opacity="0.45"/>'
        f'<path class="box" d="{box}" stroke-width="1.5" fill="{GREY}" fill-opacity="0.2"/>'
        f'<path class="median" d="M{place(median):.1f} {y - 7.5:.1f}v15" stroke-width="3"/></g>'
    )


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escape(text)}</text>'
