"""A lab's control groups, seen from inside: one interface to version 1, version 2 and the hybrid of both.

- `LabFolders`: the supervisor's. It sees no path below /sys/fs/cgroup any more and works with one directory
  descriptor per controller (and ``unified`` for the version 2 tree), opened outside (`cgroup_outside.LabCgroup`).
- `ContainerCgroup`: one container's folder in all of them.

Layouts: version 2 has everything in the unified folder. Version 1 has one folder per controller; where an
(otherwise empty) version 2 tree can be had too, a folder there as well, for what only it has: a process born
inside (CLONE_INTO_CGROUP), cgroup.kill, a freeze from which processes can die, pressure. Version "none" has at most
that.
"""

from __future__ import annotations

import errno
import os
import time

from ..errors import KernelError
from . import cgroup_v1 as v1
from . import cgroup_v2 as v2
from .cgroup_folder import DIRECTORY, LEAF, UNIFIED, is_id, make_folder, remove_folder
from .cgroup_tree import Tree
from .lean import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_BELOW = 4096  # folders of a container's own making that are looked at in one go


class LabFolders:
    """The lab's folders, inside: made from the descriptors of `cgroup_outside.LabCgroup.open`. Not thread-safe."""

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
        if not is_id(container_id) or container_id == LEAF:
            raise ValueError(f"not a container id: {container_id!r}")
        wanted = set(v1.DEFAULT_CONTROLLERS if controllers is None else controllers)
        if controllers is None and self.unified is not None:
            wanted.discard("freezer")
        made = ContainerCgroup(self, container_id)
        try:
            if self.unified is not None:
                make_folder(container_id, container_id, self.unified)
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

    def stat_folders(self) -> tuple[str, dict[str, int]]:
        """For the sampler: ("cgroup-v2", {"unified": fd}) or ("cgroup-v1", {controller: fd, …, "unified": fd}).

        The lab's folders, in each of which a container's has its id; the descriptors stay ours.
        """
        unified = {} if self.unified is None else {UNIFIED: self.unified}
        return ("cgroup-v2" if self.version == "v2" else "cgroup-v1", {**self.v1, **unified})


class Ways:
    """Into a container's version 1 folders and back, all opened once: for a runner and its children.

    Whether there may be one more process is asked where a process is born, so a runner itself goes to where they are
    counted, for the birth. All else its child joins, which has not to come back. So nothing of a runner is counted.
    """

    def __init__(self, container_id: str, groups: dict[str, int], counted: int | None) -> None:
        self._in = self._out = -1
        self.of_child: list[int] = []  # opened ``tasks``, each of which it writes 0 into
        for fd in groups.values():
            if counted is not None and os.path.sameopenfile(fd, counted):
                self._in, self._out = v1.task_file(fd, container_id), v1.task_file(fd, ".")
            else:
                self.of_child.append(v1.task_file(fd, container_id))

    def join(self) -> None:
        """Called by the single-threaded runner, before a birth."""
        if self._in >= 0:
            v1.enter(self._in)

    def leave(self) -> None:
        """And after it."""
        if self._out >= 0:
            v1.enter(self._out)


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
            make_folder(self.id, f"{name}/{self.id}", fd)
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
            self._clone_fd = os.open(self.id, DIRECTORY, dir_fd=self.lab.unified)
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

    def ways(self) -> Ways:
        """For who has children born inside, one after the other."""
        return Ways(self.id, self._groups, self.controllers.get("pids"))

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

    def end_below(self) -> None:
        """Where its version 1 freezer is its own: SIGKILL to all in there, thawed, whatever it has made there."""
        if "freezer" in self.controllers:
            v1.end_below(self.controllers["freezer"], self.id, _MOST_BELOW)

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

    def remove(self, timeout: float = 2.0) -> bool:
        """Remove the folders, EBUSY tried again until `timeout` (seconds; 0 = one attempt each).

        What was made in them goes, too. False: a process is still inside; call again later. It neither kills nor thaws.
        """
        self.close()
        until = time.monotonic() + timeout
        gone = True
        for name, fd in list(self._groups.items()):
            if self._remove(fd, until):
                del self._groups[name]
                self.controllers = {n: f for n, f in self.controllers.items() if not os.path.sameopenfile(f, fd)}
            else:
                gone = False
        if self.in_unified:
            self.in_unified = not self._remove(self._unified(), until)
        return gone and not self.in_unified

    def _remove(self, directory: int, until: float) -> bool:
        with suppress(FileNotFoundError):
            if os.stat(self.id, dir_fd=directory).st_nlink > 2:  # a container has made some itself
                tree = Tree(directory, self.id, most=_MOST_BELOW)
                for base, path in tree.folders[:-1]:
                    with suppress(OSError):
                        os.rmdir(path, dir_fd=base)
                tree.close()
        return remove_folder(self.id, directory, until)

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
