"""The loop of a VM's keeper: one thread, which waits for descriptors."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..runtime.descriptors import Descriptors


class Loop(Descriptors):
    """Calls what was asked for when a descriptor is ready; `first`, if there is one, before each of them."""

    first: Callable[[], None] | None = None

    def run(self, until: Callable[[], bool], seconds: float | None, after: Callable[[], None]) -> bool:
        """Serve until `until()` is true, or the time is over (False). `after` is called after each round."""
        deadline = None if seconds is None else time.monotonic() + seconds
        after()
        while not until():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.wait(left, self._call)
            after()
        return True

    def _call(self, handler: Callable[[], None]) -> None:
        if self.first is not None:
            self.first()
        handler()
