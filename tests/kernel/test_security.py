"""The wall of a container: what is open, visible, writable and possible inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import ROOT, need_ids, need_root, patient, wait_until

from ctlab.errors import Unsupported
from ctlab.kernel.capabilities import DEFAULT, mask
from ctlab.plan.rootfs import MASKED, READ_ONLY

pytestmark = pytest.mark.kernel


def descriptors(text: str) -> dict[int, str]:
    found = (line.split(" ", 1) for line in text.strip().splitlines())
    return {int(number): target for number, target in found if "/proc/" not in target}


def ways(lab: Any) -> dict[str, dict[int, str]]:
    """The open descriptors of a program in each way to run one."""
    listing = (
        "import os\nfor d in os.listdir('/proc/self/fd'):\n"
        " try: print(d, os.readlink('/proc/self/fd/' + d))\n except OSError: pass"
    )
    python = ["python3", "-c", listing]
    plain, init, idle = lab.run(python), lab.run(python, init=True), lab.run()
    for container in (plain, init):
        assert container.wait(patient(5)) == 0
    return {
        "run": descriptors(plain.logs()),
        "init": descriptors(init.logs()),
        "exec": descriptors(idle.exec(python).stdout),
        "stdin": descriptors(idle.exec(python, stdin="x").stdout),
        "script": descriptors(idle.script(f'exec python3 -c "{listing}"').stdout),
        "terminal": descriptors(idle.exec(python, tty=True).stdout),
        "first process": {int(d): os.readlink(f"/proc/{idle.pid}/fd/{d}") for d in os.listdir(f"/proc/{idle.pid}/fd")},
    }


def test_no_descriptor_of_ours_is_open_inside(lab: Any) -> None:
    for way, found in ways(lab).items():
        extra = {9} if way == "script" else set()
        assert {0, 1, 2} <= set(found) <= {0, 1, 2} | extra, (way, found)
        for number, target in found.items():
            kinds = ("pipe:", "/dev/null", "/dev/pts/") if number != 9 else ("/memfd:",)
            assert target.startswith(kinds), (way, found)


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.mark.parametrize("way", ["run", "init", "exec", "script"])
def test_no_new_privileges_and_the_small_capability_set(lab: Any, way: str) -> None:
    command = ["cat", "/proc/self/status"]
    if way in ("run", "init"):
        container = lab.run(command, init=way == "init")
        container.wait(patient(5))
        text = container.logs()
    else:
        container = lab.run()
        text = (container.exec(command) if way == "exec" else container.script("cat /proc/self/status")).stdout
    found = status(text)
    small = f"{mask(DEFAULT):016x}"
    assert found["NoNewPrivs"] == "1"
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert [found[name] for name in names] == ["0" * 16, small, small, small, "0" * 16]
    assert mask(DEFAULT) == 0x800405FB, "podman's eleven"


def test_the_first_process_of_an_idle_container_has_no_more(lab: Any) -> None:
    found = status(lab.run().exec(["cat", "/proc/1/status"]).stdout)
    assert (found["CapPrm"], found["CapEff"], found["NoNewPrivs"]) == (f"{mask(DEFAULT):016x}",) * 2 + ("1",)


def test_capabilities_added_and_dropped(lab: Any) -> None:
    for options, names in (
        ({"cap_drop": "ALL"}, ()),
        ({"cap_add": ["NET_RAW"], "cap_drop": ["CHOWN"]}, (*[n for n in DEFAULT if n != "CHOWN"], "NET_RAW")),
    ):
        container = lab.run(["sleep", "60"], **options)
        for where in ("self", "1"):
            found = status(container.exec(["cat", f"/proc/{where}/status"]).stdout)
            assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == mask(names)
    with pytest.raises(Unsupported, match=r"cap_add='SYS_ADMIN' .* user namespace"):
        lab.run(["true"], cap_add="SYS_ADMIN")


def test_another_user_has_no_capabilities_and_gains_none(lab: Any) -> None:
    need_ids(lab)
    container = lab.run(["sleep", "60"])
    found = status(container.exec(["cat", "/proc/self/status"], user="1000").stdout)
    assert found["CapPrm"] == found["CapEff"] == found["CapAmb"] == "0" * 16
    for place in ("/usr/gain", "/tmp/gain"):  # on the image's file system, which allows setuid, and on ours
        container.exec(["sh", "-c", f"cp /usr/bin/id {place} && chmod 4755 {place}"]).check()
        assert container.exec([place, "-u"], user="1000").check().stdout == "1000\n"
    assert "nosuid" not in container.exec(["findmnt", "-no", "OPTIONS", "/usr"]).stdout, "or this proves nothing"


def test_a_container_cannot_mount_trace_or_load(lab: Any) -> None:
    container = lab.run()
    for command in (
        "mount -t tmpfs none /mnt",
        "mount --bind /usr /mnt",
        "umount /proc",
        "mount -o remount,rw /sys",
        "unshare -m true",
        "unshare -n true",
        "mknod /tmp/disk b 8 0",
        "mknod /tmp/mem c 1 1",
        "ip link add d type dummy",
        "ip link set eth0 down",
        "hostname other",
        "nsenter -t 1 -m true",
        "chroot /proc/1/root sh -c 'mount -t proc none /proc'",
        "swapon /tmp/x",
        "date -s 2001-01-01",
    ):
        done = container.exec(["sh", "-c", command])
        assert done.returncode != 0, (command, done.stdout, done.stderr)


def test_a_new_user_namespace_inside_gives_nothing_of_the_labs(lab: Any) -> None:
    """A user namespace of its own may be had, as everywhere; the lab's mounts and network stay out of reach in it."""
    container = lab.run()
    commands = ("mount -o remount,bind,rw /sys", "umount /proc/keys", "umount -l /sys/firmware", "ip link set lo down")
    for command in commands:
        assert container.exec(["unshare", "-Urm", "sh", "-c", command]).returncode != 0, command
    assert container.exec(["cat", "/proc/keys"]).stdout == ""


def test_dev_holds_what_it_should(lab: Any) -> None:
    container = lab.run()
    names = {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm"}
    names |= {"fd", "stdin", "stdout", "stderr"}
    assert set(container.exec(["ls", "/dev"]).stdout.split()) == names
    script = (
        "set -e; echo x > /dev/null; head -c 8 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; echo x > /dev/shm/y; "
        "readlink /dev/fd /dev/ptmx; python3 -c 'import os; os.openpty()'; if echo x > /dev/full; then exit 1; fi"
    )
    assert container.exec(["sh", "-c", script]).check().stdout.split() == ["8", "8", "/proc/self/fd", "pts/ptmx"]
    assert container.exec(["ls", "/dev/pts"]).stdout.split() == ["ptmx"]


def test_masked_and_read_only_paths(lab: Any) -> None:
    container = lab.run()
    seen = 0
    for path in MASKED:
        test = f"if [ -d {path} ]; then echo d; elif [ -e {path} ]; then echo f; fi"
        kind = container.exec(["sh", "-c", test]).stdout.strip()
        if kind:
            seen += 1
            shown = container.exec(["ls", "-A", path] if kind == "d" else ["cat", path])
            assert shown.stdout == "", path
    assert seen >= 3
    for path in (*READ_ONLY, "/sys"):
        if container.exec(["test", "-e", path]).returncode == 0:
            assert "ro," in container.exec(["findmnt", "-no", "OPTIONS", "--target", path]).stdout, path
    for path in ("/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/sys/kernel/x"):
        done = container.exec(["sh", "-c", f"echo 1 > {path}"])
        assert done.returncode != 0, path


def test_private_places_are_empty(lab: Any) -> None:
    container = lab.run()
    top = ("/home", "/root", "/run", "/srv", "/mnt", "/media", "/tmp")
    for path in (*top, "/var/tmp"):
        assert container.exec(["ls", "-A", path]).check().stdout == "", path
    assert container.exec(["find", "/var", "!", "-type", "d", "!", "-type", "l"]).check().stdout == ""
    for path in ("/boot", "/sys/fs/cgroup/memory/tasks"):
        assert container.exec(["cat", path]).returncode != 0, path


def test_the_environment_and_files_of_the_host_are_out_of_reach(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("of the host")
    container = lab.run()
    for place in (
        "/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/proc/self/cwd/../../..", "/../../..", "/dev/fd/0/..",
        "/proc/1/fd/0/..", "/proc/1/map_files", "/proc/1/task/1/root",
    ):  # fmt: skip
        assert container.exec(["sh", "-c", f"cat {place}{tmp_path}/mark"]).returncode != 0, place
    assert container.exec(["stat", "-Lc", "%d:%i", "/proc/1/root/"]).stdout in (
        "", container.exec(["stat", "-Lc", "%d:%i", "/"]).stdout,
    )  # fmt: skip
    escape = (
        "import os\nos.chroot('/tmp')\nfor _ in range(64): os.chdir('..')\nos.chroot('.')\n"
        "print(sorted(os.listdir('/')))"
    )
    names = container.exec(["python3", "-c", escape]).check().stdout  # CAP_SYS_CHROOT is podman's, and harmless here
    assert "var" in names and "lower" not in names and "work" not in names
    mounts = container.exec(["cat", "/proc/self/mountinfo"]).stdout
    assert str(tmp_path) not in mounts and "/sys/fs/cgroup" not in mounts


def test_only_its_own_processes_are_seen(lab: Any) -> None:
    lab.run(["sleep", "61.5"])
    container = lab.run(["sleep", "60"])
    listing = container.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
    assert "61.5" not in listing and "ctlab" not in listing
    assert container.exec(["sh", "-c", "kill -9 -1; true"]).returncode in (0, 137)
    assert lab.run(["true"]).wait(patient(5)) == 0


LOOK = """
for name in exe fd/0 fd/1 fd/2 root cwd; do readlink /proc/1/$name; done
ls /proc/1/fd | wc -l
grep -c . /proc/1/maps; grep -v '\\[' /proc/1/maps | sed 's/.* //'
tr '\\0' '\\n' < /proc/1/environ | sort
(: > /proc/1/exe) 2>&1 | grep -o 'Read-only file system'
"""


@pytest.mark.parametrize("command", [None, ["sleep", "60"]])
def test_an_init_of_ours_has_nothing_of_the_labs(lab: Any, command: list[str] | None) -> None:
    """It is a page of machine code, with the container's root, environment and nothing open but streams."""
    container = lab.run(command, init=True, env={"ONLY": "this"}, hostname="looked-at")
    exe, null, out, err, root, cwd, count, *maps = container.exec(["sh", "-c", LOOK]).check().stdout.splitlines()
    assert exe.endswith("/launcher") and (null, root, cwd, count) == ("/dev/null", "/", "/", "3")
    assert (out, err) == ("/dev/null",) * 2 if command is None else out.startswith("pipe:") and err.startswith("pipe:")
    assert int(maps[0]) <= 8 and maps[1] == exe, maps
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    expected = ["HOME=/root", "HOSTNAME=looked-at", "ONLY=this", path, "TERM=xterm"]
    assert maps[2:] == [*expected, "Read-only file system"]


def test_bind_mounts(lab: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the host\n")
    (shared / "file").chmod(0o666)
    shared.chmod(0o777)
    single = tmp_path / "single"
    single.write_text("one file\n")
    single.chmod(0o644)
    container = lab.run(mounts=[f"{shared}:/shared", f"{shared}:/read/only:ro", f"{single}:/etc/single:ro"])
    shown = container.exec(["cat", "/shared/file", "/read/only/file", "/etc/single"]).check().stdout
    assert shown == "of the host\n" * 2 + "one file\n"
    container.exec(["sh", "-c", "echo of the container > /shared/file; echo new > /shared/new"]).check()
    assert (shared / "file").read_text() == "of the container\n" and (shared / "new").read_text() == "new\n"
    assert (shared / "new").stat().st_uid == os.getuid()
    for path in ("/read/only/file", "/etc/single"):
        assert "Read-only file system" in container.exec(["sh", "-c", f"echo x > {path}"]).stderr
    assert container.exec(["sh", "-c", "mount -o remount,bind,rw /read/only"]).returncode != 0
    container.exec(["sh", "-c", "cp /usr/bin/true /shared/true; chmod 4755 /shared/true"]).check()
    options = container.exec(["findmnt", "-no", "OPTIONS", "/shared"]).stdout
    assert "nosuid" in options and "nodev" in options


def test_a_read_only_root(lab: Any, tmp_path: Path) -> None:
    container = lab.run(read_only=True)
    for path in ("/x", "/usr/x", "/etc/x", "/opt/x", "/root/x", "/var/lib/x", "/usr/bin/x"):
        assert "Read-only file system" in container.exec(["sh", "-c", f"echo > {path}"]).stderr, path
    assert container.exec(["sh", "-c", "echo > /dev/shm/x && echo > /dev/null"]).returncode == 0


def test_a_mount_of_ones_own_stays_writable_in_a_read_only_root(lab: Any, tmp_path: Path) -> None:
    """Also where it lies over a part of the image."""
    tmp_path.chmod(0o777)
    container = lab.run(read_only=True, mounts=[f"{tmp_path}:/opt"])
    container.exec(["sh", "-c", "echo here > /opt/x"]).check()
    assert (tmp_path / "x").read_text() == "here\n"
    assert container.exec(["sh", "-c", "echo > /usr/x"]).returncode != 0


# A root like this machine's, in which /bin is a folder as where /usr isn't merged.
UNMERGED = """
set -e
mount -t tmpfs root "$1"; cd "$1"; shift
for one in /*; do
    name=${one#/}
    if [ "$name" = bin ]; then mkdir bin; mount --bind /usr/bin bin
    elif [ -L "$one" ]; then cp -P "$one" "$name"
    elif [ -d "$one" ]; then mkdir "$name"; mount --rbind "$one" "$name"
    fi
done
mkdir old; pivot_root . old; cd /; umount -l old; exec "$@"
"""
TRY = """
import ctlab, json, sys
with ctlab.Lab("unmerged") as lab:
    container = lab.run(read_only=True)
    ways = ("/x", "/bin/x", "/usr/x", "/usr/bin/x", "/etc/x")
    print(json.dumps({way: container.exec(["sh", "-c", f"test -d /bin -a ! -L /bin && echo > {way}"]).stderr
                      for way in ways}))
"""


@pytest.mark.long_in_guest
def test_a_read_only_root_where_usr_is_not_merged(usable: None, tmp_path: Path) -> None:
    need_root("for a root of its own")
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", UNMERGED, "sh", str(tmp_path)]
    done = subprocess.run(
        [*words, sys.executable, "-B", "-c", TRY], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 5 and all("Read-only file system" in text for text in said.values()), said


def test_an_init_of_ours_may_have_as_many_processes_as_a_program(lab: Any) -> None:
    """Who can trace it can make it fork."""
    limits = {
        lab.run(command, init=init).exec(["grep", "-E", "processes|open files", "/proc/1/limits"]).check().stdout
        for command, init in ((None, False), (["sleep", "60"], True), (["sleep", "60"], False))
    }
    assert len(limits) == 1 and "unlimited" not in limits.pop()


SHARED = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
made = [libc.shmget(0, ctypes.c_size_t(16 << 20), 0o1600) for _ in range(6)]
print(sum(number >= 0 for number in made), errno.errorcode.get(ctypes.get_errno()))
"""


def test_system_v_shared_memory_has_a_size(lab: Any) -> None:
    """It stays when who wrote it is killed for memory."""
    container = lab.run()
    if int(container.exec(["cat", "/proc/sys/kernel/shmall"]).check().stdout) > 1 << 40:
        pytest.skip("this kernel lacks kernel.shmall for user namespaces (Linux 6.0)")
    assert container.exec(["python3", "-c", SHARED]).check().stdout == "4 ENOSPC\n"


FREEZE = """
mkdir /tmp/f && mount -t cgroup -o freezer none /tmp/f || exit 9
mkdir /tmp/f/sub /tmp/f/sub/deep
sleep 1000 > /dev/null 2>&1 < /dev/null &
echo $! > /tmp/f/sub/deep/tasks && echo FROZEN > /tmp/f/sub/deep/freezer.state && echo frozen
"""


@pytest.mark.parametrize("way", ["remove", "kill", "end"])
def test_what_freezes_itself_ends_with_its_container_and_its_lab(fresh_lab: Any, way: str) -> None:
    """Without a filter it may, in a user namespace of its own, mount the version 1 freezer as far as it is in it."""
    lab = fresh_lab
    if lab._client.facts["cgroup"] != "v1":
        pytest.skip("no cgroup version 1 here for this user")
    container = lab.run(name="cold", security_opt="seccomp=unconfined")
    done = container.exec(["unshare", "-UrCm", "sh", "-c", FREEZE])
    if done.returncode == 9 or "Permission denied" in done.stderr:
        assert os.geteuid() == 0, done
        pytest.skip("needs an ordinary user: root's folders are another user's for the root of its user namespace")
    assert done.stdout == "frozen\n", done
    sleeping = [entry["pid"] for entry in container.top() if "sleep" in str(entry)]
    assert len(sleeping) == 1
    begun = time.monotonic()
    if way == "remove":
        container.remove()
    elif way == "kill":
        assert container.kill().returncode == 137
    else:
        lab.stop()
    assert time.monotonic() - begun < patient(3)


AGAIN = """
mkdir /tmp/f && mount -t cgroup -o freezer none /tmp/f && mkdir /tmp/f/sub && echo 1 > /tmp/f/sub/tasks || exit 9
while :; do echo FROZEN > /tmp/f/sub/freezer.state; done > /dev/null 2>&1 < /dev/null &
until grep -q FROZEN /tmp/f/sub/freezer.state; do :; done
echo frozen
"""
DEEP = """
mkdir /tmp/f && mount -t cgroup -o freezer none /tmp/f || exit 9
cd /tmp/f && for number in 1 2 3 4 5 6 7 8; do mkdir -p a b && cd a || exit 8; done
echo made
"""


def in_its_freezer(lab: Any, script: str) -> tuple[Any, str]:
    """A container without a filter, in which that script has a version 1 freezer of its own; what it has said."""
    if lab._client.facts["cgroup"] != "v1":
        pytest.skip("no cgroup version 1 here for this user")
    container = lab.run(security_opt="seccomp=unconfined")
    done = container.exec(["unshare", "-UrCm", "sh", "-c", script])
    if done.returncode == 9 or "ermission denied" in done.stderr:
        pytest.skip("needs a user's own cgroup folders: root's are another user's in a container")
    return container, done.stdout


@pytest.mark.parametrize("way", ["remove", "kill"])
def test_who_freezes_the_first_process_again_and_again_holds_nobody_up(fresh_lab: Any, way: str) -> None:
    container, said = in_its_freezer(fresh_lab, AGAIN)
    assert said == "frozen\n"
    begun = time.monotonic()
    getattr(container, way)()
    assert time.monotonic() - begun < patient(3)
    assert fresh_lab.run().exec(["echo", "fine"]).stdout == "fine\n"


def test_the_cgroup_folders_that_a_container_has_made_go_with_it(fresh_lab: Any) -> None:
    (path,) = [path for path in fresh_lab._client.facts["cgroup_paths"] if "/freezer/" in path] or [""]
    before = set(os.listdir(path)) if path else set()
    container, said = in_its_freezer(fresh_lab, DEEP)
    assert said == "made\n"
    assert [name for name in set(os.listdir(path)) - before if os.path.isdir(f"{path}/{name}/a/a/b")]
    container.remove()
    assert wait_until(lambda: not [name for name in os.listdir(path) if os.path.isdir(f"{path}/{name}/a")])
