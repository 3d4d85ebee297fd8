"""Control groups on the real kernel as an ordinary user: with delegated folders, without."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import as_user
import pytest
from cgroup_world import need_root

from ctlab.kernel.cgroup_discover import Delegation
from ctlab.kernel.cgroup_outside import prune

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def user() -> Iterator[tuple[int, int]]:
    """(uid, gid) of an account made for the test."""
    need_root()
    name = f"ctlabcg{os.getpid()}"
    as_user.account_files("useradd", "--no-create-home", "--shell", "/bin/sh", name)
    try:
        entry = pwd.getpwnam(name)
        yield entry.pw_uid, entry.pw_gid
    finally:
        as_user.account_files("userdel", name)


USER_SCRIPT = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from ctlab.kernel.cgroup_discover import discover
from ctlab.kernel import cgroup_v2
from ctlab.kernel.cgroup import LabFolders
from ctlab.kernel.cgroup_outside import make_lab
from ctlab.plan import limits as lim
found = discover()
said = {"delegation": found._asdict()}
if found.version != "none":
    lab = make_lab(found, f"test-user-{os.getpid()}", os.getuid(), os.getgid())
    folders = LabFolders(lab.open(), lab.version)
    leaf = lab.open_leaf()
    if leaf is not None:
        cgroup_v2.write_at(leaf, "cgroup.procs", "0")
    cgroup = folders.make("mine")
    for write in lim.plan(lim.Limits(cpus=0.5, memory_bytes=24 << 20, pids_limit=20), lab.version):
        try:
            cgroup.write(write.controller, write.file, write.value)
        except FileNotFoundError:
            if not write.optional: raise
    def run(body):
        pid = os.fork()
        if pid == 0:
            try:
                cgroup.join(); body()
            finally:
                os._exit(3)
        return pid
    eater = run(lambda: [bytearray(b"x" * (64 << 20)), time.sleep(60)])
    said["eater"] = os.waitstatus_to_exitcode(os.waitpid(eater, 0)[1])
    said["oom"] = bool(cgroup.oom_kills())
    sleeper = run(lambda: time.sleep(60))
    while sleeper not in cgroup.pids(): time.sleep(0.005)
    cgroup.freeze(); said["frozen"] = cgroup.frozen()
    cgroup.kill()
    said["sleeper"] = os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1])
    said["removed"] = cgroup.remove()
    if leaf is not None:
        with open(os.path.join(found.leaf or sys.argv[2], "cgroup.procs"), "w") as procs: procs.write("0")
    said["left"] = lab.remove()
    said["there"] = [path for path in lab.paths() if os.path.exists(path)]
print(json.dumps(said))
"""


def run_as(user: tuple[int, int], joins: list[str]) -> dict[str, object]:
    """Run USER_SCRIPT as the user, in the given cgroup folders."""

    needed = as_user.needed()

    def become() -> None:
        for folder in joins:
            file = os.path.join(folder, "tasks")
            with open(file if os.path.exists(file) else os.path.join(folder, "cgroup.procs"), "w") as out:
                out.write("0")
        as_user.show(needed)
        os.setgroups([])
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])

    done = subprocess.run(
        [sys.executable, "-I", "-c", USER_SCRIPT, str(ROOT), joins[-1] if joins else ""],
        preexec_fn=become, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.user
@pytest.mark.parametrize("inside", ["the given folder", "a folder below"])
def test_a_user_with_delegated_folders_has_limits(delegation: Delegation, user: tuple[int, int], inside: str) -> None:
    given: list[str] = []
    joins: list[str] = []
    parents = {name: path for name, path in delegation.parents.items() if name != "cpuset"}
    if delegation.unified is not None:
        parents["unified"] = delegation.unified
    try:
        for parent in dict.fromkeys(parents.values()):
            folder = os.path.join(parent, f"ctlab-test-given-{os.getpid()}")
            os.mkdir(folder)
            given.append(folder)
            for file in ("", "tasks", "cgroup.procs", "cgroup.subtree_control"):
                if os.path.exists(os.path.join(folder, file)):
                    os.chown(os.path.join(folder, file), *user)
            joins.append(folder if inside == "the given folder" else os.path.join(folder, "inner"))
            os.makedirs(joins[-1], exist_ok=True)
            os.chown(os.path.join(joins[-1], "cgroup.procs"), *user)
        joins.sort(key=lambda folder: folder.startswith(parents.get("unified", "-")))
        said = run_as(user, joins)
        found = said.pop("delegation")
        assert isinstance(found, dict)
        assert found["version"] == delegation.version
        assert set(found["parents"].values()) <= set(given)
        assert said == {
            "eater": -signal.SIGKILL, "oom": True, "frozen": True, "sleeper": -signal.SIGKILL, "removed": True,
            "left": [], "there": [],
        }  # fmt: skip
        if delegation.version == "v1":
            assert set(found["controllers"]) == set(delegation.controllers) - {"cpuset"}
            assert found["reason"].startswith("cgroup v1: no folder can be made for cpuset: ")
            assert "EACCES (Permission denied)" in found["reason"]
        else:
            assert found["how"] == ("own" if inside == "the given folder" else "above")
        for folder in {*given, *joins}:
            assert [name for name in os.listdir(folder) if name.startswith("ctlab")] == []
    finally:
        assert prune(given) == []


@pytest.mark.user
def test_a_user_without_is_told_why_and_what_to_do(delegation: Delegation, user: tuple[int, int]) -> None:
    said = run_as(user, [])
    found = said["delegation"]
    assert isinstance(found, dict)
    assert (found["version"], found["parents"], found["controllers"]) == ("none", {}, [])
    assert "EACCES (Permission denied)" in found["reason"]
    if delegation.version == "v1":
        assert found["remedy"].startswith("cgroup v1 gives an ordinary user nothing; ask root to make and chown")
    else:
        assert "session" in found["remedy"]
