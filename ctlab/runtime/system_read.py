"""Reads what the image `system` has a copy of: `/etc` as far as the world may read it, and the folders of `/var`.

A child of the keeper's does it, forked before the keeper imports anything heavy and beside that, so that nobody waits
for it. It is outside of the lab, where the owners of files have their numbers. Root's is `nobody` for the kernel
meanwhile; and by the modes of files and folders nothing is read that an ordinary user of this machine couldn't read: a
lab of root's has no more of this machine in it than anybody's. What is mounted below `/etc` is read as it shows.

No link is followed, and nothing is opened but folders and plain files. There are bounds for everything, since whoever
may write below `/etc` or `/var` needn't be the one who starts a lab. What was left out for a bound is named. What is in
a folder of `/var` that anybody may write to is somebody's, and none of a system's.

One that dies is started anew, a few times; who waits for the archive doesn't notice.

The other end is `system_copy`. Lean: see `kernel.lean`.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import stat
import time

from ..kernel import syscalls, title
from ..kernel.lean import signal, suppress
from ..plan.rootfs import OWN_FILES, PASSWORD_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    # (path without a leading slash, st_mode, uid, gid, ns since the epoch, a link's target or a file's bytes)
    Entry = tuple[str, int, int, int, int, str | bytes]

MOST_PAGES = 16_384  # of memory, for both together, as a tmpfs counts it; an entry has one at least
MOST_BYTES = 32 << 20
MOST_FILE_BYTES = 4 << 20
MOST_LOOKED_AT = 65_536  # names in folders: `/var` may have folders with any number of files, which aren't for us
DEEPEST = {"etc": 16, "var": 5}  # folders in one another
ENOUGH_SECONDS = 8.0  # then what has been read is all
_END_SECONDS = 20  # then it hangs in a file system that doesn't answer, and the kernel ends it
MOST_NAMED = 5
_MOST_STARTS = 4  # the first, and three anew
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NOBODY = 65534
_OTHERS_LIST = stat.S_IROTH | stat.S_IXOTH
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Every container has its own of these, or the lab's; what is in /var/tmp is somebody's.
_OWN = frozenset((*(f"etc/{name}" for name in (*OWN_FILES, *PASSWORD_FILES)), "var/run", "var/lock", "var/tmp"))


class Reader:
    """The process that reads. `archive`: a file in memory, whole (or empty: none can be had) at `done`'s end of file.

    `hold`: while it is open there is no such end. `pid` 0: there is none, or none any more; in a VM the archive comes
    from outside.
    """

    def __init__(self, archive: int, done: int, hold: int) -> None:
        self.archive = archive
        self.done = done
        self.hold = hold
        self.pid = 0
        self.pidfd = -1  # is readable when it has ended: call `look`
        self._starts = 0
        self._mapped = False

    def start(self) -> None:
        """Fork it."""
        self._starts += 1
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _read(self.archive, self.hold, self._starts - 1)
            finally:
                os._exit(1)
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:  # no room for a descriptor: one whose end can't be heard would hold everybody up
            pid, self.pid = self.pid, 0
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def mapped(self) -> None:
        """The lab's ids are: from now on who waits may go on as soon as all is read."""
        self._mapped = True
        self.look()

    def look(self) -> None:
        """Bury it if it has ended; start it anew if it has died, or let go on who waits for it."""
        if self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)
        if self._mapped and not self.pid and self.hold >= 0:
            os.close(self.archive)
            os.close(self.hold)
            self.archive = self.hold = -1

    def _ended(self, status: int) -> None:
        os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1
        how = os.waitstatus_to_exitcode(status)
        if how:
            os.ftruncate(self.archive, 0)
        if how not in (0, -signal.SIGALRM) and self._starts < _MOST_STARTS:
            with suppress(OSError):  # then there is none
                self.start()

    def wait(self, poll: select.poll) -> dict[int, int]:
        """What is ready of `poll`, once something is: descriptor -> events. Meanwhile its end is looked after."""
        while True:
            reader = self.pidfd
            if reader >= 0:
                poll.register(reader, select.POLLIN)
            ready = dict(poll.poll())
            if reader >= 0:
                poll.unregister(reader)
            if ready.pop(reader, 0):
                self.look()
            if ready:
                return ready

    def whole(self) -> bytes:
        """Wait for it; the archive, b"" if it has none."""
        while self.pid:
            self._ended(os.waitpid(self.pid, 0)[1])
        data = os.pread(self.archive, os.fstat(self.archive).st_size, 0)
        for descriptor in (self.archive, self.done, self.hold):
            os.close(descriptor)
        return data


def start() -> Reader:
    """Fork the process that reads."""
    reader = Reader(os.memfd_create("ctlab-system", os.MFD_CLOEXEC), *os.pipe2(os.O_CLOEXEC))
    reader.start()
    return reader


def _read(archive: int, hold: int, died: int) -> NoReturn:
    """Be the process that reads. `died`: how many have before."""
    gc.disable()  # what the keeper has dropped must not be finalized here, where its descriptors' numbers are others'
    signal.alarm(_END_SECONDS)
    syscalls.close_all_but({archive, hold})
    title.set_title("ctlab reader")
    if os.geteuid() == 0:
        _be_nobody()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    found = Archive()
    if died:
        found.notes.append("what read /etc and /var for the image system has died and was started anew")
    for top in DEEPEST:
        found.read(top)
    os.lseek(archive, 0, os.SEEK_SET)
    write_all(archive, marshal.dumps((found.entries, found.notes)))
    os._exit(0)


def _be_nobody() -> None:
    """For what is opened from now on. Not the real user id, or others who are nobody could end this process."""
    with suppress(OSError):  # in a user namespace that has no such id
        os.setgroups([])
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: where there is no room for that, a single write may take a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Archive:
    """What has been read of the folders of `root`."""

    def __init__(self, root: str = "/") -> None:
        self.entries: list[Entry] = []
        self.notes: list[str] = []  # what a bound kept out, in a line each
        self._root = root
        self._bytes = self._pages = self._looked_at = 0
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
            self._pages >= MOST_PAGES
            or self._bytes >= MOST_BYTES
            or self._looked_at >= MOST_LOOKED_AT
            or time.monotonic() > self._until
        )

    def _leave_out(self, what: str) -> None:
        if len(self.notes) < MOST_NAMED:
            self.notes.append(f"not in the image system, being too much: {what}")

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
                            self._add(place, stat.S_IFLNK, 0, 0, 0, os.readlink(each.name, dir_fd=folder))
                        elif each.is_dir(follow_symlinks=False):
                            status = os.stat(each.name, dir_fd=folder, follow_symlinks=False)
                            if not stat.S_ISDIR(status.st_mode):
                                continue  # not any more
                            self._add(place, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, b"")
                            if _is_read(top, status.st_mode) and depth < DEEPEST[top]:
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
            if data is None:
                self._leave_out(f"/{place}")
            else:
                self._add(place, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, data)
        finally:
            os.close(descriptor)

    def _add(self, place: str, mode: int, uid: int, gid: int, changed_ns: int, body: str | bytes) -> None:
        size = len(os.fsencode(body))
        pages = max(1, -(-size // _PAGE))
        if self._pages + pages > MOST_PAGES or self._bytes + size > MOST_BYTES:
            self._leave_out(f"/{place}")
            return
        self._pages += pages
        self._bytes += size
        self.entries.append((place, mode, uid, gid, changed_ns, body))


def _is_read(top: str, mode: int) -> bool:
    """Whether what is in a folder is read: the world may list it, and below `/var` not anybody may write to it."""
    return mode & _OTHERS_LIST == _OTHERS_LIST and (top == "etc" or not mode & stat.S_IWOTH)


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
