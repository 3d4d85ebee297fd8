"""What the tests of control groups share: a lab's folders made on the real kernel, and the children in them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

import pytest
from kernel_help import patient, uses

from ctlab.kernel.cgroup import ContainerCgroup, LabFolders
from ctlab.kernel.cgroup_discover import Delegation
from ctlab.kernel.cgroup_outside import LabCgroup, make_lab, prune
from ctlab.plan import limits as lim

MIB = 1 << 20


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes folders in hierarchies that belong to root")


class World:
    """A lab with folders, its descriptors, and the children that a test starts; all gone afterwards."""

    def __init__(self, delegation: Delegation) -> None:
        self.delegation = delegation
        self.lab: LabCgroup = make_lab(delegation, f"test-{os.getpid()}-{time.monotonic_ns()}", 0, 0)
        self.fds = self.lab.open()
        self.folders = LabFolders(self.fds, self.lab.version)
        self.children: list[int] = []
        self.number = 0

    def container(self) -> ContainerCgroup:
        self.number += 1
        return self.folders.make(f"c{self.number}")

    def child(self, cgroup: ContainerCgroup, body: Callable[[], None]) -> int:
        """Fork; the child joins and then runs `body`. Returns once it has joined."""
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                cgroup.join()
                os.write(go, b"j")
                body()
                status = 0
            finally:
                os._exit(status)
        self.children.append(pid)
        os.close(go)
        assert os.read(ready, 1) == b"j", "the child could not join"
        os.close(ready)
        return pid

    def sleeper(self, cgroup: ContainerCgroup) -> int:
        return self.child(cgroup, lambda: time.sleep(60))

    def wait(self, pid: int, timeout: float = 5.0) -> int:
        """The child's wait status; fails if it does not end in time."""
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            assert poll.poll(patient(timeout) * 1000), f"{pid} is still alive after {patient(timeout):g} s"
        finally:
            os.close(fd)
        self.children.remove(pid)
        return os.waitpid(pid, 0)[1]

    def alive(self, pid: int, seconds: float = 0.1) -> bool:
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return not poll.poll(seconds * 1000)
        finally:
            os.close(fd)

    def close(self) -> None:
        left = prune(self.lab.paths(), 0.0)  # sends the signals; the children still have to be reaped
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        left = self.lab.remove()
        for fd in self.fds.values():
            os.close(fd)
        assert left == []
        assert not [path for path in self.lab.paths() if os.path.exists(path)]


def apply(cgroup: ContainerCgroup, writes: list[lim.WriteCgroup]) -> None:
    for write in writes:
        if os.path.exists(f"/proc/self/fd/{next(iter(cgroup.lab.v1.values()), cgroup.lab.unified)}/cgroup.procs"):
            uses(f"cgroup {cgroup.lab.version} {write.controller}")  # no plain folder that stands for one
        try:
            cgroup.write(write.controller, write.file, write.value)
        except FileNotFoundError:
            if not write.optional:
                raise


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def eat(size: int) -> None:
    """Touch `size` bytes and keep them."""
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    time.sleep(60)


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    until = time.monotonic() + patient(timeout)
    while not condition():
        assert time.monotonic() < until, f"did not come true within {patient(timeout):g} s"
        time.sleep(0.005)
