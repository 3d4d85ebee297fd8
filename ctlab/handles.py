"""`Handles`: several objects at once, a sequence by index and a mapping by name, shown as a table."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .apart import ready
from .cards import NO_FORMULAS
from .errors import NotFound, one_line
from .keywords import checked
from .names import did_you_mean

if TYPE_CHECKING:
    import pandas

    from .values import Values

T = TypeVar("T")


@checked
class Handles(Sequence[T], Generic[T]):
    """What `ps`, `ls` and the lab's listings return. `row` gives the columns shown of one object."""

    def __init__(
        self,
        items: Sequence[T],
        row: Callable[[T], dict[str, Any]],
        kind: str,
        note: str = "",
        *,
        values: Values | None = None,
        warning: str = "",
    ) -> None:
        """`kind`: what one is called. `values`: what its frame holds instead of what is shown.

        `warning`: a line that is shown with the table everywhere; `note`, where there is a page.
        """
        self._items = tuple(items)
        self._row = row
        self._kind = kind
        self._note = note
        self._values = values
        self._warning = warning

    @overload
    def __getitem__(self, key: int | str) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Handles[T]: ...
    def __getitem__(self, key: int | str | slice) -> T | Handles[T]:
        if isinstance(key, slice):
            return Handles(
                self._items[key], self._row, self._kind, self._note, values=self._values, warning=self._warning
            )
        if isinstance(key, int):
            return self._items[key]
        for item in self._items:
            if str(getattr(item, "name", "")).lower() == key.lower():
                return item
        raise NotFound(one_line(f"no {self._kind} '{key}'{did_you_mean(key, self.keys())}"))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items or (isinstance(key, str) and key.lower() in (name.lower() for name in self.keys()))

    @property
    def _plural(self) -> str:
        return self._kind + ("es" if self._kind.endswith("s") else "s")

    def keys(self) -> list[str]:
        """The names."""
        return [str(getattr(item, "name", "")) for item in self._items]

    def rows(self) -> list[dict[str, Any]]:
        """What is shown, a dictionary each, with texts as they are."""
        return [self._row(item) for item in self._items]

    def frame(self) -> pandas.DataFrame:
        """The listing as a DataFrame, of values as they are now: states, times, addresses, numbers."""
        if self._values is not None:
            from .values import frame

            return frame(self._items, self._values)
        ready("pandas")
        import pandas

        return pandas.DataFrame(self.rows())

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        """The columns, and the cells of each row: a line each, whatever a container has put into them."""
        rows = self.rows()
        columns = list(rows[0]) if rows else []
        return columns, [[one_line(str(row[column])) for column in columns] for row in rows]

    def __repr__(self) -> str:
        columns, cells = self._shown()
        if not cells:
            return f"no {self._plural}"
        widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
                 for line in [[column.upper() for column in columns], *cells]]  # fmt: skip
        return "\n".join([*lines, f"({self._warning})"] if self._warning else lines)

    def _repr_html_(self) -> str:
        columns, cells = self._shown()
        if not cells:
            return f"<p style='opacity:.7'>no {html.escape(self._plural)}</p>"
        head = "".join(f"<th style='text-align:left'>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(text)}</td>" for text in line) + "</tr>"
            for line in cells
        )
        text = "; ".join(filter(None, (self._note, self._warning)))
        note = f"<p style='opacity:.7;margin:.2em 0;font-size:12px'>{html.escape(text)}</p>" if text else ""
        table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f"<table class='ctlab-table {NO_FORMULAS}'>{table}</table>{note}"
