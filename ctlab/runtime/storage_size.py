"""How large the lab's storage is where nobody says it, and how many files fit. The keeper's, who sees whose memory."""

from __future__ import annotations

from ..kernel import memory

SHARE = 4  # of the memory there is, by default
MOST_BYTES = 16 << 30  # by default
LEAST_BYTES = 16 << 20
_BYTES_PER_INODE = 8192  # an inode costs the kernel about 1 KiB, which no size of a tmpfs counts
_LEAST_INODES = 32_768  # a distribution's files as an image, unpacked


def default_bytes(*, in_vm: bool) -> int:
    """A quarter of the memory that this process may use, at most `MOST_BYTES`; in a VM half of what its kernel left."""
    if in_vm:
        return max(LEAST_BYTES, memory.available_bytes() // 2)
    return max(LEAST_BYTES, min(memory.total_bytes() // SHARE, MOST_BYTES))


def inodes(size_bytes: int) -> int:
    """How many files a storage of that size may hold."""
    return max(size_bytes // _BYTES_PER_INODE, _LEAST_INODES)
