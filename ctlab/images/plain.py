"""Tar files that the lab's inside can't decompress itself: decompressed here, before they are sent there.

What is compressed is read by an interpreter inside, which has no zstd before Python 3.14, and in a VM neither bzip2
nor xz.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from typing import IO

from .. import reading
from ..errors import BadInput, KernelError, Unsupported, describe
from ..runtime import compressed, tar

_PROGRAMS = ("bzip2", "xz", "zstd")  # each of its kind's name, with -dc; gzip everyone can
_PIECE_BYTES = 1 << 20


def open_archive(path: str, text: str, *, in_vm: bool) -> int:
    """A descriptor of the archive at `path`, in a form that can be read inside. `text` names it in errors.

    Raises BadInput (damaged, larger than half of what the disk has free), Unsupported (no program for it).
    """
    descriptor = reading.open_file(path, f"image {text}")
    kind = compressed.kind(os.pread(descriptor, 8, 0))
    if not kind or kind in compressed.readable(in_vm=in_vm):
        return descriptor
    try:
        with open(descriptor, "rb") as file, tempfile.TemporaryFile() as plain:
            if kind in compressed.readable():
                _copy(compressed.plain(file), plain)
            else:
                _by_program(kind, file, plain, text)
            plain.seek(0)
            return os.dup(plain.fileno())
    except tar.ArchiveError as error:
        raise BadInput(f"image {text}: not a usable tar archive: {error}") from None
    except OSError as error:
        raise KernelError(f"image {text}: it can't be decompressed: {describe(error)}", error.errno or 0) from None


def _copy(source: tar.Source, plain: IO[bytes]) -> None:
    free = os.statvfs(plain.fileno())
    most = free.f_bavail * free.f_frsize // 2
    while piece := source.read(_PIECE_BYTES):
        most -= len(piece)
        if most < 0:
            raise tar.ArchiveError(f"decompressed it is larger than half of what is free in {tempfile.gettempdir()}")
        plain.write(piece)


def _by_program(kind: str, file: IO[bytes], plain: IO[bytes], text: str) -> None:
    program = shutil.which(kind) if kind in _PROGRAMS else None
    if program is None:
        raise Unsupported(
            f"image {text} is compressed by {kind}, which this Python can't read, and there is no program {kind}: "
            f"apt install {kind}, or decompress it first"
        )
    # In a session of its own: an interrupt is the notebook's to answer.
    with subprocess.Popen(
        [program, "-dc"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            _copy(process.stdout, plain)
            said = process.stderr.read(1000).decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
    # Where this process ignores SIGCHLD nobody can tell its status, and what it said has to do.
    if process.returncode or (said and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN):
        line = said.splitlines()[-1] if said else f"status {process.returncode}"
        raise tar.ArchiveError(f"what {kind} has compressed is damaged ({line})")
