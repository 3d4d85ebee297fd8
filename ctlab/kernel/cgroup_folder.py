"""One cgroup folder: made with the quota named, removed with patience; the names that both sides of a lab use."""

from __future__ import annotations

import errno
import os
import time

from ..errors import KernelError, describe

UNIFIED = "unified"
LEAF = "lab"  # where the lab's own processes are: a version 2 folder with children can't hold processes itself
ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_QUOTA = (errno.EAGAIN, errno.ENOSPC, errno.ENOMEM)


def is_id(text: str) -> bool:
    """Whether a lab's or container's id can be the name of a folder: letters, digits and ``_.-`` (`re` isn't lean)."""
    return 0 < len(text) <= 128 and text[0] not in "_.-" and ID_CHARACTERS.issuperset(text)


def make_folder(path: str, shown: str, directory: int | None = None) -> None:
    """mkdir; KernelError names `shown`, and the quota where it was that. FileExistsError stays as it is."""
    try:
        os.mkdir(path, 0o755, dir_fd=directory)
    except FileExistsError:
        raise
    except OSError as error:
        quota = "; this machine's quota of cgroups (cgroup.max.descendants) is used up" if error.errno in _QUOTA else ""
        raise KernelError(f"can't make the cgroup folder {shown}: {describe(error)}{quota}", error.errno or 0) from None


def remove_folder(path: str, directory: int | None, until: float) -> bool:
    """rmdir with EBUSY tried again: a process that was just reaped may still be counted for a moment.

    True when the folder is gone; False when it is still busy at `until` (monotonic clock).
    """
    pause = 0.0005
    while True:
        try:
            os.rmdir(path, dir_fd=directory)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        if time.monotonic() >= until:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
