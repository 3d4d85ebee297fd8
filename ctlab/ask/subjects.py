"""What isn't an option but is asked for all the same: the parameters of the public methods, by their names.

A value of a wrong type is refused before anything is done, in one line. What a value says (whether there is such a
container, where a path leads) is looked at where it is used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from ..errors import BadInput

_MOST_PORT = 65535
_MOST_MODE = 0o7777
_MOST_BITS = 200


def _text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _path(value: object) -> bool:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return isinstance(path, str) and _text(path) and "\0" not in path and path != ""


def _body(value: object) -> bool:
    return isinstance(value, bytes | bytearray | memoryview) or _text(value)


def _command(value: object) -> bool:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping):
        return all(not isinstance(word, str) or _text(word) for word in value)
    return _text(value)


def _time(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | timedelta) or _whole(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _MOST_BITS


def _within(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _named(value: object) -> bool:
    return isinstance(value, str) or isinstance(getattr(value, "name", None), str)


def _several(value: object) -> bool:
    """One that has a name, or several of them."""
    if _named(value) or not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | Mapping):
        return _named(value)
    return all(_named(one) for one in value) if isinstance(value, list | tuple | set | frozenset) else True


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "command": (_command, "a text, or a list of words"),
    "stdin": (_body, "a text or bytes"),
    "text": (_text, "a text"),
    "content": (_body, "a text or bytes"),
    "source": (_path, "a path"),
    "destination": (_path, "a path"),
    "path": (_path, "a path"),
    "timeout": (_time, "seconds, or a text such as '1.5s'"),
    "tail": (_within(0, 10**9), "a number of lines"),
    "port": (_within(1, _MOST_PORT), f"a number from 1 to {_MOST_PORT}"),
    "mode": (_within(0, _MOST_MODE), "a number from 0 to 0o7777"),
    "network": (_named, "a network's name, or a Network"),
    "container": (_named, "a container's name, or a Container"),
    "containers": (_several, "a container, its name, or several"),
    "metrics": (_several, "a metric's name or pattern, or several"),
    "tty": (lambda value: isinstance(value, bool), "True or False"),
    "detach": (lambda value: isinstance(value, bool), "True or False"),
    "timestamps": (lambda value: isinstance(value, bool), "True or False"),
    "from_start": (lambda value: isinstance(value, bool), "True or False"),
}
"""By the parameter's name: whether a value may be, and what may be. None is what wasn't given."""


def check(name: str, value: Any) -> None:
    """Raise BadInput for a value that this parameter can't have."""
    allowed, wanted = CHECKS[name]
    if value is None or allowed(value):
        return
    try:
        shown = "" if isinstance(value, int) and value.bit_length() > _MOST_BITS else repr(value)
    except Exception:  # its own repr fails
        shown = ""
    shown = f"{shown[:40]}…" if len(shown) > 40 else shown
    kind = "" if isinstance(value, str) else f" {type(value).__name__}"
    raise BadInput(f"{name}=: {wanted}, not{kind}" + (f" ({shown})" if kind and shown else f" {shown}"))
