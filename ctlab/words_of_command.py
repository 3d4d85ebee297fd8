"""A command given to the Python API: a list is argv, a str is split like a magic's words, without a shell."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import words
from .errors import BadInput


def split_command(command: str | Sequence[str] | None) -> list[str]:
    """The words of a command; empty for None. Raises BadInput for shell syntax in a str, and for what isn't text."""
    if command is None:
        return []
    if isinstance(command, str):
        found = words.split_command(command)
        if not found:
            raise BadInput("the command is empty")
        return found
    found = []
    for given in command:
        word = os.fspath(given) if isinstance(given, os.PathLike) else given
        if not isinstance(word, str):
            raise BadInput(f"a command's words are text, not {type(word).__name__} ({word!r}): write str({word!r})")
        if "\0" in word:
            raise BadInput("a command's word can't hold a zero byte")
        found.append(word)
    if not found:
        raise BadInput("the command is empty: leave it out for a container that idles")
    return found
