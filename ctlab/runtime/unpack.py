"""A tar stream becomes files below a folder of the root that this process is in: by descriptors only.

Every folder is found with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) from the root's descriptor; a file is made
new in it (O_EXCL) and gets content, owner, mode and time through the descriptor that made it. Where something may
have the name already, it is made beside it and renamed once it is whole. Whoever renames and links in there meanwhile
decides where in this root something lands, and never reaches a file that is not in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from ..kernel import syscalls
from . import storage, tar

ENTRIES_MOST = 1_000_000
DEPTH_MOST = 512  # folders in one another
_TRIES = 64  # against somebody who puts a name there as soon as it is free
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_FOLDER = os.O_PATH | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What the kernel says of entries that contradict each other, for example a file below a link that leads nowhere.
_OF_THE_ARCHIVE = (
    errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EPERM,
    errno.EFBIG,
)  # fmt: skip


class Root:
    """The root that this process is in; links are resolved inside it, those of /proc never."""

    def __init__(self, place: str = "/") -> None:
        self._descriptor = os.open(place, _FOLDER | os.O_CLOEXEC)

    def close(self) -> None:
        """Close its descriptor; who ends anyway need not."""
        os.close(self._descriptor)

    def open(self, path: bytes, flags: int) -> int:
        """Open what exists at a path. Raises OSError."""
        return syscalls.openat2(self._descriptor, path.lstrip(b"/") or b".", flags, _IN_ROOT)

    def make_folders(self, path: bytes) -> int:
        """A folder, made with those above it where there is none: its descriptor."""
        with contextlib.suppress(FileNotFoundError):
            return self.open(path, _FOLDER)
        built = b""
        for part in filter(None, path.split(b"/")):
            parent = self.open(built, _FOLDER)
            built += b"/" + part
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
        return self.open(path, _FOLDER)


class Unwritten(OSError):
    """A file's content couldn't be written; `storage`: how its file system stood then."""

    def __init__(self, error: OSError, found: dict[str, int]) -> None:
        super().__init__(error.errno, error.strerror)
        self.storage = found


class Unpacker:
    """Writes members below `base`. `owned`: with the owners that the stream says, else all is root's."""

    def __init__(self, root: Root, base: bytes, *, owned: bool) -> None:
        self._root = root
        self._base = base
        self._owned = owned
        self._parent = b"/nowhere"
        self._parent_descriptor = -1
        self._was_empty = False

    def unpack(self, reader: tar.Reader, *, of_the_archive: bool) -> int:
        """Make every member; how many they were. What exists is replaced, but for folders, and not by a folder.

        `of_the_archive`: the folder was empty, so what can't be made is the archive's fault: ArchiveError instead of
        OSError, whose `filename` is the place.
        """
        count, self._was_empty = 0, of_the_archive
        try:
            for member in reader:
                count += 1
                if count > ENTRIES_MOST:
                    raise tar.ArchiveError(f"more than {ENTRIES_MOST} entries")
                try:
                    self._make(member, reader)
                except OSError as error:
                    if of_the_archive and error.errno in _OF_THE_ARCHIVE:
                        name = errno.errorcode[error.errno or 0]
                        what = f" as a hard link to {tar.shown(member.link)}" if member.kind == tar.HARD_LINK else ""
                        text = f"entry {tar.shown(member.name)} can't be made where it says{what} ({name})"
                        raise tar.ArchiveError(text) from None
                    error.filename = tar.shown(self._base.rstrip(b"/") + b"/" + member.name)[1:-1]
                    raise
        finally:
            if self._parent_descriptor >= 0:
                os.close(self._parent_descriptor)
        return count

    def _make(self, member: tar.Member, reader: tar.Reader) -> None:
        *folders, name = _parts(member.name) or [b""]
        if not name:
            if member.kind == tar.FOLDER:  # the folder into which all is unpacked
                self._settle(self._root.open(self._base, os.O_RDONLY | os.O_DIRECTORY), member)
            return
        if member.kind == tar.DEVICE:
            return  # a user namespace can't make device nodes; /dev has the harmless ones
        parent = self._folder(b"/".join(folders))
        if member.kind == tar.FILE:
            self._file(parent, name, member, reader.content())
        elif member.kind == tar.FOLDER:
            self._make_folder(parent, name, member)
        elif member.kind == tar.LINK:
            _anew(parent, name, lambda: os.symlink(member.link, name, dir_fd=parent))
            if self._owned and (member.uid or member.gid):
                os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        elif member.kind == tar.PIPE:
            _anew(parent, name, lambda: os.mkfifo(name, 0o600, dir_fd=parent))
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
            self._settle(os.open(name, flags, dir_fd=parent), member, stat.S_IFIFO)
        else:
            self._hard_link(parent, name, member)

    def _folder(self, path: bytes) -> int:
        """The folder that an entry goes into, relative to the base: kept open, as the next goes there too, mostly."""
        if path != self._parent:
            found = self._root.make_folders(self._base.rstrip(b"/") + b"/" + path)
            if self._parent_descriptor >= 0:
                os.close(self._parent_descriptor)
            self._parent, self._parent_descriptor = path, found
        return self._parent_descriptor

    def _file(self, parent: int, name: bytes, member: tar.Member, content: Iterator[tuple[int, bytes]]) -> None:
        if self._was_empty:  # what fails goes with all of it
            self._fill(_anew(parent, name, lambda: os.open(name, _NEW_FILE, 0o600, dir_fd=parent)), member, content)
            return
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        beside = b".ctlab-" + os.urandom(8).hex().encode()
        descriptor = os.open(beside, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            self._fill(descriptor, member, content)
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=parent)
            raise

    def _fill(self, descriptor: int, member: tar.Member, content: Iterator[tuple[int, bytes]]) -> None:
        try:
            write(descriptor, member, content)
        except BaseException as error:
            found = storage.state(descriptor)  # before it has room again
            os.close(descriptor)
            if isinstance(error, OSError):
                raise Unwritten(error, found) from None
            raise
        self._settle(descriptor, member)

    def _make_folder(self, parent: int, name: bytes, member: tar.Member) -> None:
        path = b"/".join((self._base.rstrip(b"/"), *_parts(member.name)))
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            try:
                descriptor = os.open(name, _OPEN_FOLDER, dir_fd=parent)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                    raise
                with contextlib.suppress(OSError):  # a link to a folder will do, and keeps what it leads to as it is
                    os.close(self._root.open(path, _FOLDER))
                    return
                if not self._was_empty and error.errno != errno.ENOENT:
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
            else:
                self._settle(descriptor, member)
                return
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _hard_link(self, parent: int, name: bytes, member: tar.Member) -> None:
        *folders, target = _parts(member.link) or [b""]
        source = self._root.open(b"/".join((self._base.rstrip(b"/"), *folders)), _FOLDER)
        try:
            os.stat(target, dir_fd=source, follow_symlinks=False)  # before what is in its place is removed
            _anew(
                parent, name, lambda: os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            )
        finally:
            os.close(source)

    def _settle(self, descriptor: int, member: tar.Member, kind: int = 0) -> None:
        """Owner, mode and time of what is open, which is closed; `kind`: only of such a thing."""
        try:
            if kind and stat.S_IFMT(os.fstat(descriptor).st_mode) != kind:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.fchown(descriptor, *((member.uid, member.gid) if self._owned else (0, 0)))
            os.fchmod(descriptor, member.mode)  # after the owner, whose change takes setuid bits away
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(descriptor)


def write(descriptor: int, member: tar.Member, content: Iterator[tuple[int, bytes]]) -> None:
    """The content of a new file."""
    if member.pieces is not None:
        for offset, piece in content:
            rest = memoryview(piece)
            while rest:
                done = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[done:], offset + done
        os.ftruncate(descriptor, member.size)
        return
    for _, piece in content:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _parts(name: bytes) -> list[bytes]:
    """The folders and the name of an entry. Raises ArchiveError if it leads out."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise tar.ArchiveError(f"entry {tar.shown(name)} leads out of the archive")
    if len(parts) > DEPTH_MOST:  # each has to be gone through again for each entry
        raise tar.ArchiveError(f"entry {tar.shown(name)} is more than {DEPTH_MOST} folders deep")
    return parts


def _anew(parent: int, name: bytes, make: Callable[[], int | None]) -> int:
    """What `make` gives, which refuses a name that exists: that one is removed first, unless it is a folder."""
    for _ in range(_TRIES):
        try:
            return make() or 0
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
