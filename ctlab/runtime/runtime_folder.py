"""The runtime folder of a lab: a lock that its keeper holds and a note of what lies outside.

A lab's owner is dead exactly when the lock is free (`flock`; a pid could have been used again).
The folder is ``$XDG_RUNTIME_DIR/ctlab/<id>``, or ``/tmp/ctlab-<uid>/<id>`` without that variable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from typing import Any

from ..errors import CtlabError


def base() -> str:
    """The folder that holds the runtime folders of this user's labs."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return os.path.join(runtime, "ctlab")
    return f"/tmp/ctlab-{os.getuid()}"


def _make_base() -> str:
    path = base()
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise CtlabError(
                f"{path} isn't a folder of this user alone: remove it, or set XDG_RUNTIME_DIR to a private folder"
            ) from None
    return path


class RuntimeFolder:
    """One lab's folder, held by its keeper."""

    def __init__(self, path: str, lock: int, note: dict[str, Any]) -> None:
        self.path = path
        self._lock = lock
        self._note = note

    def record(self, cgroup_paths: list[str]) -> None:
        """Write down the cgroup folders, for whoever cleans up after a dead keeper."""
        self._note["cgroups"] = cgroup_paths
        self._write()

    def _write(self) -> None:
        temporary = os.path.join(self.path, "note.new")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self._note, file)
        os.rename(temporary, os.path.join(self.path, "note"))

    def forget(self) -> None:
        """In a child: close the lock's copy, so that only the keeper holds it."""
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the folder, and the base folder if it is the last; then let go of the lock."""
        delete(self.path)
        os.close(self._lock)


def delete(path: str) -> None:
    """Remove one runtime folder (its files are known) and the base folder where that is empty."""
    for name in ("note.new", "note", "lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, name))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def create(lab_id: str, name: str, owner: int) -> RuntimeFolder:
    """Make and lock the folder of a new lab."""
    while True:
        path = os.path.join(_make_base(), lab_id)
        try:
            os.mkdir(path, 0o700)
            break
        except FileNotFoundError:  # the last other lab has just removed the base folder
            continue
    lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = RuntimeFolder(path, lock, {"id": lab_id, "name": name, "owner": owner, "cgroups": []})
    folder._write()
    return folder


def dead() -> list[tuple[str, dict[str, Any]]]:
    """(path, note) of every lab of this user whose keeper no longer holds its lock."""
    found = []
    try:
        names = os.listdir(base())
    except FileNotFoundError:
        return []
    for name in sorted(names):
        path = os.path.join(base(), name)
        try:
            lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENOENT and os.path.isdir(path) and not os.listdir(path):
                found.append((path, {"id": name, "cgroups": []}))
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(lock)
        note: dict[str, Any] = {"id": name, "cgroups": []}
        with contextlib.suppress(OSError, ValueError), open(os.path.join(path, "note"), encoding="utf-8") as file:
            note = json.load(file)
        found.append((path, note))
    return found
