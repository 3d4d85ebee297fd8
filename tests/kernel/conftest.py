"""Fixtures of the tests of control groups, of counters and of floods.

Folders on the real kernel, processes to be counted, and a lab to be flooded.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_world import World, need_root
from floods_help import STORAGE
from kernel_help import STRANGER, patient
from kernel_help import need_root as needs_root
from sampler_world import CGROUP, CONTAINER, V1

import ctlab
from ctlab.kernel import cgroup_mounts
from ctlab.kernel.cgroup_discover import Delegation, discover
from ctlab.kernel.cgroup_outside import _leave


@pytest.fixture(scope="module")
def delegation() -> Iterator[Delegation]:
    need_root()
    found = discover()
    if found.version == "none":
        pytest.skip(f"no cgroup for limits here: {found.reason}")
    # Every test makes a lab of its own from it; a keeper has one, and leaves its leaf with that.
    yield found._replace(leaf=None)
    if found.leaf is not None:
        _leave(found.leaf)
        assert not os.path.exists(found.leaf)


@pytest.fixture
def world(delegation: Delegation) -> Iterator[World]:
    it = World(delegation)
    yield it
    it.close()


@pytest.fixture
def world_v1(delegation: Delegation) -> Iterator[World]:
    """Version 1 alone, as on a machine without a version 2 tree."""
    if delegation.version != "v1":
        pytest.skip(f"needs cgroup v1 controllers, this machine has {delegation.version}")
    it = World(delegation._replace(unified=None))
    yield it
    it.close()


@pytest.fixture
def group() -> Iterator[dict[str, Path]]:
    """A fresh v1 group, one folder for each controller, and a v2 folder as `unified` where there is one.

    On a machine with version 2 alone: the v2 folder only, with all of its controllers. An ordinary user's lie below the
    folders that were delegated to him.
    """
    whole = (CGROUP / "cgroup.controllers").exists()
    name = f"ctlab-test-{os.getpid()}-{time.monotonic_ns()}"
    made: dict[str, Path] = {}
    own = cgroup_mounts.own_paths(Path("/proc/self/cgroup").read_text()) if os.geteuid() else {}
    try:
        for controller in ("unified",) if whole else (*V1, "unified"):
            below = own.get("" if controller == "unified" else controller, "/").lstrip("/")
            folder = CGROUP / name if whole else CGROUP / controller / below / name
            try:
                folder.mkdir()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                if whole or controller != "unified":
                    pytest.skip(f"no cgroup {'v2' if whole else 'v1 ' + controller} that can be written: {error}")
            else:
                made[controller] = folder
        yield made
    finally:
        for folder in made.values():
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)


@pytest.fixture
def pid_namespace() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """(the first process of a PID namespace, the process that waits for it); see `CONTAINER`."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONTAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first.strip().isdigit():
        assert process.wait(patient(10)) == 77, first
        pytest.skip(first.strip())
    assert process.stdout.readline() == "ready\n"
    yield int(first), process
    if process.poll() is None:
        process.communicate("quit\n", timeout=patient(10))


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder of another user; root only."""
    needs_root("to make another user's folder")
    for folder in (tmp_path, *tmp_path.parents):  # with several processes of pytest there is one folder more on the way
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)
    path = tmp_path / "stranger"
    path.mkdir()
    os.chown(path, STRANGER, STRANGER)
    return path


@pytest.fixture(scope="module")
def _little_lab(usable: None) -> Iterator[ctlab.Lab]:
    with ctlab.Lab(f"floods-{os.getpid()}", storage=STORAGE) as made:
        yield made


@pytest.fixture
def flooded(_little_lab: ctlab.Lab) -> Iterator[ctlab.Lab]:
    """A lab with little storage and one container that does its work; every test floods it from another."""
    _little_lab.run(["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done"], name="calm")
    yield _little_lab
    for container in list(_little_lab.containers):
        if not container._gone:
            container.remove()
