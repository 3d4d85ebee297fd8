"""A process that owns labs, in cgroups of the test's own making that bound it and its labs together.

So a flood of memory or processes that nothing else stops is stopped there, and never reaches the machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_help import run_owner

from ctlab.kernel import cgroup_mounts

_ENTER = """
import os
for file in {files!r}:
    open(file, "w").write("0")
"""


def run_bounded(script: str, *words: str, memory_bytes: int, pids: int, timeout: float = 40) -> str:
    """Run a script that owns labs (see `run_owner`) with at most so much memory and so many processes and threads.

    Skips where no cgroup can be made for it.
    """
    with _folders(memory_bytes, pids) as files:
        return run_owner(_ENTER.format(files=files) + script, *words, timeout=timeout)


@contextlib.contextmanager
def _folders(memory_bytes: int, pids: int) -> Iterator[list[str]]:
    """Bounded folders below this process's own; yields the files to write 0 to, to be inside."""
    mounts = cgroup_mounts.mounts(Path("/proc/self/mountinfo").read_text())
    own = cgroup_mounts.own_paths(Path("/proc/self/cgroup").read_text())
    name = f"ctlabtest-flood-{os.getpid()}-{time.monotonic_ns()}"
    made: list[Path] = []
    try:
        if any(mount.controllers for mount in mounts):
            files = _version_1(mounts, own, name, {"memory": memory_bytes, "pids": pids}, made)
        else:
            files = _version_2(mounts, own, name, {"memory": memory_bytes, "pids": pids}, made)
        yield files
    finally:
        for folder in made:
            _remove(folder)


def _version_1(
    mounts: list[cgroup_mounts.Mount], own: dict[str, str], name: str, limits: dict[str, int], made: list[Path]
) -> list[str]:
    files = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}
    entries = []
    for controller, file in files.items():
        mount = next((mount for mount in mounts if controller in mount.controllers), None)
        if mount is None:
            pytest.skip(f"no cgroup controller {controller} for a bounded parent")
        folder = Path(cgroup_mounts.folders(mount, own[controller])[0], name)
        _make(folder, made)
        (folder / file).write_text(str(limits[controller]))
        entries.append(str(folder / "tasks"))
    return entries


def _version_2(
    mounts: list[cgroup_mounts.Mount], own: dict[str, str], name: str, limits: dict[str, int], made: list[Path]
) -> list[str]:
    """A folder with a place for the owner below it: the lab's own comes beside that, and a folder holds no process."""
    for place in cgroup_mounts.folders(mounts[0], own[""]) if mounts else ():
        with contextlib.suppress(OSError):
            if {"memory", "pids"} <= set(Path(place, "cgroup.subtree_control").read_text().split()):
                break
    else:
        pytest.skip("no cgroup v2 folder that gives memory and pids to a bounded parent")
    folder = Path(place, name)
    _make(folder, made)
    (folder / "memory.max").write_text(str(limits["memory"]))
    (folder / "pids.max").write_text(str(limits["pids"]))
    _make(folder / "session", made)
    return [str(folder / "session/cgroup.procs")]


def _make(folder: Path, made: list[Path]) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        pytest.skip(f"no cgroup folder for a bounded parent: {error}")
    made.insert(0, folder)


def _remove(folder: Path) -> None:
    for _ in range(200):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"{folder} isn't empty")
