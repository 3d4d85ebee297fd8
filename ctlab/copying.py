"""Files between this machine and a container, as a tar stream through a pipe.

The container's side runs in a child that has entered the container's root, so links there lead nowhere else;
our side writes with tarfile's ``data`` filter, which refuses to leave the destination.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import BadInput, CtlabError, KernelError, NotFound
from .runtime import messages

if TYPE_CHECKING:
    from .container import Container


def _exchange(container: Container, request: messages.CopyIn | messages.CopyOut, work: Any) -> Any:
    """Send `request` with one end of a pipe while `work(file)` uses the other; returns what `work` returned."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    read = isinstance(request, messages.CopyOut)
    ours, theirs, mode = (reading, writing, "rb") if read else (writing, reading, "wb")
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            container.lab._call(request, messages.Ok, [theirs])
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(theirs)  # so that our end sees the end of file when nothing was started

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    result: Any = None
    trouble: BaseException | None = None
    try:
        with open(ours, mode) as file:
            result = work(file)
    except (BrokenPipeError, tarfile.TarError) as error:
        trouble = error
    asker.join()
    if failed:
        raise failed[0]
    if trouble is not None:
        raise BadInput(f"the copy was cut off: {trouble}") from trouble
    return result


def copy_out(container: Container, source: str, destination: str | os.PathLike[str]) -> Path:
    """A file or folder of the container to `destination` (into it, if that is a folder). Returns where it lies."""
    if not source.startswith("/"):
        raise BadInput(f"cp: {container.name}:{source}: an absolute path, please")
    target = Path(destination).expanduser()
    if not target.parent.exists():
        raise NotFound(f"cp: the folder {target.parent} does not exist (ENOENT)")

    def unpack(file: IO[bytes]) -> Path:
        # Kept first, so that all of it is checked before anything is written.
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(file, kept)
            if not kept.tell():
                return target  # nothing came: the other side says why
            kept.seek(0)
            with tarfile.open(fileobj=kept, mode="r:") as archive:
                members = archive.getmembers()
                place = target / members[0].name if target.is_dir() else target
                if members[0].isdir() and place.exists() and not place.is_dir():
                    raise BadInput(f"cp: {place} is a file, {source} a folder")
                # A folder is unpacked inside itself, so that no link of an earlier copy leads to what lies beside it.
                top = len(members[0].name)
                base, name = (place, ".") if members[0].isdir() else (place.parent, place.name)
                for member in members:
                    there, member.name = member.name, name + member.name[top:]
                    if member.islnk():  # to another member, which has just been renamed too
                        member.linkname = name + member.linkname[top:]
                    try:
                        tarfile.data_filter(member, str(base))
                    except tarfile.FilterError as error:
                        text = str(error).replace(repr(member.name), repr(there))
                        raise BadInput(f"cp: {source}: {text}: nothing outside {place} is written") from error
                for member in members:
                    archive.extract(member, base, filter="data")
            return place

    try:
        found: Path = _exchange(container, messages.CopyOut(container.id, source), unpack)
    except KernelError as error:
        raise _explained(error, f"{container.name}:{source}") from None
    return found


def _explained(error: KernelError, what: str) -> CtlabError:
    if error.number == 2:
        return NotFound(f"cp: {what} does not exist (ENOENT)")
    return KernelError(f"cp: {what}: {error}", error.number)


def copy_in(container: Container, source: str | os.PathLike[str], destination: str) -> str:
    """A file or folder of this machine into the container: into `destination` if that ends with / or is a folder."""
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFound(f"cp: {path} does not exist (ENOENT)")
    if not destination.startswith("/"):
        raise BadInput(f"cp: {container.name}:{destination}: an absolute path, please")
    into = destination.endswith("/") or _is_folder(container, destination)
    folder = destination.rstrip("/") or "/" if into else os.path.dirname(destination)
    name = path.resolve().name if into else os.path.basename(destination)

    def pack(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, dereference=False) as archive:
            archive.add(path.resolve(), arcname=name, filter=_as_root)

    _put(container, folder, pack)
    return f"{container.name}:{os.path.join(folder, name)}"


def write(container: Container, path: str, content: bytes, mode: int) -> str:
    """Write one file in the container."""
    if not path.startswith("/") or path.endswith("/"):
        raise BadInput(f"write: {path!r}: an absolute path of a file, please")
    folder, name = os.path.split(path)

    def pack(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, int(time.time())
            archive.addfile(member, io.BytesIO(content))

    _put(container, folder, pack)
    return f"{container.name}:{path}"


def names(container: Container, folder: str) -> list[str]:
    """The names in a folder of the container, folders with a slash at the end; none if it isn't one."""
    return container.lab._call(messages.Names(container.id, folder), messages.Named).message.names


def _put(container: Container, folder: str, pack: Any) -> None:
    try:
        _exchange(container, messages.CopyIn(container.id, folder), pack)
    except KernelError as error:
        raise _explained(error, f"{container.name}:{folder}") from None


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """What is copied in belongs to the container's root, as with Docker."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _is_folder(container: Container, path: str) -> bool:
    return container.lab._call(messages.Kind(container.id, path), messages.Lies).message.kind == "folder"
