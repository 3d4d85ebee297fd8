"""When a chart may send its next picture: once every page that looks has drawn the last one, and has had a rest. Pure.

Pages say what they have drawn and what that took. Where they can't be heard, since a cell keeps the kernel busy and
the front end sends everything to its one thread, a picture goes out now and then all the same; a page draws only the
newest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PATIENCE_SECONDS = 4.0  # without an answer
REST = 2.0  # of a page: so many times what a picture took it
OWN_REST = 4.0  # of this process: so many times the CPU time of a picture
MOST_VIEWERS = 32  # pages that went away without a word are forgotten at that


@dataclass
class Viewer:
    """One view of the chart in one page."""

    visible: bool = True
    drawn: int = 0  # number of the newest picture that it has drawn
    rested: float = -math.inf  # when it may have the next one, by the clock of `Pace`
    silent: bool = False  # it hasn't answered in time, and isn't waited for until it does


class Pace:
    """All times are seconds of one clock that the caller has."""

    def __init__(self, period_seconds: float) -> None:
        """`period_seconds`: between two pictures, at least."""
        self.period = period_seconds
        self.viewers: dict[str, Viewer] = {}
        self.number = 0  # of the newest picture
        self.sent_at = -math.inf
        self._own_rest = -math.inf

    def heard(self, view: str, now: float, *, visible: bool, drawn: int, took_seconds: float) -> None:
        """A view has drawn that picture (0: none yet), which kept its page busy for so long; or it shows or hides."""
        viewer = self.viewers.pop(view, None) or Viewer()
        while len(self.viewers) >= MOST_VIEWERS:
            del self.viewers[next(iter(self.viewers))]
        self.viewers[view] = viewer
        viewer.visible, viewer.silent = visible, False
        if drawn > viewer.drawn:
            viewer.drawn = min(drawn, self.number)
            viewer.rested = now + REST * max(0.0, took_seconds)

    def left(self, view: str) -> None:
        """That view is no more."""
        self.viewers.pop(view, None)

    def due(self, now: float) -> float:
        """When the next picture may go: a time that may have passed, infinity while nobody looks."""
        looking = [viewer for viewer in self.viewers.values() if viewer.visible]
        if self.viewers and not looking:
            return math.inf
        heeded = [viewer for viewer in looking if not viewer.silent]
        if not heeded or any(viewer.drawn < self.number for viewer in heeded):
            return self.sent_at + max(PATIENCE_SECONDS, self.period)
        return max(self.sent_at + self.period, self._own_rest, *(viewer.rested for viewer in heeded))

    def sent(self, now: float, own_cpu_seconds: float) -> int:
        """A picture goes out now, which took so much CPU time to make: its number."""
        for viewer in self.viewers.values():
            viewer.silent = viewer.silent or (viewer.visible and viewer.drawn < self.number)
        self.number += 1
        self.sent_at = now
        self._own_rest = now + OWN_REST * own_cpu_seconds
        return self.number
