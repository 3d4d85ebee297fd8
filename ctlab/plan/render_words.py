"""Words and lines of a shell script: what the renderers share."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

quote = shlex.quote


def words(values: Iterable[str]) -> str:
    """Several quoted words."""
    return " ".join(shlex.quote(value) for value in values)


def comment(text: str) -> str:
    """One comment line, whatever the text holds."""
    return "# " + " ".join(text.split())


def inside(path: str) -> str:
    """A path of the new root, unquoted, from the folder that becomes it: ``/usr`` is ``usr``, ``/`` is ``.``."""
    relative = path.strip("/") or "."
    return f"./{relative}" if relative.startswith("-") else relative


def delimiter(lines: Iterable[str], wanted: str = "END") -> str:
    """A here-document delimiter that no line of the document is."""
    taken = {part for line in lines for part in line.split("\n")}
    while wanted in taken:
        wanted += "_"
    return wanted
