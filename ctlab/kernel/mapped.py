"""Memory in a descriptor (`memfd`), mapped: from Python 3.13 on without a second descriptor that the map keeps."""

from __future__ import annotations

import mmap
import sys


def mapped(descriptor: int, size_bytes: int, *, writable: bool) -> mmap.mmap:
    """Its first `size_bytes`, shared with whoever maps it too; the descriptor stays the caller's. Raises OSError."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED, prot=protection, trackfd=False)
    return mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED, prot=protection)
