"""Folders of ours in places that others can write to, opened so that nobody can put another in their place.

A folder is accepted by its descriptor alone (`fstat`: ours, mode 0700), and what is done in it afterwards is done
relative to that descriptor. Where somebody else has taken the name, the next one is free: ``NAME-xxxxxxxx``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat

from ..errors import CtlabError
from . import syscalls

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_FDCWD = -100
_NO_LINKS = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


class NotPrivate(CtlabError):
    """What lies there isn't a private folder of ours; the text says what it is."""


def open_above(path: str) -> int:
    """A descriptor of a folder that only we can write to, as a login's runtime folder; the caller closes it.

    No part of `path` may be a link: whoever owns a folder on the way could lead us into another of ours by one.
    Raises NotPrivate, OSError.
    """
    if not os.path.isabs(path):
        raise NotPrivate(f"{path} is no absolute path")
    descriptor = syscalls.openat2(_AT_FDCWD, path, os.O_RDONLY | os.O_DIRECTORY, _NO_LINKS)
    trouble = _trouble(os.fstat(descriptor), 0o022)
    if trouble:
        os.close(descriptor)
        raise NotPrivate(f"{path} {trouble}")
    return descriptor


def open_one(above: int, name: str, *, make: bool) -> int:
    """The folder `name` in the folder `above`; the caller closes it.

    Raises NotPrivate, FileNotFoundError (without `make`), OSError.
    """
    while True:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
        try:
            descriptor = os.open(name, FLAGS, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
            continue  # whoever used it last has just removed it
        except OSError:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
            if trouble := _trouble(status, 0o077):
                raise NotPrivate(trouble) from None
            raise
        if trouble := _trouble(os.fstat(descriptor), 0o077):
            os.close(descriptor)
            raise NotPrivate(trouble)
        return descriptor


def open_first(above: int, name: str) -> tuple[int, str]:
    """The first folder that is ours, made where there is none: (descriptor, its name). Raises OSError.

    Whoever takes `name` before us can't take what is then made: nobody knows its name before it is there.
    """
    with contextlib.suppress(NotPrivate):
        return open_one(above, name, make=True), name
    for other in others(above, name):
        with contextlib.suppress(NotPrivate, OSError):
            return open_one(above, other, make=False), other
    while True:
        other = f"{name}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileExistsError, FileNotFoundError, NotPrivate):
            os.mkdir(other, 0o700, dir_fd=above)
            return open_one(above, other, make=False), other


def others(above: int, name: str) -> list[str]:
    """The names beside `name` that somebody may have walked around it to."""
    pattern = re.compile(re.escape(name) + "-[0-9a-f]{8}")
    with os.scandir(above) as entries:
        return sorted(entry.name for entry in entries if pattern.fullmatch(entry.name))


def _trouble(status: os.stat_result, open_bits: int) -> str:
    """Why something isn't ours alone; empty if it is. `open_bits`: what of its mode others may not have."""
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "isn't a folder"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    if status.st_mode & open_bits:
        return f"is open to others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""
