"""A stream that may be compressed, as the bytes that it was before: gzip, bzip2, xz, zstd, by its first bytes.

What comes out is taken piece by piece, so that a small stream of a large nothing takes no memory.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Collection
from typing import IO, Any, Protocol

from . import tar

# By the modules in C alone, and at once: what unpacks images sees no folder of this machine any more, and its
# interpreter may have been built without some of them.
_make: dict[str, Callable[[], Any]] = {"gzip": lambda: _Gzip()}
_errors: tuple[type[Exception], ...] = (zlib.error, EOFError, ValueError, OSError)
try:
    from _bz2 import BZ2Decompressor

    _make["bzip2"] = BZ2Decompressor
except ImportError:
    pass
try:
    from _lzma import LZMADecompressor, LZMAError

    _make["xz"] = LZMADecompressor
    _errors += (LZMAError,)
except ImportError:
    pass
try:
    from _zstd import ZstdDecompressor, ZstdError  # type: ignore[import-not-found]  # Python 3.14

    _make["zstd"] = ZstdDecompressor
    _errors += (ZstdError,)
except ImportError:
    pass

_MAGICS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_PIECE_BYTES = 1 << 16


class _Decompressor(Protocol):
    """As the decompressors of bz2, lzma and zstd have it."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most so many bytes."""


class _Gzip:
    """zlib's decompressor in that form."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < max_length
        return piece


class _Plain:
    """What a compressed stream was."""

    def __init__(self, file: IO[bytes], kind: str) -> None:
        self._file = file
        self._kind = kind
        self._magic = next(magic for magic, of in _MAGICS if of == kind)
        self._decompressor: _Decompressor = _make[kind]()
        self._pieces = b""

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end. Raises ArchiveError."""
        pieces, have = [self._pieces], len(self._pieces)
        while have < size:
            piece = self._more(max(size - have, _PIECE_BYTES))
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
        whole = b"".join(pieces)
        self._pieces = whole[size:]
        return whole[:size]

    def _more(self, most: int) -> bytes:
        try:
            while True:
                if self._decompressor.eof:
                    data = self._behind()
                    if not data.startswith(self._magic):
                        return b""
                    self._decompressor = _make[self._kind]()
                elif self._decompressor.needs_input:
                    data = self._file.read(_PIECE_BYTES)
                    if not data:
                        raise tar.ArchiveError("it is compressed, and ends in the middle")
                else:
                    data = b""
                piece = self._decompressor.decompress(data, most)
                if piece:
                    return piece
        except _errors as error:
            raise tar.ArchiveError(f"what {self._kind} has compressed is damaged ({error})") from None

    def _behind(self) -> bytes:
        """The begin of what lies behind a stream that has ended: often another one, thousands in a file (bgzip).

        Read only where too little is left over to tell: what is left over is copied for each of them.
        """
        data = self._decompressor.unused_data.lstrip(b"\0")
        while len(data) < len(self._magic) and (more := self._file.read(_PIECE_BYTES)):
            data = (data + more).lstrip(b"\0")
        return data


def kind(begin: bytes) -> str:
    """How what begins so is compressed; empty if it isn't."""
    return next((name for magic, name in _MAGICS if begin.startswith(magic)), "")


def readable(*, in_vm: bool = False) -> Collection[str]:
    """What this interpreter decompresses; a VM's (`vm.guest_record`) has been given no library for it but zlib."""
    return ("gzip",) if in_vm else _make.keys()


def plain(file: IO[bytes]) -> tar.Source:
    """What `file` is, decompressed where it is compressed. Raises ArchiveError for what this Python can't read."""
    assert isinstance(file, io.BufferedReader)
    found = kind(file.peek(8)[:8])
    if not found:
        return file
    if found not in _make:
        raise tar.ArchiveError(
            f"it is compressed by {found}, which the interpreter here can't read: decompress it first"
        )
    return _Plain(file, found)
