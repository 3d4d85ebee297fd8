"""Files in and out of a container, and image archives, as tar streams through a descriptor.

A child does the work: for `cp` it enters the container's mount namespace and root, so that no symbolic link
leads out of it; for an image it pivots into the new folder first (an archive's links then lead nowhere else).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..kernel import syscalls
from . import execution, messages, protocol, storage
from .calls import Call

if TYPE_CHECKING:
    from .supervisor import Supervisor

_ENTRY_LIMIT = 1_000_000
# What unpacking meets when entries contradict each other, for example a file below a link that leads nowhere.
_OF_THE_ARCHIVE = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def copy_out(supervisor: Supervisor, call: Call) -> None:
    """Write a path of the container as a tar stream to the descriptor that came along."""
    record = execution.running(supervisor, call.message.id, "copy")

    def work() -> dict[str, Any]:
        execution.enter(record, syscalls.CLONE_NEWNS)
        return _pack(call.message.path, call.descriptors[0])

    _in_child(supervisor, call, work, record)


def copy_in(supervisor: Supervisor, call: Call) -> None:
    """Unpack a tar stream from the descriptor into a folder of the container."""
    record = execution.running(supervisor, call.message.id, "copy")

    def work() -> dict[str, Any]:
        execution.enter(record, syscalls.CLONE_NEWNS)
        return _unpack_into(call.message.path, call.descriptors[0])

    _in_child(supervisor, call, work, record)


def _in_child(
    supervisor: Supervisor, call: Call, work: Any, record: Any = None, failed: Callable[[], None] | None = None
) -> None:
    ours, theirs = protocol.pair()
    if record is not None:
        pid, pidfd = execution.clone_inside(supervisor, record, python=True)
    else:
        pid, pidfd = syscalls.clone3_python(0)
    if pid == 0:
        keep = {theirs.fileno(), *call.descriptors}
        if record is not None:
            keep |= {record.pidfd, *record.namespaces.values()}
        _work(theirs, work, keep)
    if record is not None:
        supervisor.inside[pid] = pidfd
    theirs.close()
    call.close_descriptors()
    answers: list[dict[str, Any]] = []

    def said() -> None:
        message, _, _ = protocol.receive(ours)
        if message is None:
            supervisor.off(ours.fileno())
            ours.close()
        else:
            answers.append(message)

    def ended() -> None:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
            return
        while ours.fileno() >= 0:
            said()
        supervisor.inside.pop(pid, None)
        supervisor.off(pidfd)
        os.close(pidfd)
        answer = storage.named(answers[0]) if answers else None  # before what was begun is removed
        if failed is not None and (answer is None or "error" in answer):
            failed()
        if answer is None:
            call.fail("CtlabError", "the copy was ended")
        else:
            call.reply(_answer(answer))

    supervisor.on(ours.fileno(), said)
    supervisor.on(pidfd, ended)


def _answer(said: dict[str, Any]) -> tuple[Any, ...]:
    """What a child has said, for the owner."""
    if "error" in said:
        return messages.Failure(said["error"], said["message"], said["errno"])
    if "kind" in said:
        return messages.Lies(said["kind"])
    return messages.Named(said["names"]) if "names" in said else messages.Ok()


def _work(status: socket.socket, work: Any, keep: set[int]) -> NoReturn:
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.close_all_but(keep)  # nothing of the lab may be found by a link that a container plants
        answer = work()
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        where = f"{error.filename}: " if error.filename else ""
        answer = {"error": "KernelError", "message": f"{where}{name} ({error.strerror})", "errno": error.errno or 0}
    except tarfile.TarError as error:
        answer = {"error": "BadInput", "message": f"not a usable tar archive: {error}", "errno": 0}
    except Exception as error:
        answer = {"error": "CtlabError", "message": f"{type(error).__name__}: {error}", "errno": 0}
    with contextlib.suppress(OSError):
        protocol.send(status, answer)
    os._exit(0)


def _open_inside(path: str, flags: int) -> int:
    """A path of the root we are in; links are resolved inside it."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        return syscalls.openat2(root, path.lstrip("/") or ".", flags, resolve)
    finally:
        os.close(root)


def _make_folders(path: str) -> None:
    built = ""
    for part in [part for part in path.split("/") if part]:
        try:
            os.close(_open_inside(f"{built}/{part}", os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            parent = _open_inside(built, os.O_PATH | os.O_DIRECTORY)
            os.mkdir(part, 0o755, dir_fd=parent)
            os.close(parent)
        built += f"/{part}"


def _pack(path: str, descriptor: int) -> dict[str, Any]:
    """A file, or a folder with all below it; a symbolic link at the end is followed, inside the root."""
    found = _open_inside(path, os.O_PATH)
    mode = os.fstat(found).st_mode
    folder = stat.S_ISDIR(mode)
    if not folder and not stat.S_ISREG(mode):  # a pipe would keep us waiting, /dev/zero would never end
        return {"error": "BadInput", "message": f"cp: {path} is neither a file nor a folder", "errno": 0}
    place = f"/proc/self/fd/{found}"
    with open(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        name = os.path.basename(path.rstrip("/")) or "root"
        if folder:
            os.fchdir(os.open(place, os.O_RDONLY | os.O_DIRECTORY))
            archive.add(".", arcname=name)
        else:
            with open(place, "rb") as file:
                member = archive.gettarinfo(arcname=name, fileobj=file)
                archive.addfile(member, file if member.isreg() else None)
    return {"folder": folder, "name": name}


def _unpack_into(path: str, descriptor: int) -> dict[str, Any]:
    """Unpack below a folder of the container; what exists is replaced, links are taken as they are."""
    with open(descriptor, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        _make_folders(path)
        os.fchdir(_open_inside(path, os.O_PATH | os.O_DIRECTORY))
        count = _extract(archive)
    return {"entries": count}


def _extract(archive: tarfile.TarFile, *, one_owner: bool = False) -> int:
    """Unpack every member below the working directory, which is inside a root that nothing leads out of.

    `one_owner`: this lab has one id, so everything belongs to root. (tarfile skips the mode, and with it the x bits,
    of a member whose owner it couldn't set.)
    """
    count = 0
    for member in archive:
        count += 1
        if count > _ENTRY_LIMIT:
            raise tarfile.TarError(f"more than {_ENTRY_LIMIT} entries")
        if member.ischr() or member.isblk():
            continue  # a user namespace can't make device nodes; /dev has the harmless ones
        if one_owner:
            member.uid = member.gid = 0
        member.name = member.name.lstrip("/") or "."
        if ".." in member.name.split("/"):
            raise tarfile.TarError(f"entry {member.name!r} leads out of the archive")
        if member.islnk():
            member.linkname = member.linkname.lstrip("/")
        try:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                if member.name != "." and not member.isdir():
                    os.unlink(member.name)
            archive.extract(member, ".", numeric_owner=True, filter="fully_trusted")
        except KeyError:
            text = f"entry {member.name!r} is a hard link to {member.linkname!r}, which isn't in it"
            raise tarfile.TarError(text) from None
        except OSError as error:
            if error.errno not in _OF_THE_ARCHIVE:
                raise
            name = errno.errorcode[error.errno or 0]
            raise tarfile.TarError(f"entry {member.name!r} can't be made where it says ({name})") from None
    return count


def image(supervisor: Supervisor, call: Call) -> None:
    """Prepare an image folder under a key: from a host folder (a mount) or from a tar archive (a descriptor)."""
    key = call.message.key
    if call.message.kind == "folder":
        descriptor = supervisor.detached_mount(call.message.path, True)
        try:
            supervisor.tree.attach_image(key, descriptor)
        finally:
            os.close(descriptor)
        call.reply(messages.Ok())
        return
    os.mkdir(f"/images/{key}", 0o755)
    descriptor = call.descriptors[0]

    def work() -> dict[str, Any]:
        place = f"/images/{key}"
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(place, place, None, syscalls.MS_BIND)
        with open(descriptor, "rb") as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            os.chdir(place)
            syscalls.pivot_root(".", ".")
            syscalls.umount2(".", syscalls.MNT_DETACH)
            os.chdir("/")
            return {"entries": _extract(archive, one_owner=supervisor.single_id)}

    # What a refused archive has left goes, so that it can be tried again.
    _in_child(supervisor, call, work, failed=lambda: supervisor.tree.remove_image(key))


def kind(supervisor: Supervisor, call: Call) -> None:
    """What lies at a path of a container: folder, file or nothing."""
    record = execution.running(supervisor, call.message.id, "copy")

    def work() -> dict[str, Any]:
        execution.enter(record, syscalls.CLONE_NEWNS)
        try:
            mode = os.fstat(_open_inside(call.message.path, os.O_PATH)).st_mode
        except OSError:
            return {"kind": "nothing"}
        return {"kind": "folder" if stat.S_ISDIR(mode) else "file"}

    _in_child(supervisor, call, work, record)


MOST_NAMES = 1000


def names(supervisor: Supervisor, call: Call) -> None:
    """The names in a folder of the container, folders with a slash at the end; for completion, so never all of many."""
    record = execution.running(supervisor, call.message.id, "look")

    def work() -> dict[str, Any]:
        execution.enter(record, syscalls.CLONE_NEWNS)
        try:
            descriptor = _open_inside(call.message.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return {"names": []}
        with os.scandir(descriptor) as entries:
            found = [entry.name + ("/" if entry.is_dir() else "") for entry in itertools.islice(entries, MOST_NAMES)]
        return {"names": sorted(found)}

    _in_child(supervisor, call, work, record)


VERBS = {
    messages.Kind: kind,
    messages.Names: names,
    messages.CopyOut: copy_out,
    messages.CopyIn: copy_in,
    messages.Image: image,
}
