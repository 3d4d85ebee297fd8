"""A VM's size as people write it, and the command lines of what is started for it."""

from __future__ import annotations

import os
import pwd
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab.errors import BadInput, CtlabError, Unsupported
from ctlab.vm import architecture, command_line, keeper, machine, options, programs, reader
from ctlab.vm.options import VmOptions, parse

GOLDEN = Path(__file__).parents[1] / "golden" / "vm"
X86, ARM = architecture.of("x86_64"), architecture.of("aarch64")
MACHINE_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# -- sizes ------------------------------------------------------------------------------------------------------------
def test_sizes_as_they_are_written() -> None:
    assert parse(None, None) == VmOptions(512 << 20, 1)
    assert parse("256M", 2) == VmOptions(256 << 20, 2)
    assert parse("0.25g", None) == VmOptions(256 << 20, 1)
    assert parse(options.MINIMUM_MEMORY_BYTES, 255) == VmOptions(192 << 20, 255)
    assert parse((256 << 20) + 1, None).memory_bytes == 257 << 20  # QEMU counts in whole MiB


@given(st.integers(options.MINIMUM_MEMORY_BYTES, MACHINE_BYTES))
def test_any_size_is_at_least_what_was_asked_for_in_whole_mib(size: int) -> None:
    found = parse(size, None).memory_bytes
    assert found % (1 << 20) == 0 and size <= found < size + (1 << 20)


@pytest.mark.parametrize(("memory", "cpus", "says"), [
    ("64M", None, "'64M' of memory is too little for a VM lab: it needs at least 192M"),
    (1, None, "1 of memory is too little for a VM lab: it needs at least 192M"),
    ("lots", None, "'lots' isn't a size: write 64M or 1.5g (units b k m g t, of 1024)"),
    ("1M M", None, "'1M M' isn't a size"),
    ("9000T", None, "'9000T' of memory is more than this machine has ("),
    (None, 0, "0 CPUs: a VM has 1 to 255"),
    (None, -1, "-1 CPUs: a VM has 1 to 255"),
    (None, 256, "256 CPUs: a VM has 1 to 255"),
    (None, True, "True isn't a number of CPUs for a VM: write 1 or 2"),
    (None, 1.5, "1.5 isn't a number of CPUs for a VM: write 1 or 2"),
    (None, "2", "'2' isn't a number of CPUs for a VM: write 1 or 2"),
])  # fmt: skip
def test_sizes_that_are_none(memory: object, cpus: object, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(memory, cpus)  # type: ignore[arg-type] # wrong on purpose
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["soon", "0", "-3", "inf", "nan"])
def test_a_boots_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(keeper.BOOT_VARIABLE, text)
    with pytest.raises(BadInput) as caught:
        keeper._boot_limit()
    assert str(caught.value) == f"CTLAB_VM_BOOT_SECONDS is {text!r}: it is a number of seconds, as 120"
    monkeypatch.setenv(keeper.BOOT_VARIABLE, "7.5")
    assert keeper._boot_limit() == 7.5
    monkeypatch.delenv(keeper.BOOT_VARIABLE)
    assert keeper._boot_limit() == 120


# -- command lines ----------------------------------------------------------------------------------------------------
GIVEN = command_line.Descriptors(kernel=10, initramfs=11, memory=12, system=13, host=17, port=14, console=15)
CASES = {
    "x86_64-tcg": (X86, "tcg", VmOptions()),
    "x86_64-kvm": (X86, "kvm", VmOptions(1 << 30, 2)),
    "aarch64-tcg": (ARM, "tcg", VmOptions()),
    "aarch64-kvm": (ARM, "kvm", VmOptions(256 << 20, 4)),
}


def shown(words: list[str]) -> str:
    """A command for people, an option a line."""
    return (
        "".join(f" \\\n  {shlex.quote(word)}" if word[0] == "-" else f" {shlex.quote(word)}" for word in words)[1:]
        + "\n"
    )


@pytest.mark.parametrize("name", CASES)
def test_command_lines(name: str) -> None:
    """UPDATE_GOLDEN=1 writes the files anew, to be read before they are believed."""
    here, acceleration, size = CASES[name]
    given_here = GIVEN._replace(kvm=16) if acceleration == "kvm" else GIVEN
    text = shown(command_line.qemu(here.qemu, here, size, acceleration, given_here, "ctlab-lab-x", filtered=True))
    for number, follows in ((8, False), (9, True)):
        text += "\n" + shown(command_line.virtiofsd("virtiofsd", number, follows=follows))
    if acceleration == "kvm":
        text += "\n" + shown(command_line.trial(here.qemu, here, 10, 15, 16, filtered=True))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def test_a_labs_name_ends_no_option_of_qemus() -> None:
    assert machine.Machine("/nowhere", VmOptions(), lab_name="a,debug=on").name == "ctlab-lab-a,,debug=on"


# -- what a VM's end is called ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("console", "reason"), [
    ("", "its kernel stopped"),
    ("[ 1.0] Kernel panic - not syncing: sysrq triggered crash\r\n[ 1.1] Call Trace:\n[ 1.2] RIP: 0033\n",
     "its kernel panicked (not syncing: sysrq triggered crash)"),
    ("[ 9.0] Out of memory: Killed process 9 (ctlab superviso) total-vm:1kB\nctlab: the lab's keeper ended",
     "its memory was used up (its kernel killed 'ctlab superviso')"),
    ("[ 9.0] Out of memory: Killed process 9 (python3) total-vm:1kB\nctlab: the lab's keeper ended with status 1",
     "the lab's keeper ended with status 1"),
    ("ctlab: OSError: no port\n[ 9] reboot: Restarting system", "its first process failed (OSError: no port)"),
])  # fmt: skip
def test_the_guests_own_words_are_the_reason(tmp_path: Path, console: str, reason: str) -> None:
    (tmp_path / "console").write_text(console)
    assert machine._last_reason(str(tmp_path / "console")) == reason


def test_the_consoles_tail_is_text_without_empty_lines(tmp_path: Path) -> None:
    one = machine.Machine(str(tmp_path), VmOptions())
    assert one.console_tail() == "" and one.ended() == ""
    (tmp_path / "log").write_bytes(b"qemu: no\n")
    (tmp_path / "console").write_bytes(b"\x1b[0mhello\r\n\r\n\xff\x00bye\n" + b"".join(b"%d\n" % n for n in range(10)))
    assert one.console_tail(3) == "7\n8\n9"
    assert one.console_tail().splitlines()[:2] == [" [0mhello", "\ufffd bye"]
    assert one.console_tail(99).splitlines()[0] == "qemu: no"


# -- who reads this machine's files -----------------------------------------------------------------------------------
def test_who_reads_for_the_guest_is_never_root() -> None:
    if os.getuid() != 0:
        assert reader.reader() is None
        return
    if Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
        assert reader.reader() == (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        return
    try:
        found = reader.reader()
    except Unsupported as error:  # in a user namespace
        assert "\n" not in str(error)
    else:
        assert found is None or 0 not in found


@pytest.mark.parametrize(("lines", "number", "outside"), [
    ("0 0 4294967295\n", 65534, 65534),
    ("         0       1000          1\n", 0, 1000),
    ("0 1000 1\n", 65534, None),
    ("0 1000 1\n1 100000 65536\n", 65534, 165533),
    ("0 100000 65536\n", 65535, 165535),
    ("0 100000 65536\n", 65536, None),
])  # fmt: skip
def test_ids_of_a_user_namespace(tmp_path: Path, lines: str, number: int, outside: int | None) -> None:
    (tmp_path / "map").write_text(lines)
    assert reader._outside(str(tmp_path / "map"), number) == outside


# -- programs ---------------------------------------------------------------------------------------------------------
def test_what_is_missing_is_named_with_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_MORE_PLACES", (str(tmp_path / "more"),))
    here = architecture.here()
    with pytest.raises(Unsupported) as caught:
        programs.find()
    assert str(caught.value) == (
        f"a VM lab needs {here.qemu}, virtiofsd, busybox, not found here: "
        f"sudo apt install {here.qemu_package} virtiofsd busybox-static"
    )
    (tmp_path / "more").mkdir()
    dynamic = b"\x7fELF" + b"\0" * 200 + b"/lib64/ld-linux-x86-64.so.2\0"
    for name, data in (("busybox", dynamic), ("virtiofsd", b"#!/bin/sh\necho ' --readonly'\n")):
        (tmp_path / "more" / name).write_bytes(data)
        (tmp_path / "more" / name).chmod(0o755)
    with pytest.raises(CtlabError, match=f"needs {here.qemu}, busybox, not found"):  # a busybox with libraries is none
        programs.find()
    old = tmp_path / "more" / "virtiofsd"
    old.write_bytes(b"#!/bin/sh\necho ' -o shared_dir=PATH'\n")
    with pytest.raises(CtlabError, match=f"busybox, a virtiofsd newer than {old} .it has no --readonly., not found"):
        programs.find()
