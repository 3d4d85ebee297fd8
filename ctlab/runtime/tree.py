"""The supervisor's own small mount tree, from which the containers' roots are made.

The supervisor leaves the machine's mount table once (a container then copies half a dozen mounts, not the
machine's thirty) and keeps, as a namespace descriptor, a slave copy of it from which host paths are fetched.

    /lower/NAME   the machine's folders that the system image is made of
    /system       the lab's own copy of what a system is to be changed in, read-only (see `system_copy`)
    /images/KEY   prepared image folders
    /work/N       what belongs to one container: its root, upper and work folders
    /empty        an empty read-only folder to hide folders with
    /launcher     what a process executes before it becomes a container's program, read-only (see `kernel.launcher`)
    /proc /sys    fresh instances (without an unmasked one in sight a container could not mount its own)
    /dev          the few harmless device nodes
"""

from __future__ import annotations

import os

from ..kernel import launcher, syscalls
from ..kernel.lean import suppress
from ..plan.rootfs import DEVICES
from . import context

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOVED = ".ctlab-moved-"  # and a number: a folder of a container's that is being removed
_TREE = "/tmp"  # where the tree is put together; everyone has this folder, and it is hidden in our copy only


class Tree:
    """The mount tree of one lab."""

    def __init__(self, host_top: dict[str, str], size_bytes: int, inodes: int) -> None:
        """`size_bytes`, `inodes`: how much all containers and unpacked images together may hold."""
        self._host_top = host_top
        self._limits = f"size={size_bytes},nr_inodes={inodes}"
        self.host_namespace = -1
        self._own_namespace = -1

    def build(self) -> None:
        """Make the tree and enter it; afterwards no path of the machine is reachable by name."""
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        self.host_namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        root = os.open(_TREE, os.O_PATH | os.O_CLOEXEC)
        sources = self._open_sources()
        syscalls.mount("ctlab", _TREE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, f"mode=755,{self._limits}")
        os.close(root)
        os.chdir(_TREE)
        for name in ("lower", "images", "work", "empty", "launcher", "system", "proc", "sys", "dev", "old"):
            os.mkdir(name, 0o755)
        for target, descriptor in sources.items():
            if target.startswith("dev/"):
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            else:
                os.mkdir(target, 0o755)
            syscalls.mount(f"/proc/self/fd/{descriptor}", target, None, syscalls.MS_BIND | syscalls.MS_REC)
            os.close(descriptor)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("proc", "proc", "proc", flags)
        syscalls.mount("sysfs", "sys", "sysfs", flags)
        syscalls.pivot_root(".", "old")
        os.chdir("/")
        syscalls.umount2("/old", syscalls.MNT_DETACH)
        os.rmdir("/old")
        os.chmod("/empty", 0o555)
        self._put_launcher()
        read_only = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY
        for folder in ("/empty", "/launcher"):
            syscalls.mount(folder, folder, None, syscalls.MS_BIND)
            syscalls.mount(None, folder, None, read_only | syscalls.MS_NOSUID | syscalls.MS_NODEV)
        self._own_namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    @staticmethod
    def _put_launcher() -> None:
        descriptor = os.open(context.LAUNCHER, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o555)
        os.write(descriptor, launcher.code())
        os.close(descriptor)

    def _open_sources(self) -> dict[str, int]:
        """The machine's folders and devices, opened before the tree covers anything."""
        sources = {}
        for name, kind in self._host_top.items():
            if kind == "folder" and name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt"):
                sources[f"lower/{name}"] = os.open(f"/{name}", os.O_PATH | os.O_CLOEXEC)
        for device in DEVICES:
            with suppress(FileNotFoundError):
                sources[f"dev/{device}"] = os.open(f"/dev/{device}", os.O_PATH | os.O_CLOEXEC)
        return sources

    def detached(self, path: str) -> int:
        """A detached copy of the mount at a host path, fetched from our slave copy of the machine's mounts."""
        syscalls.setns(self.host_namespace, syscalls.CLONE_NEWNS)
        try:
            return syscalls.copy_mount(path)
        finally:
            syscalls.setns(self._own_namespace, syscalls.CLONE_NEWNS)

    @staticmethod
    def make_private(number: int) -> None:
        """The private folder of one container."""
        os.mkdir(f"/work/{number}", 0o700)

    @staticmethod
    def remove_private(number: int) -> None:
        """Remove a container's private folder and all it wrote."""
        remove_tree(f"/work/{number}")

    @staticmethod
    def attach_image(key: str, descriptor: int) -> None:
        """A detached mount becomes the image folder `key`."""
        os.mkdir(f"/images/{key}", 0o755)
        target = os.open(f"/images/{key}", os.O_PATH | os.O_CLOEXEC)
        try:
            syscalls.move_mount(descriptor, target)
        except OSError:
            os.rmdir(f"/images/{key}")
            raise
        finally:
            os.close(target)

    @staticmethod
    def remove_image(key: str) -> None:
        """Remove what was unpacked for an image that can't be used."""
        remove_tree(f"/images/{key}")


def remove_tree(path: str) -> None:
    """Remove a folder and all below it, however deep; symbolic links are not followed. What resists is left.

    What lies in a folder of it is moved up to its top, so that neither descriptors nor paths grow with the depth, which
    a container chooses.
    """
    with suppress(OSError):
        top = os.open(path, _FOLDER)
        try:
            moved = 0
            while (now := _remove_a_layer(top, moved)) != moved:
                moved = now
        finally:
            os.close(top)
    with suppress(OSError):
        os.rmdir(path)


def _remove_a_layer(top: int, moved: int) -> int:
    """Remove what can be, and move the folders of its folders up; the number of the last one that was moved."""
    with os.scandir(top) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=top)
                continue
            with suppress(OSError):
                folder = os.open(entry.name, _FOLDER, dir_fd=top)
                try:
                    moved = _remove_and_move(folder, top, moved)
                finally:
                    os.close(folder)
            with suppress(OSError):
                os.rmdir(entry.name, dir_fd=top)
    return moved


def _remove_and_move(folder: int, top: int, moved: int) -> int:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    os.rename(entry.name, f"{_MOVED}{moved + 1}", src_dir_fd=folder, dst_dir_fd=top)
                    moved += 1
                else:
                    os.unlink(entry.name, dir_fd=folder)
    return moved
