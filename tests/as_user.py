"""Run something as an ordinary user made for it: with or without a range of ids, with or without cgroup folders.

As root only. The repository and the virtual environment may lie where that user can't go (a home of mode 0700): they
are then shown to it in a mount namespace of the one process, and nothing of the machine changes. Users and cgroup
folders are removed afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "freezer", "blkio")
CGROUP = Path("/sys/fs/cgroup")
_TRIES = 50  # another useradd may hold the lock of /etc/passwd


@dataclass
class User:
    """An ordinary user: its ids, its home (which is removed with it), the cgroup folders to start it in."""

    name: str
    uid: int
    gid: int
    home: Path
    cgroups: list[Path] = field(default_factory=list)

    def run(
        self, command: Sequence[str], *, timeout: float = 300, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user; its standard output and error are one text, in order."""
        from kernel_help import patient  # not for the child: it would import pytest

        return subprocess.run(
            self.argv(command, env), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=patient(timeout), check=False,
        )  # fmt: skip

    def argv(self, command: Sequence[str], env: dict[str, str] | None = None) -> list[str]:
        """What root runs to run a command as this user."""
        order = {
            "uid": self.uid, "gid": self.gid, "name": self.name, "home": str(self.home),
            "cgroups": [str(path) for path in self.cgroups], "show": needed(), "command": list(command),
            "env": env or {},
        }  # fmt: skip
        return [sys.executable, "-B", __file__, json.dumps(order)]

    def python(self, script: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a Python script as this user."""
        return self.run([sys.executable, "-B", "-c", script], timeout=timeout)

    def second_look(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run tests as this user (`second_look.py`): their report is `report` then."""
        command = [sys.executable, "-B", str(ROOT / "tests/second_look.py"), str(self.report), f"{self.home}/flaky.txt"]
        return self.run([*command, *self._options(), *words], timeout=timeout)

    def pytest_command(self, *words: str) -> list[str]:
        """What this user runs to run pytest, with its temporary folder in the user's home."""
        return [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", *self._options(), *words]

    def _options(self) -> list[str]:
        return [f"--rootdir={ROOT}", f"--basetemp={self.home}/pytest"]

    @property
    def report(self) -> Path:
        """The report of tests that ran as this user."""
        return self.home / "report.json"


def needed() -> list[str]:
    """What the user must be able to read to run our tests."""
    return list(dict.fromkeys([str(ROOT), sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)]))


def account_files(*command: str) -> None:
    """Run a command of the account files, which others may be using at the moment."""
    for _ in range(_TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if "lock" not in done.stderr and "currently used" not in done.stderr:
            break
        time.sleep(0.1)
    raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _ranges(path: str, name: str) -> list[tuple[int, int]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = [line.split(":") for line in lines if line.startswith(f"{name}:")]
    return [(int(first), int(count)) for _, first, count in found]


def _next_free(path: str) -> int:
    """The first id behind every range of a file, and behind what useradd gives to users."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    ranges = [line.split(":") for line in lines if line.count(":") == 2]
    return max([200_000, *(int(first) + int(count) for _, first, count in ranges)])


@contextlib.contextmanager
def ordinary_user(*, ids: bool, cgroups: bool) -> Iterator[User]:
    """A user with (`ids`) or without a range in /etc/subuid, with (`cgroups`) or without delegated folders."""
    if os.geteuid() != 0:
        raise PermissionError("only root can make a user")
    name = f"ctlabt{os.getpid() % 100_000}"
    home = Path(tempfile.mkdtemp(prefix="ctlab-user-"))
    none = ("-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0")
    more = () if ids else none
    account_files("useradd", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", *more, name)
    made: list[Path] = []
    try:
        for path, option in (("/etc/subuid", "subuids"), ("/etc/subgid", "subgids")):
            there = _ranges(path, name)
            if ids and not there:
                first = _next_free(path)
                account_files("usermod", f"--add-{option}", f"{first}-{first + 65535}", name)
            for first, count in [] if ids else there:
                account_files("usermod", f"--del-{option}", f"{first}-{first + count - 1}", name)
        entry = pwd.getpwnam(name)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        home.chmod(0o755)
        if cgroups:
            made = _delegate(name, entry.pw_uid, entry.pw_gid)
        yield User(name, entry.pw_uid, entry.pw_gid, home, made)
    finally:
        _end_processes(pwd.getpwnam(name).pw_uid)
        for folder in made:
            _remove_cgroup(folder)
        account_files("userdel", name)
        shutil.rmtree(home, ignore_errors=True)


def _end_processes(uid: int) -> None:
    """SIGKILL for what the user has left running, as a test does that took too long: else he couldn't be removed."""
    until = time.monotonic() + 5
    while (left := _processes(uid)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(uid: int) -> list[int]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has just ended
            if f"\nUid:\t{uid}\t" in Path(f"/proc/{entry}/status").read_text(errors="replace"):
                found.append(int(entry))
    return found


def _delegate(name: str, uid: int, gid: int) -> list[Path]:
    """A folder per version 1 controller (and in the version 2 tree beside them), made and given to the user.

    Where the machine has version 2 alone: one folder, as systemd's user@.service.
    """
    made = []
    if (CGROUP / "cgroup.controllers").exists():
        return [delegate_v2(name, uid, gid)]
    for controller in (*CONTROLLERS, "unified"):
        parent = CGROUP / controller
        if not (parent / "cgroup.procs").exists() or parent.is_symlink():
            continue
        folder = parent / f"ctlabtest-{name}"
        folder.mkdir()
        made.append(folder)
        if controller == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((parent / file).read_text())
        for file in (".", "tasks", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            if (folder / file).exists():
                os.chown(folder / file, uid, gid)
    return made


def delegate_v2(name: str, uid: int, gid: int) -> Path:
    """A folder with all controllers of the root; what runs goes into `session` below it, so that it can have children.

    A process in the folder itself would keep its controllers from its children.
    """
    folder = CGROUP / f"ctlabtest-{name}"
    (folder / "session").mkdir(parents=True)
    for below in (folder, folder / "session"):
        for file in (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(below / file, uid, gid)
    return folder


def _remove_cgroup(folder: Path) -> None:
    """Remove a folder and what a test has left below it; its processes have ended, or end in this time."""
    until = time.monotonic() + 5
    while True:
        try:
            for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                below.rmdir()
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)


# -- in the child -----------------------------------------------------------------------------------------------------
def _closed_above(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not pass."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def show(paths: list[str]) -> None:
    """Make paths reachable for everyone: a closed folder is covered by an empty one that holds them alone.

    For this process and those that it starts: it gets a mount namespace of its own.
    """
    from ctlab.kernel import syscalls

    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    hidden: dict[Path, list[tuple[Path, int]]] = {}
    for text in paths:
        path = Path(text)
        closed = _closed_above(path)
        if closed is not None:
            hidden.setdefault(closed, []).append((path, os.open(path, os.O_PATH)))
    for closed, inside in hidden.items():
        syscalls.mount("none", str(closed), "tmpfs", 0, "mode=755")
        for path, descriptor in inside:
            if os.path.exists(path):
                continue  # below another one that is shown already
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            syscalls.mount(f"/proc/self/fd/{descriptor}", str(path), None, syscalls.MS_BIND | syscalls.MS_REC)


def _become(order: dict[str, Any]) -> None:
    """In the child: enter the cgroup folders, show what is needed, become the user, run the command."""
    for folder in map(str, order["cgroups"]):
        file = "tasks" if os.path.exists(f"{folder}/tasks") else "cgroup.procs"
        session = Path(folder, "session")
        Path(session if session.is_dir() else folder, file).write_text("0")
    show(list(order["show"]))
    uid, gid, home = int(str(order["uid"])), int(str(order["gid"])), str(order["home"])
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.chdir(home)
    name = str(order["name"])
    environment = {
        "HOME": home, "USER": name, "LOGNAME": name, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT),
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    }  # fmt: skip
    command = [str(word) for word in order["command"]]
    os.execvpe(command[0], command, environment | dict(order["env"]))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    _become(json.loads(sys.argv[1]))
