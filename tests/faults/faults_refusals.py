"""Runtime folders that must be refused, and those that are full: one clear line each, and nothing left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from faults_script import Script
from faults_world import World, mount

_START = "import ctlab, ctlab.errors\ntry: ctlab.Lab('x').stop(); print('started', flush=True)\n"
_START += "except ctlab.errors.CtlabError as error: print('refused', error, flush=True)\n"


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
        line = _start(world)
        assert line.startswith("refused") and f"{path} belongs to user 12345, not to you ({world.uid})" in line, line
        assert "set XDG_RUNTIME_DIR to a private folder" in line, line
        assert f"not looked into: {path} belongs to user 12345" in world.prune()
    finally:
        os.rmdir(path)


def folder_is_a_link(world: World) -> None:
    """A symbolic link, even to a folder of the same user."""
    path = _base(world)
    os.symlink(world.home, path)
    try:
        line = _start(world)
        assert line.startswith("refused") and f"{path} is a symbolic link" in line, line
        assert "is a symbolic link" in world.prune()
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
        line = _start(world)
        assert line.startswith("refused") and f"{path} can be written to by others" in line, line
    finally:
        os.rmdir(path)


def folder_is_a_file(world: World) -> None:
    """Something else is in its place."""
    path = _base(world)
    Path(path).touch()
    try:
        line = _start(world)
        assert line.startswith("refused") and f"{path} isn't a folder" in line, line
    finally:
        os.unlink(path)


def no_room(world: World) -> None:
    """A full file system, by blocks and by inodes: at every point at which the room ends."""
    small = "/tmp/small"
    os.mkdir(small)
    started = 0
    try:
        for inodes in range(2, 8):
            started += _with_little_room(world, small, f"size=64k,nr_inodes={inodes}", fill=0)
        assert 0 < started < 6, started
        for blocks in range(3):
            _with_little_room(world, small, "size=16k", fill=4 - blocks)
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
