"""Measurements side by side, with their spread: every value a dot, over it the quartiles as a box and the median.

`Spread` shows the same picture twice: as a plotly figure where a notebook draws one, and as an SVG (`spread_svg`)
where a page is made of the notebook. Values of one quantity stand on one logarithmic axis: what differs by a factor of
ten is equally far apart wherever it stands. Nothing here knows labs or threads.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from ..apart import ready
from .chart_figure import GRID, TEXT
from .chart_panes import COLOURS

Samples = Mapping[tuple[str, str, str], Sequence[float]]

_ROW_PIXELS = 46
_PANEL_PIXELS = 62  # title, axis and the space to the next, beside its rows
_LETTER_PIXELS = 6.6


class Row(NamedTuple):
    """One thing that was measured; `values` by side, in the sides' order."""

    what: str
    values: dict[str, list[float]]


class Panel(NamedTuple):
    """One quantity: its rows share an axis from 10**`low` to 10**`high`."""

    quantity: str
    rows: list[Row]
    low: int
    high: int


class Spread:
    """A figure of `samples`: (quantity with its unit, what of it, side) -> values, all above 0. Others are left out.

    Each quantity is a panel, each `what` a row of it, each side a colour, in the order in which they first come.
    """

    def __init__(self, samples: Samples, title: str = "") -> None:
        self.title = title
        self.panels, self.sides = arrange(samples)

    def figure(self) -> Any:
        """A plotly Figure; transparent, its text readable on light and dark."""
        ready("plotly.graph_objects", "plotly.subplots")
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        heights = [len(panel.rows) for panel in self.panels]
        figure = make_subplots(
            rows=len(heights) or 1, cols=1, row_heights=heights or None,
            subplot_titles=[_escape(panel.quantity) for panel in self.panels],
            vertical_spacing=_PANEL_PIXELS / self._height() if len(heights) > 1 else 0,
        )  # fmt: skip
        for number, panel in enumerate(self.panels, 1):
            for index, side in enumerate(self.sides):
                figure.add_trace(_box(go, panel, side, colour(index), legend=number == 1), row=number, col=1)
            figure.update_xaxes(range=[panel.low, panel.high], row=number, col=1)
            figure.update_yaxes(categoryarray=[_escape(row.what) for row in panel.rows], row=number, col=1)
        self._dress(figure, go)
        return figure

    def _dress(self, figure: Any, go: Any) -> None:
        widest = max((len(row.what) for panel in self.panels for row in panel.rows), default=0)
        figure.update_layout(
            template=go.layout.Template(),
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": TEXT, "size": 12},
            height=self._height() + 40,
            autosize=True,
            boxmode="group",
            boxgap=0.2,
            boxgroupgap=0.3,
            modebar={"bgcolor": "rgba(0,0,0,0)", "color": TEXT, "activecolor": COLOURS[0]},
            margin={"l": 16 + int(widest * _LETTER_PIXELS), "r": 40, "t": 76, "b": 30},
            hoverlabel={"bgcolor": "rgba(52,56,62,0.95)", "bordercolor": TEXT, "font": {"color": "#f0f0f0"}},
            legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top", "traceorder": "normal"},
            title={"x": 0.0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 28}, "font": {"size": 12},
                   "text": _escape(self.title)},
        )  # fmt: skip
        figure.update_annotations(font={"size": 13, "color": TEXT}, x=0, xanchor="left")
        axis = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "tickcolor": GRID}
        figure.update_xaxes(type="log", dtick=1, tickformat=",~r", showgrid=True, zeroline=False, **axis)
        figure.update_yaxes(autorange="reversed", categoryorder="array", showgrid=False, **axis)

    def _height(self) -> int:
        return sum(_PANEL_PIXELS + _ROW_PIXELS * len(panel.rows) for panel in self.panels) or _PANEL_PIXELS

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Static: it needs no kernel, and the page none of plotly's JavaScript."""
        from .spread_svg import spread_svg

        if not self.panels:
            return {"text/html": "<p>nothing was measured</p>", "text/plain": repr(self)}
        return {
            "application/vnd.plotly.v1+json": json.loads(self.figure().to_json()),
            "text/html": spread_svg(self.panels, self.sides, self.title),
            "text/plain": repr(self),
        }

    def __repr__(self) -> str:
        return f"<Spread of {', '.join(panel.quantity for panel in self.panels) or 'nothing'}>"


def arrange(samples: Samples) -> tuple[list[Panel], list[str]]:
    """(panels, sides), each in the order of their first appearance."""
    sides = list(dict.fromkeys(side for _, _, side in samples))
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for (quantity, what, side), values in samples.items():
        shown = [float(value) for value in values if value > 0 and math.isfinite(value)]
        if shown:
            found.setdefault(quantity, {}).setdefault(what, {})[side] = shown
    panels = []
    for quantity, rows in found.items():
        logs = [math.log10(value) for row in rows.values() for values in row.values() for value in values]
        low = math.floor(min(logs))
        ordered = [Row(what, {side: row[side] for side in sides if side in row}) for what, row in rows.items()]
        panels.append(Panel(quantity, ordered, low, max(low + 1, math.ceil(max(logs)))))
    return panels, sides


def colour(index: int) -> str:
    """Of the side with that number."""
    return COLOURS[index % len(COLOURS)]


def _escape(text: str) -> str:
    """plotly takes tags in a text for markup."""
    return escape(text, quote=False)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile), between two values by their distance, as pandas has them."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _box(go: Any, panel: Panel, side: str, ink: str, *, legend: bool) -> Any:
    """The boxes of one side in one panel, with their dots. plotly's own quartiles are not those of the table."""
    rows = [(row.what, row.values[side]) for row in panel.rows if side in row.values]
    low, median, high = zip(*(quartiles(values) for _, values in rows), strict=True) if rows else ((), (), ())
    return go.Box(
        q1=low,
        median=median,
        q3=high,
        x=[values for _, values in rows],
        y=[_escape(what) for what, _ in rows],
        orientation="h",
        name=_escape(side),
        legendgroup=side,
        offsetgroup=side,
        showlegend=legend,
        boxpoints="all",
        showwhiskers=False,
        jitter=0.7,
        pointpos=0,
        line={"color": ink, "width": 1.5},
        fillcolor="rgba(128, 136, 144, 0.2)",
        marker={"color": ink, "size": 4, "opacity": 0.45},
        hoverinfo="x+name",
    )
