"""The folder of what a VM boots from: private, its files complete or not there, damage found by checksum.

``$XDG_CACHE_HOME/ctlab/vm``: a folder per kernel, initramfs archives by their key, and what the probe of KVM found.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CtlabError, describe

FACTS = "facts.json"
_UNFINISHED = ".new-"
_ELSEWHERE = "set XDG_CACHE_HOME to a folder of yours"


def place() -> Path:
    """Where the cache is, or would be. Raises CtlabError if something else is there, or another user's."""
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(above).absolute() / "ctlab" / "vm"
    try:
        status = path.lstat()
    except FileNotFoundError:
        return path
    except OSError as error:
        raise refused(path, error) from None
    if not stat.S_ISDIR(status.st_mode):
        raise CtlabError(f"{path} isn't a folder: remove it, or {_ELSEWHERE}")
    if status.st_uid != os.getuid():
        raise CtlabError(f"{path} belongs to user {status.st_uid}, not to you ({os.getuid()}): {_ELSEWHERE}")
    return path


def folder() -> Path:
    """The cache, made if need be; one that is there may be read-only. Raises CtlabError."""
    path = place()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise refused(path, error) from None
    return path


def clear_unfinished(path: Path) -> None:
    """Remove what somebody who was killed while making it has left; whoever calls this is the only one who makes."""
    for left in path.glob(f"{_UNFINISHED}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def refused(path: Path, error: OSError) -> CtlabError:
    """One line for a cache that can't be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CtlabError(
            f"no room for the VM's files in {path}: {describe(error)}; "
            "make about 200 MB free there, or set XDG_CACHE_HOME to a folder elsewhere"
        )
    return CtlabError(f"can't write the VM's files to {path}: {describe(error)}; {_ELSEWHERE}")


def write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all. Raises CtlabError."""
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # a descriptor of it is opened anew by a QEMU that is another user
        os.rename(temporary, path)
        temporary = ""
    except OSError as error:
        raise refused(path.parent, error) from None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when all went well it becomes `path`, in place of what was there. Raises CtlabError."""
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_UNFINISHED))
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise refused(path.parent, error) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def digest(data: bytes) -> str:
    """The checksum by which files are known: SHA-256."""
    return hashlib.sha256(data).hexdigest()


def stamp(path: Path) -> dict[str, Any]:
    """What a file is known by: its checksum, and size and time of change, which are quicker to compare."""
    status = path.stat()
    return {"sha256": digest(path.read_bytes()), "size": status.st_size, "changed_ns": status.st_mtime_ns}


def whole(path: Path, known: Mapping[str, Any], *, thorough: bool = False) -> bool:
    """Whether a file is what `stamp` said; its bytes are only read if it was touched since, or `thorough`."""
    try:
        status = path.stat()
        if status.st_size != known["size"]:
            return False
        if not thorough and status.st_mtime_ns == known["changed_ns"]:
            return True
        return digest(path.read_bytes()) == str(known["sha256"])
    except (OSError, KeyError):
        return False


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts. Raises CtlabError."""
    write(path, json.dumps(facts, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Facts; empty if there are none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads(path.read_bytes())
        if isinstance(facts, dict):
            return facts
    return {}


def size(path: Path) -> int:
    """The bytes of all files below a folder; of one that is just being made, what there is of it."""
    total = 0
    for one in path.rglob("*"):
        with contextlib.suppress(OSError):
            status = one.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
