"""All sides of the comparison on all legs, once a session: what each report says of what a container reaches.

A leg is who starts the container: `root`, an ordinary user with a range of ids (`ids`) or with one id alone (`one-id`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import wall_root
from as_user import User, ordinary_user
from kernel_help import patient
from wall_legs import HERE, PODMAN_PRIVATE, SECONDS, SECRET, Order

from benchmarks.peers import private, worker
from ctlab.seccomp import numbers

LEGS = {"root": None, "ids": True, "one-id": False}
LAST_CALL = 470
# Calls that end, double or suspend who makes them, or make the whole machine write its disks: no filter denies them.
_SKIPPED = ("exit", "exit_group", "fork", "vfork", "clone", "rt_sigreturn", "pause", "sync", "restart_syscall")
Reports = dict[str, dict[str, dict[str, Any]]]  # leg -> side -> way ("run", "exec", "bridge", "system") -> report


def call_names() -> dict[int, str]:
    """Number -> name of this machine's calls."""
    return {number: name for name, number in numbers.numbers(os.uname().machine).items()}


class Outside:
    """What lies outside of every container, for the probe to find: files, sockets, namespaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        wall_root.build(_made(folder / "root"))
        (folder / "mark").write_text("of the machine\n")
        (folder / "mark").chmod(0o644)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        name = f"ctlab-wall-{os.getpid()}"
        self._sockets = []
        for address in (f"\0{name}", f"{folder}/socket"):
            one = socket.socket(socket.AF_UNIX)
            one.bind(address)
            one.listen()
            self._sockets.append(one)
        (folder / "socket").chmod(0o777)
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
        by_name = {text: number for number, text in call_names().items()}
        self.probe: dict[str, Any] = {
            "namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds},
            "files": {"a file in /tmp": f"{folder}/mark", "the journal of the kernel": "/dev/kmsg"},
            "loopback_port": self._tcp.getsockname()[1], "abstract": name, "socket_path": f"{folder}/socket",
            "secret": SECRET, "last_call": LAST_CALL,
            "skip": sorted(by_name[text] for text in _SKIPPED if text in by_name),
        }  # fmt: skip

    def close(self) -> None:
        for one in (self._tcp, *self._sockets):
            one.close()


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o755)
    return folder


@contextlib.contextmanager
def outside() -> Iterator[Outside]:
    folder = Path(tempfile.mkdtemp(prefix="ctlab-wall-"))
    folder.chmod(0o755)
    try:
        made = Outside(folder)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder)


def root_of(world: Outside, leg: str, user: User | None) -> Path:
    """The root folder, owned by who uses it: an image of somebody else's files can't be changed by its container."""
    if user is None:
        return world.folder / "root"
    own = world.folder / f"root-{leg}"
    shutil.copytree(world.folder / "root", own, symlinks=True)
    for folder, names, files in os.walk(own):
        for path in (folder, *(f"{folder}/{each}" for each in (*names, *files))):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    return own


def side(name: str, world: Outside, root: Path, user: User | None) -> dict[str, Any]:
    """The reports of one side on one leg. Raises RuntimeError with what it said."""
    who = (user.uid, user.name, str(user.home)) if user else None
    cgroup = f"ctlab-wall-{os.getpid()}"
    order = Order(name, str(root), who, world.probe, cgroup, user is None and name != "vm")
    command = [sys.executable, "-B", str(HERE / "wall_legs.py"), json.dumps(order)]
    environment = dict(os.environ)
    if name == "podman":
        command = [*PODMAN_PRIVATE, *command]
        environment |= {worker.OUTSIDE: os.readlink("/proc/self/ns/mnt"), "LC_ALL": "C.UTF-8"}
    elif user is not None:
        command = user.argv(command)
    try:
        done = subprocess.run(
            command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=patient(2 * SECONDS), check=False,
        )  # fmt: skip
    finally:
        if name == "podman":
            private.remove_cgroup(cgroup)
    if done.returncode:
        raise RuntimeError(f"{name} as {user.name if user else 'root'}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def collect(legs: tuple[str, ...] = tuple(LEGS), sides: tuple[str, ...] = ("ctlab", "podman", "bubblewrap")) -> Reports:
    """Run everything; two sides at a time, since a test machine has two processors."""
    found: Reports = {}
    with outside() as world, ThreadPoolExecutor(2) as pool:
        for leg in legs:
            ids = LEGS[leg]
            user = contextlib.nullcontext() if ids is None else ordinary_user(ids=ids, cgroups=ids)
            with user as who:
                root = root_of(world, leg, who)
                waiting = {name: pool.submit(side, name, world, root, who) for name in sides}
                found[leg] = {name: future.result() for name, future in waiting.items()}
    return found


def in_a_vm() -> dict[str, Any]:
    """The report of a container in a VM, which root starts: whoever starts one, an ordinary user reads for it."""
    with outside() as world:
        found: dict[str, Any] = side("vm", world, world.folder / "root", None)["run"]
        return found


if __name__ == "__main__":  # for looking at what they say: python tests/wall/wall_reports.py FILE [LEG ...]
    Path(sys.argv[1]).write_text(json.dumps(collect(*([tuple(sys.argv[2:])] if sys.argv[2:] else []))))
