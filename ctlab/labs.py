"""The labs of this process: which run, which is the current one."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from .errors import LabGone, NotFound, describe_bug
from .names import did_you_mean, is_pattern, key

if TYPE_CHECKING:
    from .lab import Lab

lock = threading.RLock()
_running: list[Lab] = []  # in order of start; one that has died stays until it is stopped, or another has its name
_entered: list[Lab] = []  # those inside their ``with``
_all: weakref.WeakSet[Lab] = weakref.WeakSet()  # handles of those that have ended are asked, too
_owner = os.getpid()


def add(lab: Lab) -> None:
    """A lab has started; who starts one of a dead one's name knows of that."""
    with lock:
        for earlier in dead():
            if key(earlier.name) == key(lab.name):
                told(earlier)
                discard(earlier)
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


def dead() -> list[Lab]:
    """Those that have died, in order of start."""
    with lock:
        return [lab for lab in _running if lab.died]


def died() -> list[Lab]:
    """Those that have died and of which nobody was told, in order of start."""
    with lock:
        return [lab for lab in _running if _untold(lab)]


def find(name: str) -> Lab:
    """The running lab of that name; NotFound. LabGone, once, for one that has died."""
    for found in (running(), died()):
        for lab in reversed(found):
            if key(lab.name) == key(name):
                return _or_gone(lab)
    for lab in dead():
        if key(lab.name) == key(name):
            raise NotFound(f"no lab '{name}' runs here; it {lab.why_gone}; another one: %lab start {lab.name}")
    names = [lab.name for lab in running()]
    if is_pattern(name):
        raise NotFound(f"no lab '{name}': names aren't patterns here; all: %lab stop --all")
    raise NotFound(
        f"no lab '{name}' runs here{did_you_mean(name, names)}" + ("" if names else "; start one: %lab start")
    )


def current_or_none() -> Lab | None:
    """The current lab: inside `with`, that one; else the one started (or chosen) last that still runs.

    LabGone, once, for one that has died: nobody who means it shall go on in another one without a word.
    """
    with lock:
        lab = next((lab for lab in reversed([*_running, *_entered]) if _untold(lab) or not lab.gone), None)
    return None if lab is None else _or_gone(lab)


def chosen_or_none() -> Lab | None:
    """The current lab if it runs, for who only looks."""
    with lock:
        return next((lab for lab in reversed([*_running, *_entered]) if not lab.gone), None)


def current() -> Lab:
    """The current lab; NotFound if none runs. LabGone, once, if it has died."""
    lab = current_or_none()
    if lab is None:
        raise NotFound("no lab runs here; start one: %lab start, or ctlab.Lab()")
    return lab


def _or_gone(lab: Lab) -> Lab:
    with lock:
        if not _untold(lab):
            return lab
        told(lab)
    now = chosen_or_none()
    raise gone(lab, "%lab start starts a new one" if now is None else f"the current lab is '{now.name}' from now on")


def gone(lab: Lab, more: str) -> LabGone:
    """The error of a lab that has died, with what to do behind its first line; below it are a console's last."""
    first, *console = str(lab._client._gone_error()).splitlines()
    return LabGone("\n".join([f"{first}; {more}", *console]))


def told(lab: Lab) -> None:
    """Somebody is told of the end of a lab, if it has ended."""
    if lab.gone:
        lab._death_told = True


def _untold(lab: Lab) -> bool:
    return lab.died and not lab._death_told


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
        try:
            lab.stop()
        except Exception as error:  # the others are stopped all the same
            with contextlib.suppress(OSError, ValueError):  # there may be nothing to write to any more
                print(f"lab '{lab.name}' wasn't stopped as it should be: {describe_bug(error)}", file=sys.stderr)
