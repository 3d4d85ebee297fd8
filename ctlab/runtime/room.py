"""Descriptors that this process, the supervisor, still may have; and what is said where they don't suffice.

Its limit is the hard one of the process that owns the lab: the keeper takes all that may be had. What a container takes
here is in docs/bounds.md. Some are kept for what has to go on when there is no room for another container: exec, logs,
copies, removals.
"""

from __future__ import annotations

import errno
import os
import resource

RESERVE = 40  # kept for calls under way
CALL = 12  # what comes with one, and is opened for it
SLOT = 6  # of one that is made in advance
RUNS, WRITES = 2, 2  # of one that runs; and if it has a program
AGAIN = 3  # what a start takes of a container that has run before; more for milliseconds only, of what is kept
LEAST = 128  # with fewer there is no lab: its own processes have up to 90
_FOLDER = "/proc/self/fd"


def limit() -> int:
    """How many this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def used() -> int:
    """How many it has. Before Linux 6.2 they are counted one by one, 0.2 ms a thousand."""
    return os.stat(_FOLDER).st_size or len(os.listdir(_FOLDER))


def left() -> int:
    """How many it may have besides, but for those that are kept; negative where some of these are in use."""
    return limit() - used() - RESERVE


def full() -> str:
    """What is said where there is no room for a container."""
    return (
        f"no room for another container: {used()} of {limit()} files are open in the lab's supervisor, and {RESERVE} "
        "are kept for exec, logs and removals; the limit is the hard one of the process that owns the lab (ulimit "
        "-Hn): remove containers, or raise it and start another lab"
    )


def named(text: str, number: int) -> str:
    """What failed, with the limit named where it was that of descriptors."""
    if number != errno.EMFILE:
        return text
    name = "" if "EMFILE" in text else " (EMFILE)"
    return (
        f"{text}{name}; the lab's processes may have {limit()} files open each, the hard limit of the process that "
        "owns the lab (ulimit -Hn): remove containers, end some of what runs, or raise it and start another lab"
    )
