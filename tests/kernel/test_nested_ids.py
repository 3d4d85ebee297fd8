"""A lab inside a user namespace of somebody else, as in rootless podman: it has the ids that are mapped there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from as_user import ROOT, User, ordinary_user

from ctlab.kernel import idmap, syscalls

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.user,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an ordinary user"),
]

UNUSED = 3_900_000_000  # ids that no account has

SCRIPT = """
import json, os, sys, ctlab
report = ctlab.doctor()
said = {"ids": report.ids, "why_not": report.why_not, "id-range": report["id-range"].detail,
        "summary": report.summary.splitlines()[-1]}
os.makedirs("shared", exist_ok=True)
with ctlab.Lab("nested") as lab:
    facts = lab._client.facts
    said |= {"mapping": facts["mapping"], "single": facts["single_id"]}
    lab.network("blue", subnet="10.10.0.0/24")
    first = lab.run(name="first", networks=["blue"], mounts=[os.path.abspath("shared") + ":/shared"])
    second = lab.run(name="second", networks=["blue"])
    run = lambda command, **more: first.exec(["sh", "-c", command], **more)
    said["map"] = run("cat /proc/self/uid_map").stdout.split()
    said["owner"] = run("touch /shared/file; stat -c %u /shared /shared/file /").stdout.split()
    said["reached"] = second.exec(["ping", "-c", "1", "-W", "2", "first"]).returncode == 0
    said["daemon"] = said["nobody"] = said["chown"] = ""
    if not facts["single_id"]:
        said["daemon"] = run("id -u; touch /tmp/x; stat -c %u:%g /tmp/x", user="daemon").stdout.split()
        said["nobody"] = run("id -u", user="65534").stdout.strip()
        said["chown"] = run("touch /tmp/y; chown 33:33 /tmp/y; stat -c %u:%g /tmp/y").stdout.strip()
    said["machine"] = run("echo x > /proc/sys/kernel/domainname").returncode
said["shared"] = os.stat("shared/file").st_uid
print(json.dumps(said))
"""


@pytest.fixture
def user() -> Iterator[User]:
    with ordinary_user(ids=True, cgroups=False) as made:
        yield made


@pytest.fixture
def user_without_ids() -> Iterator[User]:
    with ordinary_user(ids=False, cgroups=False) as made:
        yield made


def inside(user: User, *options: str) -> dict[str, Any]:
    """What the script says in a user namespace that the user has made with these options of unshare."""
    # Its /tmp is the machine's, where /tmp/ctlab-0 may be the real root's: so a folder of its own, as after a login.
    command = ["unshare", "--user", *options, sys.executable, "-B", "-c", SCRIPT]
    done = user.run(command, timeout=50, env={"XDG_RUNTIME_DIR": str(user.home)})
    assert done.returncode == 0, done.stdout
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["why_not"] == "" and said["reached"]
    return said


@pytest.mark.parametrize("options", [["--map-root-user", "--mount"], ["--map-root-user"]], ids=["mount", "no mount"])
def test_root_of_a_namespace_with_one_id(user_without_ids: User, options: list[str]) -> None:
    said = inside(user_without_ids, *options)
    assert (said["ids"], said["single"], said["map"]) == ("single", True, ["0", "0", "1"])
    assert said["mapping"] == "only your own id is mapped (the user namespace around it has only one)"
    assert said["id-range"] == "the user namespace around it has only one"
    assert said["owner"] == ["0", "0", "0"] and said["shared"] == 0
    assert said["machine"] != 0


@pytest.mark.parametrize("mount", [["--mount"], []], ids=["mount", "no mount"])
def test_root_of_a_namespace_with_a_range(user: User, mount: list[str]) -> None:
    """The ids are those of rootless podman: the user's own as 0, the subordinate range behind it."""
    said = inside(user, "--map-root-user", "--map-auto", *mount)
    assert (said["ids"], said["single"]) == ("nested", False)
    assert said["map"] == ["0", "0", "1", "1", "1", "65535"], "no line spans two extents of the map around it"
    assert said["mapping"] == "started by root of a user namespace: its ids, up to 65535, are the lab's"
    assert said["id-range"] == "65536 ids"
    assert "started by root of a user namespace, with its ids" in said["summary"]
    assert said["daemon"] == ["1", "1:1"] and said["nobody"] == "65534" and said["chown"] == "33:33"
    assert said["owner"] == ["0", "0", "0"] and said["shared"] == 0
    assert said["machine"] != 0


def test_setgroups_denied_leaves_one_id() -> None:
    """Many ids, but no right to change the groups: made by hand, since unshare(1) can't deny it before the maps."""
    unshared, mapped, answer = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            os.write(unshared[1], b"u")
            os.read(mapped[0], 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.write(answer[1], json.dumps(idmap.choose()).encode())
        finally:
            os._exit(0)
    assert os.read(unshared[0], 1) == b"u"
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {UNUSED} 1000\n")
    os.write(mapped[1], b"m")
    os.close(answer[1])
    kind, uid_lines, _, reason = json.loads(os.read(answer[0], 4096))
    os.waitpid(pid, 0)
    for descriptor in (*unshared, *mapped, answer[0]):
        os.close(descriptor)
    assert (kind, uid_lines) == ("single", [[0, 0, 1]])
    assert reason == "setgroups is denied in the user namespace around it"


def test_an_ordinary_user_whose_range_is_not_mapped_there(user: User) -> None:
    """newuidmap would be refused by the kernel: the file names ids that this namespace doesn't have."""
    said = inside(user, "--map-current-user", "--mount")
    assert (said["ids"], said["single"], said["map"]) == ("single", True, ["0", str(user.uid), "1"])
    assert said["id-range"] == f"the range of {user.name} isn't mapped in the user namespace around it"


def test_the_machines_root_is_never_shared() -> None:
    """In a namespace whose one id is the machine's root, a lab is refused: that id writes to the machine's sysctls."""
    script = "import ctlab; print(ctlab.doctor().why_not); ctlab.Lab('nested')"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-B", "-c", script],
        capture_output=True, text=True, check=False, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout.startswith("id-range: ") and "this root has no ids to give away" in done.stdout
    assert "ctlab.errors.Unsupported: id-range: EPERM" in done.stderr
