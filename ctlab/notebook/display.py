"""What cells show: a program's output while it runs, and tables that are kept up to date.

Everything live of a lab (maps, charts, tables) is in `lab.views`; after each cell in which the lab changed, and
before it is stopped, what a saved notebook would hold is brought up to date.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from .. import labs, units
from .shown import put, replace

if TYPE_CHECKING:
    from ..handles import Handles
    from ..lab import Lab

# The result that the present cell's magic has streamed: shown already, so its value isn't shown once more.
_streamed: object = None

KEPT_TABLES = 20  # of one lab; the outputs of older ones stay as they are


class CellSink:
    """Shows a program's output in the cell as it comes: stream 1 to stdout, 2 to stderr, `limit` bytes at most."""

    def __init__(self, limit: int, *, quiet: bool = False) -> None:
        self._left = 0 if quiet else limit
        self._quiet = quiet
        self._more = 0  # bytes that were not shown

    def __call__(self, stream: int, text: str) -> None:
        """Show one piece."""
        data = text.encode("utf-8", "replace")
        shown = text if len(data) <= self._left else data[: self._left].decode("utf-8", "ignore")
        self._more += max(0, len(data) - self._left)
        self._left = max(0, self._left - len(data))
        if shown:
            target = sys.stderr if stream == 2 else sys.stdout
            target.write(shown)
            target.flush()

    def finish(self, where: str, dropped_bytes: int = 0) -> None:
        """Say how much more there was, and where it is; and what came too fast to be kept at all."""
        if self._more and not self._quiet:
            print(f"\n[{units.format_size(self._more)} more isn't shown here; {where}]")
        if dropped_bytes:
            print(f"\n[about {units.format_size(dropped_bytes)} came too fast to be kept]")


class TableView:
    """A table in the outputs of cells: shown with an id, so that it can be replaced."""

    def __init__(self, table: Handles[Any]) -> None:
        self._table = table
        self._id = f"ctlab-table-{uuid.uuid4().hex}"
        self._shown = ""

    def _bundle(self) -> dict[str, str]:
        return {"text/plain": repr(self._table), "text/html": self._table._repr_html_()}

    def show(self) -> None:
        """Put it into the cell."""
        bundle = self._bundle()
        self._shown = repr(self._table.rows())
        put(bundle, self._id)

    def refresh_stored(self) -> None:
        """Ask again and replace the output, if it would look different."""
        if self._table.again is None:
            return
        self._table = self._table.again()
        now = repr(self._table.rows())
        if now == self._shown:
            return
        self._shown = now
        replace(self._bundle(), self._id)

    def close(self) -> None:
        """Up to date once more, and then no longer."""
        self.refresh_stored()


def show_table(table: Handles[Any]) -> None:
    """Show Handles; those of a lab are kept up to date. In a terminal, where nothing can be replaced: plain text."""
    if not has_kernel():
        raise NotImplementedError  # the formatter's word for "not by me"
    view = TableView(table)
    view.show()
    if table.again is not None and table.lab is not None and not table.lab.gone:
        views = table.lab.views
        views.append(view)
        old = [one for one in views if isinstance(one, TableView)][:-KEPT_TABLES]
        for one in old:
            views.remove(one)


_seen: weakref.WeakKeyDictionary[Lab, int] = weakref.WeakKeyDictionary()


def streamed(result: object) -> None:
    """The magic of a statement has streamed this result: the cell doesn't show its value as well."""
    global _streamed
    _streamed = result


def show_completed(result: object) -> None:
    """Show nothing of a result that was streamed into this very cell; any other has its plain text."""
    if result is not _streamed:
        raise NotImplementedError


def has_kernel() -> bool:
    """Whether outputs can be replaced: in a terminal they can't."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def after_cell(*_: object) -> None:
    """After each cell: bring the outputs of every lab that changed up to date."""
    streamed(None)
    if "ctlab.lab" not in sys.modules or not has_kernel():
        return
    for lab in labs.running():
        if _seen.get(lab) != lab.changes:
            _seen[lab] = lab.changes
            refresh(lab)


def refresh(lab: Lab) -> None:
    """Bring everything that shows a lab up to date."""
    for view in list(lab.views):
        with contextlib.suppress(Exception):  # an output that can't be brought up to date mustn't spoil the cell
            if hasattr(view, "refresh"):
                view.refresh()
            view.refresh_stored()


def make_static() -> None:
    """Make every live output of every lab static."""
    for lab in labs.running():
        lab.close_views()
