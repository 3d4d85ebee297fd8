"""Files that a person names: read whole, if they are files and not endless."""

from __future__ import annotations

import os
import stat

from .errors import BadInput, NotFound, describe

MOST_BYTES = 1 << 20


def open_file(path: str, what: str) -> int:
    """A descriptor of a regular file. `what` begins the messages: NotFound, BadInput for a pipe or a device.

    Nobody is waited for: opening a pipe without a writer would last until there is one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"{what}: {describe(error)}") from None
    except ValueError as error:  # a NUL in it, or half a surrogate pair
        raise BadInput(f"{what}: no file can be called that ({error})") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise NotFound(f"{what}: EISDIR (Is a directory)")
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise BadInput(f"{what}: it is a {kind}, not a file")


def read_text(path: str, what: str) -> str:
    """The text of a file. Raises what `open_file` does, and BadInput for more than 1 MiB and for what isn't UTF-8."""
    with open(open_file(path, what), "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise BadInput(f"{what}: it is larger than 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        wrong = data[error.start : error.start + 1].hex()
        raise BadInput(f"{what}: text in UTF-8 is expected, not byte 0x{wrong} at position {error.start}") from None
