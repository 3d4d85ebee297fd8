"""The browser's half of the live chart, as Python sees it: traits that are synchronised with ``js/chart.js``.

Importing this imports anywidget; only `ctlab.notebook.dashboard` does, when a chart is shown in a notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anywidget
import numpy as np
import traitlets

from ctlab.notebook import theme
from ctlab.notebook.chart_figure import layout
from ctlab.notebook.chart_panes import PANES

if TYPE_CHECKING:
    from ctlab.notebook.chart_picture import Picture

_MOST_SECONDS = 10.0  # that a view is believed to have drawn one picture
SCRIPT = Path(__file__).parent.parent / "static" / "chart.js"


class Heard(NamedTuple):
    """What a view says: see `chart_pace.Pace.heard`."""

    view: str
    gone: bool
    visible: bool
    drawn: int
    took_seconds: float


class DashboardWidget(anywidget.AnyWidget):
    """One model per chart; displaying it again gives another view of the same model.

    A picture is state, not a message: a view that is made later, in a page that is loaded anew, has the newest one.
    Raises FileNotFoundError on import if the script was never built (a checkout that wasn't installed).
    """

    _esm = SCRIPT.read_text(encoding="utf-8")
    _css = theme.variables()

    still = traitlets.Unicode().tag(sync=True)
    """The class of the picture that a view hides."""
    figure = traitlets.Dict().tag(sync=True)
    """``layout``: plotly's, without colours; ``panes``: axis numbers, label, dash and hover text of each line."""
    period_seconds = traitlets.Float().tag(sync=True)
    picture = traitlets.Dict().tag(sync=True)
    """``number``, ``lab``, ``said``, ``names``, ``colours``, ``window`` (ms since 1970), ``x`` (float64, ms), ``y``
    (float32; by line, pane, moment): all of one picture, so that it comes whole."""

    def __init__(
        self, picture: dict[str, Any], period_seconds: float, hear: Callable[[Heard], None], still: str = ""
    ) -> None:
        """`hear` is called, in whatever thread serves the page's messages, with what a view says."""
        panes = [
            {"axis": (pane.row - 1) * 2 + pane.column, "label": pane.label, "dash": pane.dash, "hover": pane.hover}
            for pane in PANES
        ]
        figure = {"layout": layout(), "panes": panes}
        super().__init__(figure=figure, period_seconds=period_seconds, picture=picture, still=still)
        # ipykernel from 7.4 on sends a page's answer to where the last message came from, which is the thread that a
        # busy cell holds, and not to the subshell that the page has named. Ours is served anywhere.
        if self.comm is not None:
            self.comm._reply_subshell_for = lambda data, named: named
        self._hear = hear
        self.on_msg(self._heard)

    def _heard(self, _: object, content: object, buffers: object) -> None:
        heard = understood(content)
        if heard is not None:
            self._hear(heard)


def understood(content: object) -> Heard | None:
    """What a view says, of a message that may be anything; None for what no view of ours says."""
    if not isinstance(content, dict) or not isinstance(content.get("view"), str):
        return None
    drawn, took = content.get("drawn"), content.get("took_seconds")
    if type(drawn) is not int or not isinstance(took, (int, float)) or took != took:  # not a number
        return None
    took = float(min(max(took, 0.0), _MOST_SECONDS))
    return Heard(content["view"][:64], bool(content.get("gone")), bool(content.get("visible")), drawn, took)


def wire(picture: Picture, number: int, lab: str) -> dict[str, Any]:
    """A picture as the page wants it."""
    return {
        "number": number, "lab": lab, "said": picture.said, "names": list(picture.names),
        "colours": list(picture.colours), "window": list(picture.window),
        "x": picture.x.astype("<f8").tobytes(), "y": np.ascontiguousarray(picture.y, "<f4").tobytes(),
    }  # fmt: skip
