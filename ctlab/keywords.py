"""Keywords that aren't there: said as of any other bad input, with what there is instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .ask import subjects
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
    """A class whose public methods refuse unknown keywords with what there is, as `Lab.run` does, and wrong types."""
    for name, function in list(vars(cls).items()):
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            code = inspect.unwrap(function).__code__
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            setattr(cls, name, _checked(function, names, bool(code.co_flags & inspect.CO_VARKEYWORDS)))
    return cls


def _checked(function: Callable[..., Any], names: tuple[str, ...], takes_any: bool) -> Callable[..., Any]:
    known = names[1:]
    have = frozenset(known)
    looked_at = [(position, name) for position, name in enumerate(names) if name in subjects.CHECKS]
    if function.__name__ == "__init__":  # what a widget's are called means something else
        looked_at = []
    if takes_any and not looked_at:
        return function

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if keywords and not takes_any and not have.issuperset(keywords):
            word = next(word for word in keywords if word not in have)
            if not known:
                raise BadInput(f"{function.__name__} takes no keywords: {word}=")
            raise unknown_keyword(word, known)
        for position, name in looked_at:
            if position < len(arguments):
                subjects.check(name, arguments[position])
            elif name in keywords:
                subjects.check(name, keywords[name])
        return function(*arguments, **keywords)

    return call
