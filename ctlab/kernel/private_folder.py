"""Folders of ours in places that others can write to, opened so that nobody can put another in their place.

A folder is accepted by its descriptor alone (`fstat`: ours, mode 0700), and what is done in it afterwards is done
relative to that descriptor. Where somebody else has taken the name, the next one is free: ``NAME-xxxxxxxx``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat

from ..errors import CtlabError
from . import syscalls

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_FDCWD = -100
_LINKS_MOST = 40  # on one way, as in the kernel
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


def open_way(path: str, *, make: bool) -> int:
    """A descriptor of the folder of ours at `path`, to which nobody else can make the way lead; the caller closes it.

    Each part of the way, and of what a link in it leads through, is ours or root's, and in a folder that no other user
    can write to (or is sticky). With `make` what is missing is made, of mode 0700.
    Raises NotPrivate, FileNotFoundError (without `make`), OSError.
    """
    parts, walked, links = path.split("/")[::-1], "", 0
    above = os.open("/", _PASS)
    try:
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            at = os.path.normpath(f"{walked}/{part}")
            status = _next(above, part, make)
            if trouble := _swayed(status):
                raise NotPrivate(f"{at} {trouble}")
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _LINKS_MOST:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink(part, dir_fd=above)
                parts += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                part, at = "/", ""
            below = os.open(part, _PASS, dir_fd=above)
            os.close(above)
            above, walked = below, at
        if trouble := _trouble(os.fstat(above), 0):
            raise NotPrivate(f"{path} {trouble}")
        return os.open(".", FLAGS, dir_fd=above)
    finally:
        os.close(above)


def _next(above: int, part: str, make: bool) -> os.stat_result:
    """What lies at a part of a way, which is made if need be."""
    try:
        return os.stat(part, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, 0o700, dir_fd=above)
    return os.stat(part, dir_fd=above, follow_symlinks=False)


def _swayed(status: os.stat_result) -> str:
    """Why another user can say where a way leads from here; empty where none can.

    A group that we are in counts as us: many a home is its user's own group's to write to.
    """
    if status.st_uid not in (0, os.geteuid(), os.stat("/").st_uid):  # in a user namespace root may be nobody's id
        return f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    if stat.S_ISLNK(status.st_mode):
        return ""
    if not stat.S_ISDIR(status.st_mode):
        return "isn't a folder"
    others = 0o002 if status.st_gid in (os.getegid(), *os.getgroups()) else 0o022
    if status.st_mode & others and not status.st_mode & stat.S_ISVTX:
        return f"is open to others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


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
