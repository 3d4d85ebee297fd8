"""Before a lab starts: what was asked for, what has its name already, whether this machine can have one."""

from __future__ import annotations

import contextlib
import errno
import sys
from typing import TYPE_CHECKING

from . import labs, ticks, units
from .errors import BadInput, CtlabError, NameInUse, Unsupported
from .names import check_name, key
from .request import check_exists

if TYPE_CHECKING:
    from .doctor import Report
    from .lab import Lab


def check_options(name: str, interval: float | str, uplink: bool) -> float:
    """The sampling interval in seconds. Raises BadInput, Unsupported."""
    check_name("lab", name)
    if uplink:
        raise Unsupported("uplink isn't in this version: a lab's packets stay inside it")
    seconds = units.parse_duration(interval)
    if not 0.01 <= seconds <= 60:
        raise BadInput(f"interval {interval}: from 10 ms to 60 s")
    return seconds


def replace_earlier(lab: Lab, exists: str | None) -> None:
    """Stop a running lab of that name, where the rules allow it; NameInUse."""
    check_exists(exists)
    for other in labs.running():
        if key(other.name) == key(lab.name):
            if exists == "error" or (exists is None and ticks.same(other.tick)):
                raise NameInUse(f"lab '{lab.name}' runs already; stop it first, or exists='replace'")
            if exists == "keep":
                raise BadInput("exists='keep' makes no new lab: take ctlab.labs.find(name)")
            other.stop()
            lab._note(f"replaced lab {lab.name} ({other.cell})")


def prune(lab: Lab) -> None:
    """Remove what dead keepers left behind, and say so."""
    from .runtime import prune

    with contextlib.suppress(OSError):
        for line in prune.prune():
            lab.say(line)


def check_platform() -> None:
    """Unsupported where there is no Linux."""
    if not sys.platform.startswith("linux"):
        from .doctor import doctor

        report = doctor()
        raise Unsupported(f"{report.why_not}{report.instead}")


def examine(error: CtlabError) -> Report | None:
    """What the doctor finds after a start that failed with `error`; None where it couldn't tell more than that."""
    if getattr(error, "number", 0) in (errno.EMFILE, errno.ENFILE):
        return None  # it says all, and the doctor would trip over the same
    with contextlib.suppress(Exception):
        from .doctor import doctor

        return doctor()
    return None
