"""Mounts of the machine that a container shows: copies, and none of them held longer than it takes."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from kernel_help import held_beside_slots, need_root, patient, run_owner, uses, wait_until

from ctlab.errors import CtlabError, KernelError
from ctlab.kernel import syscalls
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel

# In a process of its own, as root of the lab, which no program in a container is.
UNMOUNT = r"""
import os, sys
from ctlab.kernel import syscalls
syscalls.setns(os.pidfd_open(int(sys.argv[1])), syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
syscalls.umount2("/data", syscalls.MNT_DETACH)
"""

# The owner is alone in a mount namespace with two shared mounts, one below the other, as systemd has them everywhere.
# As `ordinary` it is another user whenever it talks to its lab, and root again to mount.
SHARED = r"""
import os, subprocess, sys
import as_user
from ctlab.kernel import syscalls

ORDINARY = 65534 if sys.argv[1] == "ordinary" else 0
MS_SHARED = 1 << 20
as_user.show(as_user.needed())  # in a mount namespace of our own from here on
folder = sys.argv[3]
os.chmod(folder, 0o755)
top, runtime = f"{folder}/top", f"{folder}/runtime"
os.mkdir(top)
os.mkdir(runtime, 0o700)
syscalls.mount("outer", top, "tmpfs", 0, "mode=755")
syscalls.mount(None, top, None, MS_SHARED)
for name in ("below", "later"):
    os.mkdir(f"{top}/{name}")
syscalls.mount("inner", f"{top}/below", "tmpfs", 0, "mode=755")
with open(f"{top}/below/mark", "w") as file:
    file.write("there\n")
os.chown(runtime, ORDINARY, ORDINARY)
os.environ["XDG_RUNTIME_DIR"] = runtime
if ORDINARY:
    os.setgroups([])
    os.setresgid(ORDINARY, ORDINARY, ORDINARY)
    os.setresuid(ORDINARY, ORDINARY, 0)

def mounts():
    with open("/proc/self/mountinfo") as file:
        return sorted(line for line in file if top in line)

def propagation(container, place):
    found = [line.split() for line in container.exec(["cat", "/proc/self/mountinfo"]).check().stdout.splitlines()]
    tags = [line[6:line.index("-")] for line in found if line[4] == place or line[4].startswith(place + "/")]
    assert len(tags) == 2, found
    return [tag for tags in tags for tag in tags]

def mount_later():
    os.seteuid(0)
    syscalls.mount("late", f"{top}/later", "tmpfs", 0, "mode=755")
    open(f"{top}/later/of the machine", "w").close()
    os.seteuid(ORDINARY)

before = mounts()
assert all("shared:" in line for line in before) and len(before) == 2, before
import ctlab
with ctlab.Lab("mounts") as lab:
    assert os.geteuid() == ORDINARY
    one, two = (lab.run(["sleep", "60"], mounts=[f"{top}:/data"]) for _ in range(2))
    assert one.exec(["cat", "/data/below/mark"]).check().stdout == "there\n"
    print(propagation(one, "/data"))
    subprocess.run([sys.executable, "-B", "-c", sys.argv[2], str(one.pid)], check=True)
    assert one.exec(["ls", "/data"]).stdout == "" and mounts() == before
    mount_later()
    print(two.exec(["ls", "/data/later"]).check().stdout.split())
    os.seteuid(0)
    syscalls.umount2(f"{top}/later")
    os.seteuid(ORDINARY)
    one.remove()
    two.remove()
    lab.run(["sleep", "60"], mounts=[f"{top}:/data"])
    assert mounts() == before
assert mounts() == before, mounts()
assert os.listdir(f"{top}/below") == ["mark"]
os.seteuid(0)
"""


@pytest.mark.parametrize("who", ["root", "ordinary"])
def test_nothing_that_is_mounted_passes_between_machine_and_container(who: str) -> None:
    need_root("to make shared mounts, in a mount namespace of its own")
    with tempfile.TemporaryDirectory() as folder:  # which the ordinary user can enter
        said = run_owner(SHARED, who, UNMOUNT, folder).splitlines()
    assert said == ["[]", "[]"], "a copy was still a peer or a slave of the machine's mount"


@pytest.mark.long_in_guest
def test_descriptors_of_mounts_are_closed(lab: Any, tmp_path: Path) -> None:
    """Of containers that start, of those whose mount fails inside, and of those whose second mount isn't to be had."""
    uses("detached-mount")
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "file").touch()
    good = [f"{folder}:/a", f"{folder}:/b:ro", f"{tmp_path}/file:/c"]
    moved = tmp_path / "moved"
    moved.mkdir()

    def once() -> None:
        lab.run(["true"], mounts=good).remove()
        with pytest.raises(CtlabError, match=r"mount .* on /etc/hostname"):
            lab.run(["true"], mounts=[*good, f"{folder}:/etc/hostname"])
        again = lab.run(["true"], mounts=[*good, f"{moved}:/d"])
        again.wait(patient(5))
        moved.rmdir()
        moved.symlink_to(folder)
        with pytest.raises(KernelError, match="ELOOP"):
            again.start()
        again.remove()
        moved.unlink()
        moved.mkdir()

    once()
    before = held_beside_slots(lab)
    for _ in range(50):
        once()
    # The supervisor has a sampled container's folders open for a moment: what counts is what stays.
    assert wait_until(lambda: not held_beside_slots(lab) - before), held_beside_slots(lab) - before


def test_the_inside_is_given_no_path_that_the_owner_has_not_asked_for(lab: Any, tmp_path: Path) -> None:
    """The keeper opens what only root can read; whoever has taken the supervisor over must not choose."""
    need_root("whose keeper opens host paths")
    (tmp_path / "file").write_text("readable")
    order = messages.Image("stolen", "folder", str(tmp_path))
    with pytest.raises(KernelError, match=r"the owner of the lab hasn't asked for it \(EPERM\)"):
        lab._call(order, messages.Ok)
    assert lab.run(["cat", "/there/file"], mounts=[f"{tmp_path}:/there:ro"]).wait() == 0
    lab._call(order, messages.Ok)  # now it was asked for


def test_a_link_that_a_container_puts_in_place_of_another_mount_is_not_followed(lab: Any, tmp_path: Path) -> None:
    """A restart mounts its folders anew; who writes above one of them may have made a link to anything of it."""
    shared, secret = tmp_path / "shared", tmp_path / "secret"
    (shared / "sub").mkdir(parents=True)
    secret.mkdir()
    (secret / "s").write_text("only the owner's")
    for folder in (tmp_path, shared, shared / "sub"):
        folder.chmod(0o777)
    secret.chmod(0o700)
    above = lab.run(["sleep", "60"], name="above", mounts=f"{shared}:/data")
    below = lab.run(["sleep", "60"], name="below", mounts=f"{shared}/sub:/x")
    assert below.exec(["ls", "/x"]).check().stdout == ""
    above.exec(["sh", "-ec", f"mv /data/sub /data/old; ln -s {secret} /data/sub"]).check()
    with pytest.raises(KernelError, match=f"mount {shared}/sub: ELOOP"):
        below.restart()
    above.exec(["sh", "-ec", "rm /data/sub; mv /data/old /data/sub"]).check()
    below.start()
    assert below.exec(["ls", "/x"]).check().stdout == ""


def test_a_link_that_is_named_is_followed_once(lab: Any, tmp_path: Path) -> None:
    """What a link of the owner's own leads to is what is mounted, from then on."""
    first, link = tmp_path / "first", tmp_path / "link"
    first.mkdir()
    (first / "f").write_text("")
    tmp_path.chmod(0o755)
    link.symlink_to(first)
    container = lab.run(["sleep", "60"], mounts=f"{link}:/x:ro")
    assert container.exec(["ls", "/x"]).check().stdout == "f\n"
    link.unlink()
    link.symlink_to("/etc")
    container.restart()
    assert container.exec(["ls", "/x"]).check().stdout == "f\n"


def need_id_mapped_mounts(lab: Any, folder: Path) -> None:
    """Skip where the kernel has none of this file system (tmpfs before Linux 6.3, network file systems)."""
    descriptor, namespace = syscalls.copy_mount(str(folder)), f"/proc/{lab._client.facts['supervisor']}/ns/user"
    try:
        with open(namespace) as file:
            syscalls.mount_setattr(descriptor, syscalls.MOUNT_ATTR_IDMAP, recursive=True, userns=file.fileno())
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip(f"the file system of {folder} has no id-mapped mounts: {os.strerror(error.errno)}")
    finally:
        os.close(descriptor)


LEAVE = """
set -e
cp /usr/bin/true {at}/ours && chmod 4755 {at}/ours
cp /usr/bin/true {at}/theirs && chown 33:33 {at}/theirs && chmod 6755 {at}/theirs
"""


def test_whose_what_a_container_leaves_is(lab: Any, tmp_path: Path) -> None:
    """In root's lab id N inside is the machine's N, setuid bits included; in an ordinary user's one of the user's own.

    What docs/security.md says of `-v`. And with `:ro` nothing is left.
    """
    for folder in (tmp_path, written := tmp_path / "written", shown := tmp_path / "shown"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    container = lab.run(["sleep", "60"], mounts=[f"{written}:/written", f"{shown}:/shown:ro"])
    if os.getuid() == 0:
        need_id_mapped_mounts(lab, tmp_path)
    refused = container.exec(["sh", "-c", LEAVE.format(at="/shown")])
    assert "Read-only file system" in refused.stderr and os.listdir(shown) == []
    left = container.exec(["sh", "-c", LEAVE.format(at="/written")])
    ours = (written / "ours").stat()
    assert (ours.st_uid, ours.st_gid, stat.S_IMODE(ours.st_mode)) == (os.getuid(), os.getgid(), 0o4755)
    if lab._client.facts["single_id"]:
        assert "Invalid argument" in left.stderr, left  # there is no id 33 to give it to
        return
    theirs = left.check() and (written / "theirs").stat()
    assert stat.S_IMODE(theirs.st_mode) == 0o6755
    if os.getuid() == 0:
        assert (theirs.st_uid, theirs.st_gid) == (33, 33)
    else:
        assert not {theirs.st_uid, theirs.st_gid} & {0, 33, os.getuid(), os.getgid()}, "of the user's range"
