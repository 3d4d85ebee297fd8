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

from ..errors import describe_bug
from ..kernel import syscalls
from ..kernel.lean import signal, suppress
from ..plan import rootfs
from . import orders, system_read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .system_read import Entry

PLACE = "/system"  # in the lab's own tree
# All that is read at most, and what comes to it: the folders of a root, files of locked passwords.
_SIZE = f"mode=755,nr_blocks={system_read.MOST_PAGES + 4096},nr_inodes=32k"
# Where it is mounted while it is made, in a mount namespace that ends with who made it: one is there in the machine's
# tree, the other in the lab's.
_WORKSHOPS = ("/tmp", PLACE)
_MODES = 0o1777  # of folders; that of the group is set after the owner
_LOCKED = "*"
_MOST_DIGITS = 10  # of a group's number
_MOST_STARTS = 4  # of who makes it: the first, and three anew
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is read, and the lab's ids are mapped; so long at most. Whether it is so."""
        poll = select.poll()
        poll.register(self._done, 0)  # its end of file
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def make(self) -> tuple[int, list[str]]:
        """Make the copy, in a process that ends then: (a detached mount, notes on what it lacks). Raises OSError."""
        entries, notes = self._read()
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
        notes += write(root, entries)
        # A copy of the mount, since this one goes with the mount namespace.
        mount = syscalls.open_tree(root, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
        attributes = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        syscalls.mount_setattr(mount, attributes)
        return mount, notes

    def _read(self) -> tuple[list[Entry], list[str]]:
        size = os.fstat(self._archive).st_size
        data = bytearray(size)
        if not size or os.preadv(self._archive, [data], 0) != size:
            raise OSError(errno.EIO, "reading them: who does it has died, again and again, or had no answer in 20 s")
        found: tuple[list[Entry], list[str]] = marshal.loads(data)
        return found


class Copy:
    """The copy of one lab. It is made by the lab's root, whether it is in the lab's tree already or not."""

    def __init__(self, source: Source) -> None:
        for died in range(_MOST_STARTS):
            answer, self._mount = _make_apart(source)
            if answer is not None:
                answer["notes"] += ["what made the image system has died and was started anew"] * (died > 0)
                break
        why = f"who makes the copy has died, {_MOST_STARTS} times"
        self._answer = answer or {"copied": False, "notes": [], "why": why}

    def attach(self) -> orders.Message:
        """Show the copy at `PLACE`, once we are in the lab's own tree; what the supervisor is to be told."""
        for mount in self._mount:
            place = os.open(PLACE, os.O_PATH | os.O_CLOEXEC)
            syscalls.move_mount(mount, place)
            os.close(place)
            os.close(mount)
        return self._answer


def _make_apart(source: Source) -> tuple[orders.Message | None, list[int]]:
    """Make the copy in a process of its own: what the supervisor is to be told (None: it has died), the mount."""
    ours, theirs = orders.pair()
    pid, pidfd = syscalls.clone3_python(0)
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            mount, notes = source.make()
            orders.send(theirs, {"copied": True, "notes": notes, "why": ""}, [mount])
        except OSError as error:
            why = f"{errno.errorcode.get(error.errno or 0, '?')} in {error.strerror}"
            if why.startswith(("ENOSPC in unshare", "ENOSPC in open_tree")):  # which counts as a namespace, too
                why = f"{why.partition(':')[0].strip()}, a quota is used up: /proc/sys/user/max_mnt_namespaces"
            orders.send(theirs, {"copied": False, "notes": [], "why": why})
        except Exception as error:
            orders.send(theirs, {"copied": False, "notes": [], "why": describe_bug(error)})
        finally:
            os._exit(0)
    theirs.close()
    answer = orders.receive(ours)
    ours.close()
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    return answer


def write(root: int, entries: list[Entry]) -> list[str]:
    """Make what was read below the open folder `root`, and the password files: what could not be made, a line each.

    While it was read somebody may have put one thing in another's place, so a name may come twice, as a link and as a
    folder with something in it. The first stays, as what every root has does; and nothing is made but in folders that
    are known to be some, or what comes below a link would be made outside.
    """
    texts = {"etc/passwd": b"", "etc/group": b""}
    lost: list[str] = []
    folders = {"etc", "var"}
    for path, mode, uid, gid, changed_ns, body in entries:
        try:
            if path.rpartition("/")[0] not in folders:
                raise NotADirectoryError(errno.ENOTDIR, "")
            if isinstance(body, str):
                os.symlink(body, path, dir_fd=root)
            elif stat.S_ISDIR(mode):
                _write_folder(root, path, mode, uid, gid)
                folders.add(path)
            else:
                _write_file(root, path, mode & 0o777, uid, gid, body, changed_ns)
                if path in texts:
                    texts[path] = body
        except FileExistsError:
            continue
        except OSError as error:
            lost.append(f"/{path}: {errno.errorcode.get(error.errno or 0, '?')}")
    lost += _write_passwords(root, *(text.decode("utf-8", "replace") for text in texts.values()))
    more = [f"{len(lost) - system_read.MOST_NAMED} more"] if len(lost) > system_read.MOST_NAMED else []
    return [f"not in the image system: {what}" for what in (*lost[: system_read.MOST_NAMED], *more)]


def _write_file(
    root: int, path: str, mode: int, uid: int, gid: int, body: bytes, changed_ns: int | None = None
) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=root)
    try:
        system_read.write_all(descriptor, body)
        if uid or gid:
            _own(descriptor, uid, gid)
        if changed_ns is not None:
            os.utime(descriptor, ns=(changed_ns, changed_ns))
    except OSError:
        os.unlink(path, dir_fd=root)  # a part of a file is worse than none
        raise
    finally:
        os.close(descriptor)


def _write_folder(root: int, path: str, mode: int, uid: int, gid: int) -> None:
    made = True
    try:
        os.mkdir(path, mode & _MODES, dir_fd=root)
    except FileExistsError:  # one that every root has
        made = False
    if made and not (uid or gid or mode & stat.S_ISGID):
        return
    descriptor = os.open(path, _FOLDER, dir_fd=root)
    try:
        _own(descriptor, uid, gid)
        os.fchmod(descriptor, mode & (_MODES | stat.S_ISGID))
    finally:
        os.close(descriptor)


def _own(descriptor: int, uid: int, gid: int) -> None:
    """Give it away; what the lab has no id for stays its root's."""
    for user, group in ((uid, -1), (-1, gid)):
        with suppress(OSError, OverflowError):
            os.fchown(descriptor, user, group)


def _write_passwords(root: int, passwd: str, group: str) -> list[str]:
    """shadow and gshadow, with every password locked: `su`, `useradd` and the like want them. Says what failed."""
    accounts = [line.split(":") for line in passwd.splitlines()]
    groups = [line.split(":") for line in group.splitlines()]
    shadow = "".join(f"{one[0]}:{_LOCKED}:::::::\n" for one in accounts if len(one) == 7)
    gshadow = "".join(f"{one[0]}:{_LOCKED}::{one[3]}\n" for one in groups if len(one) == 4)
    gids = [one[2] for one in groups if len(one) == 4 and one[0] == "shadow"]
    gid = next((int(text) for text in gids if text.isdecimal() and len(text) <= _MOST_DIGITS), 0)
    lost = []
    for name, text in (("etc/shadow", shadow), ("etc/gshadow", gshadow)):
        try:
            _write_file(root, name, 0o640, 0, gid, text.encode())
        except FileNotFoundError:  # this machine has no /etc
            pass
        except OSError as error:
            lost.append(f"/{name}: {errno.errorcode.get(error.errno or 0, '?')}")
    return lost
