"""A cgroup folder and all that is below it, made by whomever."""

from __future__ import annotations

import os

from .cgroup_folder import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONG_PATH = 2000  # bytes; another name of 255 fits behind it


class Tree:
    """A folder and what is below it, however deep: a path has at most 4,096 bytes, so some have another base.

    `folders`: (a descriptor, the path below it), the deepest first. No cgroup holds links.
    """

    def __init__(
        self, parent: int, name: str, accepts: Callable[[os.stat_result], bool] | None = None, most: int = 0
    ) -> None:
        """`accepts`: whether it is one that we want, or there are none. `most`: as many folders at most (0: all)."""
        self.name = name
        self.folders: list[tuple[int, str]] = []
        self._bases: list[int] = []
        waiting = [(parent, name)]
        while waiting and (not most or len(self.folders) < most):
            base, path = waiting.pop()
            try:
                directory = os.open(path, DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
            except OSError:
                continue  # whoever else removes it was quicker
            if not self.folders and accepts is not None and not accepts(os.fstat(directory)):
                os.close(directory)
                return
            self.folders.append((base, path))
            with os.scandir(directory) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            if below and len(path) > _LONG_PATH:
                self._bases.append(directory)
                waiting += [(directory, each) for each in below]
            else:
                os.close(directory)
                waiting += [(base, f"{path}/{each}") for each in below]
        self.folders.reverse()

    def close(self) -> None:
        """Close what it has opened."""
        while self._bases:
            os.close(self._bases.pop())
