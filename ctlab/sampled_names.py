"""What the sampler's numbers are called. Rows of what was removed stay in the rings for a while, and so do names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import measuring
from .errors import CtlabError

if TYPE_CHECKING:
    from .lab import Lab
    from .metrics.ring import Ring

SWEEP_AFTER = 64  # removals: reading a full ring's keys takes some milliseconds
GONE_MOST = 4096  # names of what is gone are kept; rows of what went before are those of ``container-7``


class Removed:
    """Keys of what was removed and may have rows: of one kind, containers or endpoints."""

    def __init__(self, names: dict[int, Any], column: str) -> None:
        self._names = names
        self._column = column
        self._recent: set[int] = set()  # the sampler may just be about to write a row
        self._earlier: set[int] = set()

    def __len__(self) -> int:  # since the last sweep
        return len(self._recent)

    def add(self, keys: Iterable[int]) -> None:
        """These were removed."""
        self._recent.update(keys)

    def sweep(self, ring: Ring) -> None:
        """Forget the names of those that have no row."""
        sampled = set(ring.snapshot(None, [self._column]).columns[self._column])
        for number in self._earlier - sampled:
            self._names.pop(number, None)
        self._earlier = (self._earlier & sampled) | self._recent
        self._recent = set()
        for number in sorted(self._earlier)[:-GONE_MOST]:
            self._earlier.discard(number)
            self._names.pop(number, None)


def removed(lab: Lab, containers: Iterable[int], endpoints: Iterable[int]) -> None:
    """These keys will have no new rows. Asks nobody: it is said where a change is taken back, too."""
    for kind, numbers in zip(lab._removed, (containers, endpoints), strict=True):
        kind.add(numbers)


def make_room(lab: Lab) -> None:
    """Before names are added: those that have no row any more are forgotten from time to time."""
    if all(len(kind) < SWEEP_AFTER for kind in lab._removed):
        return
    with lab._lock, contextlib.suppress(CtlabError):  # the lab may be gone: nothing will be added
        for kind, ring in zip(lab._removed, measuring.attached(lab), strict=True):
            try:
                kind.sweep(ring)
            finally:
                ring.close()
