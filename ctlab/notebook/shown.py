"""What is put into a cell and replaced later: IPython's display, which has no types.

What is live has two outputs: a picture, and after it the widget's view. A front end shows one format of an output, and
JupyterLab takes the view, also when its kernel is gone and there is only an error to show; so one output with both is
lost in a notebook that was saved while live. A view hides the picture while it is there (js/kernel.js).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ctlab.apart import ready

VIEW = "application/vnd.jupyter.widget-view+json"

# JupyterLab's error in place of a view whose kernel is gone: the picture before it is what there is.
_NO_ERROR = (
    "<style>.jp-OutputArea-child:has(.ctlab-still) + .jp-OutputArea-child:has(> .jupyter-widgets):not(:has(.ctlab))"
    " { display: none }</style>"
)

_NOTHING = {"text/html": ""}  # what an output without a view shows: nbconvert warns of one that has no format at all


def put(bundle: Mapping[str, Any], display_id: str | None = None) -> None:
    """Show MIME types and what is shown of each. With an id it can be replaced."""
    from IPython import display

    untyped: Any = display.display
    untyped(bundle, raw=True, display_id=display_id)


def replace(bundle: Mapping[str, Any], display_id: str) -> None:
    """Replace whatever was put with this id, in every cell that shows it."""
    from IPython import display

    untyped: Any = display.update_display
    untyped(bundle, raw=True, display_id=display_id)


def captured() -> bool:
    """Whether a cell keeps what is shown now (``%%capture``): that isn't for what a thread brings up to date."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.getipython import get_ipython

    return isinstance(getattr(get_ipython(), "display_pub", None), CapturingDisplayPublisher)


def put_live(bundle: Mapping[str, Any], widget: Any, name: str) -> None:
    """Show a picture and a view of a widget, whose trait ``still`` is `name`, the picture's class and display id."""
    put(still(bundle, name), name)
    view = widget._repr_mimebundle_()
    put({VIEW: (view[0] if isinstance(view, tuple) else view)[VIEW], **_NOTHING}, f"{name}-view")


def still(bundle: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A picture that a view hides."""
    return {**bundle, "text/html": f'<div class="ctlab-still {name}">{_NO_ERROR}{bundle["text/html"]}</div>'}


def end_live(bundle: Mapping[str, Any], name: str) -> None:
    """Leave the picture alone."""
    replace(_NOTHING, f"{name}-view")
    replace(bundle, name)


def widgets(module: str, what: str) -> tuple[Any, str]:
    """(A module with a widget, "") or (None, why there can be no live map or chart)."""
    try:
        ready(module)
        return importlib.import_module(module), ""
    except FileNotFoundError:
        return None, f"no live {what}: its script isn't built (pip install . builds it)"
    except ImportError as error:
        return None, f"no live {what}: {error}"
