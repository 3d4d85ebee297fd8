"""What a VM sees of this machine's files: a mount namespace for the servers of its shares, in which much is covered.

Whoever becomes the guest's root reads through the shares what their servers may read. So these have a root of their
own: this machine's files, but with empty file systems over its `/proc`, `/sys`, `/dev`, `/run` and `/tmp` and over all
homes. What `-v` or an image names is shown all the same, below /run there, each at a place of its own
(`guest_place`), while the VM runs: the keeper holds the namespace and the machine's own root in it.

Root makes a mount namespace. An ordinary user makes it in a user namespace which has his own id alone: there a file of
anybody else is nobody's, and the server tells the guest that it is root's. Where no namespace can be had (the very
machine that a VM is for) all that the reader may read remains visible; `Shares.why_not` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import select
import signal
import socket
import stat
from collections.abc import Callable, Iterable, Sequence

from ..errors import describe, errno_name
from ..kernel import syscalls

COVERED = ("/proc", "/sys", "/dev", "/run", "/tmp", "/home", "/root")
SHOWN = "/run"  # where what was named is shown
_NEVER = frozenset(("/", "/bin", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/sbin", "/usr", "/usr/bin", "/var"))
_AT_FDCWD = -100
_CHILD_SECONDS = 20.0
_PLAIN = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_EMPTY = "mode=755,size=4m,nr_inodes=64k"  # folders and empty files alone, for others to be mounted on


def homes() -> list[str]:
    """The home folders of who starts this, also of who has become root by sudo."""
    found = [os.environ.get("HOME", "")]
    for text in (str(os.getuid()), os.environ.get("SUDO_UID", "")):
        with contextlib.suppress(KeyError, ValueError, OverflowError):
            found.append(pwd.getpwuid(int(text)).pw_dir)
    return found


def covers(of_homes: Iterable[str]) -> list[str]:
    """The folders to cover, none of them below another; without those that a system can't do without."""
    wanted = {os.path.realpath(path) for path in (*COVERED, *of_homes) if os.path.isabs(path)}
    found: list[str] = []
    for path in sorted(wanted, key=lambda path: (len(path), path)):
        if path not in _NEVER and os.path.isdir(path) and not _is_below(path, found):
            found.append(path)
    return found


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def guest_place(path: str) -> str:
    """Where in the shares a path without links is shown. Another file of the same name has another place:

    the guest remembers for a second what it has found at one.
    """
    try:
        status = os.stat(path)
        identity = f"{status.st_dev}:{status.st_ino}:{path}"
    except OSError:
        identity = path
    return f"{SHOWN}/{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}{path}"


class Shares:
    """The namespaces, held by their descriptors; `covered`: what is covered in them."""

    def __init__(self, covered: Sequence[str], why_not: str, descriptors: Sequence[int] = ()) -> None:
        self.covered = list(covered)
        self.why_not = why_not
        self._descriptors = list(descriptors)  # the machine's root in there; the mount namespace; if own, the user's
        self._shown: set[str] = set()

    @property
    def own_ids(self) -> bool:
        """Whether their user namespace has one id alone."""
        return len(self._descriptors) == 3

    def facts(self) -> dict[str, object]:
        """For status and inspect."""
        return {"covered": self.covered, "why_not": self.why_not}

    def enter(self) -> None:
        """In a child with one thread: be in the namespaces, with their root. Raises OSError."""
        if self._descriptors:
            _, mounts, *user = self._descriptors
            for descriptor in user:
                syscalls.setns(descriptor, syscalls.CLONE_NEWUSER)
            syscalls.setns(mounts, syscalls.CLONE_NEWNS)

    def cover_proc(self) -> None:
        """Cover /proc, which the servers need when they start and not afterwards. Raises OSError."""
        if self._descriptors:
            _in_child(lambda _: self._inside(lambda: _cover("/proc")))

    def show(self, place: str) -> None:
        """Show a file or folder at its place (`guest_place`), if it isn't yet. Raises OSError."""
        if not self._descriptors or place in self._shown:
            return
        source = "/" + place.removeprefix(f"{SHOWN}/").partition("/")[2]
        if not place.startswith(f"{SHOWN}/") or os.path.realpath(source) != source:
            raise OSError(22, f"{place} is no place for something to be shown")
        _in_child(lambda _: self._inside(lambda: _bind(self._descriptors[0], source, place)))
        self._shown.add(place)

    def _inside(self, work: Callable[[], None]) -> None:
        self.enter()
        os.umask(0o022)
        work()

    def close(self) -> None:
        """Close them; the namespaces go with the last process in them."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def make(shown: Iterable[str] = ()) -> Shares:
    """Make the namespaces, with these files and folders visible at their own paths. Raises nothing: see `why_not`."""
    covered = covers(homes())
    wanted = [path for path in dict.fromkeys(map(os.path.realpath, shown)) if _is_below(path, covered)]
    try:
        return Shares(covered, "", _in_child(lambda say: _make(say, covered, wanted)))
    except OSError as error:
        return Shares([], f"{error.strerror or error} ({errno_name(error.errno or 0)})")


# -- in children ------------------------------------------------------------------------------------------------------
def _in_child(work: Callable[[socket.socket], None]) -> list[int]:
    """Fork, do it there, wait: the descriptors that it has sent. Raises OSError with what failed there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            work(theirs)
            theirs.send(b"done")
        except OSError as error:
            theirs.send(f"{error.errno or 0} {error.strerror or describe(error)}".encode(errors="replace"))
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        descriptors: list[int] = []
        said = b""
        try:
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            while poll.poll(_CHILD_SECONDS * 1000):
                said, given, _, _ = socket.recv_fds(ours, 4096, 3)
                descriptors += given
                if said != b"more":
                    break
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if said == b"done":
        return descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    number, _, text = said.decode(errors="replace").partition(" ")
    raise OSError(int(number) if number.isdigit() else 5, text or "the process that was to mount has died")


def _make(say: socket.socket, covered: Sequence[str], shown: Sequence[str]) -> None:
    own = _unshare()
    os.umask(0o022)
    # What is mounted and unmounted on the machine is so in here: a medium could not be taken out otherwise.
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    machine = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = syscalls.open_tree(_AT_FDCWD, "/", syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
    # On top of the machine's root: `..` ends here, and only who has its descriptor can reach what is below.
    syscalls.move_mount(tree, machine)
    os.fchdir(tree)
    os.chroot(".")
    namespaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("mnt", *(("user",) if own else ()))]
    for path in covered:
        if path != "/proc":
            _cover(path)
    for path in shown:
        with contextlib.suppress(FileNotFoundError):
            _bind(machine, path, path)
    for path in covered:
        if path not in ("/proc", SHOWN):
            syscalls.mount(None, path, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | _PLAIN)
    socket.send_fds(say, [b"more"], [machine, *namespaces])


def _unshare() -> bool:
    """A mount namespace of our own, and where that needs it a user namespace (True). Raises OSError."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        return False
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return True


def _cover(path: str) -> None:
    syscalls.mount("none", path, "tmpfs", _PLAIN, _EMPTY)


def _bind(machine: int, source: str, place: str) -> None:
    """Mount what `source` is on the machine at `place`, with all that is mounted below it."""
    found = syscalls.openat2(machine, source.lstrip("/"), os.O_PATH, syscalls.RESOLVE_NO_SYMLINKS)
    tree = syscalls.open_tree(found, "", syscalls.AT_EMPTY_PATH | syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
    if stat.S_ISDIR(os.fstat(found).st_mode):
        os.makedirs(place, exist_ok=True)  # it is there where something below it was shown before
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "x", encoding="ascii"):
            pass
    syscalls.move_mount(tree, _AT_FDCWD, place)
    os.close(tree)
    os.close(found)
