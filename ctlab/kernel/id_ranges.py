"""Ranges of ids that root's labs have, each one of its own: what a user may have (keys, processes) isn't shared then.

There are `COUNT` ranges of `RANGE` ids from `FIRST` on, far above what useradd hands out, below 2^31. A range is taken
by a lock on a file of its number, in a folder of root's alone; the keeper holds it as long as its lab lives, and the
kernel gives it back when the keeper dies.
"""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator

from ..errors import CtlabError, describe
from . import private_folder

RANGE = 65536  # all that 16 bits name, nobody's 65534 included
FIRST = 0x60000000
COUNT = 4096
_NAME = "ctlab-ids"
_PLACES = ("/run", "/tmp")  # the first that root can write to

Ranges = list[tuple[int, int]]  # (first, count)


class Held:
    """A range that is ours until `release`, or until this process ends. `first`: its first id."""

    def __init__(self, first: int, lock: int, name: str) -> None:
        self.first = first
        self._lock = lock
        self._name = name

    def release(self) -> None:
        """Give it back. Twice is no error."""
        if self._lock >= 0:
            with contextlib.suppress(OSError), _Folder(make=False) as folder:
                folder.remove(self._name, self._lock)
            os.close(self._lock)
        self._lock = -1


class _Folder:
    """The folder of the locks, open. Raises OSError where it can't be had."""

    def __init__(self, *, make: bool) -> None:
        self._above = self.descriptor = -1
        trouble: OSError | None = None
        for place in _PLACES:
            try:
                self._above = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self.descriptor, self._name = self._open(make)
                return
            except OSError as error:
                trouble = trouble or error
                if self._above >= 0:
                    os.close(self._above)
                self._above = -1
        raise trouble or FileNotFoundError(2, "no such folder")

    def _open(self, make: bool) -> tuple[int, str]:
        if make:
            return private_folder.open_first(self._above, _NAME)
        for name in (_NAME, *private_folder.others(self._above, _NAME)):
            with contextlib.suppress(private_folder.NotPrivate, FileNotFoundError):
                return private_folder.open_one(self._above, name, make=False), name
        raise FileNotFoundError(2, "no such folder")

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # only an empty one goes
            os.rmdir(self._name, dir_fd=self._above)
        os.close(self.descriptor)
        os.close(self._above)

    def lock(self, name: str) -> int:
        """A descriptor of the file, locked; -1 where somebody has it. FileNotFoundError: the folder has gone."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(name, flags, 0o600, dir_fd=self.descriptor)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    now = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
                    if os.path.samestat(now, os.fstat(lock)):
                        return lock
            except BlockingIOError:
                os.close(lock)
                return -1
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # who had it has just given it back, with its file

    def remove(self, name: str, lock: int) -> None:
        """Remove a file that we have locked, if it is still that file."""
        if os.path.samestat(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False), os.fstat(lock)):
            os.unlink(name, dir_fd=self.descriptor)


def contains(number: int) -> bool:
    """Whether an id is of one of these ranges. Pure."""
    return FIRST <= number < FIRST + COUNT * RANGE


def untouched(taken: Ranges, start: int = 0) -> Iterator[int]:
    """The first ids of the ranges that no range of `taken` touches, from that of number `start` on, round. Pure."""
    for step in range(COUNT):
        first = FIRST + (start + step) % COUNT * RANGE
        if not any(first < begin + count and begin < first + RANGE for begin, count in taken):
            yield first


def taken() -> Ranges:
    """Every (first, count) range that /etc/subuid, /etc/subgid or /etc/passwd names."""
    ranges = [(entry.pw_uid, 1) for entry in pwd.getpwall()]
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    parts = line.strip().split(":")
                    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
                        ranges.append((int(parts[1]), int(parts[2])))
        except OSError:
            continue
    return [(first, count) for first, count in ranges if first + count > FIRST and first < FIRST + COUNT * RANGE]


def take(lab_id: str) -> Held:
    """A range for one lab of root's: of the free ones the first from where the lab's id points. Raises CtlabError."""
    start, others = binascii.crc32(lab_id.encode()) % COUNT, taken()
    while True:
        try:
            with _Folder(make=True) as folder:
                for first in untouched(others, start):
                    name = str(first)
                    if (lock := folder.lock(name)) >= 0:
                        return Held(first, lock, name)
                break
        except FileNotFoundError:
            continue  # the folder went with the last of the others
        except OSError as error:
            raise CtlabError(
                f"can't lock a range of ids for the lab below {' or '.join(_PLACES)}: {describe(error)}; "
                "make one of them writable for root"
            ) from None
    raise CtlabError(
        f"no range of ids is left for this lab: all {COUNT} from {FIRST} on are other labs' of root, or named in "
        "/etc/subuid, /etc/subgid or /etc/passwd; stop labs, or start this one as an ordinary user"
    )


def sweep() -> None:
    """Remove the files of dead keepers, whose locks are free; only root has any."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError), _Folder(make=False) as folder:
        for name in os.listdir(folder.descriptor):
            with contextlib.suppress(OSError):
                if (lock := folder.lock(name)) >= 0:
                    try:
                        folder.remove(name, lock)
                    finally:
                        os.close(lock)
