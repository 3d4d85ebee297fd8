"""What the nursery makes in advance. Lean: see `kernel.lean`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from ..kernel import cgroup


class Spare:
    """A veth pair that was made in advance: its index in the node and what it is called there until it is used."""

    __slots__ = ("name", "number")

    def __init__(self, number: int, name: str) -> None:
        self.number = number  # interface index
        self.name = name


class Slot:
    """A container's first process and what was made for it, before it has a name."""

    __slots__ = (
        "cgroup",
        "err",
        "holder",
        "mount_namespace",
        "out",
        "pid",
        "pidfd",
        "private",
        "serial",
        "spare",
        "status",
    )

    def __init__(self, serial: int, private: int) -> None:
        self.serial = serial
        self.private = private
        self.cgroup: cgroup.ContainerCgroup | None = None
        self.pid = 0
        self.pidfd = -1
        self.status: _socket.socket
        self.out = self.err = -1
        # Held by the nursery, so that the end of the process isn't held up by taking the mounts down (an RCU grace
        # period, in the kernel, before the parent hears of the exit).
        self.mount_namespace = -1
        self.holder = -1  # pidfd of the process that holds its memory until `exec` (see `birth`)
        self.spare: Spare | None = None
