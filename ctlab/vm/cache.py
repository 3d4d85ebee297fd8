"""The folder of what a VM boots from: private, its files complete or not there, damage found by checksum.

``$XDG_CACHE_HOME/ctlab/vm``: a folder per kernel, initramfs archives by their key, and what the probe of KVM found.
Where another user could make the way to it lead elsewhere (root with a user's HOME: `sudo -E`, `su`), it is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CtlabError, describe
from ..kernel import private_folder

FACTS = "facts.json"
_UNFINISHED = ".new-"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ELSEWHERE = "set XDG_CACHE_HOME to a folder of yours"


def place() -> Path:
    """Where the cache is, or would be. Raises CtlabError if something else is there, or another user's."""
    path = _path()
    with contextlib.suppress(FileNotFoundError):
        os.close(_opened(path, make=False))
    return path


def folder() -> Path:
    """The cache, made if need be; one that is there may be read-only. Raises CtlabError."""
    path = _path()
    descriptor = _opened(path, make=True)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    except OSError as error:
        raise refused(path, error) from None
    finally:
        os.close(descriptor)
    return path


def _path() -> Path:
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(above).absolute() / "ctlab" / "vm"


def _opened(path: Path, *, make: bool) -> int:
    """The cache's folder: what lies there, and the way to it, is in nobody else's hands, so that paths may be used.

    Raises CtlabError, FileNotFoundError (without `make`).
    """
    try:
        return private_folder.open_way(str(path), make=make)
    except private_folder.NotPrivate as error:
        raise CtlabError(f"{error}: {_ELSEWHERE}") from None
    except FileNotFoundError as error:
        if not make:
            raise
        raise refused(path, error) from None
    except OSError as error:
        raise refused(path, error) from None


@contextlib.contextmanager
def _above(path: Path) -> Iterator[int]:
    """The folder in which something is made or removed, by its descriptor. Raises OSError, NotPrivate."""
    descriptor = private_folder.open_way(str(path.parent), make=False)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def clear_unfinished(path: Path) -> None:
    """Remove what somebody who was killed while making it has left; whoever calls this is the only one who makes."""
    for left in path.glob(f"{_UNFINISHED}*"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all below it, as far as can be."""
    with contextlib.suppress(OSError), _above(path) as above:
        _remove(path.name, above)


def _remove(name: str, above: int) -> None:
    try:
        os.unlink(name, dir_fd=above)
    except IsADirectoryError:
        shutil.rmtree(name, ignore_errors=True, dir_fd=above)


def refused(path: Path, error: OSError) -> CtlabError:
    """One line for a cache that can't be written; what isn't finished yet has a name that says nobody anything."""
    path = path.parent if path.name.startswith(_UNFINISHED) else path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CtlabError(
            f"no room for the VM's files in {path}: {describe(error)}; "
            "make about 200 MB free there, or set XDG_CACHE_HOME to a folder elsewhere"
        )
    return CtlabError(f"can't write the VM's files to {path}: {describe(error)}; {_ELSEWHERE}")


def write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all. Raises CtlabError."""
    temporary = _UNFINISHED + secrets.token_hex(4)
    try:
        with _above(path) as above:
            try:
                descriptor = os.open(temporary, _NEW, 0o600, dir_fd=above)
                with open(descriptor, "wb") as file:
                    file.write(data)
                    os.fchmod(descriptor, 0o644)  # a descriptor of it is opened anew by a QEMU that is another user
                os.rename(temporary, path.name, src_dir_fd=above, dst_dir_fd=above)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=above)
                raise
    except OSError as error:
        raise refused(path.parent, error) from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when all went well it becomes `path`, in place of what was there. Raises CtlabError."""
    temporary = _UNFINISHED + secrets.token_hex(4)
    try:
        with _above(path) as above:
            os.mkdir(temporary, 0o700, dir_fd=above)
            try:
                yield path.parent / temporary
                with contextlib.suppress(FileNotFoundError):
                    _remove(path.name, above)
                os.rename(temporary, path.name, src_dir_fd=above, dst_dir_fd=above)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True, dir_fd=above)
                raise
    except OSError as error:
        raise refused(path.parent, error) from None


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
