"""Which user and group ids a lab's user namespace has, and how they are written.

Four cases, in this order: started by root, a range that nobody else uses (`id_ranges`); by root of a user namespace
(rootless podman, LXC), the ids that this one has; with `newuidmap`, 0 = the own id and 1… = the subordinate range;
else the one own id. See user_namespaces(7), subuid(5).
"""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple

from . import id_ranges
from .id_ranges import RANGE, Ranges

_SETGID_AND_SETUID = 1 << 6 | 1 << 7  # capability numbers of linux/capability.h

Lines = tuple[tuple[int, int, int], ...]  # (inside, outside, count)


class IdMap(NamedTuple):
    """`kind` is root, nested, range or single; `reason` says why it is single."""

    kind: str
    uid_lines: Lines
    gid_lines: Lines
    reason: str

    @property
    def single(self) -> bool:
        """Whether only one id is mapped (then setgroups is denied)."""
        return self.kind == "single"

    @property
    def first_uid(self) -> int:
        """The outside user id of the lab's root."""
        return self.uid_lines[0][1]

    @property
    def first_gid(self) -> int:
        """The outside group id of the lab's root."""
        return self.gid_lines[0][1]

    def describe(self) -> str:
        """One phrase for status and doctor."""
        if self.kind == "root":
            return f"started by root: ids 0-{RANGE - 1} are {self.first_uid}-{self.first_uid + RANGE - 1} outside"
        if self.kind == "nested":
            last = self.uid_lines[-1][0] + self.uid_lines[-1][2] - 1
            return f"started by root of a user namespace: its ids, up to {last}, are the lab's"
        if self.kind == "range":
            return f"0 is your own id, 1-{self.uid_lines[1][2]} come from the subordinate range"
        return f"only your own id is mapped ({self.reason})"


def subordinate(path: str, user: str, number: int) -> Ranges:
    """The (first, count) ranges of a user in /etc/subuid or /etc/subgid."""
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[0] in (user, str(number)) and parts[1].isdigit() and parts[2].isdigit():
                    found.append((int(parts[1]), int(parts[2])))
    except OSError:
        pass
    return found


def mapped(text: str) -> Ranges:
    """The ids that a user namespace has, by extent, from the text of its uid_map or gid_map. Pure."""
    return sorted((int(first), int(count)) for first, _, count in (line.split() for line in text.splitlines()))


def own_lines(extents: Ranges) -> Lines:
    """Each id below `RANGE` as itself. A line stays in one extent: the kernel refuses what spans two (EPERM). Pure."""
    return tuple((first, first, min(count, RANGE - first)) for first, count in extents if first < RANGE)


def largest(ranges: Ranges, extents: Ranges) -> tuple[int, int]:
    """The largest part of a range that one extent has; its count is 0 where no range is mapped. Pure."""
    parts = [(0, 0)]
    for first, count in ranges:
        for start, length in extents:
            low, high = max(first, start), min(first + count, start + length)
            parts.append((low, max(high - low, 0)))
    return max(parts, key=lambda part: part[1])


def _read(name: str) -> str:
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return file.read()


def _capable(status: str) -> bool:
    """Whether the text of /proc/self/status shows the capabilities to map ids that aren't one's own."""
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective, 16) & _SETGID_AND_SETUID == _SETGID_AND_SETUID


def _is_the_machines_root() -> bool:
    """Whether id 0 is, through all user namespaces around, the machine's: then a lab must not have it.

    The kernel lets that id write to /proc/sys without any capability, and shows whose it is.
    """
    try:
        return os.stat("/proc/sys/kernel").st_uid == 0
    except OSError:
        return True


def _installed(program: str) -> bool:
    return any(os.access(os.path.join(folder, program), os.X_OK) for folder in os.get_exec_path())


def _of_root(first: int) -> IdMap:
    lines = ((0, first, RANGE),)
    return IdMap("root", lines, lines, "")


def reserve(mapping: IdMap, lab_id: str) -> tuple[IdMap, id_ranges.Held | None]:
    """The mapping for one lab: of root's, with a range of its own, held as long as the lab lives. Raises CtlabError."""
    if mapping.kind != "root":
        return mapping, None
    held = id_ranges.take(lab_id)
    return _of_root(held.first), held


def choose() -> IdMap:
    """The mapping this process can have; nothing is written or reserved yet (`reserve`)."""
    uid, gid = os.geteuid(), os.getegid()
    uid_extents, gid_extents = mapped(_read("uid_map")), mapped(_read("gid_map"))
    status = _read("status")
    single = ((0, uid, 1),), ((0, gid, 1),)
    if uid == 0:
        if _is_the_machines_root():
            first = next(id_ranges.untouched(id_ranges.taken()), id_ranges.FIRST)
            return _of_root(first)
        # Root of a user namespace: an idmapped mount is refused here (EPERM), so ids of others would show as nobody's.
        if not _capable(status):
            return IdMap("single", *single, "this root lacks CAP_SETUID or CAP_SETGID")
        uid_lines, gid_lines = own_lines(uid_extents), own_lines(gid_extents)
        if any(sum(count for _, _, count in lines) == 1 for lines in (uid_lines, gid_lines)):
            return IdMap("single", *single, "the user namespace around it has only one")
        if _read("setgroups").strip() == "deny":
            return IdMap("single", *single, "setgroups is denied in the user namespace around it")
        return IdMap("nested", uid_lines, gid_lines, "")
    if not _installed("newuidmap") or not _installed("newgidmap"):
        return IdMap("single", *single, "newuidmap is missing: Debian package uidmap")
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    uids, gids = subordinate("/etc/subuid", user, uid), subordinate("/etc/subgid", user, uid)
    if not uids or not gids:
        return IdMap("single", *single, f"no range for {user} in /etc/subuid and /etc/subgid")
    if "NoNewPrivs:\t1" in status:
        return IdMap("single", *single, "no_new_privs is set here, so newuidmap has no privilege")
    first_uid, uid_count = largest(uids, uid_extents)
    first_gid, gid_count = largest(gids, gid_extents)
    if not uid_count or not gid_count:
        return IdMap("single", *single, f"the range of {user} isn't mapped in the user namespace around it")
    return IdMap(
        "range",
        ((0, uid, 1), (1, first_uid, min(uid_count, RANGE - 1))),
        ((0, gid, 1), (1, first_gid, min(gid_count, RANGE - 1))),
        "",
    )


def _text(lines: Lines) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)


def write(pid: int, mapping: IdMap) -> None:
    """Write the maps of process `pid`, which has just entered a new user namespace of ours."""
    if mapping.kind == "range":
        import subprocess  # late: the supervisor is cloned from this process before, and must stay small

        for program, lines in (("newuidmap", mapping.uid_lines), ("newgidmap", mapping.gid_lines)):
            words = [program, str(pid)] + [str(number) for line in lines for number in line]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()}; see %lab doctor")
        return
    if mapping.kind == "single":
        with open(f"/proc/{pid}/setgroups", "w", encoding="ascii") as file:
            file.write("deny")
    for name, lines in (("uid_map", mapping.uid_lines), ("gid_map", mapping.gid_lines)):
        try:
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(_text(lines))
        except OSError as error:
            raise RuntimeError(
                f"writing {name} of the lab's user namespace: {error.strerror}; see %lab doctor"
            ) from error
