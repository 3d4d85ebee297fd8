"""The folders that hold the runtime folders of a user's labs: which there may be, and one of them, open and locked.

A lab's folder lies in ``$XDG_RUNTIME_DIR/ctlab``; without that variable, or where it names a folder that isn't ours
alone (`sudo -E`, `su`), in ``/tmp/ctlab-<uid>``; where somebody else has that name, in ``/tmp/ctlab-<uid>-xxxxxxxx``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Self

from ..errors import CtlabError, describe
from ..kernel import private_folder
from ..kernel.private_folder import NotPrivate

_HOLD_SECONDS = 5.0
_SHARED = "/tmp"
_LOGIN = "/run/user"  # where a login's runtime folder is by custom
_NAME = "ctlab"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Base:
    """One base folder, by descriptors: `descriptor` is its own. `path` is for people."""

    def __init__(self, above: int, name: str, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self._above = above
        self._name = name

    def close(self) -> None:
        """Close its descriptors, which lets go of it as well. Twice is no error."""
        for descriptor in (self.descriptor, self._above):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._above = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hold(self) -> bool:
        """Lock it against whoever makes or removes a lab's folder in it; False: it was removed meanwhile.

        Raises CtlabError where another process has it for too long.
        """
        until = time.monotonic() + _HOLD_SECONDS
        while not lock(self.descriptor):
            if time.monotonic() >= until:
                raise CtlabError(f"{self.path} is locked by another ctlab process that doesn't go on (stopped?)")
            time.sleep(0.002)
        return self._is_there()

    def let_go(self) -> None:
        """Unlock it; it stays open."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def remove_if_empty(self) -> None:
        """Remove it where no lab has a folder in it any more; it is held."""
        if self._is_there():
            with contextlib.suppress(OSError):
                os.rmdir(self._name, dir_fd=self._above)

    def has(self, name: str) -> bool:
        """Whether something of that name lies in it."""
        return _status(self.descriptor, name) is not None

    def _is_there(self) -> bool:
        status = _status(self._above, self._name)
        return status is not None and os.path.samestat(status, os.fstat(self.descriptor))


def lock(descriptor: int) -> bool:
    """Lock an open file or folder if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _status(above: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False)
    except OSError:
        return None


def take() -> Base:
    """The base folder for a new lab, made where it isn't there yet; held. Raises CtlabError, OSError."""
    while True:
        base = _first()
        try:
            if base.hold():
                return base
        except BaseException:
            base.close()
            raise
        base.close()


def _first() -> Base:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        try:
            above = private_folder.open_above(runtime)
            try:
                descriptor = private_folder.open_one(above, _NAME, make=True)
            except BaseException:
                os.close(above)
                raise
            return Base(above, _NAME, descriptor, os.path.join(runtime, _NAME))
        except NotPrivate:
            pass  # another user's, or one that others can write to: we have a place of our own
        except OSError as error:
            if error.errno in _FULL:
                raise
    above = _open_shared()
    try:
        descriptor, name = private_folder.open_first(above, _own_name())
    except BaseException:
        os.close(above)
        raise
    return Base(above, name, descriptor, os.path.join(_SHARED, name))


def existing() -> Iterator[Base]:
    """Every base folder of this user that is there, whatever the environment says; the caller closes each."""
    seen: list[os.stat_result] = []
    for base in _all(None):
        status = os.fstat(base.descriptor)
        if any(os.path.samestat(status, other) for other in seen):
            base.close()
            continue
        seen.append(status)
        yield base


def is_always_found(path: str) -> bool:
    """Whether `existing` finds that base folder whatever the environment says: in a place of custom."""
    return os.path.dirname(path) in (os.path.join(_LOGIN, str(os.geteuid())), _SHARED)


def refusals() -> list[str]:
    """What lies in the place of a base folder and isn't ours, a line for each."""
    lines: list[str] = []
    for base in _all(lines):
        base.close()
    return lines


def _all(refused: list[str] | None) -> Iterator[Base]:
    user = os.path.join(_LOGIN, str(os.geteuid()))
    for runtime in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR", ""), user)):
        if runtime:
            yield from _opened(runtime, (_NAME,), refused, shared=False)
    own = _own_name()
    with contextlib.suppress(OSError):
        above = _open_shared()
        try:
            others = private_folder.others(above, own)
        finally:
            os.close(above)
        yield from _opened(_SHARED, (own,), refused, shared=True)
        yield from _opened(_SHARED, others, None, shared=True)


def _opened(
    folder: str, names: tuple[str, ...] | list[str], refused: list[str] | None, *, shared: bool
) -> Iterator[Base]:
    for name in names:
        path = os.path.join(folder, name)
        above = -1
        try:
            above = _open_shared() if shared else private_folder.open_above(folder)
            descriptor = private_folder.open_one(above, name, make=False)
        except (OSError, NotPrivate) as error:
            if refused is not None and not isinstance(error, FileNotFoundError):
                said = describe(error) if isinstance(error, OSError) else str(error)
                refused.append(said if above < 0 and not isinstance(error, OSError) else f"{path} {said}")
            if above >= 0:
                os.close(above)
            continue
        yield Base(above, name, descriptor, path)


def _own_name() -> str:
    return f"ctlab-{os.geteuid()}"


def _open_shared() -> int:
    return os.open(_SHARED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
