"""The known ways out of containers, tried: each class of escapes that other runtimes have had (by its CVE)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_help import long_form, need_ids, patient, wait_until

from ctlab.errors import BadInput, CtlabError

pytestmark = pytest.mark.kernel
UP = "/.." * 12
TRIES = 1000 if long_form() else 25  # of a race
SECRET = "of the machine\n"


class Victim:
    """A folder of the machine that nothing inside may change or read, and a small image beside it."""

    def __init__(self, above: Path) -> None:
        for folder in (above, above.parent):
            folder.chmod(0o755)
        self.folder = above / "victim"
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.secret = self.folder / "secret"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o666)
        self.image = above / "image"
        for name in ("usr/bin", "etc", "data", "tmp"):
            (self.image / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("no busybox on this machine (Debian package busybox-static)")
        shutil.copy(busybox, self.image / "usr/bin/busybox")
        for name in ("sh", "cat", "ls", "stat", "sleep", "mount", "rm", "mv", "ln", "tty", "test", "mkdir", "rmdir"):
            (self.image / "usr/bin" / name).symlink_to("busybox")
        (self.image / "bin").symlink_to("usr/bin")
        self.before = self._state()

    def _state(self) -> dict[str, tuple[int, int, str]]:
        found = {}
        for path in (self.folder, *sorted(self.folder.rglob("*"))):
            about = path.lstat()
            content = path.read_text() if stat.S_ISREG(about.st_mode) else ""
            found[path.name] = (about.st_mode, about.st_uid, content)
        return found

    def check(self) -> None:
        assert self._state() == self.before, "a container has changed what isn't its own"


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path)
    yield made
    made.check()


def tried(action: Any, /, *words: Any, **options: Any) -> Any:
    """What it gives for these; None where ctlab refuses."""
    try:
        return action(*words, **options)
    except CtlabError:
        return None


# -- images that are traps --------------------------------------------------------------------------------------------
PLACES = ("dev", "proc", "sys", "tmp", "run", "etc")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["absolute", "upwards", "magic"])
def test_a_place_of_an_image_that_is_a_link(lab: Any, victim: Victim, place: str, kind: str) -> None:
    """/dev, /proc, /sys of the image are links out (CVE-2026-41579, 2019-19921, 2023-27561, 2025-52881)."""
    target = {
        "absolute": str(victim.folder), "upwards": f".{UP}{victim.folder}",
        "magic": f"/proc/self/cwd{UP}{victim.folder}",
    }[kind]  # fmt: skip
    path = victim.image / place
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(target)
    for options in ({}, {"tty": True}, {"init": True}, {"read_only": True}):
        container = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image), **options)  # its links are replaced
        assert container.exec(["/usr/bin/cat", "/proc/self/comm"]).stdout == "cat\n", "the kernel's own /proc"
        assert container.exec(["/usr/bin/stat", "-f", "-c", "%T", "/sys"]).stdout == "sysfs\n"
        assert container.exec(["/usr/bin/stat", "-c", "%t:%T", "/dev/null"]).stdout == "1:3\n"
        container.remove()
    victim.check()


@pytest.mark.parametrize("kind", ["absolute", "upwards", "magic"])
def test_links_of_an_image_do_not_lead_to_another_container(lab: Any, victim: Victim, kind: str) -> None:
    """Before a container is in its own root, the lab's folders are in reach, with what others have written."""
    other = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image))
    other.exec(["/usr/bin/sh", "-c", "echo mine > /data/mine"]).check()
    place = f"/work/{other._number}/image.upper/data"
    target = {"absolute": place, "upwards": f".{UP}{place}", "magic": f"/proc/self/cwd{UP}{place}"}[kind]
    (victim.folder / "kept").mkdir()
    victim.before = victim._state()
    image = victim.image.parent / "trap"
    shutil.copytree(victim.image, image, symlinks=True)
    for name in ("etc", "tmp", "run"):
        shutil.rmtree(image / name, ignore_errors=True)
        (image / name).symlink_to(target)
    (image / "data/link").symlink_to(target)
    mounts = [f"{victim.folder}:/data/link/made", f"{victim.secret}:/data/link/mine"]
    for options in ({}, {"mounts": mounts}, {"workdir": "/data/link"}, {"read_only": True}):
        made = tried(lab.run, ["/usr/bin/sleep", "60"], image=str(image), **options)
        assert (made is None) == ("mounts" in options or "workdir" in options), "only what goes through the link fails"
        if made is not None:
            shown = made.exec(["/usr/bin/cat", "/data/link/mine", "/tmp/mine"]).stdout
            assert "mine" not in shown
            tried(made.write, "/data/link/written", "x")
            made.remove()
        assert other.exec(["/usr/bin/ls", "-A", "/data"]).check().stdout == "mine\n"
        assert other.exec(["/usr/bin/cat", "/data/mine"]).check().stdout == "mine\n"


@pytest.mark.parametrize("name", ["null", "console", "pts", "ptmx", "pts/0", "shm", "tty", "stdin"])
def test_devices_of_an_image_that_are_links(lab: Any, victim: Victim, name: str) -> None:
    """What is bound over masked files, and over the console, is the image's link (CVE-2025-31133, 2025-52565)."""
    path = victim.image / "dev" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim.secret if name != "pts" else victim.folder)
    container = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image), tty=True)
    _masks_hold(container)
    shown = container.exec(["/usr/bin/tty"], tty=True).stdout + container.exec(["/usr/bin/cat", "/dev/null"]).stdout
    assert SECRET not in shown


def _masks_hold(container: Any) -> None:
    for path in ("/proc/keys", "/proc/timer_list", "/proc/kcore"):
        said = container.exec(["/usr/bin/stat", "-c", "%t:%T", path])
        assert said.returncode != 0 or said.stdout == "1:3\n", path


def test_devices_that_a_container_replaces_before_it_starts_again(lab: Any, victim: Victim) -> None:
    container = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image), name="web")
    script = (
        f"for p in /dev/null /dev/pts/ptmx /dev/pts /dev /proc/keys /proc /sys; do rm -rf $p 2>/dev/null; "
        f"mv $p /data/x 2>/dev/null; ln -sfn {victim.secret} $p 2>/dev/null; done; echo done"
    )
    assert container.exec(["/usr/bin/sh", "-c", script]).stdout.endswith("done\n")
    assert container.exec(["/usr/bin/cat", "/proc/self/comm"], tty=True).returncode == 0
    container.restart(timeout=0)
    _masks_hold(container)
    assert container.exec(["/usr/bin/stat", "-c", "%t:%T", "/dev/null"]).stdout == "1:3\n"
    for name in ("hosts", "hostname", "resolv.conf"):  # which are written anew at each start
        container.exec(["/usr/bin/ln", "-sfn", f"/proc/self/cwd{UP}{victim.secret}", f"/etc/{name}"]).check()
    tried(container.restart, timeout=0)
    victim.check()


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/sys", "/proc/1/fd", "/sys", "/dev", "/dev/null", "/"])
def test_a_mount_over_what_is_the_kernels(lab: Any, victim: Victim, target: str) -> None:
    """A false /proc would be written to instead of the kernel's (CVE-2019-16884, 2025-52881)."""
    fake = victim.image / "data/fake"
    fake.mkdir(parents=True)
    around = [
        target,
        f"/{target}",
        f"//{target}",
        f"{target}/",
        f"/.{target}",
        f"/data/..{target}",
        f"{target}/../{target}",
    ]
    for place in around:
        with pytest.raises(BadInput, match="is the container's own"):
            lab.run(["/usr/bin/sleep", "60"], image=str(victim.image), mounts=[f"{fake}:{place}"])
    assert len(lab.containers) == 0


# A place for a mount that a link leads to, and what is mounted there.
LED = {
    "/data/proc": "folder", "/data/proc/self": "folder", "/data/proc/sys": "folder", "/data/proc/keys": "file",
    "/data/sys": "folder", "/data/dev": "folder", "/data/dev/shm": "folder", "/data/dev/null": "file",
    "/data/top": "folder", "/data/up": "folder", "/data/self": "folder", "/data/new": "file",
}  # fmt: skip
LINKS = {"proc": "/proc", "sys": "/sys", "dev": "/dev", "top": "/", "up": "../../../proc", "self": "/proc/1"}
LINKS["new"] = "/dev/shm/new"


@pytest.mark.parametrize("place", LED)
def test_a_mount_that_links_lead_over_what_is_the_kernels(lab: Any, victim: Victim, place: str) -> None:
    """Those of an image, and those that a container makes before it starts again (CVE-2019-19921)."""
    (victim.image / "dev").mkdir()
    fake = victim.image.parent / "fake"
    fake.mkdir() if LED[place] == "folder" else fake.touch()
    mounts = [f"{fake}:{place}"]
    led = rf"mount .* on {place}: it leads to /.*, which is the container's own \(EPERM\)"
    name = place.split("/")[2]
    container = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image), mounts=mounts)
    assert container.exec(["/usr/bin/stat", "-c", "%n", place]).check().stdout == f"{place}\n", (
        "without a link it is there"
    )
    make = f"cd /data; mv {name} away; ln -s {LINKS[name]} {name}"
    if place.count("/") > 2:
        container.exec(["/usr/bin/sh", "-c", make]).check()
        with pytest.raises(CtlabError, match=led):
            container.restart(timeout=0)
    container.remove()
    (victim.image / "data" / name).symlink_to(LINKS[name])
    with pytest.raises(CtlabError, match=led):
        lab.run(["/usr/bin/sleep", "60"], image=str(victim.image), mounts=mounts)


# -- races ------------------------------------------------------------------------------------------------------------
SWAP = "cd {at}; while :; do rm -rf d; ln -s {to} d; rm -f d; mkdir d; echo inside > d/secret; done"


@pytest.mark.parametrize("to", ["absolute", "magic"])
def test_a_place_to_copy_to_that_is_swapped_meanwhile(lab: Any, victim: Victim, tmp_path: Path, to: str) -> None:
    """`cp` in both directions and `write` (CVE-2018-15664)."""
    link = str(victim.folder) if to == "absolute" else f"/proc/self/cwd{UP}{victim.folder}"
    container = lab.run(["/usr/bin/sh", "-c", SWAP.format(at="/data", to=link)], image=str(victim.image))
    source = tmp_path / "secret"
    source.write_text("changed by a copy\n")
    for number in range(TRIES):
        tried(container.copy_in, source, "/data/d/secret")
        tried(container.write, "/data/d/secret", "written")
        taken = tmp_path / f"taken-{number}"
        tried(container.copy_out, "/data/d/secret", taken)
        if taken.is_file():
            assert taken.read_text() != SECRET
    assert container.state == "running"
    victim.check()


@pytest.mark.parametrize("to", ["absolute", "magic"])
def test_a_place_to_mount_at_that_is_swapped_meanwhile(lab: Any, victim: Victim, tmp_path: Path, to: str) -> None:
    """Folders above it are made, and it is mounted, in what another container changes (CVE-2021-30465, 2024-45310)."""
    shared, source = tmp_path / "shared", tmp_path / "source"
    for folder in (shared, source):
        folder.mkdir()
        folder.chmod(0o777)
    link = str(victim.folder) if to == "absolute" else f"/proc/self/cwd{UP}{victim.folder}"
    attacker = lab.run(
        ["/usr/bin/sh", "-c", SWAP.format(at="/shared", to=link)], image=str(victim.image), mounts=[f"{shared}:/shared"]
    )
    before = Path("/proc/self/mountinfo").read_text()
    for _ in range(TRIES):
        mounts = [f"{shared}:/shared", f"{source}:/shared/d/deep/er"]
        made = tried(lab.run, ["/usr/bin/sleep", "60"], image=str(victim.image), mounts=mounts)
        if made is not None:
            made.remove()
    assert attacker.state == "running"
    assert Path("/proc/self/mountinfo").read_text() == before
    attacker.remove()
    victim.check()


# -- the container's own view of what enters it -----------------------------------------------------------------------
WATCH = r"""
import ctypes, json, os, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
own, found, traced, root = str(os.getpid()), set(), set(), os.stat("/")
print("watching", flush=True)
while not os.path.exists("/tmp/enough"):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid in (own, "1"):
            continue
        if libc.ptrace(0x4206, int(pid), 0, 0) == 0:
            traced.add(pid)
            try:
                about = os.stat(f"/proc/{pid}/exe")
                found.add(("traced", os.readlink(f"/proc/{pid}/exe"), about.st_dev, about.st_ino))
            except OSError:
                pass
            libc.ptrace(0x4207, int(pid), 0, 0)
            try:
                os.waitpid(int(pid), 0x40000000)
            except OSError:
                pass
            libc.ptrace(17, int(pid), 0, 0)
        for name in ("exe", "cwd", "root"):
            try:
                about = os.stat(f"/proc/{pid}/{name}")
                found.add((name, os.readlink(f"/proc/{pid}/{name}"), about.st_dev, about.st_ino))
            except OSError:
                pass
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if b"CTLAB" in file.read():
                    found.add(("environment", "", 0, 0))
        except OSError:
            pass
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for number in descriptors:
            try:
                about = os.stat(f"/proc/{pid}/fd/{number}")
                if stat.S_ISDIR(about.st_mode):
                    found.add(("descriptor", os.readlink(f"/proc/{pid}/fd/{number}"), about.st_dev, about.st_ino))
            except OSError:
                pass
        try:
            os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))
            found.add(("writable", os.readlink(f"/proc/{pid}/exe"), 0, 0))
        except OSError:
            pass
print(json.dumps({"found": sorted(found), "traced": len(traced), "root": (root.st_dev, root.st_ino)}), flush=True)
"""


@pytest.mark.parametrize("user", ["0", "7:7"])
def test_nothing_of_ours_is_seen_of_what_enters(lab: Any, user: str) -> None:
    """While programs are run in it, files copied and its processes listed, a container looks into each new process."""
    if user != "0":
        need_ids(lab)
    container = lab.run(["python3", "-c", WATCH])
    assert wait_until(lambda: "watching" in container.logs()), container.logs()
    machine = os.stat(os.path.realpath(sys.executable))
    for number in range(TRIES * 2):
        container.exec(["true"], user=user, tty=number % 5 == 0)
        if number % 5 == 0:
            container.script("exit 0", user=user)
            container.write("/tmp/written", "x" * 100_000)
            container.top()
    container.exec(["touch", "/tmp/enough"]).check()
    assert container.wait(patient(20)) == 0, container.logs()
    said = json.loads(container.logs().stdout.splitlines()[-1])
    if user == "0":  # of another user's process root itself sees nothing, without CAP_SYS_PTRACE
        assert said["found"] and said["traced"], "or it was too slow to see anything"
    for what, path, device, inode in said["found"]:
        assert (device, inode) != (machine.st_dev, machine.st_ino), (what, path)
        assert what not in ("environment", "writable") or "/usr/bin" in path, (what, path)
        assert "python" not in path or "/usr/bin/python" in path, (what, path)
        assert what != "descriptor" or path.startswith(("/proc", "/usr", "/etc", "/dev")), (what, path)
        if what in ("cwd", "root"):
            assert (path, [device, inode]) == ("/", said["root"]), (what, path)


# -- names that lead through descriptors, for what reads and writes without executing ---------------------------------
def test_accounts_are_looked_up_inside(lab: Any, victim: Victim) -> None:
    """/etc/passwd is a link through each descriptor of who reads it, to one of the machine's that knows the user."""
    need_ids(lab)
    (victim.folder / "passwd").write_text("outsider:x:4242:4242::/outside:/bin/sh\n")
    victim.before = victim._state()
    container = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image))
    found = []
    for name in (*(f"fd/{number}" for number in range(41)), "cwd", "root"):
        container.exec(["/usr/bin/ln", "-sfn", f"/proc/self/{name}{UP}{victim.folder}/passwd", "/etc/passwd"]).check()
        if tried(container.exec, ["/usr/bin/cat", "/proc/self/comm"], user="outsider") is not None:
            found.append(f"exec {name}")
        accounts = victim.image / "etc/passwd"
        accounts.unlink(missing_ok=True)
        accounts.symlink_to(f"/proc/self/{name}{UP}{victim.folder}/passwd")
        for init in (False, True):
            options = {"image": str(victim.image), "user": "outsider", "init": init}
            if tried(lab.run, ["/usr/bin/sleep", "60"], **options) is not None:
                found.append(f"run {name} init={init}")
    assert found == []


def test_files_are_copied_and_written_inside(lab: Any, victim: Victim, tmp_path: Path) -> None:
    """The same for `cp` in both directions and `write`."""
    container = lab.run(["/usr/bin/sleep", "60"], image=str(victim.image))
    source = tmp_path / "source"
    source.write_text("changed by a copy\n")
    for name in (*(f"fd/{number}" for number in range(24)), "cwd", "root"):
        container.exec(["/usr/bin/ln", "-sfn", f"/proc/self/{name}{UP}{victim.folder}", "/data/d"]).check()
        taken = tmp_path / "taken"
        tried(container.copy_out, "/data/d/secret", taken)
        assert not taken.is_file() or taken.read_text() != SECRET, name
        tried(container.copy_in, source, "/data/d/secret")
        tried(container.write, "/data/d/secret", "written")
        tried(container.write, "/data/d/new", "written")
        victim.check()


# -- mounts -----------------------------------------------------------------------------------------------------------
def test_no_mount_reaches_the_machine_or_is_its_peer(lab: Any, victim: Victim) -> None:
    """Neither do mounts made inside appear outside, nor is any of the container's a peer of the machine's."""
    before = Path("/proc/self/mountinfo").read_text()
    outside = {word for line in before.splitlines() for word in line.split() if word.startswith(("shared:", "master:"))}
    container = lab.run(mounts=[f"{victim.folder}:/shown"])
    container.exec(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/shown"])
    container.exec(["mount", "-t", "tmpfs", "none", "/shown"])
    inside = container.exec(["cat", "/proc/self/mountinfo"]).check().stdout
    peers = {word for line in inside.splitlines() for word in line.split() if word.startswith(("shared:", "master:"))}
    assert not peers & {word for word in outside if word.startswith("shared:")}
    assert Path("/proc/self/mountinfo").read_text() == before
    assert container.exec(["cat", "/shown/secret"]).check().stdout == SECRET
