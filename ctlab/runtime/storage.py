"""The lab's storage: the one tmpfs that holds what its containers write and what images are unpacked to.

What is left of it, and what to say when nothing is; how large it is: `storage_size`.
"""

from __future__ import annotations

import errno
import os
from typing import Any

_FULL_BYTES, _FULL_INODES = 256 << 10, 64  # less than this is nothing


def state(place: str | int = "/") -> dict[str, int]:
    """Bytes and inodes: all, used, free. To be asked in the supervisor, whose root it is, or of what lies in it."""
    found = os.statvfs(place)
    return {
        "bytes": found.f_blocks * found.f_frsize,
        "used_bytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
        "free_bytes": found.f_bfree * found.f_frsize,
        "inodes": found.f_files,
        "used_inodes": found.f_files - found.f_ffree,
        "free_inodes": found.f_ffree,
    }


def hint(failed: dict[str, int] | None = None) -> str:
    """The line for a storage that is full; "" where it isn't, and what failed did so for another reason.

    `failed`: the state of that file system, which may be another one, when something failed in it.
    """
    now = state()
    if failed is not None and (failed["bytes"], failed["inodes"]) == (now["bytes"], now["inodes"]):
        now = failed
    if now["free_bytes"] >= _FULL_BYTES and now["free_inodes"] >= _FULL_INODES:
        return ""
    what = f"{now['bytes'] >> 20}M" if now["free_bytes"] < _FULL_BYTES else f"{now['inodes']} files"
    return (
        f"the lab's storage is full (ENOSPC; {what}): remove files or containers, or start the lab with more: "
        "Lab(storage=…), %lab start --storage"
    )


def named(answer: dict[str, Any], *, starting: bool = False) -> dict[str, Any]:
    """An answer that reports ENOSPC, with the storage and the remedy named where it is that.

    `starting`: of a container's first process, for which the kernel mounts an overlay read-only where it has no room.
    """
    if "error" not in answer or answer.get("errno") not in (errno.ENOSPC, errno.EROFS if starting else None):
        return answer
    text = hint(answer.get("storage"))
    return answer | {"message": text} if text else answer
