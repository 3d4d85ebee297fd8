"""What the servers of a VM's shares see of this machine, without a VM: a process in their place looks around."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from as_user import ordinary_user
from kernel_help import ROOT, need_root, patient

from ctlab.vm import shares

pytestmark = pytest.mark.kernel

# In a home are a folder that is named, one that is needed, and what is neither; a child looks around in the shares.
LOOK = r"""
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
from ctlab.vm import shares
home = sys.argv[2]
os.environ["HOME"] = home
for path in ("named/deep", "needed", "secret"):
    os.makedirs(f"{home}/{path}")
    with open(f"{home}/{path}/file", "w") as file: file.write(path)
began = time.monotonic()
view = shares.make([f"{home}/needed"])
seconds = time.monotonic() - began
said = {"facts": view.facts(), "seconds": seconds, "own_ids": view.own_ids}

def look(*paths):
    "What a server sees at these places: names of a folder, text of a file, None."
    def see(path):
        try:
            return sorted(os.listdir(path)) if os.path.isdir(path) else open(path).read()
        except OSError:
            return None
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            view.enter()
            os.write(writing, json.dumps([see(path) for path in paths]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file: answer = json.loads(file.read())
    os.waitpid(pid, 0)
    return answer

if view.covered:
    said["needs_proc"] = bool(look("/proc/self/fd")[0])
    view.cover_proc()
    said["covered"] = dict(zip(view.covered, look(*view.covered)))
    said["above"] = look("/../..", "/etc")  # what is below the root can't be reached from it
    said["mounts"] = look("/proc/self/mountinfo")
    place, deeper = shares.guest_place(f"{home}/named/deep"), shares.guest_place(f"{home}/named")
    said["before"] = look(f"{place}/file")
    view.show(place); view.show(place)
    said["named"] = look(f"{place}/file", f"{home}/named/deep/file")
    view.show(deeper)  # what is above another
    said["deeper"] = look(deeper, f"{deeper}/deep/file", f"{place}/file")
    os.rename(f"{home}/named", f"{home}/old")
    os.makedirs(f"{home}/named")
    with open(f"{home}/named/file", "w") as file: file.write("new")
    replaced = shares.guest_place(f"{home}/named")
    view.show(replaced)
    said["replaced"] = replaced != deeper, look(f"{replaced}/file")
    one = shares.guest_place(f"{home}/secret/file")
    view.show(one)
    said["file"] = look(one, os.path.dirname(one))
    said["kept"] = look(f"{home}/needed/file", home)
    os.symlink("/etc", f"{home}/link")
    said["refused"] = []
    for wrong in (f"{shares.SHOWN}/0/{home}/nowhere", "/etc/passwd", f"{shares.SHOWN}/0{home}/link", f"{home}/named"):
        try:
            view.show(wrong); said["refused"].append("shown")
        except OSError as error:
            said["refused"].append(error.errno)
    with open(f"{home}/named/file", "w") as file: file.write("newer")
    said["follows"] = look(f"{replaced}/file")
said["descriptors"] = len(os.listdir("/proc/self/fd"))
view.close()
said["left"] = said["descriptors"] - len(os.listdir("/proc/self/fd"))
print(json.dumps(said))
"""
# Before LOOK: no namespace can be made here any more.
FORBID = """
import os, sys
sys.path.insert(0, sys.argv[1])
from ctlab.kernel import syscalls
user, group = os.getuid(), os.getgid()
syscalls.unshare(syscalls.CLONE_NEWUSER)
for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
    with open(f"/proc/self/{name}", "w") as file: file.write(text)
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
os.execv(sys.executable, [sys.executable, "-B", "-c", sys.argv[3], *sys.argv[1:3]])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ctlab-home-") as folder:
        yield Path(folder)


def check(said: dict[str, Any], home: Path) -> None:
    """What was seen."""
    assert said["facts"] == {"covered": said["facts"]["covered"], "why_not": ""}
    assert {"/proc", "/sys", "/run", "/home", "/root"} <= set(said["facts"]["covered"])
    assert said["needs_proc"] and said["mounts"] == [None]
    shown = next(path for path in said["covered"] if str(home).startswith(f"{path}/"))
    assert all(names == [] for path, names in said["covered"].items() if path != shown), said["covered"]
    assert "etc" in said["above"][0] and said["above"][0] == sorted(os.listdir("/")) and "passwd" in said["above"][1]
    assert said["before"] == [None] and said["named"] == ["named/deep", None]
    assert said["deeper"] == [["deep"], "named/deep", "named/deep"]
    assert said["replaced"] == [True, ["new"]] and said["follows"] == ["newer"]
    assert said["file"] == ["secret", ["file"]]
    assert said["kept"] == ["needed", ["needed"]]
    assert said["refused"] == [22, 22, 22, 22]
    assert said["left"] == 2 + said["own_ids"]


def test_root_covers_what_is_nobodys_business(home: Path) -> None:
    need_root("to make a mount namespace without a user namespace")
    done = subprocess.run(
        [sys.executable, "-B", "-c", LOOK, str(ROOT), str(home)],
        capture_output=True, text=True, timeout=patient(30), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    check(said, home)
    assert not said["own_ids"]


def test_an_ordinary_user_covers_it_in_a_user_namespace() -> None:
    need_root("to make an ordinary user")
    with ordinary_user(ids=False, cgroups=False) as user:
        done = user.run([sys.executable, "-B", "-c", LOOK, str(ROOT), str(user.home)], timeout=30)
        assert done.returncode == 0, done.stdout
        said = json.loads(done.stdout)
        check(said, user.home)
        assert said["own_ids"]


def test_where_no_namespace_can_be_had_it_is_said_why() -> None:
    need_root("to make an ordinary user")
    with ordinary_user(ids=False, cgroups=False) as user:
        done = user.run([sys.executable, "-B", "-c", FORBID, str(ROOT), str(user.home), LOOK], timeout=30)
        assert done.returncode == 0, done.stdout
        said = json.loads(done.stdout)
        assert said["facts"]["covered"] == [] and "ENOSPC" in said["facts"]["why_not"], said


def test_what_is_covered_is_no_part_of_a_system(tmp_path: Path) -> None:
    assert "/usr" not in shares.covers(["/usr", "/", "/etc", "relative", "", "/nowhere/at/all"])
    found = shares.covers([str(tmp_path), "/opt"])
    assert any(str(tmp_path) == one or str(tmp_path).startswith(f"{one}/") for one in found)
    assert not any(a != b and a.startswith(f"{b}/") for a in found for b in found)
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    assert shares.covers([str(tmp_path / "link")]) == shares.covers([str(tmp_path / "home")])
