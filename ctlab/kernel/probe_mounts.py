"""Probing steps for mounts: everything on which a container's root file system is built."""

from __future__ import annotations

import os
from functools import partial

from . import syscalls
from .probe_journal import Failed, Journal

_LOCKED = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_PLACES = ("/tmp", "/run", "/var/tmp", "/mnt", "/var")


class Mounts:
    """The steps, on one tmpfs that hides a folder of the machine for this process alone.

    `ranged`: many ids are mapped, so that the terminal group exists inside. `network`: this process has a
    network namespace of its own, to which a sysfs can belong.
    """

    def __init__(self, journal: Journal, *, ranged: bool, network: bool) -> None:
        self._network = network
        self._journal = journal
        self._ranged = ranged
        self._base = next((place for place in _PLACES if os.path.isdir(place)), "/")

    def steps(self) -> None:
        """All of them; this process ends up in new mount, UTS, IPC and cgroup namespaces."""
        step = self._journal.step
        mounts = step("mount-namespace", self._enter)
        for name, flag in (
            ("uts-namespace", syscalls.CLONE_NEWUTS),
            ("ipc-namespace", syscalls.CLONE_NEWIPC),
            ("cgroup-namespace", syscalls.CLONE_NEWCGROUP),
        ):
            step(name, partial(syscalls.unshare, flag))
        based = mounts and step("tmpfs", self._tmpfs)
        self._journal.in_child(lambda: self._pid_steps(based))
        if not based:
            return
        if self._network:
            step("sysfs", self._sysfs)
        step("devpts", self._devpts)
        step("devices", self._devices)
        if step("overlay", self._overlay):
            step("overlay-usr", self._overlay_usr)
        step("detached-mount", self._detached)

    def _enter(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        # Nothing that is mounted from here on may travel back.
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)

    def _folder(self, name: str) -> str:
        path = os.path.join(self._base, name)
        os.mkdir(path)
        return path

    def _tmpfs(self) -> None:
        syscalls.mount("tmpfs", self._base, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755,size=1m")
        self._folder("made")

    def _sysfs(self) -> None:
        # Read-only as in every container; a read-only /sys outside allows no other.
        path = self._folder("sys")
        syscalls.mount("sysfs", path, "sysfs", _LOCKED | syscalls.MS_RDONLY)
        if not os.path.isdir(os.path.join(path, "class/net/lo")):
            raise Failed("the new sysfs doesn't show the network namespace's lo")

    def _devpts(self) -> None:
        path = self._folder("pts")
        options = "newinstance,ptmxmode=0666,mode=0620" + (",gid=5" if self._ranged else "")
        syscalls.mount("devpts", path, "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options)
        os.close(os.open(os.path.join(path, "ptmx"), os.O_RDWR | os.O_NOCTTY))

    def _devices(self) -> None:
        path = os.path.join(self._base, "null")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        syscalls.mount("/dev/null", path, None, syscalls.MS_BIND)
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)

    def _mount_overlay(self, name: str, lower: str) -> str:
        folder = self._folder(name)
        upper, work, merged = (self._folder(f"{name}/{part}") for part in ("upper", "work", "merged"))
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        syscalls.mount("overlay", merged, "overlay", syscalls.MS_NODEV, options)
        return os.path.join(folder, "merged")

    def _overlay(self) -> None:
        lower = self._folder("lower")
        self._folder("lower/old")
        merged = self._mount_overlay("overlay", lower)
        # A removal writes a whiteout, a folder made again at its place an opaque mark: both need the userxattr way.
        os.rmdir(os.path.join(merged, "old"))
        os.mkdir(os.path.join(merged, "old"))
        if not os.path.isdir(os.path.join(lower, "old")):
            raise Failed("a removal in the overlay reached the folder below")

    def _overlay_usr(self) -> None:
        merged = self._mount_overlay("usr", "/usr")
        os.mkdir(os.path.join(merged, "ctlab-probe"))
        if sorted(os.listdir(merged)) != sorted([*os.listdir("/usr"), "ctlab-probe"]):
            raise Failed("the overlay over /usr doesn't show what /usr holds")

    def _detached(self) -> None:
        descriptor = syscalls.open_tree(-100, self._base, syscalls.OPEN_TREE_CLONE)
        try:
            target = os.open(self._folder("attached"), os.O_PATH | os.O_DIRECTORY)
            try:
                syscalls.move_mount(descriptor, target)
            finally:
                os.close(target)
        finally:
            os.close(descriptor)

    def _pid_namespace(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWPID)

    def _pid_steps(self, based: bool) -> None:
        """In a child, since the first process of a PID namespace takes the namespace with it when it ends."""
        if self._journal.step("pid-namespace", self._pid_namespace) and based:
            self._journal.in_child(self._last_steps)

    def _last_steps(self) -> None:
        """What PID 1 of the new PID namespace does."""
        self._journal.step("proc", self._proc)
        self._journal.step("pivot-root", self._pivot_root)

    def _proc(self) -> None:
        path = self._folder("proc")
        syscalls.mount("proc", path, "proc", _LOCKED)
        own = os.readlink(os.path.join(path, "self"))
        if own != str(os.getpid()):
            raise Failed(f"the new /proc belongs to another PID namespace (it says {own})")

    def _pivot_root(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        path = self._folder("root")
        syscalls.mount("tmpfs", path, "tmpfs", 0, "mode=0755,size=64k")
        os.chdir(path)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        if os.listdir("/"):
            raise Failed("the new root is not the one that was mounted")
