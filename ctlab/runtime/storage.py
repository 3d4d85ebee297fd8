"""The lab's storage: the one tmpfs that holds what its containers write and what images are unpacked to.

What is left of it, and what to say when nothing is; how large it is: `storage_size`.
"""

from __future__ import annotations

import errno
import os
from typing import Any

_FULL_BYTES, _FULL_INODES = 256 << 10, 64  # less than this is nothing


def state() -> dict[str, int]:
    """Bytes and inodes: all, used, free. To be asked in the supervisor, whose root it is."""
    found = os.statvfs("/")
    return {
        "bytes": found.f_blocks * found.f_frsize,
        "used_bytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
        "free_bytes": found.f_bfree * found.f_frsize,
        "inodes": found.f_files,
        "used_inodes": found.f_files - found.f_ffree,
        "free_inodes": found.f_ffree,
    }


def hint() -> str:
    """What follows an ENOSPC where the storage is full; "" where it isn't, and the reason is another one."""
    now = state()
    if now["free_bytes"] >= _FULL_BYTES and now["free_inodes"] >= _FULL_INODES:
        return ""
    what = f"{now['bytes'] >> 20}M" if now["free_bytes"] < _FULL_BYTES else f"{now['inodes']} files"
    return (
        f"the lab's storage is full ({what}): remove files or containers, or start the lab with more: "
        "Lab(storage=…), %lab start --storage"
    )


def named(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that reports ENOSPC, with the storage and the remedy named where it is that."""
    if answer.get("errno") != errno.ENOSPC or "error" not in answer or not (text := hint()):
        return answer
    what = str(answer["message"]).partition("(")[0].rstrip(": ")
    return answer | {"message": f"{what}: {text}"}
