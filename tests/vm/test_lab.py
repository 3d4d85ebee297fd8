"""A lab on a kernel of its own: the same verbs as on this machine's, and what has to differ, said in one line.

One VM for all tests of this file, but for its death and for being taken where it has to be.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vm_help
from kernel_help import children_of, patient, wait_until
from terminal_help import CTRL_C, Person

import ctlab
from ctlab.errors import BadInput, LabGone, Unsupported
from ctlab.notebook.shell_line import shell_line

VM_KEYS = {"acceleration", "machine", "kernel_release", "memory_bytes", "cpus", "boot_seconds", "shares"}


@pytest.fixture(scope="module")
def vm_lab(machine_programs: None) -> Iterator[Any]:
    with ctlab.Lab(f"vm-{os.getpid()}", engine="vm") as made:
        yield made


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of this machine that everyone may read, as the user has it by whom a VM of root's is run."""
    with tempfile.TemporaryDirectory(prefix="ctlab-test-vm-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        (path / "note").write_text("from this machine\n")
        (path / "note").chmod(0o644)
        yield path


def test_it_says_what_it_runs_on(vm_lab: Any) -> None:
    status = vm_lab.status()
    assert vm_lab.engine == status["engine"] == "vm"
    vm = status["vm"]
    assert set(vm) >= VM_KEYS and vm["acceleration"] in ("kvm", "tcg")
    assert set(vm["boot_seconds"]) == {"kernel", "python", "lab"} and all(vm["boot_seconds"].values())
    assert (vm["memory_bytes"], vm["cpus"]) == (512 << 20, 1)
    assert repr(vm_lab).endswith(", vm>") and vm["kernel_release"] in vm_lab._repr_html_()
    inside = vm_lab.run().exec(["sh", "-c", "uname -r; nproc; grep MemTotal /proc/meminfo"]).check().stdout.split()
    assert inside[0] == vm["kernel_release"] != os.uname().release
    assert inside[1] == "1" and 0.7 * vm["memory_bytes"] < int(inside[3]) * 1024 <= vm["memory_bytes"]


def test_its_system_is_to_be_changed(vm_lab: Any) -> None:
    """Its copy of /etc, which came through the port, is as this machine's, and is changed in place."""
    container = vm_lab.run()
    script = "cat /etc/services; echo more >> /etc/services; su nobody -s /bin/sh -c 'id -un'; stat -c %U /var/lib/dpkg"
    seen = container.exec(["sh", "-ec", script]).check().stdout
    assert seen == Path("/etc/services").read_text() + "nobody\nroot\n"
    assert container.exec(["tail", "-n", "1", "/etc/services"]).stdout == "more\n"
    assert container.exec(["cut", "-d:", "-f2", "/etc/shadow"]).stdout.replace("*\n", "") == ""
    assert not [note for note in vm_lab.notes if "system" in note]


def test_a_person_at_a_terminal(vm_lab: Any) -> None:
    web = vm_lab.run(name="web", hostname="inner")
    line = shell_line(web)
    with Person([*shlex.split(line), "--", "sh"], rows=31, columns=79) as one:
        one.until("# ", 30)
        one.type("echo $(hostname) $(stty size) $(tty)\n")
        one.until("inner 31 79 /dev/pts/0\n", 30)
        one.type("sh -c 'trap \"stty size\" WINCH; echo rea''dy; while :; do sleep 0.1; done'\n")
        one.until("ready\n", 30)
        one.resize(12, 34)
        one.until("12 34\n", 30)
        one.type(CTRL_C)
        one.until("# ", 30)
        one.type("exit 6\n")
        assert one.ended(30) == 6 and one.now() == one.modes
    done = subprocess.run([*shlex.split(line), "--", "wc", "-c"], input=b"x" * 300_000, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"300000\n", b"")
    web.remove()


def test_containers_meet_on_a_network_and_its_tables_can_be_read(vm_lab: Any) -> None:
    vm_lab.network("blue", subnet="10.77.0.0/24")
    one, two = vm_lab.run(name="one", networks=["blue"]), vm_lab.run(name="two", networks=["blue"])
    assert one.exec(["ping", "-c", "1", "-W", "5", "two"]).returncode == 0
    told = json.loads(one.exec(["ip", "-j", "route"]).check().stdout)
    assert {(r["dst"], r["dev"]) for r in one.routes()} >= {(r["dst"], r["dev"]) for r in told}
    assert any(n["dst"] == str(two.address("blue")) for n in one.neighbours())
    assert "lo" in {link["name"] for link in vm_lab.nodes[0].links()}


def test_pids_are_the_guests_alone_and_in_a_batch(vm_lab: Any) -> None:
    alone, *batch = vm_lab.run(["sleep", "600"]), *vm_lab.run(["sleep", "600"], count=3, name="many{n}")
    pids = [container.pid for container in (alone, *batch)]
    assert all(isinstance(pid, int) and pid > 1 for pid in pids) and len(set(pids)) == 4
    assert alone.inspect()["pid"] == alone.pid


def test_a_read_only_mount_shows_this_machines_files(vm_lab: Any, shared: Path) -> None:
    (shared / "link").symlink_to(shared / "note")
    container = vm_lab.run(mounts=[f"{shared}:/data:ro", f"{shared}/link:/one:ro"])
    assert container.exec(["cat", "/data/note", "/one"]).check().stdout == "from this machine\n" * 2
    (shared / "later").write_text("x")
    (shared / "later").chmod(0o644)
    assert wait_until(lambda: container.exec(["cat", "/data/later"]).stdout == "x", 3, 0.2)
    refused = container.exec(["sh", "-c", "echo y > /data/note"])
    assert refused.returncode != 0 and "Read-only file system" in refused.stderr
    assert (shared / "note").read_text() == "from this machine\n"


def test_what_is_named_is_shown_as_it_is_at_that_moment(vm_lab: Any, shared: Path) -> None:
    """It lies where all is covered; and the guest remembers for a second what it has found at a place."""
    view = vm_lab.status()["vm"]["shares"]
    vm_help.need_covers(view["why_not"])
    assert {"/proc", "/sys", "/run", "/tmp", "/home"} <= set(view["covered"])
    deep = shared / "one" / "deep"
    deep.mkdir(parents=True)
    (deep / "note").write_text("deep\n")
    see = lambda path: vm_lab.run(mounts=[f"{path}:/data:ro"]).exec(["ls", "/data"]).check().stdout.split()  # noqa: E731
    assert see(deep) == ["note"]
    assert see(shared / "one") == ["deep"]  # at once, above what was named before
    (shared / "one").rename(shared / "two")
    deep.mkdir(parents=True)
    (deep / "other").write_text("x")
    assert see(deep) == ["other"]
    assert see(shared / "two" / "deep") == ["note"]


@pytest.mark.parametrize("words", ["{0}:/data", "{0}:/data:rw", "type=bind,source={0},target=/data"])
def test_a_read_write_mount_is_refused_before_anything_is_made(vm_lab: Any, shared: Path, words: str) -> None:
    before = [c.name for c in vm_lab.containers], [n.name for n in vm_lab.networks]
    with pytest.raises(Unsupported) as caught:
        vm_lab.run(name="never", mounts=[words.format(shared)])
    assert str(caught.value) == (
        f"mount {shared}:/data: a VM lab shares this machine's files read-only: write {shared}:/data:ro, "
        "or copy with %container cp"
    )
    assert ([c.name for c in vm_lab.containers], [n.name for n in vm_lab.networks]) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only then does a VM run as somebody else")
def test_what_only_root_may_read_is_not_shared(vm_lab: Any, shared: Path) -> None:
    (shared / "secret").write_text("root's\n")
    (shared / "secret").chmod(0o600)
    with pytest.raises(Unsupported, match="reads this machine's files as nobody"):
        vm_lab.run(mounts=[f"{shared}/secret:/secret:ro"])
    container = vm_lab.run(mounts=[f"{shared}:/data:ro"])
    read = container.exec(["cat", "/data/secret"])
    assert read.returncode != 0 and "root's" not in read.stdout
    made = container.exec(["cat", "/etc/shadow"]).check().stdout.splitlines()  # the lab's own, without a password
    assert made and {line.split(":")[1] for line in made} <= {"*", "!"}, made


def takes_a_filter(qemu: str) -> bool:
    """Whether this QEMU knows the option, by its own word: one that is built without seccomp refuses it."""
    words = [qemu, "-sandbox", "on", "-machine", "none,help"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=patient(30), check=False)
    return done.returncode == 0


def test_what_a_guest_could_break_into_is_confined(vm_lab: Any) -> None:
    """QEMU and virtiofsd: a filter of system calls on every thread, no new privileges, and nobody where we are root."""
    keeper = vm_lab._client.facts["keeper"]
    found = {pid: os.path.basename(os.readlink(f"/proc/{pid}/exe")) for pid in children_of(keeper)}
    assert sorted(name.partition("-")[0] for name in found.values()) == ["qemu", "virtiofsd", "virtiofsd"]
    for pid, name in found.items():
        threads = []
        for task in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                threads.append(task.read_text())
        assert len(threads) > 1
        if not name.startswith("qemu") or takes_a_filter(os.readlink(f"/proc/{pid}/exe")):
            assert all("\nSeccomp:\t2\n" in status for status in threads), (name, threads)
        assert all("\nNoNewPrivs:\t1\n" in status for status in threads)
        assert all("\nCapEff:\t0000000000000000\n" in status for status in threads)
        assert all("\nUid:\t0\t" not in status for status in threads)


def test_folders_and_tar_files_are_images(vm_lab: Any, shared: Path) -> None:
    tree = shared / "tree"
    (tree / "bin").mkdir(parents=True)
    busybox = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
    (tree / "bin" / "busybox").write_bytes(Path(busybox).read_bytes())
    (tree / "mark").write_text("of the image\n")
    for path in (tree, tree / "bin", tree / "bin" / "busybox"):
        path.chmod(0o755)
    (tree / "mark").chmod(0o644)
    with tarfile.open(shared / "image.tar", "w") as archive:
        archive.add(tree, "/")
    plain, packed = (shared / "image.tar").read_bytes(), {}
    for ending, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.items():
        packed[shared / f"image.tar.{ending}"] = pack(plain)
    if shutil.which("zstd"):
        done = subprocess.run(["zstd", "-qc"], input=plain, stdout=subprocess.PIPE, check=True)
        packed[shared / "image.tar.zst"] = done.stdout
    for image, data in packed.items():
        image.write_bytes(data)
    for image in (tree, shared / "image.tar", *packed):
        container = vm_lab.run(["/bin/busybox", "sleep", "600"], image=str(image))
        assert container.exec(["/bin/busybox", "cat", "/mark"]).check().stdout == "of the image\n", image


def test_a_tar_file_that_the_memory_cannot_hold_is_refused(vm_lab: Any, shared: Path) -> None:
    with (shared / "large.tar").open("wb") as file:
        file.truncate((128 << 20) + 4096)  # sparse: a quarter of 512M, and a page
    with pytest.raises(Unsupported, match=r"a quarter of the VM's memory \(512M\).*--vm-memory 1G"):
        vm_lab.run(image=str(shared / "large.tar"))


def test_limits_are_measured_against_the_vm(vm_lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="no CPU 1 here, there are 0"):
        vm_lab.run(cpuset_cpus="1")
    container = vm_lab.run(cpus=0.5, memory="32M", pids_limit=20)
    assert container.inspect()["state"] == "running"
    said = container.exec(["python3", "-c", "x = 'x' * (1 << 26)"])
    assert said.returncode != 0
    wide = vm_lab.run(name="wide", cpus=2)
    assert any("cpus='2' is more than the VM's 1" in note for note in vm_lab.notes)
    wide.remove()


def test_counters_arrive(vm_lab: Any) -> None:
    container = vm_lab.run(["sh", "-c", "while :; do :; done"], name="busy")
    assert wait_until(lambda: len(vm_lab.stats("busy", last="10s")) > 5, 20, 0.2)
    frame = vm_lab.stats("busy", last="10s")
    assert frame["cpu_seconds_total"].iloc[-1] > frame["cpu_seconds_total"].iloc[0]
    assert set(frame["source"]) == {"cgroup-v2"}
    container.remove()


def test_its_death_is_one_error_with_what_the_console_said(machine_programs: None) -> None:
    lab = ctlab.Lab(f"dies-{os.getpid()}", engine="vm", vm_memory="256M")
    try:
        assert lab.status()["vm"]["memory_bytes"] == 256 << 20
        container = lab.run()
        qemu = next(
            pid for pid in children_of(lab._client.facts["keeper"])
            if "qemu" in os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        )  # fmt: skip
        os.kill(qemu, signal.SIGKILL)
        with pytest.raises(LabGone, match="died: the VM ended"):
            container.exec(["true"])
        assert wait_until(lambda: lab.gone)
        with pytest.raises(LabGone, match=f"lab 'dies-{os.getpid()}' died: the VM ended"):
            lab.run()
        assert wait_until(lambda: any("died: the VM ended" in note for note in lab.notes))
        assert ">died<" in lab._repr_html_()
    finally:
        lab.stop()


NEEDED = """
import os, sys, json
import ctlab
from ctlab.kernel import syscalls
ready, go, child = os.pipe(), os.pipe(), os.fork()
if child:
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file: file.write("0 0 4294967295")
    os.write(go[1], b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
syscalls.unshare(syscalls.CLONE_NEWUSER)
os.write(ready[1], b"x")
os.read(go[0], 1)
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
try:
    ctlab.Lab("offered")
except ctlab.Unsupported as error:
    offered = str(error)
with ctlab.Lab("needed", vm_if_needed=True) as lab:
    output = lab.run().exec(["uname", "-r"]).check().stdout.strip()
    print(json.dumps([offered, lab.engine, lab.notes, output, lab.status()["vm"]["kernel_release"]]))
"""


@pytest.mark.long  # two boots; which engine is offered and taken is test_engines.py's
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to map every id into the namespace that forbids the lab")
def test_where_the_kernel_forbids_a_lab_the_vm_is_offered_and_taken(machine_programs: None) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", NEEDED], capture_output=True, text=True, timeout=patient(120), check=False
    )
    assert done.returncode == 0, done.stderr
    offered, engine, notes, inside, release = json.loads(done.stdout)
    assert offered.startswith("user-namespace: ENOSPC") and offered.endswith("engine='vm' (%lab start --engine vm)")
    assert engine == "vm" and inside == release
    assert any(note.startswith("lab 'needed' gets a kernel of its own, in a VM") for note in notes)


@pytest.mark.skipif(not os.access("/opt", os.W_OK), reason="needs a folder of the system's that can be written: /opt")
def test_files_that_are_replaced_here_stay_what_they_were_there(vm_lab: Any) -> None:
    """What the root lies on: an overlay would answer ESTALE for a lower file that isn't the one it knew."""
    with tempfile.TemporaryDirectory(prefix="ctlab-test-", dir="/opt") as folder:
        path, other = Path(folder, "note"), Path(folder, "new")
        for file, text in ((path, "first\n"), (other, "second\n")):
            file.write_text(text)
            file.chmod(0o644)
        path.parent.chmod(0o755)
        container = vm_lab.run()
        assert container.exec(["cat", str(path)]).check().stdout == "first\n"
        other.rename(path)
        time.sleep(1.5)  # more than a share that follows remembers
        assert container.exec(["cat", str(path)]).check().stdout == "first\n"
        assert vm_lab.run().exec(["cat", str(path)]).check().stdout == "first\n"
