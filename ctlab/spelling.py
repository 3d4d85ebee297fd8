"""How something is written where the person is: in a magic's line, or in Python."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_in_a_magic = contextvars.ContextVar("in_a_magic", default=False)
KEYWORDS = {"network": "networks", "mount": "mounts", "label": "labels", "volume": "mounts"}


@contextlib.contextmanager
def of_a_magic() -> Iterator[None]:
    """Within it, what this thread is told is spelled as in a magic's line."""
    token = _in_a_magic.set(True)
    try:
        yield
    finally:
        _in_a_magic.reset(token)


def in_a_magic() -> bool:
    """Whether somebody has typed a magic, and not Python."""
    return _in_a_magic.get()


def option(name: str, value: object = None) -> str:
    """`--cap-add NET_ADMIN` or `cap_add='NET_ADMIN'`; without a value `--cap-add` or `cap_add=`.

    `name`: the option's long name.
    """
    if _in_a_magic.get():
        shown = str(value)
        plain = shown and shown.isprintable() and " " not in shown
        return f"--{name}" if value is None else f"--{name} {shown if plain else repr(shown)}"
    keyword = KEYWORDS.get(name, name.replace("-", "_"))
    return f"{keyword}=" if value is None else f"{keyword}={value!r}"
