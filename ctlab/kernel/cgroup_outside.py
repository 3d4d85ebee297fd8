"""A lab's control groups, seen from outside: the keeper's side of `cgroup`.

It makes the lab's folder ``ctlab-<id>`` in each hierarchy, hands it to the lab's root, and removes it. It works with
paths, which are recorded for `prune`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import KernelError, describe
from . import cgroup_mounts, syscalls
from . import cgroup_v1 as v1
from . import cgroup_v2 as v2
from .cgroup_folder import DIRECTORY, LEAF, UNIFIED, is_id, make_folder, remove_folder
from .cgroup_tree import Tree

if TYPE_CHECKING:
    from .cgroup_discover import Delegation

_AT_FDCWD = -100
_LAB_FOLDER = re.compile(r"ctlab-[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

# What the kernel documents as delegatable (/sys/kernel/cgroup/delegate), for each version; the limit files of the
# lab's own folder stay with whoever made it, so a lab can't widen what it was given.
_DELEGATED_V1 = ("tasks", "cgroup.procs", "cgroup.clone_children", "notify_on_release")
_DELEGATED_V2 = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "memory.reclaim")


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
        """A directory descriptor (close-on-exec) per controller, for `LabFolders`; the caller closes them.

        A lock is on each, so that `remove_forsaken` knows that the lab lives.
        """
        found = {name: os.open(path, DIRECTORY) for name, path in self.folders.items()}
        for directory in found.values():
            _lock(directory, fcntl.LOCK_SH)
        return found

    def open_leaf(self) -> int | None:
        """A descriptor of the folder that the supervisor is to be born in (CLONE_INTO_CGROUP), None without a v2 tree.

        The supervisor must start there: the kernel allows a move within the version 2 tree only to who may write the
        cgroup.procs of the common ancestor, and that is the lab's folder only for who is inside it.
        """
        if UNIFIED not in self.folders:
            return None
        return os.open(os.path.join(self.folders[UNIFIED], LEAF), DIRECTORY)

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
    if not is_id(lab_id):
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
                make_folder(path, path)
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
        parent = os.open(os.path.dirname(path), DIRECTORY)
        try:
            v1.fill_cpuset(parent, os.path.basename(path))
        finally:
            os.close(parent)
    for name in ("", *_DELEGATED_V1):
        if os.path.exists(os.path.join(path, name)):
            _chown(os.path.join(path, name), uid, gid)


def _hand_over_v2(path: str, controllers: list[str], uid: int, gid: int) -> None:
    directory = os.open(path, DIRECTORY)
    try:
        if missing := set(controllers) - set(v2.enable(directory, ".", controllers)):
            names = ", ".join(sorted(missing))
            raise KernelError(f"can't turn on {names} in {path}/cgroup.subtree_control", errno.EINVAL)
    finally:
        os.close(directory)
    leaf = os.path.join(path, LEAF)
    make_folder(leaf, leaf)
    for folder in (path, leaf):
        for name in ("", *_DELEGATED_V2):
            if os.path.exists(os.path.join(folder, name)):
                _chown(os.path.join(folder, name), uid, gid)


def _leave(leaf: str) -> None:
    """Take the keeper out of the leaf that it moved into, and remove that; the last thing that a keeper does."""
    parent = os.open(os.path.dirname(leaf), DIRECTORY)
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


def prune(paths: Iterable[str], timeout: float = 3.0, belongs: Callable[[int], bool] | None = None) -> list[str]:
    """For a dead keeper: thaw, kill and remove everything in and below folders named ``ctlab-<id>``.

    Other paths, symbolic links, folders that aren't cgroups and those whose owner isn't one that `belongs` to us are
    left alone. Returns the folders that would not go within `timeout` seconds. The calling process is never killed.
    """
    until = time.monotonic() + timeout
    left: list[str] = []
    trees: list[tuple[int, str, Tree]] = []  # the folder above, its path, the lab's folder with all below it
    points = _devices()

    def is_labs(status: os.stat_result) -> bool:
        return status.st_dev in points and (belongs is None or belongs(status.st_uid))

    try:
        for path in dict.fromkeys(paths):
            above, name = os.path.split(path)
            if not _LAB_FOLDER.fullmatch(name) or (parent := _open_cgroup(above, points)) < 0:
                continue
            trees.append((parent, above, Tree(parent, name, is_labs)))
        # All hierarchies are thawed and killed before any is removed: a process is in every one of them.
        ends = [(folder, base) for _, _, tree in trees for base, folder in tree.folders]
        while sum(_end(folder, base) for folder, base in ends) and time.monotonic() < until:
            time.sleep(0.002)
        for parent, above, tree in trees:
            for base, folder in tree.folders:
                try:
                    gone = remove_folder(folder, base, until)
                except OSError:
                    gone = False
                if not gone:
                    left.append(os.path.join(above, folder if base == parent else tree.name))
    finally:
        for parent, _, tree in trees:
            tree.close()
            os.close(parent)
    return left


def remove_forsaken(paths: Iterable[str], belongs: Callable[[int], bool]) -> bool:
    """Remove one lab's folders, of which nothing is known, if no process is in any of them and no lab holds one.

    Whether all are gone. Nothing is killed, and what doesn't belong to us is left alone.
    """
    trees: list[tuple[int, Tree]] = []
    held: list[int] = []
    points = _devices()

    def is_labs(status: os.stat_result) -> bool:
        return status.st_dev in points and belongs(status.st_uid)

    try:
        for above, name in map(os.path.split, dict.fromkeys(paths)):
            if (parent := _open_cgroup(above, points)) < 0:
                return False
            trees.append((parent, Tree(parent, name, is_labs)))
            if not trees[-1][1].folders:
                return False
            held.append(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent))
            if not _lock(held[-1], fcntl.LOCK_EX):
                return False
        every = [(folder, base) for _, tree in trees for base, folder in tree.folders]
        if any(v2.processes(base, folder) for folder, base in every):
            return False
        return sum(remove_folder(folder, base, 0.0) for folder, base in every) == len(every)
    except OSError:  # somebody else was quicker
        return False
    finally:
        for descriptor in held:
            os.close(descriptor)
        for parent, tree in trees:
            tree.close()
            os.close(parent)


def _lock(directory: int, how: int) -> bool:
    try:
        fcntl.flock(directory, how | fcntl.LOCK_NB)
    except OSError:  # another holds it, or this file system has no locks
        return False
    return True


def names_in(path: str) -> list[str]:
    """What lies in a cgroup folder; nothing if it isn't one."""
    if (directory := _open_cgroup(path, _devices())) < 0:
        return []
    try:
        return sorted(os.listdir(directory))
    finally:
        os.close(directory)


def remove_unused(path: str) -> None:
    """Remove one cgroup folder that nothing is in; what isn't so stays."""
    above, name = os.path.split(path)
    if (parent := _open_cgroup(above, _devices())) < 0:
        return
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        pass
    finally:
        os.close(parent)


def _devices() -> frozenset[int]:
    """The device numbers of the cgroup file systems that are mounted here."""
    found = set()
    for mount in cgroup_mounts.mounts(cgroup_mounts.read("/proc/self/mountinfo")):
        try:
            found.add(os.stat(mount.point).st_dev)
        except OSError:
            continue  # covered by another mount, or out of reach
    return frozenset(found)


def _open_cgroup(path: str, devices: frozenset[int]) -> int:
    """A descriptor of a cgroup folder, -1 if it is none. No part of its path may be a link: who set it could aim it."""
    try:
        directory = syscalls.openat2(_AT_FDCWD, path, DIRECTORY, syscalls.RESOLVE_NO_SYMLINKS)
    except OSError:
        return -1
    if os.fstat(directory).st_dev in devices:
        return directory
    os.close(directory)
    return -1


def _end(folder: str, parent: int) -> int:
    """Thaw one folder and SIGKILL what is in it, but not the caller; how many other processes were there."""
    try:
        directory = os.open(folder, DIRECTORY, dir_fd=parent)
    except OSError:  # gone meanwhile
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
