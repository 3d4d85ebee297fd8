"""What the owner's own process may have, where that is used up: said in one line, as of the kernel's other answers."""

from __future__ import annotations

import errno
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import KernelError, describe

T = TypeVar("T")
_NO_THREAD = "can't start new thread"  # how Python says it, as a RuntimeError


def words(error: OSError) -> str:
    """``EMFILE (Too many open files)``, and whose limit that is."""
    if error.errno != errno.EMFILE:
        return describe(error)
    import resource  # not everywhere, as a recording is

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"{describe(error)}; this process may have {most} open (ulimit -n): close some or raise it"


def told(cls: type[T]) -> type[T]:
    """A class whose public functions raise KernelError where files or threads of this process are used up."""
    for name, function in list(vars(cls).items()):
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            setattr(cls, name, _told(function))
    return cls


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*values: Any, **keywords: Any) -> Any:
        try:
            return function(*values, **keywords)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise KernelError(f"{_verb(function)}: {words(error)}", error.errno) from None
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
            text = "no thread can be started (EAGAIN): limits of processes (ulimit -u, pids.max) or memory are used up"
            raise KernelError(f"{_verb(function)}: {text}", errno.EAGAIN) from None

    return call


def _verb(function: Callable[..., Any]) -> str:
    return "the lab can't start" if function.__name__ == "__init__" else function.__name__
