"""Memory in descriptors (memfd) that one process makes and another reads or maps.

Whoever maps a file that somebody cuts off meets SIGBUS, and whoever reads one that still grows or changes reads what
was never checked. Seals rule that out: the kernel takes them back from nobody. Lean: see `kernel.lean`.
"""

from __future__ import annotations

import fcntl
import os

# linux/fcntl.h; Python has them on Linux only, and a recording is read everywhere.
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1, 2, 4, 8

MAPPED = _F_SEAL_SHRINK | _F_SEAL_GROW  # what a reader that maps it needs: its size stays
FIXED = MAPPED | _F_SEAL_WRITE  # what a reader that copies it needs: its content stays, too


def create(name: str, size_bytes: int) -> int:
    """A memfd of that size, which nobody can resize, to be mapped. Pages are taken from memory when they are reached.

    Raises OSError.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size_bytes)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, MAPPED | _F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def holding(name: str, body: bytes) -> int:
    """A memfd with `body`, which nobody can change any more. Raises OSError."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        fcntl.fcntl(descriptor, _F_ADD_SEALS, FIXED | _F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def size_of(descriptor: int, seals: int, most_bytes: int) -> int:
    """The size in bytes of a descriptor that somebody else sent, once it is known to be such memory.

    `seals`: MAPPED or FIXED, which it must have. Raises ValueError, in half a sentence that says what is wrong. Does
    nothing to the descriptor that could wait for who sent it: a file system of its own may answer when it likes.
    """
    try:
        found = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError:
        raise ValueError("a descriptor that is no memory (memfd)") from None
    if found & seals != seals:
        raise ValueError("memory that isn't sealed, so that it could change while it is read")
    # Huge pages are taken from a pool, which may be empty: reading what is mapped would be SIGBUS.
    if os.fstatvfs(descriptor).f_bsize != os.sysconf("SC_PAGE_SIZE"):
        raise ValueError("memory of huge pages")
    size = os.fstat(descriptor).st_size
    if size > most_bytes:
        raise ValueError(f"memory of {size} bytes, where {most_bytes} are the most")
    return size


def content(descriptor: int, most_bytes: int) -> bytes:
    """What is in a memfd that somebody else sent; ValueError as of `size_of`."""
    size = size_of(descriptor, FIXED, most_bytes)
    whole = bytearray()
    while len(whole) < size:
        piece = os.pread(descriptor, size - len(whole), len(whole))
        if not piece:
            break
        whole += piece
    return bytes(whole)
