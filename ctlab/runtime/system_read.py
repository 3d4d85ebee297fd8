"""Reads what the image `system` has a copy of: `/etc` as far as the world may read it, and the folders of `/var`.

A child of the keeper's does it, forked before the keeper imports anything heavy and beside that, so that nobody waits
for it. It is outside of the lab, where the owners of files have their numbers. Root's is `nobody` for the kernel
meanwhile; and by the modes of files and folders nothing is read that an ordinary user of this machine couldn't read: a
lab of root's has no more of this machine in it than anybody's. What is mounted below `/etc` is read as it shows.

No link is followed, and nothing is opened but folders and plain files. There are bounds for everything, since whoever
may write below `/etc` or `/var` needn't be the one who starts a lab. What was left out for a bound is named.

The other end is `system_copy`. Lean: see `kernel.lean`.
"""

from __future__ import annotations

import marshal
import os
import stat
import time

from ..kernel import syscalls, title
from ..kernel.lean import signal, suppress
from ..plan.rootfs import OWN_FILES, PASSWORD_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    # (path without a leading slash, st_mode, uid, gid, ns since the epoch, a link's target or a file's bytes)
    Entry = tuple[str, int, int, int, int, str | bytes]

MOST_ENTRIES = 16_384  # of both together
MOST_BYTES = 32 << 20
MOST_FILE_BYTES = 4 << 20
MOST_LOOKED_AT = 65_536  # names in folders: `/var` may have folders with any number of files, which aren't for us
DEEPEST = {"etc": 16, "var": 5}  # folders in one another
ENOUGH_SECONDS = 8.0  # then what has been read is all
_END_SECONDS = 20  # then it hangs in a file system that doesn't answer, and the kernel ends it
_MOST_NAMED = 5
_NOBODY = 65534
_OTHERS_LIST = stat.S_IROTH | stat.S_IXOTH
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Every container has its own of these, or the lab's; what is in /var/tmp is somebody's.
_OWN = frozenset((*(f"etc/{name}" for name in (*OWN_FILES, *PASSWORD_FILES)), "var/run", "var/lock", "var/tmp"))


class Reader:
    """The process that reads. `archive`: a file in memory, whole at the end of file of `done`.

    `hold`: while it is open there is no such end; to be closed when the lab's ids are mapped. `pid` 0: in a VM, into
    which the archive comes from outside.
    """

    def __init__(self, pid: int, archive: int, done: int, hold: int) -> None:
        self.pid = pid
        self.archive = archive
        self.done = done
        self.hold = hold

    def reap(self) -> None:
        """Bury it if it has ended."""
        if self.pid:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)

    def whole(self) -> bytes:
        """Wait for it; the archive, b"" if it has none."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        data = os.pread(self.archive, os.fstat(self.archive).st_size, 0)
        for descriptor in (self.archive, self.done, self.hold):
            os.close(descriptor)
        return data


def start() -> Reader:
    """Fork the process that reads."""
    archive = os.memfd_create("ctlab-system", os.MFD_CLOEXEC)
    done, hold = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(_END_SECONDS)
            syscalls.close_all_but({archive, hold})
            title.set_title("ctlab reader")
            if os.geteuid() == 0:
                _be_nobody()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            found = Archive()
            for top in DEEPEST:
                found.read(top)
            _write(archive, marshal.dumps((found.entries, found.left_out)))
        finally:
            os._exit(0)
    return Reader(pid, archive, done, hold)


def _be_nobody() -> None:
    """For what is opened from now on. Not the real user id, or others who are nobody could end this process."""
    with suppress(OSError):  # in a user namespace that has no such id
        os.setgroups([])
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Archive:
    """What has been read of the folders of `root`."""

    def __init__(self, root: str = "/") -> None:
        self.entries: list[Entry] = []
        self.left_out: list[str] = []  # what a bound kept out, in words
        self._root = root
        self._bytes = self._looked_at = 0
        self._until = time.monotonic() + ENOUGH_SECONDS

    def read(self, top: str) -> None:
        """Read one of `DEEPEST`: `etc` with its files, of others the folders and links. Nothing is raised."""
        try:
            base = os.open(os.path.join(self._root, top), _FOLDER)
        except OSError:
            return
        try:
            status = os.fstat(base)
            if status.st_mode & _OTHERS_LIST == _OTHERS_LIST:
                folders = [("", 0)]
                for path, depth in folders:
                    if self._full():
                        self._leave_out(f"what is left of /{top}")
                        break
                    with suppress(OSError):  # it has gone, or isn't a folder any more
                        self._read_folder(base, top, path, depth, folders)
        finally:
            os.close(base)

    def _full(self) -> bool:
        return (
            len(self.entries) >= MOST_ENTRIES
            or self._bytes >= MOST_BYTES
            or self._looked_at >= MOST_LOOKED_AT
            or time.monotonic() > self._until
        )

    def _leave_out(self, what: str) -> None:
        if len(self.left_out) < _MOST_NAMED:
            self.left_out.append(what)

    def _read_folder(self, base: int, top: str, path: str, depth: int, folders: list[tuple[str, int]]) -> None:
        folder = syscalls.openat2(base, path or ".", _FOLDER, syscalls.RESOLVE_NO_SYMLINKS)
        try:
            with os.scandir(folder) as found:
                for each in found:
                    self._looked_at += 1
                    if self._full():
                        folders.append((path, depth))  # whose turn it won't be: it is named with what comes after it
                        return
                    below = f"{path}/{each.name}" if path else each.name
                    place = f"{top}/{below}"
                    if place in _OWN:
                        continue
                    with suppress(OSError):  # it has gone, or isn't ours to read
                        if each.is_symlink():
                            self.entries.append((place, stat.S_IFLNK, 0, 0, 0, os.readlink(each.name, dir_fd=folder)))
                        elif each.is_dir(follow_symlinks=False):
                            status = os.stat(each.name, dir_fd=folder, follow_symlinks=False)
                            self._add(place, status, b"")
                            if status.st_mode & _OTHERS_LIST == _OTHERS_LIST and depth < DEEPEST[top]:
                                folders.append((below, depth + 1))
                        elif top == "etc" and each.is_file(follow_symlinks=False):
                            self._read_file(folder, each.name, place)
        finally:
            os.close(folder)

    def _read_file(self, folder: int, name: str, place: str) -> None:
        descriptor = os.open(name, _FILE, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH:
                return
            data = _read_to_end(descriptor, status.st_size) if status.st_size <= MOST_FILE_BYTES else None
            if data is None or self._bytes + len(data) > MOST_BYTES:
                self._leave_out(f"/{place}")
                return
            self._bytes += len(data)
            self._add(place, status, data)
        finally:
            os.close(descriptor)

    def _add(self, place: str, status: os.stat_result, data: bytes) -> None:
        self.entries.append((place, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, data))


def _read_to_end(descriptor: int, size: int) -> bytes | None:
    """All of a file that was `size` bytes long a moment ago; None if it is too much by now."""
    data = os.read(descriptor, size + 1)
    if size and len(data) <= size:
        return data
    while len(data) <= MOST_FILE_BYTES:
        more = os.read(descriptor, 1 << 16)
        if not more:
            return data
        data += more
    return None
