"""Which cgroup hierarchies are mounted here, and where in them a process is: read from /proc, nothing is tried."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

LIMITS_V1 = ("cpu", "cpuacct", "memory", "pids", "freezer", "blkio", "cpuset")


class Mount(NamedTuple):
    """One mounted hierarchy: `controllers` is empty for version 2 and for a named one."""

    version: int
    root: str
    point: str
    controllers: frozenset[str]
    read_only: bool


def mounts(mountinfo: str) -> list[Mount]:
    """The cgroup mounts named by the text of /proc/self/mountinfo."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, after = left.split(), right.split()
        if len(fields) < 6 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        options = set(after[2].split(","))
        read_only = "ro" in fields[5].split(",") or "ro" in options
        version = 2 if after[0] == "cgroup2" else 1
        controllers = frozenset(options & set(LIMITS_V1)) if version == 1 else frozenset()
        root, point = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text) for text in fields[3:5])
        found.append(Mount(version, root, point, controllers, read_only))
    return found


def own_paths(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as {controller: path}; the version 2 path has the key ``""``."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def folders(mount: Mount, own: str) -> list[str]:
    """The folders to try: the own one first, then each above it up to the mount point."""
    root = mount.root.rstrip("/")
    if ".." in own.split("/") or not (own + "/").startswith(root + "/"):
        return [mount.point]  # our own folder lies outside of what is mounted here
    parts = [part for part in own[len(root) :].split("/") if part]
    return [os.path.join(mount.point, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def candidates() -> list[str]:
    """Every cgroup folder in which a lab of this process may make one, to try or to use it."""
    try:
        all_mounts, own = mounts(read("/proc/self/mountinfo")), own_paths(read("/proc/self/cgroup"))
    except OSError:
        return []
    found: list[str] = []
    for mount in all_mounts:
        found += folders(mount, own.get(next(iter(mount.controllers), "") if mount.version == 1 else "", "/"))
    return list(dict.fromkeys(found))


def read(path: str) -> str:
    """A file of /proc; a path in it may hold any byte."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
