"""What the tests of the sampler and its readers share: processes to be counted, in namespaces and cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_help import patient, uses

CGROUP = Path("/sys/fs/cgroup")
V1 = ("cpu", "cpuacct", "memory", "pids", "blkio")


def python(code: str, *arguments: str, fds: tuple[int, ...] = ()) -> str:
    """Run a script in a process of its own (which may change its namespaces); its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=patient(60),
        pass_fds=fds,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


NEW_NETWORK = """
import errno, json, os, socket, sys
from ctlab.kernel import link_stats, syscalls
try:
    if os.getuid():
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    syscalls.unshare(syscalls.CLONE_NEWNET)
except OSError as error:
    if error.errno not in (errno.EPERM, errno.ENOSPC):  # forbidden, or a quota
        raise
    print("no network namespace:", error)
    sys.exit(77)
from pyroute2 import IPRoute
ip = IPRoute()
"""


def folders(group: dict[str, Path], *names: str) -> dict[str, int]:
    return {name: os.open(group[name], os.O_RDONLY | os.O_DIRECTORY) for name in names if name in group}


def given(group: dict[str, Path], *names: str) -> tuple[str, dict[str, int]]:
    """(the sampler's name for such a group, fresh descriptors); `names` choose among version 1's controllers."""
    if set(group) == {"unified"}:
        return "cgroup-v2", folders(group, "unified")
    return "cgroup-v1", folders(group, *names)


def need_v1(group: dict[str, Path]) -> None:
    if "memory" not in group:
        pytest.skip("no cgroup v1 on this machine")
    uses("cgroup v1", *(f"cgroup v1 {name}" for name in group if name != "unified"))


def need_v2(group: dict[str, Path]) -> None:
    if "memory" in group:
        pytest.skip("no cgroup v2 controllers on this machine")
    uses("cgroup v2", *(f"cgroup v2 {name}" for name in ("cpu", "memory", "pids", "io")))


BUSY = """
import os, sys, time
for path in sys.argv[1:]:
    with open(path + ("/tasks" if os.path.exists(path + "/tasks") else "/cgroup.procs"), "w") as file:
        file.write("0")
ballast = bytearray(24 << 20)
for n in range(0, len(ballast), 4096):
    ballast[n] = 1
end = time.process_time() + 0.4
while time.process_time() < end:
    pass
print("done", flush=True)
sys.stdin.read()
"""


def start_busy(group: dict[str, Path]) -> subprocess.Popen[str]:
    """A process of the group that has used 0.4 s of CPU and 24 MiB, and now waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, *map(str, group.values())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "done\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=patient(10))
    assert process.returncode == 0


# A first process in a PID namespace of its own: it starts two children that work and end or work and stay, and says
# when they have. `quit` on its input ends it.
CONTAINER = """
import errno, os, subprocess, sys
from ctlab.kernel import syscalls
try:
    syscalls.unshare((syscalls.CLONE_NEWUSER if os.getuid() else 0) | syscalls.CLONE_NEWPID)
except OSError as error:
    if error.errno not in (errno.EPERM, errno.ENOSPC):  # forbidden, or a quota
        raise
    print("no PID namespace:", error)
    sys.exit(77)
work = "import time\\nwhile time.process_time() < 0.3: pass\\n"
pid = os.fork()
if pid == 0:
    subprocess.run([sys.executable, "-c", work])
    stays = subprocess.Popen([sys.executable, "-c", work + "print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stays.stdout.readline()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "child\\n":
            stays.communicate(b"\\n")
            print("ended", flush=True)
        if line == "quit\\n":
            break
    os._exit(0)
print(pid, flush=True)
os.waitpid(pid, 0)
"""
