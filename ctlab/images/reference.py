"""Image references: what a person types after `run`, and what it names."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from ..errors import BadInput, NotFound, Unsupported

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")


class Reference(NamedTuple):
    """`kind`: system, scratch, folder or archive; `path` is absolute for the last two."""

    kind: str
    path: str

    @property
    def key(self) -> str:
        """What the prepared image is called inside the lab; an archive that has changed is another image."""
        if self.kind in ("system", "scratch"):
            return self.kind
        stamp = ""
        if self.kind == "archive":
            status = os.stat(self.path)
            stamp = f"{status.st_mtime_ns} {status.st_size} {status.st_ino}"
        return hashlib.sha256(f"{self.kind} {self.path} {stamp}".encode()).hexdigest()[:12]


def parse(text: str, command: tuple[str, ...] = ()) -> Reference:
    """The image that `text` names. Raises NotFound, BadInput or Unsupported with what to type instead."""
    if text in ("system", "scratch"):
        return Reference(text, "")
    if text.startswith(("/", "./", "../", "~")) or text in (".", "..") or text.endswith(_ARCHIVES):
        path = os.path.realpath(os.path.expanduser(text))
        if not os.path.exists(path):
            raise NotFound(f"no image '{text}': {path} does not exist (ENOENT)")
        if os.path.isdir(path):
            return Reference("folder", path)
        if text.endswith(_ARCHIVES):
            return Reference("archive", path)
        raise BadInput(f"image '{text}' is neither a folder nor a tar file ({', '.join(_ARCHIVES)})")
    if "/" in text or ":" in text or "@" in text:
        raise Unsupported(
            f"image '{text}' names a registry: not in this version; images here: system, scratch, ./folder, file.tar"
        )
    words = " ".join((text, *command))
    raise NotFound(f"no image '{text}'; to run it on this machine's system: %container run -- {words}")
