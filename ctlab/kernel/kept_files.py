"""How many descriptors a process may keep for what it reads again and again; what is beyond is opened each time."""

from __future__ import annotations

import os
import resource

_MOST = 1 << 20
_RESERVE = 24  # for what comes with messages, and is opened for a moment


class Room:
    """The descriptors that may be kept. `lacked`: whether there were too few at some time."""

    def __init__(self, most: int) -> None:
        self._left = most
        self.lacked = False

    @classmethod
    def of_process(cls) -> Room:
        """As many as this process may have open besides those that it has, less some for its work."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST if soft == resource.RLIM_INFINITY else soft
        return cls(max(0, most - len(os.listdir("/proc/self/fd")) - _RESERVE))

    def take(self, count: int) -> bool:
        """Whether so many more may be kept, which they are then."""
        if count > self._left:
            self.lacked = True
            return False
        self._left -= count
        return True

    def give(self, count: int) -> None:
        """So many are closed."""
        self._left += count
