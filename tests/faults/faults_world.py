"""A private world for the fault tests: what is in it before, and what is left in it after.

The judge runs as PID 1 of its own PID, mount and network namespaces (`enter` starts it there), with empty /tmp, /run
and /dev/shm and cgroup folders of its own. Whatever is in this world besides what was there before is a left-over;
the machine outside is not touched, and other people's labs on it are not seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faults_processes import namespaces, processes, same_process

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
WATCHED = ("/tmp", "/run", "/dev/shm")
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer", "blkio", "cpuset")
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def enter(script: str, order: dict[str, Any], timeout: float) -> dict[str, Any]:
    """From outside: run one judge in a fresh world and return its report. Its standard error is shown on failure."""
    order = order | {"token": f"ctfaults-{os.getpid()}-{time.monotonic_ns()}"}
    _clear_up_after_the_killed()
    words = [
        "setpriv", "--pdeathsig", "KILL",  # it ends with us, who may be killed ourselves
        "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
        sys.executable, str(HERE / script), json.dumps(order),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    finally:
        for path in cgroup_parents(order["token"]).values():
            remove_cgroup(path)
    assert done.returncode == 0, f"the judge failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _clear_up_after_the_killed() -> None:
    """Whoever is killed while it waits for a judge (a run that took too long) removes nothing: the next one does."""
    for path in cgroup_parents("").values():
        for folder in Path(path).glob("ctfaults-*"):
            if not Path("/proc", folder.name.split("-")[1]).exists():
                remove_cgroup(str(folder))


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    if _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def cgroup_mounts() -> dict[str, tuple[str, str]]:
    """Hierarchy (controller names, or ``unified``) -> (mount point, this process's path in it)."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        kind, _, options = right.split()[:3]
        point = left.split()[4]
        if kind == "cgroup2":
            found["unified"] = (point, own.get("", "/"))
        elif kind == "cgroup":
            controllers = [name for name in options.split(",") if name in CONTROLLERS]
            if controllers:
                found[",".join(controllers)] = (point, own.get(controllers[0], "/"))
    return found


def cgroup_parents(token: str) -> dict[str, str]:
    """Hierarchy -> the folder of this world in it."""
    return {name: os.path.join(point, own.lstrip("/"), token) for name, (point, own) in cgroup_mounts().items()}


def remove_cgroup(path: str) -> None:
    """Remove a cgroup folder and all below it; what is inside is killed."""
    for root, _, _ in os.walk(path, topdown=False):
        for file, value in (("freezer.state", "THAWED"), ("cgroup.kill", "1")):
            with contextlib.suppress(OSError):
                Path(root, file).write_text(value)
        for _ in range(50):
            with contextlib.suppress(OSError):
                for pid in Path(root, "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            try:
                os.rmdir(root)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)


class World:
    """What the judge sees. `who`: root, user (v1 and v2 folders delegated), user-v1 (no v2 folder), user-none."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.who: str = order["who"]
        self.uid = 0 if self.who == "root" else int(order["uid"])
        self.gid = self.uid and int(order["gid"])
        self.home = "/tmp/home"
        self._set_up_files()
        self.parents = cgroup_parents(order["token"])
        self._set_up_cgroups()
        self._set_up_foreign()
        self._witnesses = 0
        self.mine: set[int] = set()  # children that a Popen will wait for

    # -- set-up ---------------------------------------------------------------------------------
    def _set_up_files(self) -> None:
        self.shown = {str(ROOT), sys.prefix, str(Path(sys.executable).resolve().parent)}
        needed = {str(ROOT): os.open(ROOT, os.O_PATH)}
        for path in (sys.prefix, str(Path(sys.executable).resolve().parent)):
            needed[path] = os.open(path, os.O_PATH)
        for path in WATCHED:
            mount("tmpfs", path, "tmpfs", 0, "mode=755" if path == "/run" else "mode=1777")
        for path, descriptor in needed.items():  # a checkout that lies below /tmp
            if path.startswith(tuple(f"{watched}/" for watched in WATCHED)) and not os.path.exists(path):
                os.makedirs(path)
                mount(f"/proc/self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
            os.close(descriptor)
        for path in (self.home, f"{self.home}/out"):  # in the latter lies what the victims asked to be copied out
            os.mkdir(path)
            os.chown(path, self.uid, self.gid)

    def _set_up_cgroups(self) -> None:
        for name, path in self.parents.items():
            if self.who == "user-none" or (self.who == "user-v1" and name == "unified"):
                continue
            os.mkdir(path)
            if "cpuset" in name.split(","):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    Path(path, file).write_text(Path(os.path.dirname(path), file).read_text())
            for file in ("", "tasks", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(os.path.join(path, file), self.uid, self.gid)
        self.joined = {name: path for name, path in self.parents.items() if os.path.isdir(path)}
        for path in self.joined.values():  # looks like a lab's, but no runtime folder knows of it
            os.makedirs(os.path.join(path, "ctlab-foreign", "c1"))

    def _set_up_foreign(self) -> None:
        for words in (
            "link add br-foreign type bridge",
            "link add foreign0 type veth peer name foreign1",
            "link set foreign0 master br-foreign up",
            "netns add foreign",
        ):
            subprocess.run(["ip", *words.split()], check=True)

    # -- starting what is judged --------------------------------------------------------------------
    def environment(self) -> dict[str, str]:
        """What the victims have in their environment."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": self.home,
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
        }

    def _become(self) -> None:
        for name, path in self.joined.items():
            Path(path, "cgroup.procs" if name == "unified" else "tasks").write_text("0")
        if self.uid:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a Python script of this folder as the user in question, in the world's cgroup folders."""
        given: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": "/"} | options
        environment = self.environment() | given.pop("env", {})
        command = [sys.executable, *words]
        made: subprocess.Popen[str] = subprocess.Popen(
            command, env=environment, preexec_fn=self._become, text=True, **given
        )
        return made

    def prune(self) -> str:
        """``python -m ctlab prune`` as that user; what it printed."""
        done = self.spawn("-m", "ctlab", "prune", stderr=subprocess.STDOUT)
        text, _ = done.communicate(timeout=30)
        assert done.returncode == 0, text
        return text

    # -- looking -----------------------------------------------------------------------------------
    def snapshot(self) -> dict[str, set[str]]:
        """Everything there is, by kind."""
        pids = processes()
        seen: dict[str, set[str]] = {
            "process": {f"{pid} {state} {command}" if pid != 1 else "1" for pid, (_, state, command) in pids.items()},
            "namespace": namespaces(pids),
            "interface": {name for _, name in socket.if_nameindex()},
            "cgroup": {root for path in self.parents.values() for root, _, _ in os.walk(path)},
            "file": self._files(),
            "half-written": {str(path) for path in (ROOT / "ctlab").rglob("*.pyc.*")},
            "mount": set(),
        }
        known = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace not in known:
                    known.add(namespace)
                    # The line without its mount and parent numbers.
                    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                        seen["mount"].add(f"{namespace} {line.split(' ', 2)[2]}")
        return seen

    def _files(self) -> set[str]:
        """All files of the watched folders, without a checkout that lies there (none is a lab's)."""
        found = set()
        for path in (*WATCHED, self.home):
            for root, folders, files in os.walk(path):
                folders[:] = [name for name in folders if os.path.join(root, name) not in self.shown]
                if root != f"{self.home}/out":
                    found |= {os.path.join(root, name) for name in (*folders, *files)}
        return found

    def reap(self) -> None:
        """Collect what has no other parent than us."""
        for pid, (parent, state, _) in processes().items():
            if parent == os.getpid() and state == "Z" and pid not in self.mine:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def left_over(
        self, before: dict[str, set[str]], allow: Iterable[int] = (), seconds: float = 8.0, ignore: Iterable[str] = ()
    ) -> list[str]:
        """What is there and was not, or was there and is gone, once it stays the same or `seconds` are over.

        `allow`: pids that may live (and what they hold). `ignore`: kinds that are not looked at now.
        """
        until = time.monotonic() + seconds
        pause = 0.005
        while True:
            self.reap()
            difference = self._compare(before, set(allow), set(ignore))
            if not difference or time.monotonic() >= until:
                return difference
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def _compare(self, before: dict[str, set[str]], allow: set[int], ignore: set[str]) -> list[str]:
        now = self.snapshot()
        allowed = namespaces(allow)
        found = []
        for kind, things in now.items():
            if kind in ignore:
                continue
            for thing in sorted(things - before[kind]):
                if kind == "process" and (int(thing.split()[0]) in allow or same_process(thing, before[kind])):
                    continue
                if thing not in allowed and not (kind == "mount" and thing.split()[0] in allowed):
                    found.append(f"left: {kind} {thing}")
            for thing in sorted(before[kind] - things):
                if kind == "process" and same_process(thing, things):
                    continue
                found.append(f"lost: {kind} {thing}")
        return found

    def frozen(self) -> bool:
        """Whether something is in a frozen folder of version 1."""
        for root, _, files in os.walk(self.parents.get("freezer", "")):
            with contextlib.suppress(OSError):
                if "freezer.state" in files and Path(root, "freezer.state").read_text().strip() != "THAWED":
                    return True
        return False

    def witness(self, pid: int) -> None:
        """Put one end of a veth pair into a process's network namespace: ours vanishes when that namespace is gone.

        No descriptor and no process shows a network namespace that something still pins; this does.
        """
        self._witnesses += 1
        name = f"wit{self._witnesses}"
        with contextlib.suppress(subprocess.CalledProcessError):  # the process may end at any moment
            subprocess.run(
                ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p", "netns", str(pid)],
                check=True, capture_output=True,
            )  # fmt: skip

    @property
    def witnesses(self) -> int:
        """How many there have been."""
        return self._witnesses
