"""A file or a folder with all below it becomes a tar stream: each is opened by its folder's descriptor.

No link is followed below the top and no path is resolved twice, so that whoever renames and links meanwhile changes
what is copied, never where it is copied from. Devices and sockets are left out; pipes are recorded as pipes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

from . import tar

ENTRIES_MOST = 1_000_000
DEPTH_MOST = 256  # folders in one another: each is a descriptor that is held open
_TOLD_MOST = 20  # names of what was left out; of more the number is told
_PIECE_BYTES = 1 << 18
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CANT = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


class Packer:
    """Writes one tree to `write`. `as_root`: everything belongs to 0:0 in the stream."""

    def __init__(self, write: Callable[[bytes], Any], *, as_root: bool = False) -> None:
        self._write = write
        self._as_root = as_root
        self._count = 0
        self._names: dict[tuple[int, int], bytes] = {}  # of files with several names: the one that came first
        self._left_out: list[tuple[str, str]] = []
        self._left_out_count = 0

    def pack(self, top: int, name: bytes) -> dict[str, Any]:
        """The open file or folder `top` (which is closed) under `name`, and all below; then the mark of the end.

        Returns what was left out: {"skipped": [[name, why], …] of the first, "skipped_count": of how many}.
        Raises OSError for the top and for the stream, tar.ArchiveError for more than `ENTRIES_MOST` entries.
        """
        try:
            if stat.S_ISDIR(os.fstat(top).st_mode):
                self._tree(top, name)
            else:
                self._file(top, name)
        except _StreamError as error:
            raise error.cause from None
        self._write(tar.END)
        return {"skipped": [list(pair) for pair in self._left_out], "skipped_count": self._left_out_count}

    def _tree(self, top: int, name: bytes) -> None:
        held = [top]
        try:
            status = os.fstat(top)
            ways = [(name, iter(self._listed(top)))]
            self._entry(name, tar.FOLDER, status)
            while ways:
                folder, names = ways[-1]
                for one in names:
                    below = self._below(held[-1], one, folder + b"/" + one, len(held))
                    if below is not None:
                        held.append(below)
                        ways.append((folder + b"/" + one, iter(self._listed(below))))
                        break
                else:
                    ways.pop()
                    os.close(held.pop())
        finally:
            for descriptor in held:
                os.close(descriptor)

    @staticmethod
    def _listed(folder: int) -> list[bytes]:
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(os.fsencode(entry.name))
                if len(found) > ENTRIES_MOST:
                    raise tar.ArchiveError(f"more than {ENTRIES_MOST} entries")
        return sorted(found)

    def _below(self, folder: int, name: bytes, path: bytes, depth: int) -> int | None:
        """One entry of a folder; the descriptor of a folder that is to be gone through."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFLNK:
                self._entry(path, tar.LINK, status, link=os.readlink(name, dir_fd=folder))
            elif kind == stat.S_IFIFO:
                self._entry(path, tar.PIPE, status)
            elif kind == stat.S_IFREG:
                self._file(os.open(name, _OPEN, dir_fd=folder), path)
            elif kind != stat.S_IFDIR:
                self._skip(path, _CANT.get(kind, "no file"))
            elif depth >= DEPTH_MOST:
                self._skip(path, f"more than {DEPTH_MOST} folders deep")
            else:
                below = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=folder)
                self._entry(path, tar.FOLDER, os.fstat(below))
                return below
        except OSError as error:  # it has gone meanwhile, or can't be read
            self._skip(path, os.strerror(error.errno or 0))
        return None

    def _file(self, descriptor: int, path: bytes) -> None:
        """An open file; the descriptor is closed."""
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):  # another thing than a moment ago
                self._skip(path, _CANT.get(stat.S_IFMT(status.st_mode), "no file"))
                return
            if status.st_nlink > 1:
                first = self._names.setdefault((status.st_dev, status.st_ino), path)
                if first != path:
                    self._entry(path, tar.HARD_LINK, status, link=first)
                    return
            self._entry(path, tar.FILE, status, size=status.st_size)
            self._content(descriptor, path, status.st_size)
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, path: bytes, size: int) -> None:
        left = size
        while left:
            try:
                piece = os.read(descriptor, min(left, _PIECE_BYTES))
                why = "it became shorter while it was copied; zeros stand for what is missing"
            except OSError as error:
                piece, why = b"", f"{os.strerror(error.errno or 0)}; zeros stand for what is missing"
            if not piece:
                self._skip(path, why)
                while left:
                    self._put(bytes(min(left, _PIECE_BYTES)))
                    left -= min(left, _PIECE_BYTES)
                break
            self._put(piece)
            left -= len(piece)
        self._put(tar.padding(size))

    def _entry(self, path: bytes, kind: str, status: os.stat_result, size: int = 0, link: bytes = b"") -> None:
        self._count += 1
        if self._count > ENTRIES_MOST:
            raise tar.ArchiveError(f"more than {ENTRIES_MOST} entries")
        uid, gid = (0, 0) if self._as_root else (status.st_uid, status.st_gid)
        mode = stat.S_IMODE(status.st_mode)
        self._put(tar.header(tar.Member(path, kind, mode, uid, gid, size, status.st_mtime_ns, link)))

    def _put(self, data: bytes) -> None:
        try:
            self._write(data)
        except OSError as error:
            raise _StreamError(error) from error

    def _skip(self, path: bytes, why: str) -> None:
        self._left_out_count += 1
        if len(self._left_out) < _TOLD_MOST:
            self._left_out.append((os.fsdecode(path[:200]), why))


class _StreamError(Exception):
    """The stream can't be written to: no failing of the entry that was about to be written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause
