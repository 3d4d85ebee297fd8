"""The operations a plan is made of: small, flat, serialisable values.

Every operation is a `NamedTuple` of strings, numbers and lists of them, so that a plan is plain data:
it can be printed (`render.py`), sent (`encode`), compared in a test and performed by the executor.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NamedTuple
else:
    from ._record import NamedTuple  # the same, without the import of `typing`: see `kernel.lean`


# -- in the network namespace of a node ---------------------------------------------------------
class MakeBridge(NamedTuple):
    """Create a bridge, up."""

    name: str
    mac: str
    mtu: int


class MakeVeth(NamedTuple):
    """Create a veth pair, `name` in the node and `peer` in the container's network namespace, in place."""

    name: str
    peer: str
    peer_mac: str
    mtu: int
    bridge: str
    alias: str


class DeleteLink(NamedTuple):
    """Delete an interface."""

    name: str


class WriteSysctl(NamedTuple):
    """Write a value below /proc/sys; `path` is relative to it."""

    path: str
    value: str


class Listen(NamedTuple):
    """Answer DNS for the lab's names on this address."""

    address: str


class StopListening(NamedTuple):
    """Answer there no more."""

    address: str


# -- in the network namespace of a container (or of a node) --------------------------------------
class LinkUp(NamedTuple):
    """Set an interface up."""

    name: str


class AddAddress(NamedTuple):
    """Give an interface an address; `address` carries its prefix length."""

    interface: str
    address: str


class AddRoute(NamedTuple):
    """Add a route; `destination` is ``default``, ``::/0`` or a CIDR."""

    interface: str
    destination: str
    gateway: str


# -- the root file system, performed by the container's first process --------------------------------
class Unshare(NamedTuple):
    """New namespaces for the container, by the names that unshare(1) uses."""

    kinds: list[str]


class RootFolder(NamedTuple):
    """An empty folder of the lab's tmpfs becomes the new root."""


class RootOverlay(NamedTuple):
    """An overlay over `lower` (a prepared image folder) becomes the new root."""

    lower: str


class SystemRoot(NamedTuple):
    """An overlay over the lab's copy of what a system is to be changed in becomes the new root.

    The copy, made once, has the `folders` ([path, mode]) and `links` ([path, target]), `/etc` as far as the world may
    read it, and the folders of `/var`. `fresh` names files that are made empty in the upper folder first, so that they
    can be written.
    """

    folders: list[list[Any]]
    links: list[list[str]]
    fresh: list[str]


class Folder(NamedTuple):
    """Make a folder."""

    path: str
    mode: int


class SymbolicLink(NamedTuple):
    """Make a symbolic link."""

    path: str
    target: str


class WriteFile(NamedTuple):
    """Write a file, replacing what is there."""

    path: str
    content: str
    mode: int


class Overlay(NamedTuple):
    """Mount an overlay: `lower` of this machine below, a private folder of the lab's tmpfs above."""

    lower: str
    target: str


class Bind(NamedTuple):
    """Bind-mount a path of this machine into the container."""

    source: str
    target: str
    read_only: bool


def is_kernels(place: str) -> bool:
    """Whether an absolute path without detours is the root, or below what is the kernel's: no place for a `Bind`."""
    return place == "/" or place.split("/")[1] in ("proc", "sys", "dev")


class Device(NamedTuple):
    """Bind a device node of this machine below /dev."""

    name: str


class Mount(NamedTuple):
    """Mount a file system that needs no source (proc, sysfs, tmpfs, devpts)."""

    kind: str
    target: str
    flags: list[str]
    options: str


class Mask(NamedTuple):
    """Hide a path: /dev/null over a file, an empty read-only folder over a folder. Absent is fine."""

    path: str


class ReadOnly(NamedTuple):
    """Make a path read-only where it is. Absent is fine."""

    path: str


class PivotRoot(NamedTuple):
    """Enter the new root and leave the old one for good."""


# -- the container's process -------------------------------------------------------------------------
class Hostname(NamedTuple):
    """Set the host name of the UTS namespace."""

    name: str


class Execute(NamedTuple):
    """Give up privileges and become the program."""

    argv: list[str]
    environment: list[str]
    workdir: str
    user: str
    capabilities: list[str]
    init: bool
    tty: bool
    read_only_root: bool


if TYPE_CHECKING:
    Operation = (
        MakeBridge | MakeVeth | DeleteLink | WriteSysctl | Listen | StopListening | LinkUp | AddAddress | AddRoute
        | Unshare | RootFolder | RootOverlay | SystemRoot | Folder | SymbolicLink | WriteFile | Overlay | Bind
        | Device | Mount | Mask | ReadOnly | PivotRoot | Hostname | Execute
    )  # fmt: skip

GOES = "goes"  # with what it was done to: a link, a root, a process
STAYS = "stays"  # until the node ends: nothing takes it back

# Every kind of operation -> what takes one back.
INVERSES: dict[type[Any], Any] = {
    MakeBridge: lambda made: DeleteLink(made.name),
    MakeVeth: lambda made: DeleteLink(made.name),
    DeleteLink: STAYS,
    WriteSysctl: STAYS,
    Listen: lambda made: StopListening(made.address),
    StopListening: lambda made: Listen(made.address),
    LinkUp: GOES,
    AddAddress: GOES,
    AddRoute: GOES,
    Unshare: GOES,
    RootFolder: GOES,
    RootOverlay: GOES,
    SystemRoot: GOES,
    Folder: GOES,
    SymbolicLink: GOES,
    WriteFile: GOES,
    Overlay: GOES,
    Bind: GOES,
    Device: GOES,
    Mount: GOES,
    Mask: GOES,
    ReadOnly: GOES,
    PivotRoot: GOES,
    Hostname: GOES,
    Execute: GOES,
}
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in INVERSES}

# Where a kind can be performed; who performs and who renders have a table for each, and refuse all else.
IN_NODE = (
    MakeBridge, MakeVeth, DeleteLink, WriteSysctl, Listen, StopListening, LinkUp, AddAddress, AddRoute,
)  # fmt: skip
IN_NETWORK = (LinkUp, AddAddress, AddRoute)  # of a container
MAKING_ROOT = (
    RootFolder, RootOverlay, SystemRoot, Folder, SymbolicLink, WriteFile, Overlay, Device, Mount, Mask, ReadOnly,
    PivotRoot,
)  # fmt: skip
IN_ROOT = (Folder, SymbolicLink, WriteFile, Bind, Mount, ReadOnly, Hostname)  # once it is made


class UnknownOperation(TypeError):
    """An operation that isn't performed, or has no commands, where it was to be."""

    def __init__(self, operation: Any, place: str) -> None:
        super().__init__(f"{place} takes no operation {type(operation).__name__}: {operation!r}")


def check(operations: Iterable[Any], kinds: tuple[type[Any], ...], place: str) -> None:
    """Raises UnknownOperation for the first that isn't one of those; called before anything is done."""
    for operation in operations:
        if type(operation) not in kinds:
            raise UnknownOperation(operation, place)


def inverse(operations: Iterable[Operation]) -> list[Operation]:
    """What takes them back, newest first; nothing for what goes by itself or stays."""
    back: list[Operation] = []
    for operation in operations:
        if type(operation) not in INVERSES:
            raise UnknownOperation(operation, "a plan")
        found = INVERSES[type(operation)]
        if found not in (GOES, STAYS):
            back.insert(0, found(operation))
    return back


def encode(operations: list[Operation]) -> list[list[Any]]:
    """Operations as plain lists, ready for JSON."""
    return [[type(operation).__name__, *operation] for operation in operations]


def decode(data: list[list[Any]]) -> list[Operation]:
    """The inverse of `encode`."""
    decoded = []
    for name, *fields in data:
        if name not in _KINDS:
            raise UnknownOperation((name, *fields), "a plan")
        decoded.append(_KINDS[name](*fields))
    return decoded


def failure(operation: Any, number: int) -> str:
    """``write file /etc/hosts: EROFS (…)``: what was asked in words (never what a file was to hold), and the answer."""
    if isinstance(operation, str):
        words = operation
    else:
        verb = "".join(f" {sign.lower()}" if sign.isupper() else sign for sign in type(operation).__name__).strip()
        named = operation[:1] if isinstance(operation, WriteFile | WriteSysctl) else operation[:2]
        named = () if isinstance(operation, RootOverlay) else named  # by a key of the lab's
        words = " ".join([verb, *(value for value in named if isinstance(value, str))])
    return f"{words}: {errno.errorcode.get(number, number)} ({os.strerror(number)})"
