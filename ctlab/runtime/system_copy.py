"""The lab's own copy of what a system is to be changed in: it lies below every container of the image `system`.

It is a tmpfs of its own, read-only once it is made: the lower layer of each container's root, so what a container
changes is copied up and its own, and a start makes nothing of it. It holds the folders of a root, `/etc` as far as the
world may read it (`system_read`) with password files in which every password is locked, and the folders of `/var`.
Owners are the same where the lab has their ids, else its root.

The nursery makes it, in a child that ends with it, so that nothing remains in its memory; while the supervisor still
imports what it needs. One that has died meanwhile leaves it to the next. Lean: see `kernel.lean`.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import stat

from ..kernel import syscalls
from ..kernel.lean import signal, suppress
from ..plan import rootfs
from . import orders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .system_read import Entry

PLACE = "/system"  # in the lab's own tree
_SIZE = "mode=755,size=64m,nr_inodes=32k"  # twice what is read at most
# Where it is mounted while it is made, in a mount namespace that ends with who made it: one is there in the machine's
# tree, the other in the lab's.
_WORKSHOPS = ("/tmp", PLACE)
_MODES = 0o1777  # of folders; that of the group is set after the owner
_LOCKED = "*"


class Source:
    """What the copy is made of. `archive`, `done`: see `system_read.Reader`; `top`: see `plan.rootfs.skeleton`."""

    def __init__(self, archive: int, done: int, top: dict[str, str]) -> None:
        self._archive = archive
        self._done = done
        self._top = top

    def descriptors(self) -> set[int]:
        """What has to stay open in who makes the copy."""
        return {self._archive, self._done}

    def close(self) -> None:
        """The copy is made."""
        os.close(self._archive)
        os.close(self._done)

    def wait(self) -> None:
        """Wait until all is read, and the lab's ids are mapped."""
        poll = select.poll()
        poll.register(self._done, 0)  # its end of file
        poll.poll()

    def make(self) -> tuple[int, list[str]]:
        """Make the copy, in a process that ends then: (a detached mount, what a bound has left out). Raises OSError."""
        entries, left_out = self._read()
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        workshop = next(place for place in _WORKSHOPS if os.path.isdir(place))
        syscalls.mount("ctlab", workshop, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _SIZE)
        root = os.open(workshop, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.umask(0)
        folders, links = rootfs.skeleton(self._top)
        for path, mode in folders:
            os.mkdir(path[1:], mode, dir_fd=root)
        for path, target in links:
            os.symlink(target, path[1:], dir_fd=root)
        write(root, entries)
        # A copy of the mount, since this one goes with the mount namespace.
        mount = syscalls.open_tree(root, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
        attributes = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        syscalls.mount_setattr(mount, attributes)
        return mount, left_out

    def _read(self) -> tuple[list[Entry], list[str]]:
        size = os.fstat(self._archive).st_size
        data = bytearray(size)
        if not size or os.preadv(self._archive, [data], 0) != size:
            raise OSError(errno.EIO, "read /etc and /var of this machine: EIO (who reads them has ended before)")
        found: tuple[list[Entry], list[str]] = marshal.loads(data)
        return found


class Copy:
    """The copy of one lab. It is made by the lab's root, whether it is in the lab's tree already or not."""

    def __init__(self, source: Source) -> None:
        ours, theirs = orders.pair()
        pid, pidfd = syscalls.clone3_python(0)
        if pid == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                mount, left_out = source.make()
                orders.send(theirs, {"copied": True, "left_out": left_out, "why": ""}, [mount])
            except OSError as error:
                why = f"{errno.errorcode.get(error.errno or 0, '?')} in {error.strerror}"
                orders.send(theirs, {"copied": False, "left_out": [], "why": why})
            finally:
                os._exit(0)
        theirs.close()
        answer, self._mount = orders.receive(ours)
        ours.close()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        self._answer = answer or {"copied": False, "left_out": [], "why": "who made it has died"}

    def attach(self) -> orders.Message:
        """Show the copy at `PLACE`, once we are in the lab's own tree; what the supervisor is to be told."""
        for mount in self._mount:
            place = os.open(PLACE, os.O_PATH | os.O_CLOEXEC)
            syscalls.move_mount(mount, place)
            os.close(place)
            os.close(mount)
        return self._answer


def write(root: int, entries: list[Entry]) -> None:
    """Make what was read below the open folder `root`, and the password files."""
    texts = {"etc/passwd": b"", "etc/group": b""}
    for path, mode, uid, gid, changed_ns, body in entries:
        if isinstance(body, str):
            os.symlink(body, path, dir_fd=root)
        elif stat.S_ISDIR(mode):
            _write_folder(root, path, mode, uid, gid)
        else:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode & 0o777, dir_fd=root)
            if body:
                os.write(descriptor, body)
            if uid or gid:
                _own(descriptor, uid, gid)
            os.utime(descriptor, ns=(changed_ns, changed_ns))
            os.close(descriptor)
            if path in texts:
                texts[path] = body
    _write_passwords(root, *(text.decode("utf-8", "replace") for text in texts.values()))


def _write_folder(root: int, path: str, mode: int, uid: int, gid: int) -> None:
    try:
        os.mkdir(path, mode & _MODES, dir_fd=root)
    except FileExistsError:  # one that every root has
        os.chmod(path, mode & _MODES, dir_fd=root)
    if not (uid or gid or mode & stat.S_ISGID):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        _own(descriptor, uid, gid)
        if mode & stat.S_ISGID:
            os.fchmod(descriptor, mode & (_MODES | stat.S_ISGID))
    finally:
        os.close(descriptor)


def _own(descriptor: int, uid: int, gid: int) -> None:
    """Give it away; what the lab has no id for stays its root's."""
    for user, group in ((uid, -1), (-1, gid)):
        with suppress(OSError):
            os.fchown(descriptor, user, group)


def _write_passwords(root: int, passwd: str, group: str) -> None:
    """shadow and gshadow, with every password locked: `su`, `useradd` and the like want them."""
    accounts = [line.split(":") for line in passwd.splitlines()]
    groups = [line.split(":") for line in group.splitlines()]
    shadow = "".join(f"{one[0]}:{_LOCKED}:::::::\n" for one in accounts if len(one) == 7)
    gshadow = "".join(f"{one[0]}:{_LOCKED}::{one[3]}\n" for one in groups if len(one) == 4)
    gid = next((int(one[2]) for one in groups if len(one) == 4 and one[0] == "shadow" and one[2].isdigit()), 0)
    for name, text in (("shadow", shadow), ("gshadow", gshadow)):
        with suppress(FileNotFoundError):  # this machine has no /etc
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            descriptor = os.open(f"etc/{name}", flags, 0o640, dir_fd=root)
            os.write(descriptor, text.encode())
            _own(descriptor, 0, gid)
            os.close(descriptor)
