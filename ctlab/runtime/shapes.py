"""Whether a message that arrives has the shape that `messages` gives it: its kind, the number of its fields, each type.

The checks are made of the annotations there, at the first message of a kind. Lean: see `kernel.lean`.
"""

from __future__ import annotations

from . import messages
from .packets import Surprise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Check = Callable[[Any], Any]

_LARGEST = (1 << 63) - 1


def _int(value: Any) -> Any:
    if type(value) is not int or not -_LARGEST <= value <= _LARGEST:
        raise ValueError
    return value


def _float(value: Any) -> Any:
    if type(value) is not float:
        return _int(value)
    if not -1e300 < value < 1e300:  # nor infinite, nor no number
        raise ValueError
    return value


def _plain(kind: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError
        return value

    return check


def _list_of(check: Check) -> Check:
    def check_all(value: Any) -> Any:
        if type(value) is not list:
            raise ValueError
        return [check(one) for one in value]

    return check_all


def _dict_of(check: Check) -> Check:
    def check_all(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError
        return {name: check(one) for name, one in value.items()}

    return check_all


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _part(kind: Any) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise ValueError
        return _made(kind, value)

    return check


_CHECKS: dict[str, Check] = {
    "int": _int, "float": _float, "str": _plain(str), "bool": _plain(bool), "Any": lambda value: value,
    "list[Any]": _plain(list), "dict[str, Any]": _plain(dict),
}  # fmt: skip


def _check_of(annotation: str) -> Check:
    """The check of a type as it is written above."""
    found = _CHECKS.get(annotation)
    if found is None:
        if annotation.endswith(" | None"):
            found = _or_none(_check_of(annotation.removesuffix(" | None")))
        elif annotation.startswith("list["):
            found = _list_of(_check_of(annotation[5:-1]))
        elif annotation.startswith("dict[str, "):
            found = _dict_of(_check_of(annotation[10:-1]))
        else:
            found = _part(messages.PARTS[annotation])
        _CHECKS[annotation] = found
    return found


_FIELDS: dict[Any, tuple[Check, ...]] = {}  # filled at first use: the processes that are cloned need none


def _made(kind: Any, values: list[Any]) -> Any:
    """A message of that kind with these fields. Raises Surprise."""
    checks = _FIELDS.get(kind)
    if checks is None:
        checks = _FIELDS[kind] = tuple(map(_check_of, kind.__annotations__.values()))
    if len(values) != len(checks):
        raise Surprise(f"a {kind.__name__} of {len(values)} fields, which has {len(checks)}")
    try:
        return tuple.__new__(kind, [check(value) for check, value in zip(checks, values, strict=True)])
    except Surprise:  # of a part
        raise
    except ValueError:
        name = kind._fields[_first_wrong(checks, values)]
        raise Surprise(f"a {kind.__name__} whose {name} is no {kind.__annotations__[name]}") from None


def _first_wrong(checks: tuple[Check, ...], values: list[Any]) -> int:
    for position, (check, value) in enumerate(zip(checks, values, strict=True)):
        try:
            check(value)
        except ValueError:
            return position
    raise AssertionError("all of them are right")


def read(value: Any, kinds: Mapping[str, Any]) -> Any:
    """The message, of one of these kinds, that a JSON value is. Raises Surprise."""
    if type(value) is not list or not value or type(value[0]) is not str:
        raise Surprise("a message without a kind")
    kind = kinds.get(value[0])
    if kind is None:
        raise Surprise(f"a message of kind {value[0][:40]!a}")
    return _made(kind, value[1:])
