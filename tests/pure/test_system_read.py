"""What is read for the image `system`, of folders made for it: by modes alone, within bounds, no link followed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ctlab.runtime import system_copy, system_read


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for top in ("etc", "var"):
        (tmp_path / top).mkdir(mode=0o755)
    return tmp_path


def read(root: Path) -> tuple[dict[str, system_read.Entry], list[str]]:
    found = system_read.Archive(str(root))
    for top in system_read.DEEPEST:
        found.read(top)
    return {entry[0]: entry for entry in found.entries}, found.left_out


def file(path: Path, text: str = "x", mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_what_the_world_may_not_read_is_not_read(root: Path) -> None:
    """By its mode: the one who reads may be its owner."""
    file(root / "etc/open", "o")
    file(root / "etc/closed", mode=0o640)
    file(root / "etc/private/key")
    (root / "etc/private").chmod(0o710)
    file(root / "etc/passable/known")
    (root / "etc/passable").chmod(0o711)
    for name in ("shadow", "gshadow", "shadow-", "hosts"):
        file(root / "etc" / name)  # not even where the world may
    (root / "var/lib/closed/below").mkdir(parents=True)
    (root / "var/lib/closed").chmod(0o700)
    found, left_out = read(root)
    assert set(found) == {"etc/open", "etc/private", "etc/passable", "var/lib", "var/lib/closed"}
    assert found["etc/open"][5] == b"o" and stat.S_IMODE(found["etc/private"][1]) == 0o710
    assert left_out == []


def test_no_link_is_followed_and_nothing_odd_is_opened(root: Path) -> None:
    file(root / "outside/secret", "s")
    (root / "etc/link").symlink_to("../outside/secret")
    (root / "etc/folder").symlink_to("../outside")
    (root / "var/mail").symlink_to("spool/mail")
    os.mkfifo(root / "etc/pipe", 0o644)  # opened to be read, it would wait for who writes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "etc/socket"))
        found, _ = read(root)
    assert {path: entry[5] for path, entry in found.items()} == {
        "etc/link": "../outside/secret", "etc/folder": "../outside", "var/mail": "spool/mail",
    }  # fmt: skip


def test_of_var_only_the_folders(root: Path) -> None:
    file(root / "var/log/messages")
    (root / "var/log/web").mkdir(mode=0o750)
    (root / "var/mail").mkdir()
    (root / "var/mail").chmod(0o2775)
    file(root / "var/tmp/somebodys/file")
    (root / "var/run").mkdir()
    found, _ = read(root)
    assert {path: stat.S_IMODE(entry[1]) for path, entry in found.items()} == {
        "var/log": 0o755, "var/log/web": 0o750, "var/mail": 0o2775,
    }  # fmt: skip


def test_what_is_too_much_is_left_out_and_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_read, "MOST_FILE_BYTES", 1000)
    monkeypatch.setattr(system_read, "MOST_BYTES", 2500)
    file(root / "etc/a", "a" * 1000)
    file(root / "etc/b", "b" * 1001)
    found, left_out = read(root)
    assert set(found) == {"etc/a"} and left_out == ["/etc/b"]
    for name in "cde":
        file(root / "etc" / name, name * 1000)
    found, left_out = read(root)
    assert sum(len(entry[5]) for entry in found.values()) == 2000 and len(left_out) == 3


def test_how_many_and_how_deep_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = root / "var"
    for number in range(10):
        deep /= f"d{number}"
    deep.mkdir(parents=True)
    found, _ = read(root)
    assert max(path.count("/") for path in found) == system_read.DEEPEST["var"] + 1
    monkeypatch.setattr(system_read, "MOST_ENTRIES", 20)
    for number in range(50):
        file(root / f"etc/many/{number}")
    found, left_out = read(root)
    assert len(found) == 20 and left_out == ["what is left of /etc", "what is left of /var"]
    monkeypatch.setattr(system_read, "MOST_ENTRIES", 1000)
    monkeypatch.setattr(system_read, "MOST_LOOKED_AT", 30)  # /var/spool may have a million files, none of them for us
    assert read(root)[1] == ["what is left of /etc", "what is left of /var"]
    monkeypatch.setattr(system_read, "MOST_LOOKED_AT", 1000)
    monkeypatch.setattr(system_read, "ENOUGH_SECONDS", 0.0)
    assert read(root)[1] == ["what is left of /etc", "what is left of /var"]


def test_a_file_that_grows_or_says_no_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a mounted /proc file do, and those that somebody is writing."""
    file(root / "etc/grows", "ab")
    plain = os.fstat

    def smaller(descriptor: int) -> os.stat_result:
        status = plain(descriptor)
        if stat.S_ISREG(status.st_mode):
            fields = list(status)
            fields[6] = said
            return os.stat_result(fields)
        return status

    monkeypatch.setattr(os, "fstat", smaller)
    for said in (0, 1):  # noqa: B007 - read by `smaller`
        assert read(root)[0]["etc/grows"][5] == b"ab"
    monkeypatch.setattr(system_read, "MOST_FILE_BYTES", 1)
    assert read(root)[0] == {} and read(root)[1] == ["/etc/grows"]


def test_without_etc_and_var(tmp_path: Path) -> None:
    assert read(tmp_path) == ({}, [])


def test_it_is_written_as_it_was_read(root: Path, tmp_path: Path) -> None:
    file(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/false\nbroken\n")
    file(root / "etc/group", "root:x:0:\nshadow:x:42:\nwww:x:33:web,root\n")
    file(root / "etc/init.d/web", "#!/bin/sh\n", 0o4755)
    file(root / "etc/\udcff name", "odd")
    (root / "etc/mtab").symlink_to("/proc/mounts")
    os.utime(root / "etc/passwd", ns=(1, 1_000_000_001))
    (root / "var/log/web").mkdir(parents=True)
    (root / "var/log/web").chmod(0o1777)
    found, _ = read(root)
    copy = tmp_path / "copy"
    (copy / "etc").mkdir(parents=True)
    (copy / "var").mkdir()
    descriptor = os.open(copy, os.O_RDONLY)
    umask = os.umask(0)
    try:
        system_copy.write(descriptor, list(found.values()))
    finally:
        os.umask(umask)
        os.close(descriptor)
    assert (copy / "etc/passwd").read_bytes() == (root / "etc/passwd").read_bytes()
    assert (copy / "etc/passwd").stat().st_mtime_ns == 1_000_000_001
    assert stat.S_IMODE((copy / "etc/init.d/web").stat().st_mode) == 0o755, "a setuid bit has no owner to be of"
    assert (copy / "etc/\udcff name").read_text() == "odd"
    assert os.readlink(copy / "etc/mtab") == "/proc/mounts"
    assert stat.S_IMODE((copy / "var/log/web").stat().st_mode) == 0o1777
    assert (copy / "etc/shadow").read_text() == "root:*:::::::\nweb:*:::::::\n"
    assert (copy / "etc/gshadow").read_text() == "root:*::\nshadow:*::\nwww:*::web,root\n"
    assert stat.S_IMODE((copy / "etc/shadow").stat().st_mode) == 0o640
