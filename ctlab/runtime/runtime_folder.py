"""The runtime folder of a lab: a lock that its keeper holds and a note of what lies outside.

A lab's owner is dead exactly when the lock is free (`flock`; a pid could have been used again). The folder is named by
the lab's id and lies in a base folder (`base_folder`). Everything is done by descriptors, from the base folder's on:
no path leads into it, so what others do to the folders above it leads nowhere.

Who makes or removes a lab's folder holds the base folder above it (`flock` on the folder itself), so that a folder
that is being made is never taken for one that a dead keeper has left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

from ..errors import CtlabError, describe
from ..kernel import private_folder
from . import base_folder
from . import note as notes
from .base_folder import Base
from .note import Note

_LAB_ID = re.compile(r"[0-9a-f]{12}")
_VM_FOLDER = "vm"
DOOR = "shell"  # the socket of `runtime.door`
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def start_of(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid it names one process for good. 0: it is gone."""
    return int(_stat(pid)[19]) if _stat(pid) else 0


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    return _stat(pid)[:1] == ["T"]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, from the state on; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


class RuntimeFolder:
    """One lab's folder, held by its keeper. `path` is for people."""

    def __init__(self, base: Base, lab_id: str, folder: int, lock: int, note: dict[str, Any]) -> None:
        self.path = os.path.join(base.path, lab_id)
        self._base = base
        self._lab_id = lab_id
        self._folder = folder
        self._lock = lock
        self._vm = -1
        self._note = note

    def record(self, **facts: Any) -> None:
        """Write down what is to be made outside, *before* it is made, for whoever cleans up after a dead keeper.

        Raises CtlabError.
        """
        self._note.update(facts)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink("note.new", dir_fd=self._folder)
            descriptor = os.open("note.new", _NEW_FILE, 0o600, dir_fd=self._folder)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(self._note, file)
            os.rename("note.new", "note", src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise _refused(self.path, error) from None

    def vm_folder(self) -> str:
        """A folder in it for a VM's files, which go with it: a path that holds in this process alone. Once only."""
        os.mkdir(_VM_FOLDER, 0o700, dir_fd=self._folder)
        self._vm = os.open(_VM_FOLDER, private_folder.FLAGS, dir_fd=self._folder)
        return f"/proc/self/fd/{self._vm}"

    def forget(self) -> None:
        """In a child: close the copies of its descriptors, so that only the keeper holds the lock."""
        self._base.close()
        for descriptor in (self._folder, self._lock, self._vm):
            if descriptor >= 0:
                os.close(descriptor)

    def remove(self) -> None:
        """Remove the folder, and the base folder if it is the last; then let go of the lock."""
        self._base.hold()
        _delete(self._base, self._lab_id)
        self.forget()

    def leave(self) -> None:
        """Let go of the lock but leave the note: something would not go yet, and the next to prune tries again."""
        self.forget()


def create(lab_id: str, name: str, owner: int) -> RuntimeFolder:
    """Make and lock the folder of a new lab. Raises CtlabError; nothing is left behind then."""
    base = None
    folder = lock = -1
    try:
        base = base_folder.take()
        os.mkdir(lab_id, 0o700, dir_fd=base.descriptor)
        folder = os.open(lab_id, private_folder.FLAGS, dir_fd=base.descriptor)
        lock = os.open("lock", _NEW_FILE, 0o600, dir_fd=folder)
        base_folder.lock(lock)
        made = RuntimeFolder(base, lab_id, folder, lock, {"id": lab_id, "name": name, "cgroups": []})
        made.record(owner=owner, owner_start=start_of(owner), keeper=os.getpid(), keeper_start=start_of(os.getpid()))
        base.let_go()
        return made
    except (OSError, CtlabError) as error:
        for descriptor in (lock, folder):
            if descriptor >= 0:
                os.close(descriptor)
        path = "of this user" if base is None else os.path.join(base.path, lab_id)
        if base is not None:
            _delete(base, lab_id)
            base.close()
        raise (_refused(path, error) if isinstance(error, OSError) else CtlabError(str(error))) from None


def _refused(path: str, error: OSError) -> CtlabError:
    return CtlabError(
        f"can't write to the lab's runtime folder {path}: {describe(error)}; "
        "make room there, or set XDG_RUNTIME_DIR to a folder of yours elsewhere"
    )


def _delete(base: Base, lab_id: str) -> None:
    """Remove one runtime folder (its files are known) and the base folder where that is empty; the base is held."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(lab_id, private_folder.FLAGS, dir_fd=base.descriptor)
        try:
            _delete_vm_folder(folder)
            for name in ("note.new", "note", DOOR, "lock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(lab_id, dir_fd=base.descriptor)
    base.remove_if_empty()


def _delete_vm_folder(folder: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        within = os.open(_VM_FOLDER, private_folder.FLAGS, dir_fd=folder)
        try:
            for name in os.listdir(within):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=within)
        finally:
            os.close(within)
        os.rmdir(_VM_FOLDER, dir_fd=folder)


class Found:
    """A folder whose keeper is dead, locked by us until `close`, so that two who prune don't meet in it."""

    def __init__(self, base: Base, note: Note, lock: int) -> None:
        self.note = note
        self._base = base
        self._lock = lock

    def remove(self) -> None:
        """Remove it, and the base folder if it is the last. Raises CtlabError."""
        self._base.hold()
        try:
            _delete(self._base, self.note.id)
        finally:
            self._base.let_go()

    def close(self) -> None:
        """Let go of it."""
        if self._lock >= 0:
            os.close(self._lock)


def dead(base: Base) -> list[Found]:
    """Every lab in an open base folder whose keeper no longer holds its lock. Raises CtlabError."""
    base.hold()
    try:
        found = [_take(base, lab_id) for lab_id in lab_ids(base)]
    finally:
        base.let_go()
    return [one for one in found if one is not None]


def take_one(base: Base, lab_id: str) -> Found | None:
    """One lab of it, if there is such a one and its keeper is dead. Raises CtlabError."""
    base.hold()
    try:
        return _take(base, lab_id)
    finally:
        base.let_go()


def _take(base: Base, lab_id: str) -> Found | None:
    """The folder, if its keeper is dead; its base folder is held, so one without a lock file isn't just being made."""
    folder = lock = -1
    try:
        folder = os.open(lab_id, private_folder.FLAGS, dir_fd=base.descriptor)
        if os.fstat(folder).st_uid != os.geteuid():
            return None
        with contextlib.suppress(FileNotFoundError):
            lock = os.open("lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            if not base_folder.lock(lock):
                os.close(lock)
                return None
        return Found(base, notes.read(folder, lab_id), lock)
    except OSError:
        return None
    finally:
        if folder >= 0:
            os.close(folder)


def is_lab_id(name: str) -> bool:
    """Whether a lab may be called so."""
    return _LAB_ID.fullmatch(name) is not None


def lab_ids(base: Base) -> list[str]:
    """The ids of the labs that have a folder there, whoever holds it."""
    return sorted(name for name in os.listdir(base.descriptor) if is_lab_id(name))


def read_note(base: Base, lab_id: str) -> Note:
    """What the keeper of one lab has written down, whoever holds its folder."""
    try:
        folder = os.open(lab_id, private_folder.FLAGS, dir_fd=base.descriptor)
    except OSError:
        return Note(lab_id)
    try:
        return notes.read(folder, lab_id)
    finally:
        os.close(folder)
