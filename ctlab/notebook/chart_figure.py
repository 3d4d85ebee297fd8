"""A chart as plotly draws it: the layout that a live chart and a figure have in common, and the figure. Pure."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ctlab.apart import ready
from ctlab.notebook.chart_panes import LEAST, PANES, TITLES

if TYPE_CHECKING:
    from ctlab.notebook.chart_picture import Picture

MAX_NAME = 24  # signs of a container's name in the legend
TEXT, GRID = "#808890", "rgba(128, 136, 144, 0.25)"  # to be read on light and on dark
HEIGHT_PIXELS = 400
LEGEND_ROW_PIXELS = 20
_LEFT, _RIGHT = (0.0, 0.46), (0.54, 1.0)
_UPPER, _LOWER = (0.58, 1.0), (0.0, 0.42)


def layout() -> dict[str, Any]:
    """plotly's layout of the four panes: transparent, without lines, title or legend."""
    made: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": TEXT, "size": 12}, "height": HEIGHT_PIXELS, "autosize": True, "showlegend": False,
        "margin": {"l": 52, "r": 16, "t": 34, "b": 28},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": TEXT},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "rgba(52,56,62,0.95)", "bordercolor": TEXT, "font": {"color": "#f0f0f0"},
                       "namelength": -1},
        "uirevision": "ctlab",  # zoom survives the next picture
        "annotations": [],
    }  # fmt: skip
    line = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "tickcolor": GRID}
    for at, (title, least) in enumerate(zip(TITLES, LEAST, strict=True)):
        number = "" if at == 0 else str(at + 1)
        across, up = (_LEFT, _RIGHT)[at % 2], (_UPPER, _LOWER)[at // 2]
        made[f"xaxis{number}"] = {
            "type": "date", "domain": list(across), "anchor": f"y{number}", "tickformat": "%H:%M:%S",
            "hoverformat": "%H:%M:%S.%L UTC", "nticks": 5, **({"matches": "x"} if at else {}), **line,
        }  # fmt: skip
        made[f"yaxis{number}"] = {
            "domain": list(up), "anchor": f"x{number}", "rangemode": "tozero", "autorangeoptions": {"include": least},
            "nticks": 6, **({"tickformat": "~s"} if at == 2 else {}), **line,
        }  # fmt: skip
        made["annotations"].append(
            {"text": title, "x": sum(across) / 2, "y": up[1], "xref": "paper", "yref": "paper", "xanchor": "center",
             "yanchor": "bottom", "showarrow": False, "font": {"size": 13, "color": TEXT}}
        )  # fmt: skip
    return made


def short(name: str) -> str:
    """A name for the legend: of a long one the beginning and the end, which tell it from others."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}…{name[-MAX_NAME // 2 + 1 :]}"


def figure(picture: Picture, title: str) -> Any:
    """A plotly Figure of a picture, to explore without a kernel. Its legend stands below, where nothing covers it."""
    ready("numpy", "plotly.graph_objects")
    import numpy as np
    import plotly.graph_objects as go

    traces = []
    for index, name in enumerate(picture.names):
        for number, (pane, y) in enumerate(zip(PANES, picture.y[index], strict=True)):
            axis = (pane.row - 1) * 2 + pane.column
            suffix = str(axis) if axis > 1 else ""
            known = ~np.isnan(y)
            traces.append(
                go.Scatter(
                    x=picture.x[known].astype("datetime64[ms]"), y=y[known].astype(np.float32), mode="lines",
                    name=escape(short(name) + pane.label), legendgroup=name, showlegend=number == 0,
                    line={"color": picture.colours[index], "width": 1.5, "dash": pane.dash},
                    hovertemplate=pane.hover, xaxis=f"x{suffix}", yaxis=f"y{suffix}",
                )
            )  # fmt: skip
    shape = layout()
    rows = -(-sum(len(short(name)) + 7 for name in picture.names) // 90)
    shape["height"] += 30 + LEGEND_ROW_PIXELS * rows
    shape["margin"] = {**shape["margin"], "t": 64, "b": 40 + LEGEND_ROW_PIXELS * rows}
    shape["legend"] = {
        "orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "groupclick": "togglegroup",
    }  # fmt: skip
    shape["showlegend"] = True  # also for a single container
    shape["title"] = {"text": escape(title), "x": 0, "xref": "paper", "y": 0.97, "yanchor": "top", "font": {"size": 12}}
    shape["template"] = go.layout.Template()
    return go.Figure(traces, shape)
