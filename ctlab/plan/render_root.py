"""Root file system operations as `mkdir`, `mount` and `ln` commands.

The script's current folder is the one that becomes the root, so ``/usr`` of the container is ``usr`` here. The folder
above it, `place`, is a tmpfs that holds what is private to the container: the upper and work folders of its overlays.

Unlike the executor, a shell follows symbolic links of an image out of it: these are commands to learn from, for
images that one trusts.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from . import ops
from .render_words import inside, quote, words

PLACES = ("/tmp", "/mnt", "/srv", "/media", "/opt")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_PLAIN = re.compile(r"[A-Za-z0-9/._@-]+", re.ASCII)  # what overlay takes as lowerdir without escapes


def place_for(operations: Iterable[ops.Operation]) -> str:
    """A folder that every machine has and that hides nothing the operations need when a tmpfs lies on it."""
    needed = []
    for operation in operations:
        if isinstance(operation, ops.Bind):
            needed.append(operation.source)
        elif isinstance(operation, ops.Overlay | ops.RootOverlay):
            needed.append(operation.lower)
        elif isinstance(operation, ops.SystemRoot):
            needed += ["/etc", "/var"]
    for place in PLACES:
        if not any(path == place or path.startswith(place + "/") for path in needed):
            return place
    return PLACES[-1]


def fresh_files(operations: Iterable[ops.Operation]) -> set[str]:
    """The files that the root has anew and empty: they can be written as they are."""
    return {name for operation in operations if isinstance(operation, ops.SystemRoot) for name in operation.fresh}


def root_operation(operation: ops.Operation, place: str = PLACES[0], fresh: Collection[str] = ()) -> list[str]:
    """The commands of one operation. Raises UnknownOperation for one that isn't of a root file system.

    `fresh`: files that need not be removed before they are written, see `fresh_files`.
    """
    ops.check([operation], (*ops.MAKING_ROOT, *ops.IN_ROOT), "a root file system")
    return _COMMANDS[type(operation)](operation, place, fresh)


def root_commands(operations: Sequence[ops.Operation], place: str, fresh: Collection[str]) -> Iterator[str]:
    """The commands of operations in order; what is alike and adjacent becomes one command or one loop."""
    for (kind, _), group in groupby(operations, key=_alike):
        alike = list(group)
        if kind is ops.Folder:
            yield from _folders([one for one in alike if isinstance(one, ops.Folder)])
        elif kind is ops.Device:
            yield from _devices([one for one in alike if isinstance(one, ops.Device)])
        elif kind is ops.Mask:
            yield from _masks([one for one in alike if isinstance(one, ops.Mask)])
        elif kind is ops.ReadOnly:
            yield from _read_only([one for one in alike if isinstance(one, ops.ReadOnly)])
        else:
            for one in alike:
                yield from root_operation(one, place, fresh)


def _alike(operation: ops.Operation) -> tuple[type, int]:
    return type(operation), operation.mode if isinstance(operation, ops.Folder) else 0


def private(place: str) -> list[str]:
    """The tmpfs for what is private to the container, with an empty folder to hide others with."""
    return [
        f"mount -t tmpfs -o nosuid,nodev,mode=755 ctlab {place}",
        f"mkdir -m 555 {place}/empty",
    ]


def make_read_only(operations: Iterable[ops.Operation]) -> list[str]:
    """``--read-only``: the root, and what is mounted of the image below it and still shows."""
    operations = list(operations)
    covered = {one.target for one in operations if isinstance(one, ops.Bind)}
    paths = ["/", *(one.target for one in operations if isinstance(one, ops.Overlay) and one.target not in covered)]
    return [f"mount -o remount,bind,ro {quote(inside(path))}" for path in paths]


def _folders(operations: list[ops.Folder]) -> list[str]:
    return [f"mkdir -p -m {operations[0].mode:o} {words(inside(one.path) for one in operations)}"]


def _root_overlay(operation: ops.RootOverlay, place: str) -> list[str]:
    lower = operation.lower
    lines = []
    if lower.endswith(_ARCHIVES):
        lines = [f"mkdir {place}/image", f"tar -x -p --no-same-owner -C {place}/image -f {quote(lower)}"]
        lower = f"{place}/image"
    elif not _PLAIN.fullmatch(lower):
        lines = [f"mkdir {place}/image", f"mount --rbind {quote(lower)} {place}/image"]
        lower = f"{place}/image"
    upper, work = f"{place}/image.upper", f"{place}/image.work"
    return [
        *lines,
        f"mkdir {place}/root {upper} {work}",
        f"mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work},userxattr overlay {place}/root",
        f"cd {place}/root",
    ]


# What a lab copies of a system, in find(1)'s words: of /etc what the world may read, of /var the folders and links.
_VAR = r"find var -maxdepth 6 \( -path var/tmp -o -path var/run -o -path var/lock \) -prune -o"
_COPIED_FOLDERS = (
    r"find etc -type d -printf '%m %p\n' ! -perm -o=rx -prune",
    rf"{_VAR} -type d -printf '%m %p\n' ! -perm -o=rx -prune",
)
_COPIED_FILES = (
    "find etc -type d ! -perm -o=rx -prune -o -type l -print0 -o -type f -perm -o=r"
    " ! -path etc/shadow ! -path etc/gshadow -print0",
    f"{_VAR} -type d ! -perm -o=rx -prune -o -type l -print0",
)


def _system_root(operation: ops.SystemRoot, place: str) -> list[str]:
    system, upper, work = f"{place}/system", f"{place}/system.upper", f"{place}/system.work"
    options = f"nosuid,nodev,lowerdir={system},upperdir={upper},workdir={work},userxattr"
    lines = [
        "# a copy of what a system is to be changed in; a lab makes one for all its containers, in which owners of",
        "# files are the same as far as the lab has their ids",
        f"mkdir {system} {place}/root {upper} {work}",
    ]
    lines += ["(", "  cd /", *(f"  {command}" for command in _COPIED_FOLDERS)]
    lines.append(f') | while read -r mode path; do mkdir -p -m $mode "{system}/$path"; done')
    for mode, folders in groupby(operation.folders, key=lambda folder: folder[1]):
        lines.append(f"mkdir -p -m {mode:o} {words(system + path for path, _ in folders)}")
    lines += [f"ln -s {quote(target)} {quote(system + path)}" for path, target in operation.links]
    lines += [
        "(",
        "  cd /",
        *(f"  {command}" for command in _COPIED_FILES),
        f") | tar -c -C / --null -T - | tar -x -p --no-same-owner -C {system}",
        f"sed 's/:.*/:*:::::::/' {system}/etc/passwd > {system}/etc/shadow",
        f"sed 's/:.*:/:*::/' {system}/etc/group > {system}/etc/gshadow",
        f"chmod 640 {system}/etc/shadow {system}/etc/gshadow",
    ]
    if operation.fresh:
        made = dict.fromkeys(upper + posixpath.dirname(path) for path in operation.fresh)
        lines += [f"mkdir {words(made)}", f"touch {words(upper + path for path in operation.fresh)}"]
    return [*lines, f"mount -t overlay -o {quote(options)} overlay {place}/root", f"cd {place}/root"]


def _overlay(operation: ops.Overlay, place: str) -> list[str]:
    name = operation.lower.strip("/")
    upper, work = f"{place}/{name}.upper", f"{place}/{name}.work"
    options = f"lowerdir={operation.lower},upperdir={upper},workdir={work},userxattr"
    return [
        f"mkdir {words([upper, work])}",
        f"mount -t overlay -o {quote(options)} overlay {quote(inside(operation.target))}",
    ]


def _write_file(operation: ops.WriteFile, fresh: Collection[str]) -> list[str]:
    path = quote(inside(operation.path))
    lines = [] if operation.path in fresh else [f"rm -f {path}"]
    if not operation.content:
        lines.append(f"touch {path}" if lines else f": > {path}")
    elif operation.content.endswith("\n"):
        rows = operation.content[:-1].split("\n")
        lines.append(f"printf '%s\\n' {words(rows)} > {path}")
    else:
        lines.append(f"printf %s {quote(operation.content)} > {path}")
    if operation.mode != 0o644:
        lines.append(f"chmod {operation.mode:o} {path}")
    return lines


def _bind(operation: ops.Bind, place: str) -> list[str]:
    source, target = quote(operation.source), quote(inside(operation.target))
    parent = quote(inside(posixpath.dirname(operation.target)))
    options = ["nosuid", "nodev", *(["ro"] if operation.read_only else [])]
    recursive = ",".join(f"{option}=recursive" for option in options)
    lines = [
        f"if [ -d {source} ]; then mkdir -p {target}; else mkdir -p {parent}; [ -e {target} ] || touch {target}; fi",
        f"mount --rbind -o {recursive} {source} {target}",
    ]
    above = operation.source.rstrip("/")
    if place.startswith(above + "/"):
        # The source has our own tmpfs in it, which is not the container's to see.
        lines.append(f"umount -R {quote(inside(operation.target) + place.removeprefix(above))}")
    return lines


def _devices(operations: list[ops.Device]) -> list[str]:
    return [
        f"for name in {words(one.name for one in operations)}; do",
        "  [ ! -e /dev/$name ] || { touch dev/$name; mount --bind /dev/$name dev/$name; }",
        "done",
    ]


def _mount(operation: ops.Mount) -> str:
    options = ",".join([*operation.flags, *([operation.options] if operation.options else [])])
    given = f" -o {quote(options)}" if options else ""
    return f"mount -t {operation.kind}{given} {operation.kind} {quote(inside(operation.target))}"


def _masks(operations: list[ops.Mask]) -> list[str]:
    return [
        f"for path in {words(inside(one.path) for one in operations)}; do",
        '  if [ -d "$path" ]; then mount --bind ../empty "$path"; mount -o remount,bind,ro "$path"',
        '  elif [ -e "$path" ]; then mount --bind /dev/null "$path"; fi',
        "done",
    ]


def _read_only(operations: list[ops.ReadOnly]) -> list[str]:
    return [
        f"for path in {words(inside(one.path) for one in operations)}; do",
        '  [ ! -e "$path" ] || { mount --rbind "$path" "$path"; mount -o remount,bind,ro "$path"; }',
        "done",
    ]


def _pivot_root(*_: object) -> list[str]:
    return ["pivot_root . .", "umount -l .", "cd /"]


_COMMANDS: dict[type[Any], Callable[[Any, str, Collection[str]], list[str]]] = {
    ops.RootFolder: lambda _, place, __: [
        f"mkdir {place}/root", f"mount --bind {place}/root {place}/root", f"cd {place}/root"
    ],
    ops.RootOverlay: lambda one, place, _: _root_overlay(one, place),
    ops.SystemRoot: lambda one, place, _: _system_root(one, place),
    ops.Folder: lambda one, *_: _folders([one]),
    ops.SymbolicLink: lambda one, *_: [f"ln -s {quote(one.target)} {quote(inside(one.path))}"],
    ops.WriteFile: lambda one, _, fresh: _write_file(one, fresh),
    ops.Overlay: lambda one, place, _: _overlay(one, place),
    ops.Bind: lambda one, place, _: _bind(one, place),
    ops.Device: lambda one, *_: _devices([one]),
    ops.Mount: lambda one, *_: [_mount(one)],
    ops.Mask: lambda one, *_: _masks([one]),
    ops.ReadOnly: lambda one, *_: _read_only([one]),
    ops.PivotRoot: _pivot_root,
    ops.Hostname: lambda one, *_: [f"hostname {quote(one.name)}"],
}  # fmt: skip
