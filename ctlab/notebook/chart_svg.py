"""The chart's four panels as a picture: one SVG, no script, for saved notebooks and pages made of them. Pure.

It shows what the live chart shows, in the same colours, and is as wide as its page. Whatever is
needed to read it is also written as attributes of its elements, since some viewers throw a picture's style away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ctlab.apart import ready
from ctlab.notebook import theme
from ctlab.notebook.chart_panes import COLOURS, MAX_CONTAINERS, PANES
from ctlab.notebook.map_svg import _escape
from ctlab.notebook.text_width import pixels, shorten

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ctlab.notebook.chart_panes import Pane
    from ctlab.notebook.chart_picture import Floats, Line
    from ctlab.notebook.map_boxes import Point

    Marks = npt.NDArray[np.bool_]

WIDTH = 860.0
WIDEST = 1300.0  # pixels: what is drawn for 860 isn't blown up more than that
MARGIN = 8.0
LEFT = 64.0  # of a panel, for the numbers of its axis
ABOVE = 28.0  # of the panels, for their titles
BETWEEN = 38.0  # the upper and the lower panels, for the titles of these
PANEL_WIDTH = WIDTH / 2 - LEFT - 2 * MARGIN
PANEL_HEIGHT = 130.0
BELOW = 22.0  # the lower panels, for the time
HEADROOM = 1.06
POINTS = 300  # of a line, at most
ALL_POINTS = 12_000  # of all lines: about 100 KB
NAME_ROOM = 150.0
SWATCH = 20.0  # of the legend, before a name
ROW = 18.0  # of the legend
GREY = "#808890"  # to be read on white and on black, where there is no style

_STYLE = (
    f".ctlab-chart{{background:var(--ctlab-background);width:100%;max-width:{WIDEST:.0f}px;height:auto}}"
    ".ctlab-chart text{font:11px var(--ctlab-font);fill:var(--ctlab-muted)}"
    ".ctlab-chart .title{font-size:12.5px;fill:var(--ctlab-text)}"
    ".ctlab-chart .name{font-size:12px;fill:var(--ctlab-text)}"
    ".ctlab-chart .grid{stroke:var(--ctlab-line);stroke-opacity:.55}"
    ".ctlab-chart .axis{stroke:var(--ctlab-line)}"
)


class Unit(NamedTuple):
    """Of an axis: `size` of it in the pane's unit, what is written behind a number, the least step between two."""

    size: float
    text: str
    least: float = 0.0


class Axis(NamedTuple):
    """Of values: what is written above the panel, and its units from small to large; size 1 is what `PANES` has."""

    title: str
    units: tuple[Unit, ...]


AXES = (
    Axis("CPU, cores", (Unit(1.0, ""),)),
    Axis("Memory", tuple(Unit(1024.0**power, f" {word}iB") for power, word in enumerate("KMGT", -1))),
    Axis(
        "Network (dotted: sent)",
        (Unit(1.0, " bit/s", 1.0), *(Unit(1000.0**power, f" {word}bit/s") for power, word in enumerate("kMGT", 1))),
    ),
    Axis("Processes", (Unit(1.0, "", 1.0),)),
)
_TIME = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def chart_svg(series: Mapping[str, list[Line]], *, colours: Sequence[str] = COLOURS, points: int = POINTS) -> str:
    """The picture, as the text of an ``<svg>`` element that needs nothing else.

    `series`: for each container, in the order of `colours` (which begin again at their end), a line for each of `PANES`
    (x: ms since 1970, ascending; y: in the pane's unit). NaN is a gap. `points`: of a line, at most; its peaks stay.
    What comes after `MAX_CONTAINERS` and the others' line isn't drawn.
    """
    shown = dict(list(series.items())[: MAX_CONTAINERS + 1])
    ends = [float(x[at]) for lines in shown.values() for x, _ in lines if len(x) for at in (0, -1)]
    first, last = (min(ends), max(ends)) if ends else (0.0, 0.0)
    window = (first if first < last else last - 1000.0, last)
    inks = dict(zip(shown, itertools.cycle(colours), strict=False))
    legend, top = _legend(inks)
    limit = max(8, min(points, ALL_POINTS // max(1, len(shown) * len(PANES))))
    parts = [legend]
    for number in range(len(AXES)):
        row, column = divmod(number, 2)
        x, y = column * WIDTH / 2 + LEFT, top + ABOVE + row * (PANEL_HEIGHT + BETWEEN)
        parts.append(_panel(number, (x, y), window, shown, inks, limit, times=row == 1))
    height = top + ABOVE + 2 * PANEL_HEIGHT + BETWEEN + BELOW
    titles = ", ".join(axis.title for axis in AXES)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{theme.SCOPE} ctlab-chart" role="img" aria-label="{titles}" '
        f'viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="{WIDTH:.0f}" height="{height:.0f}" '
        f'font-family="sans-serif" font-size="11" fill="{GREY}">'
        f"<style>{theme.variables()}{_STYLE}</style>{''.join(parts)}</svg>"
    )


def _legend(inks: Mapping[str, str]) -> tuple[str, float]:
    """The containers in columns of one width, and the height that they take."""
    labels = [shorten(name, NAME_ROOM) for name in inks]
    wide = max(map(pixels, labels), default=0.0) + SWATCH + 14
    columns = max(1, int((WIDTH - 2 * MARGIN) // wide))
    parts = []
    for index, (name, label) in enumerate(zip(inks, labels, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * wide, MARGIN + row * ROW
        parts.append(
            f'<g class="entry"><title>{_escape(name)}</title><path d="M{x:.1f} {y + 5:.1f}h14" '
            f'stroke="{inks[name]}" stroke-width="2.5"/>'
            f"{_text('name', x + SWATCH, y + 9, label, 'start')}</g>"
        )
    return "".join(parts), MARGIN + ROW * math.ceil(len(inks) / columns)


def _panel(
    number: int,
    at: Point,
    window: tuple[float, float],
    shown: Mapping[str, list[Line]],
    inks: Mapping[str, str],
    limit: int,
    *,
    times: bool,
) -> str:
    """The panel of `AXES[number]`, its upper left corner `at`; `times`: whether its time axis has numbers."""
    ready("numpy")
    import numpy as np

    mine = [(index, pane) for index, pane in enumerate(PANES) if (pane.row - 1) * 2 + pane.column - 1 == number]
    values = np.concatenate([np.empty(0), *(lines[index][1] for lines in shown.values() for index, _ in mine)])
    values = values[np.isfinite(values)]
    highest = max(0.0, float(np.max(values))) if len(values) else None
    unit, rows = value_ticks(highest or 0.0, AXES[number].units)
    wide, high = PANEL_WIDTH / (window[1] - window[0]), PANEL_HEIGHT / ((highest or rows[-1]) * HEADROOM)
    left, bottom = at[0], at[1] + PANEL_HEIGHT
    step = rows[1] - rows[0] if len(rows) > 1 else unit.size
    levels = [
        (bottom - value * high, _number(value / unit.size, step / unit.size) + unit.text if value else "0")
        for value in (rows if highest is not None else ())
    ]
    moments = [
        (left + PANEL_WIDTH - ago * 1000 * wide, text) for ago, text in time_ticks((window[1] - window[0]) / 1000)
    ]
    parts = [_frame(AXES[number].title, at, levels, moments, times=times)]
    for name, lines in shown.items():
        for index, pane in mine:
            x, y = lines[index]
            pieces = _pieces(left + (x - window[0]) * wide, bottom - y * high, limit)
            if pieces:
                parts.append(_line(name, pane, inks[name], pieces))
    return f'<g class="panel">{"".join(parts)}</g>'


def _frame(
    title: str, at: Point, levels: list[tuple[float, str]], moments: list[tuple[float, str]], *, times: bool
) -> str:
    """What is behind the lines: title, grid and axes. `levels`: y and text of each value; `moments`: x and text."""
    (left, top), bottom, middle = at, at[1] + PANEL_HEIGHT, at[0] + PANEL_WIDTH / 2
    grid = "".join(f"M{left:.1f} {y:.1f}h{PANEL_WIDTH:.1f}" for y, _ in levels[1:])
    grid += "".join(f"M{x:.1f} {top:.1f}v{PANEL_HEIGHT:.1f}" for x, _ in moments)
    parts = [
        _text("title", middle, top - 9, title, "middle"),
        f'<path class="grid" d="{grid}" stroke="{GREY}" stroke-opacity="0.25"/>',
        f'<path class="axis" d="M{left:.1f} {bottom:.1f}h{PANEL_WIDTH:.1f}" stroke="{GREY}"/>',
        *(_text("level", left - 6, y + 4, text, "end") for y, text in levels),
        *(_text("time", x, bottom + 15, text, "middle") for x, text in moments if times),
    ]
    if not levels:
        parts.append(_text("nothing", middle, top + PANEL_HEIGHT / 2 + 4, "no samples", "middle"))
    return "".join(parts)


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escape(text)}</text>'


def _line(name: str, pane: Pane, colour: str, pieces: list[Line]) -> str:
    """A container's line and, since a line of one point can't be seen, a dot for each sample between two gaps."""
    drawn = "".join("M" + " ".join(f"{a:g} {b:g}" for a, b in zip(x, y, strict=True)) for x, y in pieces if len(x) > 1)
    alone = "".join(f"M{x[0]:g} {y[0]:g}h0" for x, y in pieces if len(x) == 1)
    # Dots are round caps of almost nothing.
    dash = "" if pane.dash == "solid" else ' stroke-dasharray="0.1 3"'
    paths = f'<path class="line" d="{drawn}" stroke-width="1.5"{dash}/>' if drawn else ""
    paths += f'<path class="alone" d="{alone}" stroke-width="4"/>' if alone else ""
    return (
        f'<g fill="none" stroke="{colour}" stroke-linejoin="round" stroke-linecap="round">'
        f"<title>{_escape(name + pane.label)}</title>{paths}</g>"
    )


def _pieces(x: Floats, y: Floats, limit: int) -> list[Line]:
    """The line (in pixels) between its gaps, in tenths of a pixel and of at most `limit` points together.

    A gap is a missing value, or a time without samples that is ten times as long as it usually is between two. What
    lies on a level line between two others is left out, then all but the lowest and highest of each stretch of time.
    """
    ready("numpy")
    import numpy as np

    known = np.flatnonzero(np.isfinite(y))
    if not len(known):
        return []
    usual = np.median(np.diff(x)) if len(x) > 1 else 0.0
    piece = np.r_[0, np.cumsum((np.diff(known) > 1) | (np.diff(x[known]) > 10 * usual))]
    x, y = x[known].round(1), y[known].round(1)
    same = (y[1:] == y[:-1]) & (piece[1:] == piece[:-1])
    keep = ~(np.r_[False, same] & np.r_[same, False])
    x, y, piece = x[keep], y[keep], piece[keep]
    if len(x) > limit:
        keep = _extremes(x, y, limit)
        x, y, piece = x[keep], y[keep], piece[keep]
    cuts = np.flatnonzero(np.diff(piece)) + 1
    return list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))


def _extremes(x: Floats, y: Floats, limit: int) -> Marks:
    """Which points stay: the first and the last of the line, the lowest and the highest of each stretch of time."""
    ready("numpy")
    import numpy as np

    width = (x[-1] - x[0]) / max(1, limit // 2 - 1)
    stretch = np.minimum((x - x[0]) // width if width else x * 0, max(0, limit // 2 - 2))
    order = np.lexsort((y, stretch))
    ordered = stretch[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    keep = np.zeros(len(x), dtype=np.bool_)
    keep[order[begins]] = keep[order[np.r_[begins[1:] - 1, len(order) - 1]]] = True
    keep[[0, -1]] = True
    return keep


def value_ticks(highest: float, units: tuple[Unit, ...]) -> tuple[Unit, list[float]]:
    """The unit of an axis from 0 to `highest` (in the pane's unit), and its ticks: at most six of 1, 2 or 5 × 10ⁿ."""
    if not highest > 0:
        unit = next(unit for unit in units if unit.size == 1.0)
        return unit, [0.0, unit.size]
    unit = max((unit for unit in units if unit.size <= highest), key=lambda unit: unit.size, default=units[0])
    shown = highest / unit.size
    power = 10.0 ** math.floor(math.log10(shown / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if shown / (power * factor) <= 5.5)
    step = max(step, unit.least)
    count = int(shown * HEADROOM / step + 1e-9)
    return unit, [at * step * unit.size for at in range(count + 1)]


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Of a time axis of so many seconds: how long before its end, from early to late, and what is written there."""
    step = next((step for step in _TIME if seconds / step <= 6), 86400.0 * math.ceil(seconds / 86400 / 6))
    size, unit = (1, "s") if step < 60 else (60, "min") if step < 3600 else (3600, "h")
    count = int(seconds / step + 1e-9)
    return [(at * step, f"−{_number(at * step / size, step / size)} {unit}") for at in range(count, 0, -1)] + [
        (0.0, f"0 {unit}")
    ]


def _number(value: float, step: float) -> str:
    """A tick's number, with as many decimals as its neighbours need to differ."""
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
