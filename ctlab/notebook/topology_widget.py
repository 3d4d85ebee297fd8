"""The browser's half of the live map, as Python sees it: traits that are synchronised with ``js/topology.js``.

Importing this imports anywidget; only `ctlab.notebook.topology` does, when a map is shown in a notebook.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from ctlab.notebook import theme

SCRIPT = Path(__file__).parent.parent / "static" / "topology.js"


class TopologyWidget(anywidget.AnyWidget):
    """One model per map; displaying it again gives another view of the same model.

    Raises FileNotFoundError on import if the script was never built (a checkout that wasn't installed).
    """

    _esm = SCRIPT.read_text(encoding="utf-8")
    _css = theme.variables()

    still = traitlets.Unicode().tag(sync=True)
    """The class of the picture that a view hides."""
    name = traitlets.Unicode().tag(sync=True)
    elements: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    """As in `ctlab.notebook.map_model`, with ``x`` and ``y`` (pixels) and ``hue`` (0 to `theme.HUES` - 1); of an edge
    ``wire``, its corners ([x, y] each, source first), and if there is room for its label ``shown`` and ``shown_at``."""
    selected = traitlets.Unicode().tag(sync=True)
    """The id of the selected element, or an empty text."""
    details = traitlets.Dict().tag(sync=True)
    """Of the selected element: name → text or list of texts; Python's answer to ``selected``."""
    moved = traitlets.Dict().tag(sync=True)
    """Where a person dragged things: id → [x, y]."""
    tidy_requests = traitlets.Int().tag(sync=True)
    """Counted up by the browser: lay out everything anew."""
    layout_version = traitlets.Int().tag(sync=True)
    """Counted up by Python, once everything has a new place."""
