"""Keywords that aren't there: said as of any other bad input, with what there is instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .errors import BadInput
from .names import nearest

T = TypeVar("T")
_OF_RUN = {  # Docker's, said of what starts a container
    "privileged": "containers of a lab are never privileged",
    "restart": "restart policies aren't in this version; run the cell again",
    "publish": "published ports come with the networks issue; from a cell use web.exec([...]) or another container",
    "detach": "Lab.run always is detached; lab.run(...).wait() waits",
}
_CALLED = {"remove": "rm", "volumes": "mounts", "environment": "env"}  # Docker's, and ours, where it is known


def unknown_keyword(word: str, known: Iterable[str]) -> BadInput:
    """The error for a keyword that isn't there: Docker's are named as such, others with the nearest one.

    `known`: those that there are; what only goes for a start of a container is said where a `rm` is among them.
    """
    known = list(known)
    if _CALLED.get(word) in known:
        ours = _CALLED[word]
        return BadInput(f"{word}= isn't in ctlab: {'they are' if word.endswith('s') else 'it is'} called {ours}")
    if word in _OF_RUN and "rm" in known:
        return BadInput(f"{word}= isn't in ctlab: {_OF_RUN[word]}")
    near = nearest(word, known)
    return BadInput(
        f"no keyword {word}=" + (f"; did you mean {near}=?" if near else f"; there are {', '.join(sorted(known))}")
    )


def checked(cls: type[T]) -> type[T]:
    """A class whose public methods say of a keyword that they don't have what there is, as `Lab.run` does."""
    for name, function in list(vars(cls).items()):
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            code = inspect.unwrap(function).__code__
            if not code.co_flags & inspect.CO_VARKEYWORDS:
                setattr(cls, name, _checked(function, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]))
    return cls


def _checked(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    known = names[1:]
    have = frozenset(known)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if keywords and not have.issuperset(keywords):
            word = next(word for word in keywords if word not in have)
            if not known:
                raise BadInput(f"{function.__name__} takes no keywords: {word}=")
            raise unknown_keyword(word, known)
        return function(*arguments, **keywords)

    return call
