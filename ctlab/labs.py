"""The labs of this process: which run, which is the current one."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

from .errors import NotFound
from .names import did_you_mean, key

if TYPE_CHECKING:
    from .lab import Lab

lock = threading.RLock()
_running: list[Lab] = []  # in order of start
_entered: list[Lab] = []  # those inside their ``with``
_all: weakref.WeakSet[Lab] = weakref.WeakSet()  # handles of those that have ended are asked, too
_owner = os.getpid()


def add(lab: Lab) -> None:
    """A lab has started."""
    with lock:
        _running.append(lab)
        _all.add(lab)


def discard(lab: Lab) -> None:
    """A lab has ended."""
    with lock, contextlib.suppress(ValueError):
        _running.remove(lab)


def enter(lab: Lab) -> None:
    """Inside ``with``: the current one."""
    _entered.append(lab)


def leave(lab: Lab) -> None:
    """Out of ``with``."""
    with contextlib.suppress(ValueError):
        _entered.remove(lab)


def running() -> list[Lab]:
    """All that run, in order of start."""
    with lock:
        return [lab for lab in _running if not lab.gone]


def find(name: str) -> Lab:
    """The running lab of that name; NotFound."""
    for lab in running():
        if key(lab.name) == key(name):
            return lab
    names = [lab.name for lab in running()]
    raise NotFound(
        f"no lab '{name}' runs here{did_you_mean(name, names)}" + ("" if names else "; start one: %lab start")
    )


def current_or_none() -> Lab | None:
    """The current lab: inside `with`, that one; else the one started (or chosen) last that still runs."""
    with lock:
        for lab in reversed(_entered):
            if not lab.gone:
                return lab
        found = running()
        return found[-1] if found else None


def current() -> Lab:
    """The current lab; NotFound if none runs."""
    lab = current_or_none()
    if lab is None:
        raise NotFound("no lab runs here; start one: %lab start, or ctlab.Lab()")
    return lab


def use(name: str) -> Lab:
    """Make a running lab the current one."""
    lab = find(name)
    with lock:
        _running.remove(lab)
        _running.append(lab)
    return lab


def _forked() -> None:
    """In a fork nobody gives back what another thread held: so that a call says whose the lab is, and doesn't wait."""
    global lock
    lock = threading.RLock()
    for lab in _all:
        lab._lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)


@atexit.register
def _stop_all() -> None:
    if os.getpid() != _owner:
        return  # a forked worker of the notebook is not the owner
    for lab in running():
        with contextlib.suppress(Exception):
            lab.stop()
