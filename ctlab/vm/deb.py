"""A Debian package, read without installing it: an ar archive that holds a tar archive of the files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import CtlabError
from . import unpacking

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60


class Member(NamedTuple):
    """One regular file of a package; `path` without the leading ``./``."""

    path: str
    data: bytes


def members(package: bytes, what: str) -> Iterator[tuple[str, bytes]]:
    """(name, data) of each member of an ar archive. Raises CtlabError."""
    if not package.startswith(_MAGIC):
        raise CtlabError(f"{what} isn't a Debian package (no ar archive): fetch it again")
    position = len(_MAGIC)
    while position < len(package):
        header = package[position : position + _HEADER_BYTES]
        position += _HEADER_BYTES
        try:
            size = int(header[48:58])
        except ValueError:
            raise CtlabError(f"{what} is damaged: no size in the header of a member; fetch it again") from None
        if header[58:60] != b"`\n" or position + size > len(package):
            raise CtlabError(f"{what} is damaged or cut off; fetch it again")
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), package[position : position + size]
        position += size + size % 2


def files(package: bytes, what: str) -> Iterator[Member]:
    """Every regular file of the package. Raises CtlabError, Unsupported."""
    for name, data in members(package, what):
        if name.startswith("data.tar"):
            unpacked = unpacking.unpack(data, what)
            try:
                yield from _regular(unpacked)
            except tarfile.TarError as error:
                raise CtlabError(f"{what} is damaged: {error}; fetch it again") from None
            return
    raise CtlabError(f"{what} isn't a Debian package (it holds no data.tar): fetch it again")


def _regular(unpacked: bytes) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        for entry in archive:
            content = archive.extractfile(entry) if entry.isreg() else None
            if content is not None:
                yield Member(entry.name.removeprefix("./"), content.read())
