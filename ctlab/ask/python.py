"""Python's keywords are the rows of the magics' table: what a row's reader refuses in a line it refuses here.

A value may have Python's own type where a line has its text (an int for a size, a Path for a path, a Network for its
name). What comes out is what the reader gives, so what has been read may be read again. Pure: nothing is looked at.
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from ..errors import AddressError, BadInput
from ..keywords import unknown_keyword
from ..names import shorten
from ..spec import MountSpec
from ..spelling import KEYWORDS, option
from .common import LIMITS, PROCESS
from .container import RUN_OPTIONS
from .model import Option
from .network import CREATE_OPTIONS
from .readers import READERS

_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_MOST_BITS = 200  # of a number: the readers say how much is too much, and write it out
_NO_ID = 2**32 - 1  # of users: what the kernel takes for "none given"


@dataclass(frozen=True, slots=True)
class Native:
    """What a kind of option takes in Python: the annotation of its keyword, and what becomes of a value.

    `text`: gives what the row's reader reads, or None for a value of a wrong type; `wanted` says what there may be.
    """

    annotation: str
    wanted: str
    text: Callable[[Any], object]
    whole: bool = False  # that is the value itself: there is nothing to be read in it


def _str(value: object) -> object:
    return value if isinstance(value, str) else None


def _path(value: object) -> object:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return path if isinstance(path, str) else None


def _named(value: object) -> object:
    """A name, or the handle of what has it."""
    if isinstance(value, str):
        return value
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and hasattr(value, "lab") else None


def _number(value: Any) -> object:
    """A text, or a number; a scalar of numpy's as its Python twin."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return None
    return value if isinstance(value, numbers.Real | Decimal) else None


def _limit(value: object) -> object:
    """A number of which -1 means that there is to be no limit, as in a line."""
    value = _number(value)
    return "none" if value == -1 else value


def _whole(value: object) -> object:
    """A whole number's text."""
    value = _number(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    return value if isinstance(value, str) else None


def _cpus_list(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return _whole(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        found = [_cpus_list(number) for number in value]
        return ",".join(map(str, found)) if found and None not in found else None
    return None


def _seconds(value: object) -> object:
    return value if isinstance(value, timedelta) else _number(value)


def _signal(value: object) -> object:
    return value if isinstance(value, str) else _whole(value)


def _user(value: object) -> object:
    text = _whole(value)
    return text if isinstance(value, str) or (text is not None and 0 <= int(str(text)) < _NO_ID) else None


def _address(value: object) -> object:
    return str(value) if isinstance(value, str | IPv4Address | IPv6Address) else None


def _subnet(value: object) -> object:
    return str(value) if isinstance(value, str | IPv4Network | IPv6Network) else None


def _words(value: object) -> object:
    return value if isinstance(value, str | list | tuple) else None


def _mount(value: object) -> object:
    return value if isinstance(value, str | MountSpec) else None


_TEXT = Native("str", "a text", _str)
NATIVE: dict[str, Native] = {
    "path": Native("str | os.PathLike[str]", "a path", _path),
    "absolute": Native("str | os.PathLike[str]", "a path", _path),
    "network": Native("str | Network", "a network's name, or a Network", _named),
    "memory": Native("int | str", "bytes, or a text such as '64M'", _limit),
    "cpus": Native("float | str", "a number", _limit),
    "cpuset": Native("str | int | Iterable[int]", "numbers of CPUs, or a text such as '0-2,4'", _cpus_list),
    "shares": Native("int | str", "a whole number", _whole),
    "pids": Native("int | str", "a whole number", _whole),
    "count": Native("int", "a whole number", _whole),
    "seconds": Native("float | str | timedelta", "seconds, or a text such as '1.5s'", _seconds),
    "ipv4": Native("str | IPv4Address", "an address", _address),
    "ipv6": Native("str | IPv6Address", "an address", _address),
    "address": Native("str | IPv4Address | IPv6Address", "an address", _address),
    "subnet": Native("str | IPv4Network | IPv6Network", "a subnet such as '10.9.0.0/24'", _subnet),
    "mtu": Native("int | str", "a whole number", _whole),
    "signal": Native("str | int", "a signal's name or number", _signal),
    "flag": Native("bool", "True or False", lambda value: value if isinstance(value, bool) else None, whole=True),
    "body": Native(
        "str | bytes", "a text or bytes", lambda value: value if isinstance(value, str | bytes) else None, whole=True
    ),
    "entrypoint": Native("str | Sequence[str]", "a program, or its words", _words, whole=True),
    "mount": Native("str | MountSpec", "SRC:DST or SRC:DST:ro", _mount),
    "user": Native("str | int", "a name, a number, or both parts as 'user:group'", _user),
}
# How a repeatable option may be given besides as a list of what one may be.
_MAPPINGS = {"env": "Mapping[str, Any]", "label": "Mapping[str, Any]", "mount": "Mapping[str, str]"}
_EXTRA = (
    Option("image", "", "IMAGE", "path", help="its root: system, scratch, a folder or a tar file"),
    Option("stdin", "", "TEXT", "body", help="what the command reads; nothing without it"),
    Option("script", "", "TEXT", "text", help="instead of a command, what /bin/sh runs"),
)
_OF_MAGICS = {
    "detach", "volume", "no-tty", "interactive", "expect", "out", "quiet", "expand", "wait", "explain", "lab",
}  # fmt: skip


def keyword(row: Option) -> str:
    """What a row is called in Python: in snake_case, some in the plural."""
    return KEYWORDS.get(row.name, row.key)


RUN: dict[str, Option] = {keyword(row): row for row in (*_EXTRA, *RUN_OPTIONS) if row.name not in _OF_MAGICS}
"""The rows of `Lab.run`, by keyword."""
RUN["network"] = RUN["networks"]
LIMITS_ROWS: dict[str, Option] = {keyword(row): row for row in LIMITS}
"""Those of `Container.update`."""


PROGRAM: dict[str, Option] = {
    keyword(row): row for row in PROCESS if row.name in ("env", "env-file", "workdir", "user")
}
"""Those of `Container.exec` and `script`."""
NETWORK: dict[str, Option] = {row.key: row for row in CREATE_OPTIONS if row.name not in _OF_MAGICS}
"""Those of `Lab.network`."""


def annotation(row: Option) -> str:
    """What a keyword takes, as it stands in a signature."""
    if row.is_flag:
        return "bool"
    if row.choices:
        return "Literal[" + ", ".join(f'"{choice}"' for choice in row.choices) + "]"
    one = _native(row).annotation
    if not row.repeatable:
        return one
    mapping = _MAPPINGS.get(row.kind)
    return " | ".join([*([mapping] if mapping else []), one, f"Iterable[{one}]"])


def read(rows: Mapping[str, Option], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that were given (those that aren't None), each read by its row.

    BadInput, AddressError or Unsupported name the keyword; a keyword without a row stays as it is.
    """
    return {
        name: _read(rows[name], value) if name in rows else value
        for name, value in keywords.items()
        if value is not None
    }


def given(rows: Mapping[str, Option], named: Mapping[str, Any], unknown: Mapping[str, Any]) -> dict[str, Any]:
    """What a function with those rows' keywords was given, read; `named`: its `locals()`."""
    for word in unknown:
        raise unknown_keyword(word, rows)
    return read(rows, {name: named[name] for name in rows})


def parameters(rows: Mapping[str, Option]) -> list[str]:
    """The rows as parameters of a signature, in which None is what wasn't given."""
    return [f"{name}: {annotation(row)} | None = None" for name, row in rows.items()]


def _read(row: Option, value: Any) -> Any:
    if not row.repeatable:
        return _one(row, value)
    native = _native(row)
    if isinstance(value, Mapping) and row.kind in _MAPPINGS:
        if row.kind == "mount":
            return [_one(row, f"{_part(row, source)}:{_part(row, target)}") for source, target in value.items()]
        return dict(_pair(row, name, inner) for name, inner in value.items())
    if native.text(value) is not None:
        return [_one(row, value)]
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | Mapping):
        raise _wrong(row, value, f"{native.wanted}, or several")
    return [_one(row, item) for item in value]


def _part(row: Option, value: object) -> str:
    path = _path(value)
    if not isinstance(path, str):
        raise _wrong(row, value, "a path")
    return path


def _pair(row: Option, name: object, value: object) -> tuple[str, str]:
    """A variable or label of a mapping: its value is a text, a number or a path."""
    text = str(value) if isinstance(value, numbers.Real) else _path(value)
    if not isinstance(name, str) or not isinstance(text, str):
        raise _wrong(row, value if isinstance(name, str) else name, "texts, numbers or paths by name")
    _one(row, f"{name}=")
    return name, _whole_characters(row, text)


def _one(row: Option, value: Any) -> Any:
    native = _native(row)
    if row.choices:
        if isinstance(value, str) and value in row.choices:
            return value
        raise _wrong(row, value, f"{', '.join(row.choices[:-1])} or {row.choices[-1]}")
    text = _text(row, value, native)
    if native.whole or isinstance(text, MountSpec):
        return text
    try:
        return READERS[row.kind](text)  # type: ignore[arg-type]  # its text, or what else the reader takes as it is
    except (BadInput, AddressError) as error:
        raise type(error)(f"{option(row.name)}: {error}") from None


def _text(row: Option, value: Any, native: Native) -> object:
    text = None if isinstance(value, float) and not math.isfinite(value) else native.text(value)
    if text is None:
        raise _wrong(row, value, native.wanted)
    return _whole_characters(row, text) if isinstance(text, str) else text


def _whole_characters(row: Option, text: str) -> str:
    """Raise BadInput for what no program could be given."""
    if "\0" in text and row.kind != "body":
        raise BadInput(f"{option(row.name)}: {shorten(text)} holds a zero byte")
    if _HALF_A_CHARACTER.search(text):
        raise BadInput(f"{option(row.name)}: {shorten(text)} holds half a character (a lone surrogate)")
    return text


def _native(row: Option) -> Native:
    return NATIVE[row.name] if row.name in ("user", "entrypoint") else NATIVE.get(row.kind, _TEXT)


def _wrong(row: Option, value: object, wanted: str) -> BadInput:
    """`memory=: bytes, or a text such as '64M', not list ([1])`."""
    try:
        shown = "" if isinstance(value, int) and value.bit_length() > _MOST_BITS else repr(value)
    except Exception:  # its own repr fails
        shown = ""
    shown = f"{shown[:40]}…" if len(shown) > 40 else shown
    if isinstance(value, str):
        return BadInput(f"{option(row.name)}: {wanted}, not {shown}")
    return BadInput(f"{option(row.name)}: {wanted}, not {type(value).__name__}" + (f" ({shown})" if shown else ""))
