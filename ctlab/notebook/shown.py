"""What is put into a cell and replaced later: IPython's display, which has no types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def put(bundle: Mapping[str, Any], display_id: str | bool | None = None) -> Any:
    """Show MIME types and what is shown of each. With an id, or True for a new one: returns IPython's handle."""
    from IPython import display

    untyped: Any = display.display
    return untyped(bundle, raw=True, display_id=display_id)


def replace(bundle: Mapping[str, Any], display_id: str) -> None:
    """Replace whatever was put with this id, in every cell that shows it."""
    from IPython import display

    untyped: Any = display.update_display
    untyped(bundle, raw=True, display_id=display_id)
