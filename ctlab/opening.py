"""Before a lab starts: what was asked for, what has its name already, whether this machine can have one."""

from __future__ import annotations

import contextlib
import errno
import sys
from typing import TYPE_CHECKING

from . import labs, ticks, units
from .errors import BadInput, CtlabError, KernelError, NameInUse, Unsupported, describe
from .names import check_name, key
from .plan.limits import PIDS_DEFAULT
from .request import check_exists
from .spelling import option

if TYPE_CHECKING:
    from .doctor import Report
    from .lab import Lab


LEAST_STORAGE_BYTES = 16 << 20


def check_storage(storage: str | int | None, vm_memory_bytes: int | None) -> int | None:
    """How much the lab's containers may write, in bytes; None: the default. Raises BadInput.

    `vm_memory_bytes`: where it is a VM's, that VM's.
    """
    if storage is None:
        return None
    size = units.parse_size(storage)
    if size < LEAST_STORAGE_BYTES:
        raise BadInput(f"storage {storage}: at least {units.format_size(LEAST_STORAGE_BYTES)}")
    if vm_memory_bytes is None:
        from .kernel.memory import total_bytes

        most, whose = total_bytes(), "there is here"
    else:
        most, whose = vm_memory_bytes, "the VM has"
    if size > most:
        has = units.format_size(most, 3)
        raise BadInput(f"storage {storage}: it lies in memory, of which {whose} {has}")
    return size


def check_options(name: str, interval: float | str, uplink: bool) -> float:
    """The sampling interval in seconds. Raises BadInput, Unsupported."""
    check_name("lab", name)
    if uplink:
        raise Unsupported("uplink isn't in this version: a lab's packets stay inside it")
    seconds = units.parse_duration(interval)
    if not 0.01 <= seconds <= 60:
        raise BadInput(f"interval {interval}: from 10 ms to 60 s")
    return seconds


def pids_words(by: str) -> str:
    """How many processes a container may have where nobody says it, and what holds that; `by`: the keeper's word."""
    return {
        "cgroup": f"{PIDS_DEFAULT} a container",
        "rlimit": f"{PIDS_DEFAULT} of one user id in the lab (ulimit -u): no cgroup counts a container's",
        "none": "none: no cgroup counts a container's, and this kernel (before 5.14) no user namespace's",
    }[by]


def replace_earlier(lab: Lab, exists: str | None) -> None:
    """Stop a running lab of that name, where the rules allow it; NameInUse."""
    check_exists(exists)
    for other in labs.running():
        if key(other.name) == key(lab.name):
            if exists == "error" or (exists is None and ticks.same(other.tick)):
                raise NameInUse(f"lab '{lab.name}' runs already; stop it first, or {option('exists', 'replace')}")
            if exists == "keep":
                raise BadInput(f"{option('exists', 'keep')} makes no new lab: take ctlab.labs.find(name)")
            other.stop()
            lab._note(f"replaced lab {lab.name} ({other.cell})")


def prune(lab: Lab) -> None:
    """Remove what dead keepers left behind, and say so."""
    from .runtime import prune

    try:
        lines = prune.prune()
    except OSError as error:
        lines = [f"what earlier labs may have left can't be looked through: {describe(error)}"]
    for line in lines:
        lab.say(line)


def check_platform() -> None:
    """Unsupported where there is no Linux."""
    if not sys.platform.startswith("linux"):
        from .doctor import doctor

        report = doctor()
        raise Unsupported(f"{report.why_not}{report.instead}")


def check_files() -> None:
    """KernelError where processes of this one may have too few files open for a lab's, or too small ones."""
    import resource

    from .runtime.room import LEAST

    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if largest != resource.RLIM_INFINITY:
        from .metrics.columns import CONTAINERS_SCHEMA, RING_ROWS
        from .metrics.ring import size_bytes

        if largest < (needed := size_bytes(CONTAINERS_SCHEMA, RING_ROWS)):
            raise KernelError(
                f"the lab can't start: a file of this process may have {largest} bytes (its hard limit, ulimit -Hf), "
                f"and its counters need {needed}: raise that limit",
                errno.EFBIG,
            )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < LEAST:
        raise KernelError(
            f"the lab can't start: its processes may have {most} files open each, as this one (its hard limit, ulimit "
            f"-Hn), and need {LEAST}: raise that limit",
            errno.EMFILE,
        )


def examine(error: CtlabError) -> Report | None:
    """What the doctor finds after a start that failed with `error`; None where it couldn't tell more than that."""
    if getattr(error, "number", 0) in (errno.EMFILE, errno.ENFILE):
        return None  # it says all, and the doctor would trip over the same
    with contextlib.suppress(Exception):
        from .doctor import doctor

        return doctor()
    return None
