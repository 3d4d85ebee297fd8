"""An archive in the format that the kernel unpacks as its first root: cpio "newc" (initramfs-buffer-format).

Pure: what goes in is given as bytes, what comes out is the same for the same input (no times, no inode of the host).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import NamedTuple

_MAGIC = "070701"
_END = "TRAILER!!!"
_HEADER_BYTES = 110


class Entry(NamedTuple):
    """One member: `path` without a leading slash; `mode` with its type; a device's number for a device node."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str, permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | permissions, data)


def link(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | permissions, b"", (major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of `entries`, each with the folders above it, in order; a path given twice keeps its first entry.

    Several archives one after the other are unpacked one after the other.
    """
    parts: list[bytes] = []
    seen: set[str] = set()
    for entry in entries:
        for above in _above(entry.path):
            if above not in seen:
                seen.add(above)
                parts += _member(folder(above), len(seen))
        if entry.path not in seen:
            seen.add(entry.path)
            parts += _member(entry, len(seen))
    parts += _member(Entry(_END, 0), 0)
    return _padded(b"".join(parts), 512)


def _above(path: str) -> list[str]:
    words = path.split("/")[:-1]
    return ["/".join(words[: number + 1]) for number in range(len(words))]


def _member(entry: Entry, inode: int) -> list[bytes]:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0
    )  # fmt: skip
    header = (_MAGIC + "".join(f"{field:08X}" for field in fields)).encode()
    return [_padded(header + name, 4), _padded(entry.data, 4)]


def _padded(data: bytes, to: int) -> bytes:
    return data + b"\0" * (-len(data) % to)
