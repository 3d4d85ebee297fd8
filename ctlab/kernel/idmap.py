"""Which user and group ids a lab's user namespace has, and how they are written.

Three cases, in this order: started by root, a range that nobody on the machine uses; with `newuidmap`,
0 = the own id and 1… = the subordinate range; else the one own id. See user_namespaces(7), subuid(5).
"""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple

RANGE = 65536
_FIRST_CHOICE = 0x60000000  # far above what useradd and systemd hand out, below 2^31


class IdMap(NamedTuple):
    """`kind` is root, range or single. The lines are (inside, outside, count)."""

    kind: str
    uid_lines: tuple[tuple[int, int, int], ...]
    gid_lines: tuple[tuple[int, int, int], ...]
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
        if self.kind == "range":
            return f"0 is your own id, 1-{self.uid_lines[1][2]} come from the subordinate range"
        return f"only your own id is mapped ({self.reason})"


def subordinate(path: str, user: str, number: int) -> list[tuple[int, int]]:
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


def _taken() -> list[tuple[int, int]]:
    """Every (first, count) range that /etc/subuid, /etc/subgid or /etc/passwd names."""
    ranges = [(entry.pw_uid, 1) for entry in pwd.getpwall()]
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    parts = line.strip().split(":")
                    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
                        ranges.append((int(parts[1]), int(parts[2])))
        except OSError:
            continue
    return ranges


def unused_range(taken: list[tuple[int, int]]) -> int:
    """The first id of a range of `RANGE` ids that no range of `taken` touches."""
    first = _FIRST_CHOICE
    while any(first < start + count and start < first + RANGE for start, count in taken):
        first += RANGE
    return first


def _installed(program: str) -> bool:
    return any(os.access(os.path.join(folder, program), os.X_OK) for folder in os.get_exec_path())


def choose() -> IdMap:
    """The mapping this process can have; nothing is written yet."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        first = unused_range(_taken())
        lines = ((0, first, RANGE),)
        return IdMap("root", lines, lines, "")
    single = ((0, uid, 1),), ((0, gid, 1),)
    if not _installed("newuidmap") or not _installed("newgidmap"):
        return IdMap("single", *single, "newuidmap is missing: Debian package uidmap")
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    uids, gids = subordinate("/etc/subuid", user, uid), subordinate("/etc/subgid", user, uid)
    if not uids or not gids:
        return IdMap("single", *single, f"no range for {user} in /etc/subuid and /etc/subgid")
    with open("/proc/self/status", encoding="ascii") as file:
        if "NoNewPrivs:\t1" in file.read():
            return IdMap("single", *single, "no_new_privs is set here, so newuidmap has no privilege")
    first_uid, uid_count = max(uids, key=lambda item: item[1])
    first_gid, gid_count = max(gids, key=lambda item: item[1])
    return IdMap(
        "range",
        ((0, uid, 1), (1, first_uid, min(uid_count, RANGE - 1))),
        ((0, gid, 1), (1, first_gid, min(gid_count, RANGE - 1))),
        "",
    )


def _text(lines: tuple[tuple[int, int, int], ...]) -> str:
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
