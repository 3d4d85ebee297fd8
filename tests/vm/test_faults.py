"""What goes wrong with a VM, for real: each is one error that says what to do, and nothing is left behind.

That no process and no runtime folder is left is looked at after every test, see `nothing_left`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import children_of, patient, seen, wait_until
from vm_help import START_WORDS, apart, changed_cache, first_program, listed, owner, put_kernel, said, script

import ctlab
from ctlab.errors import CtlabError, LabGone
from ctlab.vm import guest_setup, modules, options, programs
from ctlab.vm.prepare import prepare

pytestmark = pytest.mark.usefixtures("machine_programs")

OWNER = """
import sys, ctlab
ctlab.Lab("killed", engine="vm")
print("ready", flush=True)
sys.stdin.read()
"""


def one_line(kind: type[CtlabError], **lab: Any) -> str:
    """Start a lab that can't; what it says, which is one line."""
    with pytest.raises(kind) as caught:
        ctlab.Lab(f"fails-{os.getpid()}", engine="vm", **lab)
    text = str(caught.value)
    assert type(caught.value) is kind and "\n" not in text and "Traceback" not in text
    return text


# -- before there is a machine ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("program", ["qemu", "virtiofsd", "busybox"])
def test_a_missing_program_is_named_with_its_package(tmp_path: Path, program: str) -> None:
    """It is covered by something that can't be executed, everywhere it is looked for."""
    path = getattr(programs.find(), program)
    name, package = next(wanted for wanted in programs._wanted() if wanted[0] in path)
    places = ("/usr/bin", "/usr/libexec", "/usr/lib/qemu", "/usr/lib/virtiofsd", "/usr/local/bin", "/usr/local/libexec")
    hidden = {os.path.realpath(place) for place in (*(f"{place}/{name}" for place in places), path)}
    lines = [f"mount --bind /dev/null {place}" for place in hidden if os.path.exists(place)]
    kind, text = said(apart(START_WORDS, *lines, env={"XDG_CACHE_HOME": str(tmp_path)}))
    assert (kind, text) == (
        "Unsupported", f"the lab can't start: a VM lab needs {name}, not found here: sudo apt install {package}"
    )  # fmt: skip
    assert os.listdir(tmp_path) == []


def _arm64() -> bytes:
    return b"\0" * 0x38 + b"ARM\x64" + b"\0" * 4096


def _x86() -> bytes:
    image = bytearray(4096)
    image[0x202:0x206] = b"HdrS"
    return bytes(image)


def test_a_kernel_that_is_none_or_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_kernel(tmp_path, image=os.urandom(1 << 16))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert one_line(CtlabError) == f"the lab can't start: {folder}/vmlinuz isn't a kernel image: fetch it again"
    other = (_arm64 if os.uname().machine == "x86_64" else _x86)()
    (folder / "vmlinuz").write_bytes(other)
    text = one_line(CtlabError)
    assert f"{folder}/vmlinuz is a kernel for " in text and f"and this machine is {os.uname().machine}: take" in text
    assert listed(folder) == []


def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "linux-image.deb"
    package.write_bytes(b"!<arch>\n" + b"debian-binary   0           0     0     100644  4         `\n2.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CTLAB_VM_KERNEL_DEB", str(package))
    assert one_line(CtlabError) == f"the lab can't start: {package} is damaged or cut off; fetch it again"
    assert listed(tmp_path / "cache" / "ctlab" / "vm") == []


def test_a_kernel_without_a_module_that_the_guest_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = os.listdir(prepare().kernel.parent / "modules")
    lacks = next(name for name in modules.ESSENTIAL if f"{name}.ko" in there)  # the others are built in
    folder = put_kernel(tmp_path, without=[lacks])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = f"the lab can't start: {folder}/vmlinuz has no module {lacks}: take another kernel package"
    assert one_line(CtlabError) == text
    assert listed(folder) == []


def test_a_cache_without_room_is_one_error_and_whole_when_there_is_room(tmp_path: Path) -> None:
    """A small tmpfs as the cache: full while the kernel is written, then while the archives are."""
    place = tmp_path / "place"
    put_kernel(place)
    prepare_it = f"{sys.executable} -B -m ctlab vm prepare"
    look = "echo listed: $(ls -A $1/ctlab/vm)"
    # Options as they are shown (a uid of outside) can't be given again by an ordinary user's root.
    change = "mount --options-mode ignore -t tmpfs -o remount,size={} none $1"
    lines = ["mount -t tmpfs -o size=200M none $1", "cp -a $0/. $1", "export XDG_CACHE_HOME=$1"]
    for size in ("30M", "80M", "105M"):
        lines += [change.format(size), f"{prepare_it} && exit 9", look]
    lines += [change.format("200M"), prepare_it, prepare_it]
    (tmp_path / "full").mkdir()
    text = "\n".join(["set -u", *lines])
    done = apart(["sh", "-c", text, str(place), str(tmp_path / "full")])
    assert done.returncode == 0, done.stdout
    refused = [line for line in done.stdout.splitlines() if line.startswith("no room")]
    assert len(refused) == 3 and len(set(refused)) == 1, done.stdout
    assert refused[0].startswith(f"no room for the VM's files in {tmp_path}/full/ctlab/vm: ENOSPC (")
    assert ".new-" not in done.stdout and "Traceback" not in done.stdout
    assert "made: initramfs" in done.stdout and done.stdout.count("everything was there") == 1
    first, *later = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("listed:")]
    assert first == ["modules", "vmlinuz"]
    assert all(any(name.startswith("kernel-") for name in names) for names in later), later  # what is whole is kept


# -- a machine that doesn't get ready ---------------------------------------------------------------------------------
@pytest.mark.long
def test_a_boot_that_never_reports_ready_ends_with_what_the_console_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = first_program("echo waiting for Godot\nexec /run/ctlab/bin/busybox sleep 1000")
    for name, value in changed_cache(tmp_path, program).items():
        monkeypatch.setenv(name, value)
    for limit in (patient(8), patient(40)):  # on a busy machine the first may not be enough for the kernel
        monkeypatch.setenv("CTLAB_VM_BOOT_SECONDS", f"{limit:g}")
        with pytest.raises(CtlabError) as caught:
            ctlab.Lab("late", engine="vm")
        first, *console = str(caught.value).splitlines()
        longer = f"(CTLAB_VM_BOOT_SECONDS={2 * limit:g} gives it longer)"
        assert first.startswith(f"the lab can't start: the VM didn't get ready in {limit:g} s {longer}; ")
        if "waiting for Godot" in console:
            break
    assert first.endswith("; the console's last lines:") and console[-1] == "waiting for Godot"


def test_a_module_missing_from_the_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in changed_cache(tmp_path, {guest_setup.ORDER: b"no_such_module"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CtlabError) as caught:
        ctlab.Lab("lacks", engine="vm")
    first, *console = str(caught.value).splitlines()
    assert first.startswith("the lab can't start: the VM ended: its first process failed (FileNotFoundError: ")
    assert first.endswith("/no_such_module.ko'); the console's last lines:")
    assert any(line.startswith("ctlab: FileNotFoundError") for line in console)


# -- deaths -----------------------------------------------------------------------------------------------------------
def _vm_processes(keeper: int) -> dict[str, int]:
    found = {os.path.basename(os.readlink(f"/proc/{pid}/exe")): pid for pid in children_of(keeper)}
    return {name.partition("-")[0]: pid for name, pid in found.items()}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("moment", ["keeper", "virtiofsd", "qemu", "later"])
def test_killing_the_owner_while_the_vm_boots_ends_all_of_it(runtime_base: Path, moment: str) -> None:
    with owner(OWNER) as process:
        pids: dict[str, int] = {}

        def come() -> bool:
            keepers = children_of(process.pid)
            if not keepers:
                return False
            pids["keeper"] = keepers[0]
            try:
                pids.update(_vm_processes(keepers[0]))
            except OSError:
                return False  # one of them is just becoming its program, or isn't there yet
            return {"later": "qemu"}.get(moment, moment) in pids

        assert wait_until(come, 10, 0.001)
        if moment == "later":
            time.sleep(0.7)
        process.kill()
        process.wait()
        assert process.stdout is not None and process.stdout.read() == ""  # it wasn't ready
        assert wait_until(lambda: not any(map(_alive, pids.values())), 10), pids
        assert wait_until(lambda: not runtime_base.exists() or os.listdir(runtime_base) == [])


@pytest.mark.long
def test_an_interrupt_while_the_vm_boots_leaves_nothing_behind(runtime_base: Path) -> None:
    with owner(OWNER) as process:
        assert wait_until(lambda: len(children_of(process.pid)) == 1, 10)
        keeper = children_of(process.pid)[0]
        pids = [keeper, *seen(lambda: children_of(keeper), lambda found: len(found) == 3, 10)]
        process.send_signal(signal.SIGINT)
        assert process.wait(patient(20)) != 0
        assert not any(map(_alive, pids)), "the interrupt came through before all had ended"
        assert not runtime_base.exists() or os.listdir(runtime_base) == []


def test_killing_owner_and_keeper_ends_the_vm_and_the_next_start_clears_its_folder(runtime_base: Path) -> None:
    with owner(OWNER) as process:
        assert wait_until(lambda: len(children_of(process.pid)) == 1, 10)
        keeper = children_of(process.pid)[0]
        pids = seen(lambda: children_of(keeper), lambda found: len(found) == 3, 10)
        os.kill(process.pid, signal.SIGSTOP)  # it'd clear the folder itself
        os.kill(keeper, signal.SIGKILL)
        process.kill()
        process.wait()
        assert wait_until(lambda: not any(map(_alive, [keeper, *pids])), 10)
    assert len(os.listdir(runtime_base)) == 1
    with ctlab.Lab(f"next-{os.getpid()}", engine="vm") as lab:
        assert os.listdir(runtime_base) == [lab._client.id]


def test_killing_the_owner_while_the_kernel_is_prepared_leaves_nothing_half_made(tmp_path: Path) -> None:
    folder = put_kernel(tmp_path)
    with owner(OWNER, {"XDG_CACHE_HOME": str(tmp_path)}) as process:
        assert wait_until(lambda: any(name.startswith(".new-") for name in listed(folder)), 20, 0.001)
        keeper = children_of(process.pid)[0]
        # In processes of their own, the kernel and what is read of /etc: the keeper hears of a death meanwhile.
        maker = children_of(keeper)
        assert maker
        process.kill()
        process.wait()
        assert wait_until(lambda: not any(map(_alive, [keeper, *maker])), 15)
    assert not any(name.startswith(".new-") for name in listed(folder))


@pytest.mark.long
def test_two_labs_at_once(tmp_path: Path) -> None:
    """Started in one moment, each in a VM of its own; the death of one leaves the other alone."""
    labs: dict[str, Any] = {}

    def start(name: str) -> None:
        labs[name] = ctlab.Lab(f"{name}-{os.getpid()}", engine="vm")

    threads = [threading.Thread(target=start, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        boots = {
            name: lab.run(name="same").exec(["cat", "/proc/sys/kernel/random/boot_id"]).check().stdout
            for name, lab in labs.items()
        }
        assert len(set(boots.values())) == 2
        os.kill(_vm_processes(labs["one"]._client.facts["keeper"])["virtiofsd"], signal.SIGKILL)
        with pytest.raises(LabGone, match=r"died: the VM lost its files: virtiofsd ended \(SIGKILL\)"):
            labs["one"].run()
        assert labs["two"].containers["same"].exec(["echo", "on"]).check().stdout == "on\n"
    finally:
        for lab in labs.values():
            lab.stop()


@pytest.mark.long  # test_lab.py has a death with what the console said
def test_a_panic_of_the_guests_kernel_is_one_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel runs modprobe as root when a container asks for a kind of socket that it doesn't know."""
    panic = script("B=/run/ctlab/bin/busybox\n$B mkdir /p\n$B mount -t proc proc /p\necho c > /p/sysrq-trigger")
    for name, value in changed_cache(tmp_path, {guest_setup.MODPROBE: panic}).items():
        monkeypatch.setenv(name, value)
    with ctlab.Lab(f"panics-{os.getpid()}", engine="vm") as lab:
        container = lab.run()
        with pytest.raises(LabGone) as caught:
            container.exec(["python3", "-c", "import socket; socket.socket(socket.AF_X25, socket.SOCK_SEQPACKET)"])
        first, *console = str(caught.value).splitlines()
        assert "died: the VM ended: its kernel panicked (not syncing: sysrq triggered crash); the console's" in first
        assert console
        with pytest.raises(LabGone, match="its kernel panicked"):
            lab.run()


@pytest.mark.long
def test_the_least_memory_runs_a_lab_and_a_program_that_wants_it_all_ends_alone_or_the_vm_says_why() -> None:
    with ctlab.Lab(f"small-{os.getpid()}", engine="vm", vm_memory=options.MINIMUM_MEMORY_BYTES) as lab:
        lab.network("blue")
        one, two = lab.run(name="one", networks=["blue"]), lab.run(name="two", networks=["blue"])
        assert one.exec(["ping", "-c", "1", "-W", "5", "two"]).returncode == 0
        greedy = "held = []\nwhile True: held.append(bytearray(1 << 20))"
        try:
            ended = one.exec(["python3", "-c", greedy])
        except LabGone as error:  # the kernel may choose another victim
            assert "died: the VM ended: " in str(error) and "emory" in str(error).partition("last lines:")[2]
            return
        assert ended.returncode == 128 + signal.SIGKILL
        assert two.exec(["echo", "on"]).check().stdout == "on\n"


def test_too_little_memory_is_refused_before_anything_starts() -> None:
    with pytest.raises(ctlab.errors.BadInput) as caught:
        ctlab.Lab("tiny", engine="vm", vm_memory="64M")
    assert str(caught.value) == "'64M' of memory is too little for a VM lab: it needs at least 192M"
