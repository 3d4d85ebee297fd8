"""What a chart shows as a table: HTML for pages, text for a terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ctlab import units
from ctlab.cards import NO_FORMULAS

if TYPE_CHECKING:
    from ctlab.notebook.chart_rows import Means

WORDS = ("container", "CPU cores, mean", "CPU cores, max", "memory", "received, mean", "sent, mean", "processes")


def cells(means: Means) -> tuple[str, ...]:
    """A row of the table, in the order of `WORDS`."""
    return (
        f"{means.name} (ended)" if means.ended else means.name,
        _number(means.cpu_mean),
        _number(means.cpu_max),
        "–" if math.isnan(means.memory_mib) else f"{means.memory_mib:.1f} MiB",
        _bits(means.received),
        _bits(means.sent),
        "–" if math.isnan(means.processes) else f"{means.processes:.0f}",
    )


def html_table(found: Sequence[Means]) -> str:
    """A small HTML table; nothing if there is nothing to say."""
    if not found:
        return ""
    head = "".join(f"<th>{word}</th>" for word in WORDS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(means)) + "</tr>" for means in found)
    return f"<table class='{NO_FORMULAS}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_table(found: Sequence[Means]) -> str:
    """The same in columns of text, a line each; nothing if there is nothing to say."""
    if not found:
        return ""
    rows = [WORDS, *(cells(means) for means in found)]
    wide = [max(len(row[column]) for row in rows) for column in range(len(WORDS))]
    return "\n".join(
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(room) for cell, room in zip(row[1:], wide[1:], strict=True))])
        for row in rows
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _bits(bits_per_second: float) -> str:
    if math.isnan(bits_per_second):
        return "–"
    rate = round(bits_per_second)
    return units.format_rate(rate, 3) if rate else "0"
