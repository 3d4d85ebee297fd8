"""Runtime folders that must be walked around, and those that are full: one clear line each, and nothing left."""

from __future__ import annotations

import glob
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from faults_script import Script
from faults_world import World, mount

_START = "import ctlab, ctlab.errors\ntry: ctlab.Lab('x').stop(); print('started', flush=True)\n"
_START += "except ctlab.errors.CtlabError as error: print('refused', error, flush=True)\n"
_DIES = "import ctlab; c = ctlab.Lab('x')._client; print(c.id, c.facts['keeper'], flush=True); input()"


def _start(world: World, environment: dict[str, str] | None = None) -> str:
    """Start a lab; what it says: ``started`` or ``refused`` and why."""
    script = Script(world, "-c", _START, env=environment or {})
    try:
        line = script.hear()
        assert line, script.said_wrong()
        return line
    finally:
        script.end()


def _base(world: World) -> str:
    return f"/tmp/ctlab-{world.uid}"


def folder_of_another_user(world: World) -> None:
    """Somebody else made the folder first, with a note that names a cgroup folder of ours."""
    path = _base(world)
    os.mkdir(path)
    os.chown(path, 12345, 12345)
    try:
        _is_walked_around(world, f"{path} belongs to user 12345, not to you ({world.uid})")
    finally:
        os.rmdir(path)


def folder_is_a_link(world: World) -> None:
    """A symbolic link, even to a folder of the same user."""
    path = _base(world)
    os.symlink(world.home, path)
    try:
        _is_walked_around(world, f"{path} is a symbolic link")
        assert os.readlink(path) == world.home and os.listdir(world.home) == ["out"]
    finally:
        os.unlink(path)


def folder_open_to_others(world: World) -> None:
    """Others could put notes into it."""
    path = _base(world)
    os.mkdir(path)
    os.chown(path, world.uid, world.gid)
    os.chmod(path, 0o777)
    try:
        _is_walked_around(world, f"{path} is open to others (mode 777)")
    finally:
        os.rmdir(path)


def folder_is_a_file(world: World) -> None:
    """Something else is in its place."""
    path = _base(world)
    Path(path).touch()
    try:
        _is_walked_around(world, f"{path} isn't a folder")
    finally:
        os.unlink(path)


def _is_walked_around(world: World, why: str) -> None:
    """A lab starts beside what lies there, which is left as it is, and what a dead keeper leaves there is found."""
    assert _start(world) == "started"
    assert _others(world) == []
    script = Script(world, "-c", _DIES)
    lab_id, keeper = script.expect_line().split()
    os.kill(script.pid, signal.SIGSTOP)  # so that it doesn't clean up in its keeper's place
    os.kill(int(keeper), signal.SIGKILL)
    script.kill()
    (place,) = _others(world)
    status = os.stat(place)
    assert (status.st_uid, stat.S_IMODE(status.st_mode), os.listdir(place)) == (world.uid, 0o700, [lab_id])
    said = world.prune()
    assert f"({lab_id}): its keeper is dead; folders removed" in said, said
    assert f"not looked into: {why}" in said, said
    assert _others(world) == []


def _others(world: World) -> list[str]:
    return glob.glob(f"{_base(world)}-????????")


def no_room(world: World) -> None:
    """A full file system, by blocks and by inodes: at every point at which the room ends."""
    small = "/tmp/small"
    os.mkdir(small)
    started = 0
    try:
        for inodes in range(2, 8):
            started += _with_little_room(world, small, f"mode=700,size=64k,nr_inodes={inodes}", fill=0)
        assert 0 < started < 6, started
        for blocks in range(3):
            _with_little_room(world, small, "mode=700,size=16k", fill=4 - blocks)
    finally:
        os.rmdir(small)


def _with_little_room(world: World, path: str, options: str, fill: int) -> bool:
    """Start a lab with its runtime folder on a small tmpfs; whether it started. It leaves nothing either way."""
    mount("tmpfs", path, "tmpfs", 0, options)
    try:
        os.chown(path, world.uid, world.gid)
        if fill:
            with open(f"{path}/fill", "wb", buffering=0) as file:
                file.write(b"x" * 4096 * fill)
        line = _start(world, {"XDG_RUNTIME_DIR": path})
        if line.startswith("refused"):
            assert "ENOSPC (No space left on device)" in line and "XDG_RUNTIME_DIR" in line, line
        left = [name for name in os.listdir(path) if name != "fill"]
        assert not left, (options, fill, left)
        return line == "started"
    finally:
        subprocess.run(["umount", path], check=True)


SCENARIOS: list[Callable[[World], None]] = [
    folder_of_another_user,
    folder_is_a_link,
    folder_open_to_others,
    folder_is_a_file,
    no_room,
]
