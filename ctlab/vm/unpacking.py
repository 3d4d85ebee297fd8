"""Compressed data of packages, kernels and modules: recognised by its first bytes, unpacked in memory.

xz, lzma, gzip and bzip2 by the standard library; zstd by it from Python 3.14 on, else by the program.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import shutil
import subprocess
import zlib
from typing import Protocol

from ..errors import CtlabError, Unsupported, describe

_MAGICS = (
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
)
_PROGRAMS = {"zstd": ("zstd", "-dc"), "lz4": ("lz4", "-dc")}
_PROGRAM_SECONDS = 120.0
_DAMAGED = (b"premature end", b"corruption", b"checksum")  # what zstd says of bytes that are missing or others


def kind(data: bytes) -> str:
    """How `data` is compressed (`xz`, `zstd`, ...); empty if it isn't in a known way."""
    return next((name for magic, name in _MAGICS if data.startswith(magic)), "")


def unpack(data: bytes, what: str) -> bytes:
    """What `data` was before it was compressed; itself if it wasn't. What follows the end of it is ignored.

    `what` names it in errors. Raises CtlabError (damaged), Unsupported (no program for it).
    """
    try:
        match kind(data):
            case "":
                return data
            case "xz":
                return _to_the_end(lzma.LZMADecompressor(lzma.FORMAT_XZ), data)
            case "lzma":
                return _to_the_end(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data)
            case "gzip":
                return _to_the_end(zlib.decompressobj(wbits=31), data)
            case "bzip2":
                return _to_the_end(bz2.BZ2Decompressor(), data)
            case other:
                return _by_library(data, other) or _by_program(data, other, what)
    except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        said = describe(error) if isinstance(error, OSError) else error
        raise CtlabError(f"{what} is damaged: it can't be decompressed ({said}); fetch it again") from None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _to_the_end(decompressor: _Decompressor, data: bytes) -> bytes:
    """Raises EOFError if `data` is cut off, of which the decompressors themselves say nothing."""
    unpacked = decompressor.decompress(data)
    if not decompressor.eof:
        raise EOFError("it is cut off")
    return unpacked


def _by_library(data: bytes, name: str) -> bytes | None:
    if name != "zstd":
        return None
    try:
        zstd = importlib.import_module("compression.zstd")  # from Python 3.14 on
    except ImportError:
        return None
    try:
        return _to_the_end(zstd.ZstdDecompressor(), data)
    except zstd.ZstdError as error:
        raise EOFError(str(error)) from None


def _by_program(data: bytes, name: str, what: str) -> bytes:
    program, *options = _PROGRAMS[name]
    path = shutil.which(program)
    if path is None:
        raise Unsupported(
            f"{what} is compressed with {name} and the program {program} isn't here: apt install {program}"
        )
    done = subprocess.run([path, *options], input=data, capture_output=True, timeout=_PROGRAM_SECONDS, check=False)
    # A kernel's payload is followed by other bytes, of which the program complains when all is unpacked.
    if not done.stdout or (done.returncode and any(sign in done.stderr for sign in _DAMAGED)):
        said = done.stderr.decode(errors="replace").strip()
        raise CtlabError(f"{what} is damaged: {program} said {said!r}; fetch it again")
    return done.stdout
