"""What a dashboard draws: panes, lines thinned to what a browser can draw, the figure, and a table of the same.

Everything here is a function of a frame (of `lab.stats` by container); nothing knows threads or notebooks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from ctlab import units
from ctlab.apart import ready
from ctlab.cards import NO_FORMULAS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]
    Line = tuple[Floats, Floats]  # x: ms since 1970, y: in the pane's unit

MAX_CONTAINERS = 32
MIN_SECONDS = 10.0  # of the time axis, unless less is asked for
MAX_NAME = 24  # signs of a container's name in the legend
ROOM_ABOVE = 44  # signs of a legend in the title's line, a swatch counted as six; what 600 pixels have beside a title

# Middle tones, told apart on white and on black.
COLOURS = (
    "#4c8dd6", "#e8853a", "#3fa66b", "#d9534f", "#9a7bd0", "#a97156", "#dd6fb0", "#8a8f98", "#a9a428", "#2fb3c4",
)  # fmt: skip
_TEXT, _GRID = "#808890", "rgba(128, 136, 144, 0.25)"


class Pane(NamedTuple):
    """One line of every container: where it is drawn and what from. `factor` turns the metric into the axis' unit."""

    row: int
    column: int
    metrics: tuple[str, ...]  # the first that is known for the container
    factor: float
    label: str  # added to the container's name in the hover text
    dash: str
    format: str


PANES = (
    Pane(1, 1, ("cpu_cores",), 1.0, "", "solid", ".2f"),
    Pane(1, 2, ("memory_bytes", "memory_rss_bytes"), 1 / (1 << 20), "", "solid", ".1f"),
    Pane(2, 1, ("rx_bytes_per_second",), 8.0, " received", "solid", ".3s"),
    Pane(2, 1, ("tx_bytes_per_second",), 8.0, " sent", "dot", ".3s"),
    Pane(2, 2, ("pids",), 1.0, "", "solid", ".0f"),
)
_TITLES = ("CPU, cores", "Memory, MiB", "Network, bit/s (dotted: sent)", "Processes")
# What an axis reaches at least: an idle lab's noise is drawn as noise, and processes are counted in whole ones.
_LEAST = (0.1, 4.0, 1000.0, 4.0)
SPANS = len(_TITLES)  # the first traces of a live figure
_ABOVE = {"orientation": "h", "x": 1.0, "xanchor": "right", "yref": "container", "y": 0.99, "yanchor": "top"}
_BESIDE = {"orientation": "v", "x": 1.02, "xanchor": "left", "yref": "paper", "y": 1.0, "yanchor": "top"}
METRICS = tuple(metric for pane in PANES for metric in pane.metrics)


def thin(x: Floats, y: Floats, limit: int) -> Line:
    """At most `limit` points that keep every peak: of each piece of time the lowest and the highest sample.

    The pieces lie on a fixed grid of time, so that a moving window doesn't make the line flicker. NaN are left out.
    """
    ready("numpy")
    import numpy as np

    known = ~np.isnan(y)
    x, y = x[known], y[known]
    if len(x) <= limit:
        return x, y
    # A power of two, or the grid would shift with every small change of the range; the range may touch one piece
    # more than its length says.
    width = 2.0 ** math.ceil(math.log2((x[-1] - x[0]) / max(1, limit // 2 - 1)))
    piece = np.floor_divide(x, width)
    order = np.lexsort((y, piece))
    ordered = piece[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    last = np.r_[first[1:] - 1, len(order) - 1]
    keep = np.unique(np.r_[order[first], order[last]])
    return x[keep], y[keep]


def series(frame: pd.DataFrame) -> dict[str, list[Line]]:
    """For each container of the frame one line for each of `PANES`, of all samples; NaN where there is none."""
    ready("numpy", "pandas")
    import numpy as np
    import pandas as pd

    stamps = pd.DatetimeIndex(frame.index).as_unit("ns").asi8 / 1e6
    columns = {name: frame[name].to_numpy(np.float64) for name in METRICS if name in frame}
    codes = frame["container"].cat.codes.to_numpy()
    result: dict[str, list[Line]] = {}
    for code, name in enumerate(frame["container"].cat.categories):
        mine = np.flatnonzero(codes == code)
        if not len(mine):
            continue
        found: list[Line] = []
        for pane in PANES:
            y = np.full(len(mine), np.nan)
            for metric in pane.metrics:
                if metric in columns and np.isnan(y).all():
                    y = columns[metric][mine] * pane.factor
            found.append((stamps[mine], y))
        result[str(name)] = found
    return result


def lines(frame: pd.DataFrame, limit: int) -> dict[str, list[Line]]:
    """`series`, each line thinned to at most `limit` points."""
    return {name: [thin(x, y, limit) for x, y in found] for name, found in series(frame).items()}


def make(title: str) -> Any:
    """A plotly Figure with its panes and no lines; transparent, its text readable on light and dark."""
    ready("plotly.graph_objects", "plotly.subplots")
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2, cols=2, shared_xaxes="all", subplot_titles=_TITLES, vertical_spacing=0.14, horizontal_spacing=0.08
    )
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _TEXT, "size": 12},
        height=430,
        autosize=True,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _TEXT, "activecolor": COLOURS[0]},
        margin={"l": 48, "r": 24, "t": 60, "b": 30},
        hovermode="x unified",
        hoverlabel={"bgcolor": "rgba(52,56,62,0.95)", "bordercolor": _TEXT, "font": {"color": "#f0f0f0"}},
        legend={"groupclick": "togglegroup", "tracegroupgap": 0, **_BESIDE},
        showlegend=True,  # also for a single container
        uirevision="ctlab",  # zoom and hidden lines survive updates
        title={"x": 0.0, "xref": "paper", "y": 0.965, "yanchor": "top", "font": {"size": 12}, "text": title},
    )
    figure.update_annotations(font={"size": 13, "color": _TEXT})
    axis = {"gridcolor": _GRID, "linecolor": _GRID, "zerolinecolor": _GRID, "tickcolor": _GRID}
    figure.update_xaxes(type="date", tickformat="%H:%M:%S", hoverformat="%H:%M:%S.%L UTC", nticks=5, **axis)
    figure.update_yaxes(rangemode="tozero", **axis)
    figure.update_yaxes(tickformat="~s", row=2, col=1)
    for number, least in enumerate(_LEAST):
        figure.update_yaxes(autorangeoptions={"include": least}, row=number // 2 + 1, col=number % 2 + 1)
    return figure


def _short(name: str) -> str:
    """A name for the legend: of a long one the beginning and the end, which tell it from others."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}…{name[-MAX_NAME // 2 + 1 :]}"


def _window(drawn: Mapping[str, list[Line]], seconds: float) -> list[str]:
    """The first and the last moment to show, as texts: of a lab that is younger than the window, its life."""
    lines = [x for container in drawn.values() for x, _ in container if len(x)]
    newest = max((x[-1] for x in lines), default=datetime.now(UTC).timestamp() * 1000)
    oldest = min((x[0] for x in lines), default=newest)
    first = max(newest - seconds * 1000, min(oldest, newest - MIN_SECONDS * 1000))
    return [f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}" for at in (first, newest)]


def _legend(names: Iterable[str]) -> dict[str, Any]:
    """Where the legend stands: in the title's line, so that the panes are wide, if these names have room there."""
    names = [_short(name) for name in names]
    return _ABOVE if sum(map(len, names)) + 6 * len(names) <= ROOM_ABOVE else _BESIDE


def fill(figure: Any, places: dict[str, int], drawn: Mapping[str, list[Line]], *, seconds: float | None = None) -> str:
    """Put the lines into the figure: one message for containers that it hasn't had yet, one for all the others.

    `places`: container -> number of its first trace; grows. `seconds`: how much time a live figure shows; without it
    the figure is one to be stored, with half the bytes for its values.
    Returns what has to be said about containers that are not shown, "" if all are.

    A live figure begins with a trace for each pane that draws nothing and spans the window. When x values change,
    plotly.js forgets that an axis is one of time and looks at the axis' first trace; numbers alone it takes for
    numbers, and times as text for all lines would be five times the bytes.
    """
    ready("numpy", "plotly.graph_objects")
    import numpy as np
    import plotly.graph_objects as go

    window = _window(drawn, seconds) if seconds is not None else []
    if window and not len(figure.data):
        spans = [
            go.Scatter(x=window, y=[None, None], mode="lines", showlegend=False, hoverinfo="skip") for _ in range(SPANS)
        ]
        figure.add_traces(spans, rows=[1, 1, 2, 2], cols=[1, 2, 1, 2])
    fresh = [name for name in drawn if name not in places][: MAX_CONTAINERS - len(places)]
    traces: list[Any] = []
    for name in fresh:
        colour = COLOURS[len(places) % len(COLOURS)]
        places[name] = len(figure.data) + len(traces)
        for number, (pane, (x, y)) in enumerate(zip(PANES, drawn[name], strict=True)):
            traces.append(
                go.Scatter(
                    x=x,
                    y=y if window else y.astype(np.float32),
                    mode="lines",
                    name=escape(_short(name) + pane.label),
                    legendgroup=name,
                    showlegend=number == 0,
                    line={"color": colour, "width": 1.5, "dash": pane.dash},
                    hovertemplate=f"%{{y:{pane.format}}}",
                )
            )
    if traces:
        panes = list(PANES) * len(fresh)
        figure.add_traces(traces, rows=[pane.row for pane in panes], cols=[pane.column for pane in panes])
    nothing = np.empty(0)
    legend = _legend(places)
    with figure.batch_update():
        if figure.layout.legend.orientation != legend["orientation"]:
            figure.layout.legend.update(legend)
        if window:
            for span in figure.data[:SPANS]:
                span.x = window
        for name, place in places.items():
            for number in range(len(PANES)):
                # a container without samples in this window keeps its trace, empty
                x, y = drawn[name][number] if name in drawn else (nothing, nothing)
                trace = figure.data[place + number]
                if name not in fresh and (len(x) or (trace.x is not None and len(trace.x))):
                    trace.x, trace.y = x, y
    hidden = sum(name not in places for name in drawn)
    return f"{hidden} more containers are not shown: name those to show" if hidden else ""


def table(frame: pd.DataFrame | None, title: str, picture: str = "") -> str:
    """What the frame shows as a small HTML table, for places that draw no charts.

    `picture`: HTML between the title and the table.
    """
    heading = (f"<p>{escape(title)}</p>" if title else "") + picture
    if frame is None or not len(frame):
        return heading
    words = ("container", "CPU cores, mean", "CPU cores, max", "memory", "received, mean", "sent, mean")
    rows = []
    for name, part in frame.groupby("container", observed=True, sort=False):
        memory = part["memory_bytes"].dropna()
        if not len(memory):
            memory = part["memory_rss_bytes"].dropna()
        rows.append(
            (
                str(name),
                _number(part["cpu_cores"].mean()),
                _number(part["cpu_cores"].max()),
                f"{memory.iloc[-1] / (1 << 20):.1f} MiB" if len(memory) else "–",
                _bits(part["rx_bytes_per_second"].mean()),
                _bits(part["tx_bytes_per_second"].mean()),
            )
        )
    head = "".join(f"<th>{word}</th>" for word in words)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"{heading}<table class='{NO_FORMULAS}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _bits(bytes_per_second: float) -> str:
    if math.isnan(bytes_per_second):
        return "–"
    rate = round(bytes_per_second * 8)
    return units.format_rate(rate, 3) if rate else "0"
