"""Operations performed by a container's first process, in its own namespaces.

Every path below the new root is opened with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), so that no
symbolic link of an image leads out of it; mounts are made on the descriptor that this gave.
"""

from __future__ import annotations

import errno
import os
import stat

from ..kernel import netlink, syscalls
from ..kernel.lean import suppress
from ..plan import ops
from . import system_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_FLAGS = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
}
_NAMESPACES = {
    "mount": syscalls.CLONE_NEWNS,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "net": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}


def namespace_flags(kinds: list[str]) -> int:
    """The CLONE_NEW* union of namespace names."""
    flags = 0
    for kind in kinds:
        flags |= _NAMESPACES[kind]
    return flags


class Root:
    """A new root file system while it is put together; afterwards the container's ``/``."""

    def __init__(self, private: str) -> None:
        self._private = private
        self._descriptor = -1
        self._mounted = {"/"}  # where what shows is the image's
        self._fresh = False  # made by us: no link at its top is anybody else's, so plain paths do

    # -- finding places -------------------------------------------------------------------------
    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """Open a path below the root, whatever its symbolic links say."""
        return syscalls.openat2(self._descriptor, path.lstrip("/") or ".", flags, _IN_ROOT, mode)

    def _parent(self, path: str, *, make: bool = False) -> tuple[int, str]:
        folder, _, name = path.rstrip("/").rpartition("/")
        if make:
            self.make_folders(folder)
        return self.open(folder, os.O_PATH | os.O_DIRECTORY), name

    def make_folders(self, path: str) -> None:
        """Make a folder and those above it, inside the root."""
        built = ""
        for part in path.split("/"):
            if not part:
                continue
            built += "/" + part
            try:
                os.close(self.open(built, os.O_PATH | os.O_DIRECTORY))
            except FileNotFoundError:
                parent, name = self._parent(built)
                try:
                    os.mkdir(name, 0o755, dir_fd=parent)
                finally:
                    os.close(parent)

    # -- operations -----------------------------------------------------------------------------
    def root_folder(self, _: ops.RootFolder) -> None:
        path = f"{self._private}/root"
        with suppress(FileExistsError):  # the container is started again
            os.mkdir(path, 0o755)
        syscalls.mount(path, path, None, syscalls.MS_BIND)
        self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fresh = True

    def root_overlay(self, operation: ops.RootOverlay) -> None:
        path = f"{self._private}/root"
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
        self._overlay(f"/images/{operation.lower}", "image", path)
        self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def system_root(self, operation: ops.SystemRoot) -> None:
        path = f"{self._private}/root"
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
        nothing_special = syscalls.MS_NOSUID | syscalls.MS_NODEV
        self._overlay(system_copy.PLACE, "system", path, operation.fresh, nothing_special)
        self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fresh = True

    def _overlay(self, lower: str, name: str, target: str, fresh: Sequence[str] = (), flags: int = 0) -> None:
        upper, work = f"{self._private}/{name}.upper", f"{self._private}/{name}.work"
        if not os.path.isdir(upper):  # else the container is started again
            os.mkdir(upper, 0o755)
            os.mkdir(work, 0o755)
            for file in fresh:
                with suppress(FileExistsError):
                    os.mkdir(f"{upper}{os.path.dirname(file)}", 0o755)
                os.close(os.open(f"{upper}{file}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        syscalls.mount("overlay", target, "overlay", flags, options)

    def overlay(self, operation: ops.Overlay) -> None:
        name = operation.lower.strip("/")
        descriptor = self.open(operation.target, os.O_PATH | os.O_DIRECTORY)
        self._overlay(f"/lower/{name}", name, f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
        self._mounted.add(operation.target)

    def folder(self, operation: ops.Folder) -> None:
        if self._fresh:
            with suppress(FileExistsError):
                os.mkdir(operation.path[1:], operation.mode, dir_fd=self._descriptor)
            return
        parent, name = self._parent(operation.path, make=True)
        try:
            os.mkdir(name, operation.mode, dir_fd=parent)
            os.chmod(name, operation.mode, dir_fd=parent)  # the umask has no say
        except FileExistsError:
            self._settle(operation, parent, name)
        finally:
            os.close(parent)

    def _settle(self, operation: ops.Folder, parent: int, name: str) -> None:
        """What an image has at the place of a folder must be one, or lead to one inside; anything else becomes one.

        So does every link at the kernel's own places: what we find in /proc must be the kernel's.
        """
        link = stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        if not (link and operation.path in ("/proc", "/sys", "/dev")):
            # Whatever else the kernel says (it leads nowhere, into itself, through /proc, to a file): it is none.
            with suppress(OSError):
                os.close(self.open(operation.path, os.O_PATH | os.O_DIRECTORY))
                return
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, operation.mode, dir_fd=parent)
        os.chmod(name, operation.mode, dir_fd=parent)

    def symbolic_link(self, operation: ops.SymbolicLink) -> None:
        if self._fresh:
            with suppress(FileExistsError):
                os.symlink(operation.target, operation.path[1:], dir_fd=self._descriptor)
            return
        parent, name = self._parent(operation.path)
        with suppress(FileExistsError):
            os.symlink(operation.target, name, dir_fd=parent)
        os.close(parent)

    def write_file(self, operation: ops.WriteFile) -> None:
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe is replaced
        try:
            file = self.open(operation.path, flags)
        except OSError:
            self._replace_file(operation, flags)
        else:
            os.write(file, operation.content.encode())
            os.close(file)

    def _replace_file(self, operation: ops.WriteFile, flags: int) -> None:
        """The file is absent, a link, or of an owner that isn't mapped: a new one takes its place."""
        parent, name = self._parent(operation.path, make=True)
        try:
            try:
                file = os.open(name, flags, dir_fd=parent)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
                file = os.open(name, flags | os.O_CREAT | os.O_EXCL, operation.mode, dir_fd=parent)
            os.write(file, operation.content.encode())
            os.close(file)
        finally:
            os.close(parent)

    def device(self, operation: ops.Device) -> None:
        target = self.open(f"/dev/{operation.name}", os.O_CREAT | os.O_RDONLY | os.O_EXCL, 0o666)
        try:
            syscalls.mount(f"/dev/{operation.name}", f"/proc/self/fd/{target}", None, syscalls.MS_BIND)
        except FileNotFoundError:  # this machine has no such device to show
            os.unlink(f"/proc/self/fd/{self._descriptor}/dev/{operation.name}")
        finally:
            os.close(target)

    def mount(self, operation: ops.Mount) -> None:
        flags = 0
        for flag in operation.flags:
            flags |= _FLAGS[flag]
        target = self.open(operation.target, os.O_PATH | os.O_DIRECTORY)
        try:
            syscalls.mount(operation.kind, f"/proc/self/fd/{target}", operation.kind, flags, operation.options or None)
        finally:
            os.close(target)

    def mask(self, operation: ops.Mask) -> None:
        try:
            target = self.open(operation.path, os.O_PATH)
        except OSError:
            return
        hidden = "/empty" if stat.S_ISDIR(os.fstat(target).st_mode) else "/dev/null"
        syscalls.mount(hidden, f"/proc/self/fd/{target}", None, syscalls.MS_BIND)  # /empty is read-only, and so is this
        os.close(target)

    def read_only(self, operation: ops.ReadOnly) -> None:
        try:
            target = self.open(operation.path, os.O_PATH)
        except OSError:
            return
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE | syscalls.AT_EMPTY_PATH
        copy = syscalls.open_tree(target, "", flags)
        try:
            syscalls.mount_setattr(copy, syscalls.MOUNT_ATTR_RDONLY)
            syscalls.move_mount(copy, target)
        finally:
            os.close(copy)
            os.close(target)

    def _remount(self, path: str, flags: int) -> None:
        """Change the flags of the mount that now lies at `path`, keeping those that are locked."""
        target = self.open(path, os.O_PATH)
        locked = os.fstatvfs(target).f_flag & (
            os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
        )
        # ST_* and MS_* agree for these bits except ST_RELATIME (4096), which is MS_BIND: translate.
        relatime = 1 << 21 if locked & os.ST_RELATIME else 0
        flags |= (locked & ~os.ST_RELATIME) | relatime
        try:
            syscalls.mount(None, f"/proc/self/fd/{target}", None, syscalls.MS_REMOUNT | syscalls.MS_BIND | flags)
        finally:
            os.close(target)

    def pivot_root(self, _: ops.PivotRoot) -> None:
        os.fchdir(self._descriptor)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")
        os.close(self._descriptor)
        self._descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fresh = False

    def hostname(self, operation: ops.Hostname) -> None:
        syscalls.sethostname(operation.name)

    def bind(self, operation: ops.Bind, descriptor: int) -> None:
        """Attach a detached mount of a host path at `operation.target`, which is made if it isn't there."""
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if is_folder:
            self.make_folders(operation.target)
            target = self.open(operation.target, os.O_PATH | os.O_DIRECTORY)
        else:
            try:
                target = self.open(operation.target, os.O_PATH)
            except FileNotFoundError:
                parent, name = self._parent(operation.target, make=True)
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
                os.close(parent)
                target = self.open(operation.target, os.O_PATH)
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        if operation.read_only:
            attributes |= syscalls.MOUNT_ATTR_RDONLY
        try:
            # Links of the image, or of the container before it starts again, may lead there; what is there we rely on.
            place = os.readlink(f"/proc/self/fd/{target}")
            if ops.is_kernels(place):
                raise OSError(errno.EPERM, f"it leads to {place}, which is the container's own (EPERM)")
            syscalls.mount_setattr(descriptor, attributes, recursive=True)
            syscalls.move_mount(descriptor, target)
            self._mounted.discard(place)
        finally:
            os.close(target)

    def make_root_read_only(self) -> None:
        """``--read-only``: what is mounted of the image; what `-v` names, /dev and /proc stay as they are."""
        for path in self._mounted:
            self._remount(path, syscalls.MS_RDONLY)


_PERFORM: dict[type[Any], Any] = {
    ops.RootFolder: Root.root_folder,
    ops.RootOverlay: Root.root_overlay,
    ops.SystemRoot: Root.system_root,
    ops.Folder: Root.folder,
    ops.SymbolicLink: Root.symbolic_link,
    ops.WriteFile: Root.write_file,
    ops.Overlay: Root.overlay,
    ops.Device: Root.device,
    ops.Mount: Root.mount,
    ops.Mask: Root.mask,
    ops.ReadOnly: Root.read_only,
    ops.PivotRoot: Root.pivot_root,
    ops.Hostname: Root.hostname,
}


def perform(root: Root, operations: list[Any]) -> None:
    """Make a root, in order; an `OSError` names the operation that failed. UnknownOperation before anything is done."""
    ops.check(operations, ops.MAKING_ROOT, "the making of a root")
    for operation in operations:
        _perform(root, operation)


def sort(operations: list[Any]) -> tuple[list[Any], list[Any], ops.Execute]:
    """The orders of a container that has its root: its network's, its root's, and the program.

    UnknownOperation for what none of these is.
    """
    *rest, execute = operations
    network = [operation for operation in rest if type(operation) in ops.IN_NETWORK]
    others = [operation for operation in rest if type(operation) not in ops.IN_NETWORK]
    ops.check(others, ops.IN_ROOT, "a container")
    ops.check([execute], (ops.Execute,), "the end of a container's orders")
    return network, others, execute


def obey(root: Root, operations: list[Any], mounts: Iterator[int]) -> None:
    """The root's part of its orders. `mounts`: the detached mounts of what is bound, in order."""
    for operation in operations:
        if type(operation) is ops.Bind:
            _bind(root, operation, next(mounts))
        else:
            _perform(root, operation)


def _perform(root: Root, operation: Any) -> None:
    try:
        _PERFORM[type(operation)](root, operation)
    except OSError as error:
        raise OSError(error.errno, ops.failure(operation, error.errno or 0)) from error


def _bind(root: Root, operation: ops.Bind, mount: int) -> None:
    try:
        root.bind(operation, mount)
    except OSError as error:
        name, answer = errno.errorcode.get(error.errno or 0, "?"), error.strerror or ""
        said = answer if name in answer else f"{name} ({answer})"
        raise OSError(error.errno, f"mount {operation.source} on {operation.target}: {said}") from None


def configure_network(
    socket_in_namespace: netlink.Netlink, operations: list[Any], hardware: dict[str, tuple[str, int]] | None = None
) -> None:
    """Addresses and routes of a container, as one batch. UnknownOperation before anything is done.

    `hardware` maps an interface that was made in advance to the (MAC, MTU) it is to have now.
    """
    ops.check(operations, ops.IN_NETWORK, "a container's network")
    messages: list[bytes] = []
    indices: dict[str, int] = {}

    def index(name: str) -> int:
        if name not in indices:
            indices[name] = 1 if name == "lo" else socket_in_namespace.index(name)
        return indices[name]

    for name, (mac, mtu) in (hardware or {}).items():
        messages.append(netlink.set_link(index(name), mac=mac or None, mtu=mtu or None))
    done: list[Any] = []
    for operation in operations:
        made = _MESSAGES[type(operation)](index(operation[0]), operation)
        messages += made
        done += [operation] * len(made)
    try:
        socket_in_namespace.run(messages)
    except netlink.NetlinkError as error:
        position = error.position - len(hardware or {})
        what = done[position] if 0 <= position < len(done) else "interface hardware address"
        raise OSError(error.errno, ops.failure(what, error.errno or 0)) from error


def _link_up(index: int, operation: ops.LinkUp) -> list[bytes]:
    up = netlink.set_link(index, up=True)
    # A message of its own: the kernel applies "up" before the address mode of the same message.
    return [up] if operation.name == "lo" else [netlink.set_link(index, no_link_local=True), up]


_MESSAGES: dict[type[Any], Any] = {
    ops.LinkUp: _link_up,
    ops.AddAddress: lambda index, operation: [netlink.new_address(index, operation.address)],
    ops.AddRoute: lambda index, operation: [netlink.new_route(index, operation.destination, operation.gateway or None)],
}
