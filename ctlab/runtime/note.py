"""What a keeper writes down of what lies outside its lab, and how it is read: as something that may say anything."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any, NamedTuple

_LARGEST_BYTES = 256 << 10  # a note is about one kilobyte
_LARGEST_PID = 1 << 22


class Note(NamedTuple):
    """`owner` and `keeper` are process ids, with when they started (clock ticks since boot); 0: not told."""

    id: str
    name: str = "?"
    owner: int = 0
    owner_start: int = 0
    keeper: int = 0
    keeper_start: int = 0
    cgroups: tuple[str, ...] = ()  # the lab's folders
    tried_in: tuple[str, ...] = ()  # folders in which the keeper may have made trial folders …
    tried_since: int = 0  # … since then (time.monotonic_ns)


def read(folder: int, lab_id: str) -> Note:
    """The note in the lab's open folder; without a readable one, what the folder's name says."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        descriptor = os.open("note", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                return parse(json.loads(file.read(_LARGEST_BYTES)), lab_id)
    return Note(lab_id)


def parse(said: object, lab_id: str) -> Note:
    """A note of what JSON has: what isn't as a keeper writes it is left out. Pure."""
    if not isinstance(said, dict):
        return Note(lab_id)
    name = said.get("name")
    return Note(
        lab_id,
        "".join(sign if sign.isprintable() else "?" for sign in name[:100]) if isinstance(name, str) else "?",
        _number(said.get("owner"), _LARGEST_PID),
        _number(said.get("owner_start")),
        _number(said.get("keeper"), _LARGEST_PID),
        _number(said.get("keeper_start")),
        _paths(said.get("cgroups")),
        _paths(said.get("tried_in")),
        _number(said.get("tried_since")),
    )


def _number(value: Any, largest: int = 1 << 63) -> int:
    return value if type(value) is int and 0 <= value <= largest else 0


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str) and _is_path(one)) if isinstance(value, list) else ()


def _is_path(text: str) -> bool:
    try:
        return text.startswith("/") and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
