"""What is read for the image `system`, of folders made for it: by modes alone, within bounds, no link followed."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import stat
from pathlib import Path

import pytest

from ctlab.runtime import system_copy, system_read

TOO_MUCH = "not in the image system, being too much: "


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for top in ("etc", "var"):
        (tmp_path / top).mkdir(mode=0o755)
    return tmp_path


def read(root: Path) -> tuple[dict[str, system_read.Entry], list[str]]:
    found = system_read.Archive(str(root))
    for top in system_read.DEEPEST:
        found.read(top)
    return {entry[0]: entry for entry in found.entries}, found.notes


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
    assert set(found) == {"etc/a"} and left_out == [TOO_MUCH + "/etc/b"]
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
    monkeypatch.setattr(system_read, "MOST_PAGES", 20)
    for number in range(50):
        file(root / f"etc/many/{number}")
    found, left_out = read(root)
    assert len(found) == 20 and left_out == [TOO_MUCH + "what is left of /etc", TOO_MUCH + "what is left of /var"]
    monkeypatch.setattr(system_read, "MOST_PAGES", 1000)
    monkeypatch.setattr(system_read, "MOST_LOOKED_AT", 30)  # /var/spool may have a million files, none of them for us
    assert read(root)[1] == [TOO_MUCH + "what is left of /etc", TOO_MUCH + "what is left of /var"]
    monkeypatch.setattr(system_read, "MOST_LOOKED_AT", 1000)
    monkeypatch.setattr(system_read, "ENOUGH_SECONDS", 0.0)
    assert read(root)[1] == [TOO_MUCH + "what is left of /etc", TOO_MUCH + "what is left of /var"]


def test_everything_counts_as_a_file_system_in_memory_counts_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page at least; of a link its target, or who may make links below /var fills the memory that the copy has."""
    page = os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(system_read, "MOST_PAGES", 6)
    file(root / "etc/large", "x" * (2 * page + 1))
    for name in "abcd":
        (root / "var" / name).symlink_to("x")
    found, left_out = read(root)
    assert len(found) == 4 and left_out == [TOO_MUCH + "what is left of /var"]
    file(root / "etc/larger", "x" * (6 * page + 1))
    found, left_out = read(root)
    assert len(found) == 4 and left_out == [TOO_MUCH + "/etc/larger", TOO_MUCH + "what is left of /var"]
    monkeypatch.setattr(system_read, "MOST_PAGES", 1000)
    monkeypatch.setattr(system_read, "MOST_BYTES", 10_000)
    for path in (root / "etc/large", root / "etc/larger"):
        path.unlink()
    for name in "efgh":
        (root / "var" / name).symlink_to("x" * 3000)
    found, left_out = read(root)
    assert sum(len(entry[5]) for entry in found.values()) <= 10_000 and len(found) == 7 and len(left_out) == 1


def test_what_is_in_a_folder_of_anybodys_is_not_read(root: Path) -> None:
    """Ubuntu's /var/crash: what somebody puts there would take the place of a system's folders."""
    (root / "var/crash/somebodys").mkdir(parents=True)
    (root / "var/crash").chmod(0o1777)
    file(root / "etc/open/file")
    (root / "etc/open").chmod(0o777)
    found, left_out = read(root)
    assert set(found) == {"var/crash", "etc/open", "etc/open/file"} and left_out == []


def test_a_reader_that_dies_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it had written, and without: who waits for the archive sees a whole one, or none."""
    dies = 3

    def read(archive: int, hold: int, died: int) -> None:
        os.write(archive, b"part")
        if died < dies:
            os.kill(os.getpid(), signal.SIGKILL)
        os.ftruncate(archive, 0)
        os.pwrite(archive, b"whole", 0)
        os._exit(0)

    monkeypatch.setattr(system_read, "_read", read)
    for dies in (0, 3, 4):
        reader = system_read.start()
        archive = os.dup(reader.archive)
        poll = select.poll()
        poll.register(reader.done, 0)
        while reader.pid:
            assert select.select([reader.pidfd], [], [], 10)[0]
            reader.look()
        assert not poll.poll(0), "the lab's ids aren't mapped"
        reader.mapped()
        assert poll.poll(0) and os.pread(archive, 100, 0) == (b"whole" if dies < 4 else b"")
        assert (reader.archive, reader.hold, reader.pidfd) == (-1, -1, -1)
        os.close(archive)
        os.close(reader.done)
        assert system_read.start().whole() == (b"whole" if dies < 4 else b""), "as in a VM"


def test_one_that_has_no_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_read, "_read", lambda *_: os.kill(os.getpid(), signal.SIGALRM))
    reader = system_read.start()
    assert (reader.whole(), reader._starts) == (b"", 1)


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
    assert read(root)[0] == {} and read(root)[1] == [TOO_MUCH + "/etc/grows"]


def test_without_etc_and_var(tmp_path: Path) -> None:
    assert read(tmp_path) == ({}, [])


def copied(tmp_path: Path, entries: list[system_read.Entry]) -> tuple[Path, list[str]]:
    """A copy made of these entries; what it says that it lacks."""
    copy = tmp_path / "copy"
    for path in ("etc", "var/log"):
        (copy / path).mkdir(parents=True)
    descriptor = os.open(copy, os.O_RDONLY)
    umask = os.umask(0)
    try:
        return copy, system_copy.write(descriptor, entries)
    finally:
        os.umask(umask)
        os.close(descriptor)


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
    copy = copied(tmp_path, list(found.values()))[0]
    assert (copy / "etc/passwd").read_bytes() == (root / "etc/passwd").read_bytes()
    assert (copy / "etc/passwd").stat().st_mtime_ns == 1_000_000_001
    assert stat.S_IMODE((copy / "etc/init.d/web").stat().st_mode) == 0o755, "a setuid bit has no owner to be of"
    assert (copy / "etc/\udcff name").read_text() == "odd"
    assert os.readlink(copy / "etc/mtab") == "/proc/mounts"
    assert stat.S_IMODE((copy / "var/log/web").stat().st_mode) == 0o1777
    assert (copy / "etc/shadow").read_text() == "root:*:::::::\nweb:*:::::::\n"
    assert (copy / "etc/gshadow").read_text() == "root:*::\nshadow:*::\nwww:*::web,root\n"
    assert stat.S_IMODE((copy / "etc/shadow").stat().st_mode) == 0o640


LINK, FOLDER, FILE = stat.S_IFLNK, stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


def entry(path: str, mode: int, body: str | bytes = b"") -> system_read.Entry:
    return path, mode, 0, 0, 0, body


def test_no_single_entry_fails_the_copy(tmp_path: Path) -> None:
    """What can't be made is named, but not what every root has, nor what has come twice."""
    long = "x" * 256
    copy, lost = copied(
        tmp_path,
        [
            entry("var/log", LINK, "/data/log"), entry("etc/a", FILE, b"first"), entry("etc/a", FILE, b"second"),
            entry("etc/a/b", FILE), entry(f"etc/{long}", FOLDER), entry(f"etc/{long}/c", FILE),
            entry("etc/gone/d", FILE), entry("etc/last", FILE, b"last"),
        ],
    )  # fmt: skip
    assert (copy / "var/log").is_dir() and not (copy / "var/log").is_symlink()
    assert (copy / "etc/a").read_bytes() == b"first" and (copy / "etc/last").read_bytes() == b"last"
    assert [line.replace(long, "long") for line in lost] == [
        "not in the image system: /etc/a/b: ENOTDIR", "not in the image system: /etc/long: ENAMETOOLONG",
        "not in the image system: /etc/long/c: ENOTDIR", "not in the image system: /etc/gone/d: ENOTDIR",
    ]  # fmt: skip


def test_nothing_is_made_through_a_link(tmp_path: Path) -> None:
    """Somebody put a folder in a link's place while it was read: the link would lead out of the copy."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    swapped = entry("etc/x", FOLDER | 0o777)
    copy, lost = copied(
        tmp_path, [entry("etc/x", LINK, str(outside)), swapped, entry("etc/x/link", LINK, "/"), entry("etc/x/f", FILE)]
    )
    assert list(outside.iterdir()) == [] and stat.S_IMODE(outside.stat().st_mode) == 0o700
    assert os.readlink(copy / "etc/x") == str(outside) and len(lost) == 3


def test_what_has_no_room_is_left_out_whole(tmp_path: Path) -> None:
    """As where the copy's own memory is full: a write takes a part then, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    many = [entry(f"etc/{number}", FILE, b"x" * 5000) for number in range(7)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        copy, lost = copied(tmp_path, [*many, entry("etc/small", FILE, b"x" * 4096)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in (copy / "etc").iterdir()) == ["gshadow", "shadow", "small"]
    assert lost[0] == "not in the image system: /etc/0: EFBIG" and lost[-1] == "not in the image system: 2 more"


@pytest.mark.parametrize("number", ["²", "9" * 5000, "99999999999", "9999999999", "x", ""])
def test_a_group_without_a_number(tmp_path: Path, number: str) -> None:
    copy, lost = copied(tmp_path, [entry("etc/group", FILE, f"shadow:x:{number}:\n".encode())])
    assert (copy / "etc/gshadow").read_text() == "shadow:*::\n" and lost == []
