"""One interface to control groups, version 1, version 2 and the hybrid of both.

Three owners, three classes:

- `LabCgroup`: outside, the keeper's. It makes the lab's folder ``ctlab-<id>`` in each hierarchy, hands it to
  the lab's root, and removes it. It works with paths, which are recorded for `prune`.
- `LabFolders`: inside, the supervisor's. It sees no path below /sys/fs/cgroup any more and works with one
  directory descriptor per controller (and ``unified`` for the version 2 tree).
- `ContainerCgroup`: one container's folder in all of them.

Layouts: version 2 has everything in the unified folder. Version 1 has one folder per controller; where an
(otherwise empty) version 2 tree can be had too, a folder there as well, for what only it has: a process born
inside (CLONE_INTO_CGROUP), cgroup.kill, a freeze from which processes can die, pressure. Version "none" has at most
that.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import KernelError, describe
from . import cgroup_v1 as v1
from . import cgroup_v2 as v2

if TYPE_CHECKING:
    from .cgroup_discover import Delegation

UNIFIED = "unified"
LEAF = "lab"  # where the lab's own processes are: a version 2 folder with children can't hold processes itself
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LAB_FOLDER = re.compile(r"ctlab-[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_QUOTA = (errno.EAGAIN, errno.ENOSPC, errno.ENOMEM)

# What the kernel documents as delegatable (/sys/kernel/cgroup/delegate), for each version; the limit files of the
# lab's own folder stay with whoever made it, so a lab can't widen what it was given.
_DELEGATED_V1 = ("tasks", "cgroup.procs", "cgroup.clone_children", "notify_on_release")
_DELEGATED_V2 = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "memory.reclaim")


def _mkdir(path: str, shown: str, directory: int | None = None) -> None:
    try:
        os.mkdir(path, 0o755, dir_fd=directory)
    except FileExistsError:
        raise
    except OSError as error:
        quota = "; this machine's quota of cgroups (cgroup.max.descendants) is used up" if error.errno in _QUOTA else ""
        raise KernelError(f"can't make the cgroup folder {shown}: {describe(error)}{quota}", error.errno or 0) from None


def _rmdir_until(path: str, directory: int | None, until: float) -> bool:
    """rmdir with EBUSY tried again: a process that was just reaped may still be counted for a moment.

    True when the folder is gone; False when it is still busy at `until` (monotonic clock).
    """
    pause = 0.0005
    while True:
        try:
            os.rmdir(path, dir_fd=directory)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        if time.monotonic() >= until:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


class LabCgroup:
    """The lab's folders, outside. Made by `make_lab`."""

    def __init__(self, version: str, folders: dict[str, str], keeper_leaf: str | None = None) -> None:
        """`folders`: controller (or ``unified``) -> path of the lab's folder."""
        self.version = version
        self.folders = folders
        self.keeper_leaf = keeper_leaf

    def paths(self) -> list[str]:
        """Each folder once, the keeper's own leaf last: what to write down for `prune`."""
        leaf = [self.keeper_leaf] if self.keeper_leaf is not None else []
        return list(dict.fromkeys([*self.folders.values(), *leaf]))

    def open(self) -> dict[str, int]:
        """A directory descriptor (close-on-exec) per controller, for `LabFolders`; the caller closes them."""
        return {name: os.open(path, _DIRECTORY) for name, path in self.folders.items()}

    def open_leaf(self) -> int | None:
        """A descriptor of the folder that the supervisor is to be born in (CLONE_INTO_CGROUP), None without a v2 tree.

        The supervisor must start there: the kernel allows a move within the version 2 tree only to who may write the
        cgroup.procs of the common ancestor, and that is the lab's folder only for who is inside it.
        """
        if UNIFIED not in self.folders:
            return None
        return os.open(os.path.join(self.folders[UNIFIED], LEAF), _DIRECTORY)

    def place(self, pid: int) -> None:
        """Move a process into that folder instead (6-14 ms), where it can't be born in it."""
        descriptor = self.open_leaf()
        if descriptor is not None:
            try:
                v2.write_at(descriptor, "cgroup.procs", str(pid))
            finally:
                os.close(descriptor)

    def remove(self, timeout: float = 3.0) -> list[str]:
        """End what is left inside and remove all folders; returns those that would not go (seconds)."""
        left = prune(self.folders.values(), timeout)
        if self.keeper_leaf is not None and not left:
            _leave(self.keeper_leaf)
        return left


def make_lab(delegation: Delegation, lab_id: str, uid: int, gid: int) -> LabCgroup:
    """Make ``ctlab-<lab_id>`` below each parent and hand it to `uid`:`gid` (the lab's root as seen from outside).

    Raises KernelError; nothing is left behind then. NameInUse is not a case: lab ids are unique.
    """
    if not _ID.fullmatch(lab_id):
        raise ValueError(f"not a lab id: {lab_id!r}")
    parents = dict(delegation.parents)
    if delegation.unified is not None:
        parents[UNIFIED] = delegation.unified
    lab = LabCgroup(delegation.version, {}, delegation.leaf)
    made: list[str] = []
    try:
        for name, parent in parents.items():
            path = os.path.join(parent, f"ctlab-{lab_id}")
            if path not in made:  # controllers that are mounted together share a folder
                _mkdir(path, path)
                made.append(path)
            lab.folders[name] = path
            if name == UNIFIED:
                _hand_over_v2(path, delegation.controllers if delegation.version == "v2" else [], uid, gid)
            else:
                _hand_over_v1(path, name, uid, gid)
    except OSError as error:
        prune(made, 0.5)
        where = error.filename or "the lab's cgroup folder"
        raise KernelError(f"can't set up {where}: {describe(error)}", error.errno or 0) from error
    except KernelError:
        prune(made, 0.5)
        raise
    return lab


def _chown(path: str, uid: int, gid: int) -> None:
    now = os.stat(path)
    if (now.st_uid, now.st_gid) != (uid, gid):
        os.chown(path, uid, gid)


def _hand_over_v1(path: str, controller: str, uid: int, gid: int) -> None:
    if controller == "cpuset":
        parent = os.open(os.path.dirname(path), _DIRECTORY)
        try:
            v1.fill_cpuset(parent, os.path.basename(path))
        finally:
            os.close(parent)
    for name in ("", *_DELEGATED_V1):
        if os.path.exists(os.path.join(path, name)):
            _chown(os.path.join(path, name), uid, gid)


def _hand_over_v2(path: str, controllers: list[str], uid: int, gid: int) -> None:
    directory = os.open(path, _DIRECTORY)
    try:
        if missing := set(controllers) - set(v2.enable(directory, ".", controllers)):
            names = ", ".join(sorted(missing))
            raise KernelError(f"can't turn on {names} in {path}/cgroup.subtree_control", errno.EINVAL)
    finally:
        os.close(directory)
    leaf = os.path.join(path, LEAF)
    _mkdir(leaf, leaf)
    for folder in (path, leaf):
        for name in ("", *_DELEGATED_V2):
            if os.path.exists(os.path.join(folder, name)):
                _chown(os.path.join(folder, name), uid, gid)


def _leave(leaf: str) -> None:
    """Take the keeper out of the leaf that it moved into, and remove that; the last thing that a keeper does."""
    parent = os.open(os.path.dirname(leaf), _DIRECTORY)
    try:
        for controller in v2.read_at(parent, "cgroup.subtree_control").split():
            v2.write_at(parent, "cgroup.subtree_control", f"-{controller}")
        v2.join(parent, ".")
        os.rmdir(os.path.basename(leaf), dir_fd=parent)
    except OSError:
        # Someone else uses the folder by now, or systemd has removed the scope: then it isn't ours to tidy.
        pass
    finally:
        os.close(parent)


class LabFolders:
    """The lab's folders, inside: made from the descriptors of `LabCgroup.open`. Not thread-safe."""

    def __init__(self, fds: dict[str, int], version: str) -> None:
        """`version`: "v1", "v2" or "none". Descriptors stay the caller's."""
        self.version = version
        self.unified = fds.get(UNIFIED)
        self.v1: dict[str, int] = {name: fd for name, fd in fds.items() if name != UNIFIED}
        self.groups: dict[str, int] = {}  # as `v1`, with controllers that are mounted together named once
        seen: dict[tuple[int, int], str] = {}
        for name, fd in self.v1.items():
            status = os.fstat(fd)
            if seen.setdefault((status.st_dev, status.st_ino), name) == name:
                self.groups[name] = fd

    def make(self, container_id: str, controllers: Iterable[str] | None = None) -> ContainerCgroup:
        """A fresh folder for a container in each hierarchy.

        `controllers` (version 1 only): which; the default is every one there but cpuset, and without the freezer
        where the version 2 folder freezes better. Raises KernelError (quota used up); nothing is left behind then.
        """
        if not _ID.fullmatch(container_id) or container_id == LEAF:
            raise ValueError(f"not a container id: {container_id!r}")
        wanted = set(v1.DEFAULT_CONTROLLERS if controllers is None else controllers)
        if controllers is None and self.unified is not None:
            wanted.discard("freezer")
        made = ContainerCgroup(self, container_id)
        try:
            if self.unified is not None:
                _mkdir(container_id, container_id, self.unified)
                made.in_unified = True
            for name, fd in self.v1.items():
                if name in wanted:
                    made.add(name, fd)
        except (KernelError, OSError):
            made.remove(0.1)
            raise
        return made

    def adopt(self, container_id: str, controllers: Iterable[str] | None = None) -> ContainerCgroup:
        """The folder that another process made by `make` (with these version 1 controllers, else the default ones)."""
        adopted = ContainerCgroup(self, container_id)
        adopted.in_unified = self.unified is not None
        wanted = set(v1.DEFAULT_CONTROLLERS if controllers is None else controllers)
        if controllers is None and self.unified is not None:
            wanted.discard("freezer")
        adopted.controllers = {name: fd for name, fd in self.v1.items() if name in wanted}
        adopted._groups = {name: fd for name, fd in self.groups.items() if name in wanted}
        return adopted


class ContainerCgroup:
    """One container's folder in every hierarchy it is in. Made by `LabFolders.make`."""

    def __init__(self, lab: LabFolders, container_id: str) -> None:
        self.lab = lab
        self.id = container_id
        self.in_unified = False
        self.controllers: dict[str, int] = {}  # version 1: controller -> descriptor of the lab's folder there
        self._groups: dict[str, int] = {}
        self._clone_fd: int | None = None

    def add(self, name: str, fd: int) -> None:
        """Make the folder in one more version 1 hierarchy (used by `make`, and for a late cpuset)."""
        first = next((other for other, known in self._groups.items() if os.path.sameopenfile(known, fd)), None)
        if first is None:
            _mkdir(self.id, f"{name}/{self.id}", fd)
            self._groups[name] = fd
        self.controllers[name] = fd
        if name == "cpuset":
            v1.fill_cpuset(fd, self.id)

    # -- processes ---------------------------------------------------------------------------------------------

    @property
    def clone_fd(self) -> int | None:
        """For CLONE_INTO_CGROUP: the version 2 folder, opened once (`close` it after the clone); None without one."""
        if self._clone_fd is None and self.in_unified:
            assert self.lab.unified is not None
            self._clone_fd = os.open(self.id, _DIRECTORY, dir_fd=self.lab.unified)
        return self._clone_fd

    def close(self) -> None:
        """Give the clone descriptor back; the object stays usable."""
        if self._clone_fd is not None:
            os.close(self._clone_fd)
            self._clone_fd = None

    def join(self, cloned: bool = False) -> None:
        """Called by the single-threaded child itself, before any setuid and before unshare(CLONE_NEWCGROUP).

        `cloned`: it was born in `clone_fd`, so only the version 1 hierarchies are left to join.
        """
        for fd in self._groups.values():
            v1.join(fd, self.id)
        if self.in_unified and not cloned:
            v2.join(self._unified(), self.id)

    def leave(self) -> None:
        """Called by the single-threaded process itself: back to the lab's own version 1 folders."""
        for fd in self._groups.values():
            v1.join(fd, ".")

    def pids(self) -> list[int]:
        """The processes inside, as numbered in the caller's PID namespace."""
        directory = self._any()
        return v2.processes(directory, self.id) if directory is not None else []

    def freeze(self, timeout: float = 2.0) -> None:
        """Stop every process and wait until they are (seconds). Raises TimeoutError, thawed again; OSError."""
        self._set_frozen(True, timeout)

    def thaw(self, timeout: float = 2.0) -> None:
        """Let them go on."""
        self._set_frozen(False, timeout)

    def _set_frozen(self, frozen: bool, timeout: float) -> None:
        if self.in_unified:
            v2.set_frozen(self._unified(), self.id, frozen, timeout)
        elif "freezer" in self.controllers:
            v1.set_frozen(self.controllers["freezer"], self.id, frozen, timeout)
        else:
            raise OSError(errno.EOPNOTSUPP, "no cgroup with a freezer", self.id)

    def frozen(self) -> bool:
        """Whether all of it is frozen."""
        if self.in_unified:
            return v2.is_frozen(self._unified(), self.id)
        return "freezer" in self.controllers and v1.is_frozen(self.controllers["freezer"], self.id)

    def kill(self) -> None:
        """SIGKILL to all, frozen ones too. Returns when the signals are sent, not when the processes are gone."""
        if self.in_unified:
            try:
                v2.kill(self._unified(), self.id)
                return
            except FileNotFoundError:  # before Linux 5.14
                v2.set_frozen(self._unified(), self.id, False)
        if (directory := self._any()) is not None:
            v1.kill(directory, self.id, self.controllers.get("freezer"))

    # -- files -------------------------------------------------------------------------------------------------

    def has(self, controller: str) -> bool:
        """Whether limits of this controller can be set on this container."""
        if self.lab.version == "v2":
            return controller in v2.read_at(self._unified(), f"{self.id}/cgroup.controllers").split()
        return controller in self.lab.v1

    def write(self, controller: str, file: str, value: str) -> None:
        """Write a control file. Raises OSError with the kernel's errno and the file's name.

        A value ``../NAME`` means the content of that file of the lab's folder (cpuset.cpus back to all CPUs: neither
        version takes an empty value while a process is inside). cpuset on version 1: its folder is made on first use,
        and the container's processes move in.
        """
        directory = self._directory(controller)
        if value.startswith("../"):
            value = v2.read_at(directory, value.removeprefix("../")).strip()
        v2.write_at(directory, f"{self.id}/{file}", value)

    def read(self, controller: str, file: str) -> str:
        """The text of a control file without the final newline. Raises OSError (ENOENT: this kernel lacks it)."""
        return v2.read_at(self._directory(controller), f"{self.id}/{file}").rstrip("\n")

    def want(self, controller: str) -> None:
        """Make the folder of a lazily made controller (cpuset) now: `join` covers it then, and nothing moves later."""
        self._directory(controller)

    def oom_kills(self) -> int | None:
        """How many processes were killed for memory (only "grew" means something); None: no memory controller."""
        if self.lab.version == "v2":
            return v2.oom_kills(self._unified(), self.id) if self.has("memory") else None
        return v1.oom_kills(self.controllers["memory"], self.id) if "memory" in self.controllers else None

    def usage_bytes(self) -> int | None:
        """Memory charged now, page cache included; None: no memory controller."""
        if self.lab.version == "v2":
            return v2.usage_bytes(self._unified(), self.id) if self.has("memory") else None
        return v1.usage_bytes(self.controllers["memory"], self.id) if "memory" in self.controllers else None

    def squeeze(self, limit_bytes: int) -> int | None:
        """Before a lower memory limit on version 2: the usage (bytes) after reclaim, to compare with the limit.

        None on version 1, where the kernel reclaims and refuses (EBUSY) by itself.
        """
        if self.lab.version == "v2" and self.has("memory"):
            return v2.squeeze(self._unified(), self.id, limit_bytes)
        return None

    def stat_fds(self) -> tuple[str, dict[str, int]]:
        """For the sampler: ("cgroup-v2", {"unified": fd}) or ("cgroup-v1", {controller: fd, …, "unified": fd}).

        Fresh directory descriptors of the container's folders; the caller closes them.
        """
        fds = {name: os.open(self.id, _DIRECTORY, dir_fd=fd) for name, fd in self.controllers.items()}
        if self.in_unified:
            fds[UNIFIED] = os.open(self.id, _DIRECTORY, dir_fd=self._unified())
        return ("cgroup-v2" if self.lab.version == "v2" else "cgroup-v1", fds)

    def remove(self, timeout: float = 2.0) -> bool:
        """Remove the folders, EBUSY tried again until `timeout` (seconds; 0 = one attempt each).

        False: a process is still inside; call again later. It neither kills nor thaws.
        """
        self.close()
        until = time.monotonic() + timeout
        gone = True
        for name, fd in list(self._groups.items()):
            if _rmdir_until(self.id, fd, until):
                del self._groups[name]
                self.controllers = {n: f for n, f in self.controllers.items() if not os.path.sameopenfile(f, fd)}
            else:
                gone = False
        if self.in_unified:
            self.in_unified = not _rmdir_until(self.id, self._unified(), until)
        return gone and not self.in_unified

    def _unified(self) -> int:
        if self.lab.unified is None:
            raise OSError(errno.EOPNOTSUPP, "no version 2 cgroup folder", self.id)
        return self.lab.unified

    def _any(self) -> int | None:
        return self.lab.unified if self.in_unified else next(iter(self._groups.values()), None)

    def _directory(self, controller: str) -> int:
        if self.lab.version == "v2" or controller == UNIFIED:
            return self._unified()
        if controller not in self.controllers:
            if controller not in self.lab.v1:
                raise OSError(errno.EOPNOTSUPP, f"no {controller} controller in this lab", self.id)
            pids = self.pids()
            self.add(controller, self.lab.v1[controller])
            for pid in pids:
                try:
                    v2.write_at(self.controllers[controller], f"{self.id}/cgroup.procs", str(pid))
                except ProcessLookupError:
                    continue
        return self.controllers[controller]


def prune(paths: Iterable[str], timeout: float = 3.0) -> list[str]:
    """For a dead keeper: thaw, kill and remove everything in and below folders named ``ctlab-<id>``.

    Other paths, symbolic links and folders that aren't cgroups are left alone. Returns the folders that would not
    go within `timeout` seconds. The calling process is never killed.
    """
    until = time.monotonic() + timeout
    left: list[str] = []
    trees: list[list[str]] = []
    for path in dict.fromkeys(paths):
        if not _LAB_FOLDER.fullmatch(os.path.basename(path)) or os.path.islink(path) or not os.path.isdir(path):
            continue
        if not os.path.exists(os.path.join(path, "cgroup.procs")):
            continue  # not a cgroup: whatever this is, it isn't what a lab made
        trees.append([root for root, _, _ in os.walk(path, topdown=False)])
    # All hierarchies are thawed and killed before any is removed: a process is in every one of them.
    while sum(_end(folder) for tree in trees for folder in tree) and time.monotonic() < until:
        time.sleep(0.002)
    for tree in trees:
        for folder in tree:
            try:
                if not _rmdir_until(folder, None, until):
                    left.append(folder)
            except OSError:
                left.append(folder)
    return left


def _end(folder: str) -> int:
    """Thaw one folder and SIGKILL what is in it, but not the caller; how many other processes were there."""
    try:
        directory = os.open(folder, _DIRECTORY)
    except FileNotFoundError:
        return 0
    try:
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if v2.exists_at(directory, name):
                try:
                    v2.write_at(directory, name, value)
                except OSError:
                    continue
        with os.scandir(directory) as entries:
            alone = not any(entry.is_dir(follow_symlinks=False) for entry in entries)
        if alone and v2.exists_at(directory, "cgroup.kill") and os.getpid() not in v2.processes(directory, "."):
            # At once, so that what forks faster than it is signalled goes too; only where no folder is below,
            # since the caller may be in that one.
            v2.kill(directory, ".")
        return v1.signal_all(directory, ".")
    except OSError:
        return 0
    finally:
        os.close(directory)
