"""What a container's side sends as a tar stream becomes files of this machine, written with the person's full rights.

The stream is trusted in nothing: whoever has broken into the lab may send any. It is kept first, in a file without a
name, and all of it is checked before anything is written. Then each entry is written below the destination's
descriptor, folder by folder, and no symbolic link is followed on the way; files are made new. A link is made as it is,
wherever it leads: nothing is ever written through it. Owners, setuid bits and devices aren't taken over.

Bounds: `ENTRIES_MOST` entries, `pack.DEPTH_MOST` folders in one another, and half of what is free where the
destination is (once kept, once written).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import BadInput, KernelError
from .runtime import own_limits, tar
from .runtime.pack import DEPTH_MOST

ENTRIES_MOST = 1_000_000
_PADDING_MOST = 1 << 20  # bytes after the mark of the end: a writer fills up its last block
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_NAME_MOST = 255
_LINKED = (errno.ELOOP, errno.ENOTDIR)
_CONTRADICTIONS = (*_LINKED, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)


def receive(
    stream: IO[bytes], source: str, name: str, target: Path, check: Callable[[], None] = lambda: None
) -> tuple[Path, list[str]]:
    """Write what comes to `target`, or as `name` into it if it is a folder: (where it lies, what was left out).

    `source` names it in errors. `check` is called before each piece is written, and ends it by what it raises.
    Raises BadInput for a stream that can't be taken (nothing is written then),
    KernelError where the kernel refuses to write.
    """
    place = target / name if target.is_dir() else target
    try:
        with _Kept(stream, place.parent) as kept:
            receiver = _Receiver(kept, place, check)
            receiver.check()
            receiver.write()
    except tar.ArchiveError as error:
        raise BadInput(f"cp: {source}: {error}: nothing outside {place} is written") from None
    except OSError as error:
        raise KernelError(f"cp: {place}: {own_limits.words(error)}", error.errno or 0) from error
    return place, receiver.left_out


class _Kept:
    """The stream as a file without a name, which can be read twice; it grows while it is read for the first time."""

    def __init__(self, stream: IO[bytes], folder: Path) -> None:
        self._stream = stream
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self.file: IO[bytes] = open(descriptor, "w+b")  # noqa: SIM115
        except OSError:  # not every file system has such files
            self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.bytes_most = min(_free_bytes(folder), _free_bytes(self.file.fileno())) // 2
        self._bytes = 0

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        """More of the stream."""
        piece = self._stream.read(size)
        self._bytes += len(piece)
        self.room_for(self._bytes)
        self.file.write(piece)
        return piece

    def room_for(self, size: int) -> None:
        """Raises ArchiveError if so many bytes are too many."""
        if size > self.bytes_most:
            most = self.bytes_most >> 20
            raise tar.ArchiveError(f"it is larger than {most} MiB, half of what is free here")


class _Checked:
    """What was kept, as long as somebody waits for it to be written."""

    def __init__(self, file: IO[bytes], check: Callable[[], None]) -> None:
        self._file, self._check = file, check

    def read(self, size: int, /) -> bytes:
        self._check()
        return self._file.read(size)


def _free_bytes(place: Path | int) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize if found.f_blocks else 1 << 40  # some file systems don't say


class _Receiver:
    """Two passes over one stream: `check`, `write`."""

    def __init__(self, kept: _Kept, place: Path, check: Callable[[], None]) -> None:
        self._kept = kept
        self._go_on = check
        self._place = place
        self._folder = False  # what comes is a folder
        self.left_out: list[str] = []

    # -- before anything is written ---------------------------------------------------------------------
    def check(self) -> None:
        """Read the whole stream. Raises ArchiveError."""
        size, count, top = 0, 0, b""
        with _Place(self._place) as place:
            for member in tar.Reader(self._kept):
                count += 1
                parts = _parts(member.name)
                if count == 1:
                    if len(parts) > 1:
                        raise tar.ArchiveError(f"{tar.shown(member.name)} comes before the folder that it is in")
                    top, self._folder = parts[0], member.kind == tar.FOLDER
                    place.look(folder=self._folder)
                if count > ENTRIES_MOST:
                    raise tar.ArchiveError(f"more than {ENTRIES_MOST} entries")
                if parts[0] != top or (count > 1 and not self._folder):
                    raise tar.ArchiveError(f"{tar.shown(member.name)} doesn't belong to {tar.shown(top)}")
                if len(parts) > DEPTH_MOST + 1:
                    raise tar.ArchiveError(f"{tar.shown(member.name)} is more than {DEPTH_MOST} folders deep")
                size += tar.BLOCK + member.size
                self._kept.room_for(size)
                self._check(member, parts[1:], top, place)
        if not count:
            raise tar.ArchiveError("nothing came")
        left = _PADDING_MOST
        while left > 0 and (piece := self._kept.read(1 << 16)):
            left -= len(piece)

    def _check(self, member: tar.Member, parts: list[bytes], top: bytes, place: _Place) -> None:
        if member.kind == tar.DEVICE or member.pieces is not None:
            raise tar.ArchiveError(f"{tar.shown(member.name)} is a device or a sparse file")
        if not parts and member.kind != (tar.FOLDER if self._folder else tar.FILE):
            raise tar.ArchiveError(
                f"{tar.shown(member.name)} is neither a file nor a folder, or first this and then that"
            )
        if member.kind == tar.HARD_LINK:
            first, *rest = _parts(member.link)
            if first != top or not rest:
                raise tar.ArchiveError(f"{tar.shown(member.name)} is a hard link to {tar.shown(member.link)}")
            place.free(rest)
        if parts:
            place.free(parts, may_be_link=member.kind == tar.LINK)

    # -- writing ----------------------------------------------------------------------------------------
    def write(self) -> None:
        """Write what was checked. Raises OSError, and ArchiveError for entries that contradict each other."""
        self._kept.file.seek(0)
        with _Place(self._place) as place:
            if self._folder:
                place.enter()
            reader = tar.Reader(_Checked(self._kept.file, self._go_on))
            for member in reader:
                parts = _parts(member.name)[1:]
                if member.kind == tar.PIPE:
                    self.left_out.append(f"{os.fsdecode(b'/'.join(parts))} (a pipe)")
                    continue
                try:
                    place.make(parts if self._folder else [os.fsencode(self._place.name)], member, reader)
                except OSError as error:
                    if error.errno not in _CONTRADICTIONS:
                        raise
                    why = errno.errorcode[error.errno]
                    text = f"{tar.shown(member.name)} can't be made where it says ({why})"
                    raise tar.ArchiveError(text) from None


def _parts(name: bytes) -> list[bytes]:
    parts = name.rstrip(b"/").split(b"/")
    if not all(parts) or b".." in parts or b"." in parts:  # an absolute name has an empty first part
        raise tar.ArchiveError(f"an entry is called {tar.shown(name)}")
    if max(map(len, parts)) > _NAME_MOST:
        raise tar.ArchiveError(f"a name of more than {_NAME_MOST} bytes: {tar.shown(name)}")
    return parts


class _Place:
    """The destination, by descriptors. Before `enter` the folder in which it lies, after it the folder itself."""

    def __init__(self, place: Path) -> None:
        self._name = os.fsencode(place.name)
        self._base = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._below = -1  # the destination, where it is a folder that exists
        self._way: list[tuple[bytes, int]] = []  # the folders down to where the last entry went

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(0)
        for descriptor in (self._base, self._below):
            if descriptor >= 0:
                os.close(descriptor)

    def _leave(self, depth: int) -> None:
        while len(self._way) > depth:
            os.close(self._way.pop()[1])

    def look(self, *, folder: bool) -> None:
        """Whether a file, or a folder, can be put here. Raises ArchiveError."""
        kind = _kind(self._base, self._name)
        if kind == stat.S_IFLNK:
            raise tar.ArchiveError("a symbolic link lies in its place")
        if folder and kind not in (0, stat.S_IFDIR):
            raise tar.ArchiveError("a file lies in the place of the folder")
        if not folder and kind not in (0, stat.S_IFREG):
            raise tar.ArchiveError("something else than a file lies in its place")
        if folder and kind:
            self._below = os.open(self._name, _FOLDER, dir_fd=self._base)

    def enter(self) -> None:
        """Go into the folder that comes, made if there is none."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._name, dir_fd=self._base)
        below = os.open(self._name, _FOLDER, dir_fd=self._base)
        os.close(self._base)
        self._base = below

    def free(self, parts: list[bytes], *, may_be_link: bool = False) -> None:
        """Raises ArchiveError if a link that is here already is on the way to an entry, or in its place."""
        if self._below < 0:
            return
        try:
            parent = self._folder(self._below, parts[:-1], make=False)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _LINKED:
                raise
            text = f"a symbolic link or a file lies here on the way to {tar.shown(b'/'.join(parts))}"
            raise tar.ArchiveError(text) from None
        if _kind(parent, parts[-1]) == stat.S_IFLNK and not may_be_link:
            raise tar.ArchiveError(f"a symbolic link lies here in the place of {tar.shown(b'/'.join(parts))}")

    def _folder(self, base: int, parts: list[bytes], *, make: bool) -> int:
        """The descriptor of a folder, kept until another way is gone."""
        same = 0
        while same < min(len(parts), len(self._way)) and self._way[same][0] == parts[same]:
            same += 1
        self._leave(same)
        for part in parts[same:]:
            parent = self._way[-1][1] if self._way else base
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=parent)
            self._way.append((part, os.open(part, _FOLDER, dir_fd=parent)))
        return self._way[-1][1] if self._way else base

    def make(self, parts: list[bytes], member: tar.Member, reader: tar.Reader) -> None:
        """Write one entry."""
        if member.kind == tar.FOLDER:
            folder = self._folder(self._base, parts, make=True)
            os.utime(folder, ns=(member.mtime_ns, member.mtime_ns))
            return
        parent, name = self._folder(self._base, parts[:-1], make=True), parts[-1]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        if member.kind == tar.LINK:
            os.symlink(member.link, name, dir_fd=parent)
        elif member.kind == tar.HARD_LINK:
            self._link(member, parent, name)
        else:
            self._file(member, reader, parent, name)

    def _link(self, member: tar.Member, parent: int, name: bytes) -> None:
        """A second name of a file that came earlier."""
        *folders, target = _parts(member.link)[1:]
        held, self._way = self._way, []  # the way to `parent` stays open
        try:
            source = self._folder(self._base, folders, make=False)
            if _kind(source, target) == stat.S_IFREG:
                os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                return
            text = f"{tar.shown(member.name)} is a hard link to {tar.shown(member.link)}, which isn't a file in it"
            raise tar.ArchiveError(text)
        finally:
            self._leave(0)
            self._way = held

    @staticmethod
    def _file(member: tar.Member, reader: tar.Reader, parent: int, name: bytes) -> None:
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for _, piece in reader.content():
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            mode = (member.mode & 0o755) | 0o600
            os.fchmod(descriptor, mode if mode & 0o100 else mode & ~0o111)
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)


def _kind(folder: int, name: bytes) -> int:
    """What lies there (S_IFREG and so on); 0 for nothing."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0
