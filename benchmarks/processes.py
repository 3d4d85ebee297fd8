"""What the kernel says of a lab's processes from outside: who they are, their memory, what they leave behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process, as /proc/PID/status shows it; `namespace_pids` ends with its own innermost pid."""

    pid: int
    parent: int
    name: str
    resident_kib: int
    namespace_pids: tuple[int, ...]


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if fields["State"].split()[0] in "ZX":
        return None
    return Process(
        pid,
        int(fields["PPid"]),
        fields["Name"].strip(),
        int(fields.get("VmRSS", "0 kB").split()[0]),
        tuple(int(number) for number in fields.get("NSpid", str(pid)).split()),
    )


def cpu_seconds(pid: int) -> float:
    """What a process's threads have used of CPUs (/proc/PID/task/*/schedstat, in nanoseconds)."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except (OSError, IndexError):
            continue  # a thread that has just ended
    return total / 1e9


def descendants(root: int) -> list[Process]:
    """All living processes below `root` (itself left out), parents before children."""
    everyone: dict[int, list[Process]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            process = _read(int(entry))
            if process is not None:
                everyone.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        children = everyone.get(waiting.pop(0), [])
        found += children
        waiting += [child.pid for child in children]
    return found


def supervisor(lab: list[Process]) -> Process:
    """The process that is PID 1 of the lab's own PID namespace: one level below ours."""
    depth = len((_read(os.getpid()) or lab[0]).namespace_pids)
    for process in lab:
        if len(process.namespace_pids) == depth + 1 and process.namespace_pids[-1] == 1:
            return process
    raise LookupError("no process of the lab is PID 1 one PID namespace below this one")


def private_dirty_kib(pid: int) -> int:
    """KiB of memory that only this process has and has written to; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    wanted = ("Private_Dirty:", "Private_Hugetlb:")
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(wanted))


def shared_memory_kib() -> int:
    """KiB of tmpfs and memfd pages of the whole machine (`Shmem:`): a memfd is in no process's private part."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1])
    return 0


def _hierarchies() -> list[tuple[set[str], Path]]:
    """(controllers, mount point) of each cgroup mount; v2 has the controller set {""}."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        point = Path(before.split()[4])
        if kind == "cgroup2":
            found.append(({""}, point))
        elif kind == "cgroup":
            found.append((set(options.split(",")) - {"rw", "relatime"}, point))
    return found


def cgroup_folders(pid: int) -> set[Path]:
    """The folders of `pid` in every hierarchy mounted here; none if it has ended."""
    folders: set[Path] = set()
    mounted = _hierarchies()
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return folders
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for names, point in mounted:
            if names >= set(controllers.split(",")):
                folders.add(Path(f"{point}{path.rstrip('/')}"))
    return folders


def own_cgroup_folders(pids: list[int], stranger: int) -> set[Path]:
    """The folders of `pids` and all their parents that `stranger` is neither in nor below."""
    outside: set[Path] = set()
    for folder in cgroup_folders(stranger):
        outside |= {folder, *folder.parents}
    inside: set[Path] = set()
    for pid in pids:
        for folder in cgroup_folders(pid):
            inside |= {folder, *folder.parents}
    points = {point for _, point in _hierarchies()}
    return {folder for folder in inside - outside if not any(point.is_relative_to(folder) for point in points)}
