"""What a VM is made from, read and written: packages, compressed data, the archive that is the guest's first root."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import newc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab.errors import CtlabError
from ctlab.vm import cpio, deb, unpacking

names = st.text("abcdefgh.-_", min_size=1, max_size=12).filter(lambda name: set(name) != {"."})
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


def fits(tree: dict[str, bytes]) -> bool:
    """No file is a folder of another one, too."""
    return not any(other.startswith(f"{path}/") for path in tree for other in tree)


trees = st.dictionaries(paths, st.binary(max_size=64), max_size=8).filter(fits)


# -- cpio -------------------------------------------------------------------------------------------------------------
@given(trees)
def test_files_are_read_back_behind_their_folders(tree: dict[str, bytes]) -> None:
    members = list(newc.read(cpio.archive(cpio.file(path, data) for path, data in tree.items())))
    assert {one.path: one.data for one in members if stat.S_ISREG(one.mode)} == tree
    there = {""}
    for one in members:
        assert one.path.rpartition("/")[0] in there, "the kernel makes no folder that isn't told of"
        there.add(one.path)
    inodes = [one.inode for one in members]
    assert len(set(inodes)) == len(inodes)  # two with one number would be taken for hard links


@given(trees)
def test_the_same_is_the_same_and_fills_whole_blocks(tree: dict[str, bytes]) -> None:
    entries = [cpio.file(path, data) for path, data in tree.items()]
    assert cpio.archive(entries) == cpio.archive(entries)
    assert len(cpio.archive(entries)) % 512 == 0


def test_kinds_modes_and_a_second_archive_behind_the_first() -> None:
    first = cpio.archive([
        cpio.folder("a", 0o700), cpio.file("a/x", b"one", 0o755), cpio.file("a/x", b"two"),
        cpio.link("b/l", "../a/x"), cpio.character_device("dev/console", 5, 1),
    ])  # fmt: skip
    told = [(m.path, oct(m.mode), m.data, m.device) for m in newc.read(first + cpio.archive([cpio.file("a/x", b"3")]))]
    assert told == [
        ("a", "0o40700", b"", (0, 0)),
        ("a/x", "0o100755", b"one", (0, 0)),
        ("b", "0o40755", b"", (0, 0)),
        ("b/l", "0o120777", b"../a/x", (0, 0)),
        ("dev", "0o40755", b"", (0, 0)),
        ("dev/console", "0o20600", b"", (5, 1)),
        ("a", "0o40755", b"", (0, 0)),
        ("a/x", "0o100644", b"3", (0, 0)),
    ]


@pytest.mark.skipif(not shutil.which("busybox") and not shutil.which("cpio"), reason="no program that unpacks cpio")
def test_the_systems_own_program_unpacks_it(tmp_path: Path) -> None:
    archive = cpio.archive([cpio.file("deep/er/file", b"text\n", 0o640), cpio.link("deep/link", "er/file")])
    program = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    done = subprocess.run([*program, "-i", "-d"], cwd=tmp_path, input=archive, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deep/link").read_bytes() == b"text\n"
    assert stat.S_IMODE((tmp_path / "deep/er/file").stat().st_mode) & 0o600 == 0o600


# -- deb --------------------------------------------------------------------------------------------------------------
def ar(*members: tuple[str, bytes]) -> bytes:
    """An ar archive, as packages are."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def tar(tree: dict[str, bytes]) -> bytes:
    """A tar archive of files below `./`, with a folder and a link among them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("./boot")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("./vmlinuz")
        link.type, link.linkname = tarfile.SYMTYPE, "boot/vmlinuz"
        archive.addfile(link)
        for path, data in tree.items():
            entry = tarfile.TarInfo(f"./{path}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def package(tree: dict[str, bytes], compress: Callable[[bytes], bytes] = lzma.compress, suffix: str = ".xz") -> bytes:
    """A package that holds these files."""
    return ar(("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar{suffix}", compress(tar(tree))))


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress,
    ".lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}  # fmt: skip


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_packages_files_are_read_however_they_are_compressed(suffix: str) -> None:
    tree = {"boot/vmlinuz": b"kernel", "usr/lib/modules/m.ko": b"x" * 1001}
    found = list(deb.files(package(tree, COMPRESSED[suffix], suffix), "p.deb"))
    assert {one.path: one.data for one in found} == tree


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb to make a package with")
@pytest.mark.parametrize("how", ["xz", "gzip", "zstd", "none"])
def test_a_package_of_the_systems_own_program_is_read(tmp_path: Path, how: str) -> None:
    (tmp_path / "p" / "DEBIAN").mkdir(parents=True)
    (tmp_path / "p" / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: x\n"
    )
    (tmp_path / "p" / "boot").mkdir()
    (tmp_path / "p" / "boot" / "file").write_bytes(b"y" * 5000)
    words = ["dpkg-deb", "--root-owner-group", f"-Z{how}", "-b", str(tmp_path / "p"), str(tmp_path / "x.deb")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and "unknown compression type" in done.stderr:
        pytest.skip(f"this dpkg-deb makes no {how}")
    assert done.returncode == 0, done.stderr
    found = deb.files((tmp_path / "x.deb").read_bytes(), "x.deb")
    assert [tuple(one) for one in found] == [("boot/file", b"y" * 5000)]


WHOLE = package({"boot/vmlinuz": bytes(range(256)) * 64})


def test_what_is_no_package_or_damaged_is_one_line() -> None:
    for data, why in (
        (b"<html>404</html>", "isn't a Debian package (no ar archive)"),
        (ar(("debian-binary", b"2.0\n")), "isn't a Debian package (it holds no data.tar)"),
        (WHOLE[:-100], "is damaged or cut off"),
        (WHOLE[:100], "is damaged: no size in the header of a member"),
        (WHOLE[:48 + 8] + b"no number!" + WHOLE[48 + 18:], "is damaged: no size in the header of a member"),
        (ar(("data.tar", b"x" * 600)), "is damaged: "),
        (ar(("data.tar.xz", lzma.compress(tar({"a": b"b"}))[:-30])), "is damaged: it can't be decompressed"),
    ):  # fmt: skip
        with pytest.raises(CtlabError) as caught:
            list(deb.files(data, "p.deb"))
        text = str(caught.value)
        assert text.startswith(f"p.deb {why}") and "fetch it again" in text and "\n" not in text


@given(st.integers(0, len(WHOLE) - 1))
def test_a_package_cut_off_anywhere_is_an_error_of_ours_or_has_all_its_files(length: int) -> None:
    try:
        found = list(deb.files(WHOLE[:length], "p.deb"))
    except CtlabError as error:
        assert "p.deb" in str(error) and "\n" not in str(error)
    else:
        assert found == list(deb.files(WHOLE, "p.deb"))


# -- unpacking --------------------------------------------------------------------------------------------------------
def by_program(program: str) -> Callable[[bytes], bytes]:
    """Compress with a program; skips where there is none."""

    def compress(data: bytes) -> bytes:
        if not shutil.which(program):
            pytest.skip(f"no {program}")
        return subprocess.run([program, "-c"], input=data, capture_output=True, check=True).stdout

    return compress


ALL = {name.lstrip("."): compress for name, compress in COMPRESSED.items() if name} | {"zstd": by_program("zstd")}
DATA = bytes(range(256)) * 400


@pytest.mark.parametrize("name", ALL)
def test_data_is_unpacked_and_what_follows_it_ignored(name: str) -> None:
    """Behind a kernel's payload stands how long it was."""
    packed = ALL[name](DATA)
    assert unpacking.kind(packed) != ""
    assert unpacking.unpack(packed, "x") == DATA
    assert unpacking.unpack(packed + b"\x12\x34\x56\x78", "x") == DATA
    assert unpacking.unpack(DATA, "x") == DATA


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_damaged_data_is_one_line_and_never_taken_for_whole(name: str, damage: str) -> None:
    packed = bytearray(ALL[name](DATA))
    if damage == "changed":
        packed[len(packed) // 2] ^= 0xFF
    elif name == "lzma":
        packed = packed[:-20]
    else:
        packed = packed[:-5]
    try:
        assert unpacking.unpack(bytes(packed), "the thing") != DATA or name == "lzma"  # which has no checksum
    except CtlabError as error:
        text = str(error)
        assert text.startswith("the thing is damaged: ") and "fetch it again" in text and "\n" not in text
    else:
        assert name == "lzma" and damage == "changed"
