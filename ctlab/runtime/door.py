"""Where a terminal of the same user finds a lab: a socket in the lab's runtime folder, made when it is first wanted.

The folder is ours alone (0700) and is reached by descriptor only. Behind the socket is the lab's owner (`shells`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator

from ..errors import CtlabError, KernelError, NotFound, StateError, Unsupported, describe
from ..kernel import private_folder
from ..kernel.private_folder import NotPrivate
from ..names import did_you_mean, key
from . import base_folder, runtime_folder
from .base_folder import Base

_PEER = struct.Struct("=3i")  # struct ucred: pid, uid, gid
_WAITING = 8  # terminals that may wait for a busy owner; more have to try again


def listen(lab_id: str) -> socket.socket:
    """Make the socket of a lab of ours. Raises KernelError, Unsupported."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.fchmod(listener.fileno(), 0o600)  # what the name gets at bind
        with _base_of(lab_id) as base, _opened(base.descriptor, lab_id, base.path) as folder:
            listener.bind(f"{folder}/{runtime_folder.DOOR}")
        listener.listen(_WAITING)
    except OSError as error:
        listener.close()
        text = f"can't make the door for terminals in the runtime folder of lab {lab_id}: {describe(error)}"
        raise KernelError(text, error.errno or 0) from None
    except BaseException:
        listener.close()
        raise
    return listener


def user_of(connection: socket.socket) -> int:
    """The user id of who has connected."""
    return int(_PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1])


def word_for(lab_id: str, name: str) -> str:
    """How a terminal of this user is told which lab: its name, its id where others have that name, or its folder.

    The folder where a terminal wouldn't look: it may have another environment than we have. Raises KernelError.
    """
    try:
        with _base_of(lab_id) as base:
            if not base_folder.is_always_found(base.path):
                return os.path.join(base.path, lab_id)
    except OSError as error:
        raise KernelError(f"the runtime folder of lab '{name}': {describe(error)}", error.errno or 0) from None
    return lab_id if any(key(other) == key(name) and one != lab_id for _, one, other in _living()) else name


def connect(word: str) -> socket.socket:
    """Connect to the lab that a word means, see `word_for`. Raises NotFound, StateError, KernelError, Unsupported."""
    if "/" in word:
        return _connect_in(word)
    connected: dict[str, socket.socket] = {}
    closed: CtlabError | None = None
    names = set()
    for base, lab_id, name in _living():
        names.add(name)
        if word == lab_id or key(word) == key(name):
            try:
                connected[lab_id] = _connect(base.descriptor, lab_id, base.path, name)
            except CtlabError as error:
                closed = error
    if len(connected) > 1:
        for connection in connected.values():
            connection.close()
        raise NotFound(
            f"{len(connected)} labs are called '{word}', say which by its id: {', '.join(sorted(connected))}"
        )
    if connected:
        return connected.popitem()[1]
    if closed is not None:
        raise closed
    there = "; there are: " + ", ".join(sorted(names)) if names else "; there are none"
    raise NotFound(f"no lab '{word}' of this user{did_you_mean(word, sorted(names)) or there}")


def _connect_in(path: str) -> socket.socket:
    """Connect to the lab whose runtime folder that is."""
    above_path, lab_id = os.path.split(os.path.abspath(path))
    try:
        above = private_folder.open_above(above_path)
    except NotPrivate as error:
        raise Unsupported(f"{error}: no terminal is let in there") from None
    except FileNotFoundError:
        raise NotFound(f"there is no lab in {path}") from None
    except OSError as error:
        raise KernelError(f"can't open {above_path}: {describe(error)}", error.errno or 0) from None
    try:
        return _connect(above, lab_id, above_path, path)
    finally:
        os.close(above)


def _living() -> Iterator[tuple[Base, str, str]]:
    """The labs of this user whose keepers live: (base folder, closed when the next one is wanted; id; name)."""
    for base in base_folder.existing():
        with base:
            for lab_id in runtime_folder.lab_ids(base):
                note = runtime_folder.read_note(base, lab_id)
                if note.keeper_start and runtime_folder.start_of(note.keeper) == note.keeper_start:
                    yield base, lab_id, note.name


@contextlib.contextmanager
def _base_of(lab_id: str) -> Iterator[Base]:
    """The base folder that has the folder of a lab of ours. Raises FileNotFoundError."""
    for base in base_folder.existing():
        with base:
            if base.has(lab_id):
                yield base
                return
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _connect(above: int, lab_id: str, path: str, name: str) -> socket.socket:
    """`name` is what an error calls the lab; the others as of `_opened`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _opened(above, lab_id, path) as folder:
            connection.connect(f"{folder}/{runtime_folder.DOOR}")
    except BaseException as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            text = f"lab '{name}' lets no terminal in (yet, or any more)"
            raise StateError(f"{text}: %container shell NAME in its notebook opens it") from None
        if isinstance(error, OSError):
            raise KernelError(f"can't reach lab '{name}': {describe(error)}", error.errno or 0) from None
        raise
    return connection


@contextlib.contextmanager
def _opened(above: int, lab_id: str, path: str) -> Iterator[str]:
    """A path, for the time being, of a lab's folder in the open folder `above`, which is called `path`.

    Raises Unsupported if it isn't ours alone, OSError.
    """
    try:
        descriptor = private_folder.open_one(above, lab_id, make=False)
    except NotPrivate as error:
        raise Unsupported(f"{os.path.join(path, lab_id)} {error}: no terminal is let in there") from None
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
