"""Probing steps outside any namespace: process calls, privileges, and cgroup v2's freeze and kill."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time

from . import seccomp, syscalls
from .probe_journal import Failed, Journal, Untried


def steps(journal: Journal) -> bool:
    """pidfd, clone3, openat2, no-new-privs, seccomp; the last two change this process, so it ends after them."""
    journal.step("pidfd", _pidfd)
    journal.step("clone3", _clone3)
    journal.step("openat2", _openat2)
    journal.step("no-new-privs", _no_new_privs)
    journal.step("seccomp", _seccomp)
    return True


def _pidfd() -> None:
    descriptor = os.pidfd_open(os.getpid())
    try:
        if select.select([descriptor], [], [], 0)[0]:
            raise Failed("the pidfd of a living process is readable")
    finally:
        os.close(descriptor)


def _clone3() -> None:
    pid, descriptor = syscalls.clone3(0)
    if pid == 0:
        os._exit(0)
    os.close(descriptor)
    os.waitpid(pid, 0)


def _openat2() -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(syscalls.openat2(root, "proc", os.O_PATH, syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS))
    finally:
        os.close(root)


def _no_new_privs() -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _seccomp() -> None:
    """A filter like those that containers have, on this process, and whether it answers."""
    machine = os.uname().machine
    if machine not in seccomp.NUMBERS:
        raise Failed(f"there is no table of system calls for {machine}")
    seccomp.probe()


def cgroup_steps(journal: Journal, parent: str, problem: str) -> bool:
    """Start a process inside a v2 folder of its own below `parent`, freeze it, kill it, remove the folder.

    `problem`: why there is no parent (then it is empty, and nothing is tried).
    """
    if not parent:
        for name in ("clone-into-cgroup", "cgroup-freeze", "cgroup-kill"):
            journal.outcome(name, None, 0, problem)
        return False
    folder = os.path.join(parent, f"ctlab-probe-{os.getpid()}")
    child = _Child(folder)
    try:
        if journal.step("clone-into-cgroup", child.start):
            journal.step("cgroup-freeze", child.freeze)
            journal.step("cgroup-kill", child.kill)
    finally:
        child.remove()
    return True


class _Child:
    """A process that only waits, in a cgroup folder of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._pid = 0

    def _put(self, name: str, value: str) -> None:
        path = os.path.join(self._folder, name)
        try:
            descriptor = os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            raise Untried(f"this kernel has no {name}") from None
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def start(self) -> None:
        os.mkdir(self._folder)
        directory = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        owner = os.getpid()
        try:
            pid, descriptor = syscalls.clone3(0, directory)
            if pid == 0:
                # It must end with its parent, however that ends.
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == owner:
                    signal.pause()
                os._exit(0)
        finally:
            os.close(directory)
        os.close(descriptor)
        self._pid = pid
        with open(os.path.join(self._folder, "cgroup.procs"), encoding="ascii") as file:
            if str(pid) not in file.read().split():
                raise Failed("the process was started outside its folder")

    def freeze(self) -> None:
        self._put("cgroup.freeze", "1")
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            with open(os.path.join(self._folder, "cgroup.events"), encoding="ascii") as file:
                if "frozen 1" in file.read():
                    return
            time.sleep(0.001)
        raise Failed("not frozen after 1 s", errno.ETIMEDOUT)

    def kill(self) -> None:
        self._put("cgroup.kill", "1")
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if not os.WIFSIGNALED(status):
            raise Failed(f"the process ended with status {status}, not by a signal")

    def remove(self) -> None:
        """End the process if it is still there, and remove the folder as soon as the kernel lets it go."""
        if self._pid:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        for _ in range(200):
            try:
                os.rmdir(self._folder)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    time.sleep(0.005)
                    continue
            return
