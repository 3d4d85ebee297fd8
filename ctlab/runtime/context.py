"""What every slot and runner of a lab is made with. Lean: see `kernel.lean`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kernel import cgroup, launcher
    from .system_copy import Source

LAUNCHER = "/launcher/launcher"  # in the lab's own tree, on a read-only mount


class Filter:
    """Two programs of a container's filter of system calls, either may be empty.

    `early` is loaded while nobody waits, and allows what still has to be done inside; `late` comes last.
    """

    __slots__ = ("early", "late")

    def __init__(self, early: bytes = b"", late: bytes = b"") -> None:
        self.early = early
        self.late = late


class Context:
    """The lab's cgroup folders, its launcher, whether it has one id only, and the filter that containers have.

    `system`: what the copy of the system is made of, where it isn't made.
    """

    __slots__ = ("filter", "folders", "launcher", "single_id", "system")

    def __init__(self, folders: cgroup.LabFolders | None, single_id: bool, opened: launcher.Launcher) -> None:
        self.folders = folders
        self.single_id = single_id
        self.launcher = opened
        self.filter = Filter()
        self.system: Source | None = None

    def descriptors(self) -> set[int]:
        """What has to stay open in whoever makes or is one: the launcher, and the folders that one can join."""
        found = {self.launcher.descriptor}
        found |= set() if self.system is None else self.system.descriptors()
        if self.folders is not None:
            found |= {*self.folders.v1.values()}
            found |= set() if self.folders.unified is None else {self.folders.unified}
        return found
