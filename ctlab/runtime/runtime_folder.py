"""The runtime folder of a lab: a lock that its keeper holds and a note of what lies outside.

A lab's owner is dead exactly when the lock is free (`flock`; a pid could have been used again).
The folder is ``$XDG_RUNTIME_DIR/ctlab/<id>``, or ``/tmp/ctlab-<uid>/<id>`` without that variable.

Who makes or removes a lab's folder holds the base folder above it (`flock` on the folder itself), so that a folder
that is being made is never taken for one that a dead keeper has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from typing import Any

from ..errors import CtlabError, describe

Note = dict[str, Any]  # id, name, owner, owner_start, keeper, keeper_start, cgroups, tried_in, tried_since
_LAB_ID = re.compile(r"[0-9a-f]{12}")
_HOLD_SECONDS = 5.0
_VM_FOLDER = "vm"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def base() -> str:
    """The folder that holds the runtime folders of this user's labs."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return os.path.join(runtime, "ctlab")
    return f"/tmp/ctlab-{os.getuid()}"


def bases() -> list[str]:
    """Every folder in which labs of this user may have left something: with and without the variable."""
    user = os.getuid()
    return list(dict.fromkeys((base(), f"/run/user/{user}/ctlab", f"/tmp/ctlab-{user}")))


def check(path: str) -> None:
    """Raise CtlabError unless `path` is a folder of this user that nobody else can write to; FileNotFoundError.

    A link or another user's folder could name, in a note of its own, cgroup folders of ours to be removed.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        trouble = "is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        trouble = "isn't a folder"
    elif status.st_uid != os.getuid():
        trouble = f"belongs to user {status.st_uid}, not to you ({os.getuid()})"
    elif status.st_mode & 0o022:
        trouble = "can be written to by others"
    else:
        return
    raise CtlabError(f"{path} {trouble}: remove it, or set XDG_RUNTIME_DIR to a private folder")


def _hold(path: str, *, make: bool = False) -> int:
    """Lock the base folder `path`; a descriptor to close. Raises CtlabError, FileNotFoundError (without `make`)."""
    until = time.monotonic() + _HOLD_SECONDS
    while True:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        try:
            check(path)
            descriptor = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise
            continue  # the last other lab has just removed it
        try:
            while not _lock(descriptor):
                if time.monotonic() >= until:
                    raise CtlabError(f"{path} is locked by another ctlab process that doesn't go on (stopped?)")
                time.sleep(0.002)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed, and perhaps made anew, while we waited


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    """One lab's folder, held by its keeper."""

    def __init__(self, path: str, lock: int, note: Note) -> None:
        self.path = path
        self._lock = lock
        self._note = note

    def record(self, **facts: Any) -> None:
        """Write down what is to be made outside, *before* it is made, for whoever cleans up after a dead keeper.

        Raises CtlabError.
        """
        self._note.update(facts)
        temporary = os.path.join(self.path, "note.new")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(self._note, file)
            os.rename(temporary, os.path.join(self.path, "note"))
        except OSError as error:
            raise _refused(self.path, error) from None

    def vm_folder(self) -> str:
        """A folder in it for a VM's files, which go with it."""
        path = os.path.join(self.path, _VM_FOLDER)
        os.mkdir(path, 0o700)
        return path

    def forget(self) -> None:
        """In a child: close the lock's copy, so that only the keeper holds it."""
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the folder, and the base folder if it is the last; then let go of the lock."""
        remove(self.path)
        os.close(self._lock)

    def leave(self) -> None:
        """Let go of the lock but leave the note: something would not go yet, and the next to prune tries again."""
        os.close(self._lock)


def create(lab_id: str, name: str, owner: int) -> RuntimeFolder:
    """Make and lock the folder of a new lab. Raises CtlabError; nothing is left behind then."""
    above = base()
    path = os.path.join(above, lab_id)
    held = lock = -1
    try:
        held = _hold(above, make=True)
        os.mkdir(path, 0o700)
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = RuntimeFolder(path, lock, {"id": lab_id, "name": name, "cgroups": []})
        folder.record(owner=owner, owner_start=start_of(owner), keeper=os.getpid(), keeper_start=start_of(os.getpid()))
        return folder
    except (OSError, CtlabError) as error:
        if lock >= 0:
            os.close(lock)
        if held >= 0:
            _delete(path)
        raise (_refused(path, error) if isinstance(error, OSError) else error) from None
    finally:
        if held >= 0:
            os.close(held)


def _refused(path: str, error: OSError) -> CtlabError:
    return CtlabError(
        f"can't write to the lab's runtime folder {path}: {describe(error)}; "
        "make room there, or set XDG_RUNTIME_DIR to a folder of yours elsewhere"
    )


def _delete(path: str) -> None:
    """Remove one runtime folder (its files are known) and the base folder where that is empty; the base is held."""
    within = os.path.join(path, _VM_FOLDER)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(within):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(within, name))
        os.rmdir(within)
    for name in ("note.new", "note", "lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, name))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def remove(path: str) -> None:
    """Remove one runtime folder whose lock the caller holds."""
    try:
        held = _hold(os.path.dirname(path))
    except FileNotFoundError:
        return
    try:
        _delete(path)
    finally:
        os.close(held)


class Found:
    """A folder whose keeper is dead, locked by us until `close`, so that two who prune don't meet in it."""

    def __init__(self, path: str, note: Note, lock: int) -> None:
        self.path = path
        self.note = note
        self._lock = lock

    def close(self) -> None:
        """Let go of it."""
        if self._lock >= 0:
            os.close(self._lock)


def dead(above: str) -> list[Found]:
    """Every lab below the base folder `above` whose keeper no longer holds its lock. Raises CtlabError (`check`)."""
    try:
        held = _hold(above)
    except FileNotFoundError:
        return []
    try:
        found = [take(os.path.join(above, name)) for name in sorted(os.listdir(above)) if _LAB_ID.fullmatch(name)]
    finally:
        os.close(held)
    return [one for one in found if one is not None]


def take(path: str) -> Found | None:
    """The folder, if its keeper is dead; its base folder is held, so one without a lock file isn't just being made."""
    lock = -1
    try:
        check(path)
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not _lock(lock):
            os.close(lock)
            return None
    except FileNotFoundError:
        if not os.path.isdir(path):
            return None
    except (OSError, CtlabError):
        return None
    return Found(path, read_note(path), lock)


def take_one(path: str) -> Found | None:
    """`take` for one lab, with its base folder held meanwhile; None when there is nothing to take."""
    try:
        held = _hold(os.path.dirname(path))
    except (OSError, CtlabError):
        return None
    try:
        return take(path)
    finally:
        os.close(held)


def read_note(path: str) -> Note:
    """What the keeper wrote down; without a readable note, what the folder's name says."""
    note: Note = {"id": os.path.basename(path), "cgroups": []}
    with contextlib.suppress(OSError, ValueError), open(os.path.join(path, "note"), encoding="utf-8") as file:
        read = json.load(file)
        if isinstance(read, dict):
            note |= read
    return note


def held_ones(above: str) -> list[tuple[str, Note]]:
    """(path, note) of each lab below `above`, whoever holds it."""
    try:
        check(above)
        names = os.listdir(above)
    except OSError:
        return []
    return [(path, read_note(path)) for path in (os.path.join(above, n) for n in names if _LAB_ID.fullmatch(n))]
