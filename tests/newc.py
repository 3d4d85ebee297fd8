"""Reads the archives that the kernel unpacks as its first root (cpio "newc"), apart from the code that writes them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Member(NamedTuple):
    """One member: `device` is (major, minor) of a device node."""

    path: str
    mode: int
    data: bytes
    device: tuple[int, int]
    inode: int


def read(archive: bytes) -> Iterator[Member]:
    """Every member, of archives one after the other with zeros between them, as the kernel reads them."""
    position = 0
    while position < len(archive):
        if archive[position] == 0:
            position += 1
            continue
        assert archive[position : position + 6] == b"070701" and position % 4 == 0
        field = [int(archive[at : at + 8], 16) for at in range(position + 6, position + 110, 8)]
        inode, mode, size, name_bytes = field[0], field[1], field[6], field[11]
        name = archive[position + 110 : position + 110 + name_bytes]
        assert name[-1] == 0
        start = -(-(position + 110 + name_bytes) // 4) * 4
        position = -(-(start + size) // 4) * 4
        if name != b"TRAILER!!!\0":
            path = name[:-1].decode()
            yield Member(path, mode, archive[start : start + size], (field[9], field[10]), inode)


def write_out(archive: bytes, root: Path) -> None:
    """Make the folders and the regular files of an archive below `root`."""
    for member in read(archive):
        place = root / member.path
        if stat.S_ISDIR(member.mode):
            place.mkdir(exist_ok=True)
        elif stat.S_ISREG(member.mode):
            place.write_bytes(member.data)
            place.chmod(member.mode & 0o777)
