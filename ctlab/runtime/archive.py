"""Files in and out of a container, and image archives, as tar streams through a descriptor.

A child does the work: for `cp` it enters the container's mount namespace and root, for an image it pivots into the
new folder. Before it looks at any path it has closed all that it held but the stream and the way to answer, so that
nothing a container plants (links, or folders that it swaps meanwhile) leads out of there: `unpack` and `pack` do the
rest by descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..kernel import process_end, syscalls
from . import compressed, ends, execution, messages, protocol, storage, tar
from .calls import Call
from .pack import Packer
from .unpack import Root, Unpacker, Unwritten

if TYPE_CHECKING:
    from .record import Record
    from .supervisor import Supervisor

_BUFFER_BYTES = 1 << 18


def copy_out(supervisor: Supervisor, call: Call) -> None:
    """Write a path of the container as a tar stream to the descriptor that came along.

    Answers what was left out of it, as `Packer.pack` has it.
    """
    record = execution.running(supervisor, call.message.id, "copy")
    _in_child(supervisor, call, lambda: _pack(call.message.path, call.descriptors[0]), record)


def copy_in(supervisor: Supervisor, call: Call) -> None:
    """Unpack a tar stream from the descriptor into a folder of the container, which is made where there is none."""
    record = execution.running(supervisor, call.message.id, "copy")

    def work() -> dict[str, Any]:
        root, base = Root(), os.fsencode(call.message.path)
        os.close(root.make_folders(base))
        with open(call.descriptors[0], "rb", _BUFFER_BYTES) as stream:
            count = Unpacker(root, base, owned=False).unpack(tar.Reader(stream), of_the_archive=False)
            return {"entries": count, "skipped": [], "skipped_count": 0}

    _in_child(supervisor, call, work, record)


def _in_child(
    supervisor: Supervisor,
    call: Call,
    work: Callable[[], dict[str, Any]],
    record: Record | None = None,
    failed: Callable[[], None] | None = None,
) -> None:
    """Answer with what `work` returns, which is done in a child: in the container of `record`, if there is one."""
    slot = None if record is None else record.slot
    ours, theirs = protocol.pair()
    if record is not None:
        pid, pidfd = execution.clone_inside(supervisor, record, python=True)
    else:
        pid, pidfd = syscalls.clone3_python(0)
    if pid == 0:
        _work(theirs, work, {theirs.fileno(), *call.descriptors}, record)
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
        if not (how := process_end.how(pidfd)):
            return
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        while ours.fileno() >= 0:
            said()
        supervisor.inside.pop(pid, None)
        supervisor.off(pidfd)
        os.close(pidfd)
        answer = storage.named(answers[0]) if answers else None  # before what was begun is removed
        if failed is not None and (answer is None or "error" in answer):
            failed()
        refused = answer is None or answer.get("errno") == errno.ESRCH  # the latter of who enters what has ended
        if refused and record is not None and (why := ends.why_gone(supervisor, record, slot)):
            call.fail("StateError", why)
        elif answer is None:
            what = "an image" if record is None else f"container {record.name}"
            call.fail("CtlabError", f"{what}: the process that was to copy ended ({how})")
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
    if "skipped" in said:
        return messages.Copied(said["skipped"], said["skipped_count"])
    return messages.Named(said["names"]) if "names" in said else messages.Ok()


def _work(status: socket.socket, work: Callable[[], dict[str, Any]], keep: set[int], record: Record | None) -> NoReturn:
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        if record is not None:
            syscalls.close_all_but(keep | {record.pidfd})
            execution.enter(record, syscalls.CLONE_NEWNS)  # with it the root and the working folder are the container's
        syscalls.close_all_but(keep)
        answer = work()
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        where = f"{error.filename}: " if error.filename else ""
        answer = {"error": "KernelError", "message": f"{where}{name} ({error.strerror})", "errno": error.errno or 0}
        if isinstance(error, Unwritten):
            answer["storage"] = error.storage
    except tar.ArchiveError as error:
        answer = {"error": "BadInput", "message": f"not a usable tar archive: {error}", "errno": 0}
    except Exception as error:
        answer = {"error": "CtlabError", "message": f"{type(error).__name__}: {error}", "errno": 0}
    with contextlib.suppress(OSError):
        protocol.send(status, answer)
    os._exit(0)


def _pack(path: str, descriptor: int) -> dict[str, Any]:
    """A file, or a folder with all below it; a symbolic link at the end is followed, inside the root."""
    root, name = Root(), os.fsencode(path)
    found = root.open(name, os.O_PATH)
    mode = os.fstat(found).st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):  # a pipe would keep us waiting, /dev/zero would never end
        return {"error": "BadInput", "message": f"cp: {path} is neither a file nor a folder", "errno": 0}
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    if stat.S_ISDIR(mode):
        top = os.open(".", flags | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
    else:
        top = root.open(name, flags)
    os.close(found)
    with open(descriptor, "wb", _BUFFER_BYTES) as out:
        return Packer(out.write).pack(top, os.path.basename(os.path.normpath(name)) or b"root")


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
        os.chdir(place)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")
        with open(descriptor, "rb", _BUFFER_BYTES) as file:
            reader = tar.Reader(compressed.plain(file), cut_is_end=True)
            unpacker = Unpacker(Root(), b"/", owned=not supervisor.single_id)
            return {"entries": unpacker.unpack(reader, of_the_archive=True)}

    # What a refused archive has left goes, so that it can be tried again.
    _in_child(supervisor, call, work, failed=lambda: supervisor.tree.remove_image(key))


def kind(supervisor: Supervisor, call: Call) -> None:
    """What lies at a path of a container: folder, file or nothing."""
    record = execution.running(supervisor, call.message.id, "copy")

    def work() -> dict[str, Any]:
        try:
            mode = os.fstat(Root().open(os.fsencode(call.message.path), os.O_PATH)).st_mode
        except OSError:
            return {"kind": "nothing"}
        return {"kind": "folder" if stat.S_ISDIR(mode) else "file"}

    _in_child(supervisor, call, work, record)


MOST_NAMES = 1000


def names(supervisor: Supervisor, call: Call) -> None:
    """The names in a folder of the container, folders with a slash at the end; for completion, so never all of many."""
    record = execution.running(supervisor, call.message.id, "look")

    def work() -> dict[str, Any]:
        root, path = Root(), os.fsencode(call.message.path)

        def shown(entry: os.DirEntry[str]) -> str:
            folder = entry.is_dir(follow_symlinks=False)
            if entry.is_symlink():
                with contextlib.suppress(OSError):
                    os.close(root.open(path + b"/" + os.fsencode(entry.name), os.O_PATH | os.O_DIRECTORY))
                    folder = True
            return entry.name + ("/" if folder else "")

        try:
            descriptor = root.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return {"names": []}
        with os.scandir(descriptor) as entries:
            return {"names": sorted(map(shown, itertools.islice(entries, MOST_NAMES)))}

    _in_child(supervisor, call, work, record)


VERBS = {
    messages.Kind: kind,
    messages.Names: names,
    messages.CopyOut: copy_out,
    messages.CopyIn: copy_in,
    messages.Image: image,
}
