"""How much memory there is: the machine's, or what the cgroups above this process leave of it. In bytes."""

from __future__ import annotations

import contextlib

from .cgroup_mounts import folders, mounts, own_paths, read


def _meminfo(name: str) -> int:
    for line in read("/proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def available_bytes() -> int:
    """What the kernel thinks that programs can have without swapping."""
    return _meminfo("MemAvailable")


def total_bytes() -> int:
    """What this process could use at most: the machine's memory, or the lowest limit of a cgroup on the way up."""
    lowest = _meminfo("MemTotal")
    with contextlib.suppress(OSError):
        own = own_paths(read("/proc/self/cgroup"))
        for mount in mounts(read("/proc/self/mountinfo")):
            if mount.version == 1 and "memory" not in mount.controllers:
                continue
            path = own.get("memory" if mount.version == 1 else "", "/")
            file = "memory.limit_in_bytes" if mount.version == 1 else "memory.max"
            for folder in folders(mount, path):
                with contextlib.suppress(OSError):
                    text = read(f"{folder}/{file}").strip()
                    lowest = min(lowest, int(text) if text.isdigit() else lowest)
    return lowest
