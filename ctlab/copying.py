"""Files between this machine and a container, as a tar stream through a pipe.

The container's side is a child in the container's root (`runtime.archive`); our side writes what comes from there as
what a stranger sends (`receiving`), and reads of this machine what the person names.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from .errors import BadInput, CtlabError, KernelError, NotFound, describe
from .exchange import exchange
from .names import shorten
from .receiving import receive
from .runtime import messages, own_limits, tar
from .runtime.pack import Packer

if TYPE_CHECKING:
    from .container import Container

G = TypeVar("G")


def copy_out(container: Container, source: str, destination: str | os.PathLike[str]) -> Path:
    """A file or folder of the container to `destination` (into it, if that is a folder). Returns where it lies."""
    _check_path("cp", f"{container.name}:", source)
    target = _path_here(destination)
    if not source.startswith("/"):
        raise BadInput(f"cp: {container.name}:{source}: an absolute path, please")
    name = os.path.basename(os.path.normpath(source)) or "root"

    def unpack(file: IO[bytes], _: None, check: Callable[[], None]) -> tuple[Path, list[str]]:
        return receive(file, source, name, target, check)

    try:
        if not target.parent.exists():
            raise NotFound(f"cp: the folder {target.parent} does not exist (ENOENT)")
        (place, left_out), answer = exchange(container, messages.CopyOut(container.id, source), nullcontext, unpack)
    except KernelError as error:
        raise _explained(error, f"{container.name}:{source}") from None
    _say_left_out(container, f"{container.name}:{source}", answer.skipped, answer.skipped_count, left_out)
    found: Path = place
    return found


def _say_left_out(container: Container, source: str, told: list[list[str]], count: int, here: list[str]) -> None:
    """Name what isn't in the copy. The answer may come from a stranger, like the files."""
    names = [f"{_plain(name)} ({_plain(why)})" for name, why in (pair for pair in told if len(pair) == 2)]
    names += [_plain(name) for name in here]
    if not names:
        return
    more = count + len(here) - len(names[:8])
    container.lab.say(f"cp: left out of {source}: {', '.join(names[:8])}{f' and {more} more' if more > 0 else ''}")


def _plain(text: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:200])


def _explained(error: KernelError, what: str) -> CtlabError:
    if str(error).startswith("cp: "):
        return error
    if str(error).startswith("ENOENT"):  # else it names what of it doesn't
        return NotFound(f"cp: {what} does not exist (ENOENT)")
    return KernelError(f"cp: {what}: {error}", error.number)


def _check_path(verb: str, before: str, path: object) -> None:
    try:
        usable = isinstance(path, str) and path != "" and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise BadInput(f"{verb}: {before}{ascii(path)[:100]}: not a path")


def _path_here(path: object) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    _check_path("cp", "", text)
    return Path(str(text)).expanduser()


def copy_in(container: Container, source: str | os.PathLike[str], destination: str) -> str:
    """A file or folder of this machine into the container: into `destination` if that ends with / or is a folder."""
    path = _path_here(source)
    _check_path("cp", f"{container.name}:", destination)
    try:
        os.stat(path)
    except FileNotFoundError:
        raise NotFound(f"cp: {path} does not exist (ENOENT)") from None
    except OSError as error:
        raise KernelError(f"cp: {shorten(str(path))}: {describe(error)}", error.errno or 0) from None
    if not destination.startswith("/"):
        raise BadInput(f"cp: {container.name}:{destination}: an absolute path, please")
    into = destination.endswith("/") or _is_folder(container, destination)
    folder = destination.rstrip("/") or "/" if into else os.path.dirname(destination)
    name = path.resolve().name if into else os.path.basename(destination)

    def pack(file: IO[bytes], top: int, _: Callable[[], None]) -> dict[str, Any]:
        return Packer(file.write, as_root=True).pack(os.dup(top), os.fsencode(name) or b"root")

    packed = _put(container, folder, lambda: _opened(path), pack)
    _say_left_out(container, str(path), packed["skipped"], packed["skipped_count"], [])
    return f"{container.name}:{os.path.join(folder, name)}"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file or folder of this machine that is to be copied. Raises BadInput, KernelError."""
    descriptor = _open_here(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_here(path: Path) -> int:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadInput(f"cp: {path} is neither a file nor a folder")
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"cp: {path}: {own_limits.words(error)}", error.errno or 0) from None


def write(container: Container, path: str, content: bytes, mode: int) -> str:
    """Write one file in the container."""
    _check_path("write", "", path)
    if not path.startswith("/") or path.endswith("/"):
        raise BadInput(f"write: {path!r}: an absolute path of a file, please")
    if not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise BadInput(f"write: {path}: the mode is between 0 and 0o7777, not {mode!r}")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise BadInput(f"write: {path}: the content is str or bytes, not {type(content).__name__}")
    folder, name = os.path.split(path)
    member = tar.Member(os.fsencode(name), tar.FILE, mode, size=len(content), mtime_ns=time.time_ns())

    def pack(file: IO[bytes], *_: object) -> None:
        for piece in (tar.header(member), content, tar.padding(len(content)), tar.END):
            file.write(piece)

    _put(container, folder, nullcontext, pack)
    return f"{container.name}:{path}"


def names(container: Container, folder: str) -> list[str]:
    """The names in a folder of the container, folders with a slash at the end; none if it isn't one."""
    return container.lab._call(messages.Names(container.id, folder), messages.Named).message.names


def _put(
    container: Container,
    folder: str,
    begin: Callable[[], AbstractContextManager[G]],
    pack: Callable[[IO[bytes], G, Callable[[], None]], Any],
) -> Any:
    try:
        return exchange(container, messages.CopyIn(container.id, folder), begin, pack)[0]
    except KernelError as error:
        raise _explained(error, f"{container.name}:{folder}") from None


def _is_folder(container: Container, path: str) -> bool:
    return container.lab._call(messages.Kind(container.id, path), messages.Lies).message.kind == "folder"
