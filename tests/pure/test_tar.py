"""The tar reader and writer: what others write is read, what is written others read, and hostile streams do no harm."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import resource
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import hostile_tar
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_help import long_form, patient

from ctlab.runtime import compressed, tar
from ctlab.runtime.pack import DEPTH_MOST, Packer
from ctlab.runtime.unpack import Root, Unpacker

FUZZ_SECONDS = 600.0 if long_form() else 1.5


def read(data: bytes) -> list[tuple[tar.Member, bytes]]:
    """Every member with its content, holes as zeros."""
    reader = tar.Reader(io.BytesIO(data))
    found = []
    for member in reader:
        content = bytearray(min(member.size, 1 << 24)) if member.kind == tar.FILE else bytearray()
        if member.kind == tar.FILE:
            for offset, piece in reader.content():
                content[offset : offset + len(piece)] = piece
        found.append((member, bytes(content)))
    return found


def sample() -> list[tuple[tarfile.TarInfo, bytes]]:
    long, text = "d/" + "long/" * 40 + "name", b"content" * 300
    made = []
    for name, kind, link, content in (
        ("d", tarfile.DIRTYPE, "", b""), ("d/file", tarfile.REGTYPE, "", text), (long, tarfile.REGTYPE, "", b"x"),
        ("d/link", tarfile.SYMTYPE, "l" * 150, b""), ("d/hard", tarfile.LNKTYPE, "d/file", b""),
        ("d/ümläut", tarfile.REGTYPE, "", text), ("d/pipe", tarfile.FIFOTYPE, "", b""),
        ("d/zero", tarfile.CHRTYPE, "", b""), ("d/" + "p" * 90 + "/" + "q" * 90, tarfile.REGTYPE, "", b"y"),
    ):  # fmt: skip
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size, member.mode = kind, link, len(content), 0o640
        member.uid, member.gid, member.mtime = 1000, 2_000_000, 1_700_000_000
        made.append((member, content))
    return made


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read(form: int) -> None:
    members = [pair for pair in sample() if form != tarfile.USTAR_FORMAT or len(pair[0].name + pair[0].linkname) < 101]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    found = read(out.getvalue())
    assert [
        (os.fsdecode(m.name).rstrip("/"), os.fsdecode(m.link), m.size, m.mode, m.uid, m.gid, m.mtime_ns)
        for m, _ in found
    ] == [(m.name, m.linkname, m.size, m.mode, m.uid, m.gid, m.mtime * 10**9) for m, _ in members]
    assert [content for _, content in found] == [content for _, content in members]
    kinds = {
        tarfile.DIRTYPE: tar.FOLDER, tarfile.REGTYPE: tar.FILE, tarfile.SYMTYPE: tar.LINK,
        tarfile.LNKTYPE: tar.HARD_LINK, tarfile.FIFOTYPE: tar.PIPE, tarfile.CHRTYPE: tar.DEVICE,
    }  # fmt: skip
    assert [member.kind for member, _ in found] == [kinds[member.type] for member, _ in members]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix", "gnu -S", "posix -S", "0.1", "0.0"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "plain").write_bytes(b"x" * 5000)
    (folder / "link").symlink_to("plain")
    with open(folder / "holes", "wb") as file:
        for number in range(40):
            file.seek(number * 300_000)
            file.write(bytes([number + 1]) * 5000)
        file.truncate(40 * 300_000)
    options = [f"--format={form.split()[0]}", *form.split()[1:]]
    if form.startswith("0."):
        options = ["--format=posix", "-S", f"--sparse-version={form}"]
    packed = subprocess.run(["tar", *options, "-cf", "-", "d"], cwd=tmp_path, capture_output=True, check=True).stdout
    if form == "0.0":
        with pytest.raises(tar.ArchiveError, match="in a format that isn't read"):
            read(packed)
        return
    found = {os.fsdecode(member.name).rstrip("/"): (member, content) for member, content in read(packed)}
    assert set(found) == {"d", "d/plain", "d/link", "d/holes"}
    assert found["d/holes"][1] == (folder / "holes").read_bytes() and found["d/plain"][1] == b"x" * 5000
    sparse = "-S" in form or form == "0.1"
    assert (found["d/holes"][0].pieces is not None) == sparse and (len(packed) < 1_000_000) == sparse


names = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))
members = st.builds(
    tar.Member, name=names, kind=st.sampled_from([tar.FOLDER, tar.LINK, tar.HARD_LINK, tar.PIPE]),
    mode=st.integers(0, 0o7777), uid=st.integers(0, 2**32 - 2), gid=st.integers(0, 2**32 - 2),
    mtime_ns=st.integers(-(2**61), 2**61), link=st.binary(max_size=300).filter(lambda name: b"\0" not in name),
    size=st.just(0), pieces=st.none(),
)  # fmt: skip


@given(st.lists(members))
def test_what_is_written_is_read(wanted: list[tar.Member]) -> None:
    data = b"".join(tar.header(member) for member in wanted) + tar.END
    assert list(tar.Reader(io.BytesIO(data))) == wanted
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [os.fsencode(member.name.rstrip("/")) for member in archive] == [m.name.rstrip(b"/") for m in wanted]


def test_large_numbers_are_written() -> None:
    member = tar.Member(b"x", tar.FILE, size=1 << 40, uid=1 << 31, mtime_ns=-1)
    assert next(iter(tar.Reader(io.BytesIO(tar.header(member))))) == member


# -- hostile streams --------------------------------------------------------------------------------------------------
def unpacked(place: Path, data: bytes) -> str:
    """What an archive did below `place`, as root of it: "" or the refusal."""
    owner, root = os.geteuid() == 0, Root(str(place))
    try:
        Unpacker(root, b"/", owned=not owner).unpack(tar.Reader(io.BytesIO(data)), of_the_archive=True)
    except (tar.ArchiveError, PermissionError) as error:
        return str(error) or "refused"
    finally:
        root.close()
    return ""


def world(tmp_path: Path) -> tuple[Path, Path]:
    """(where it is unpacked, the folder beside it that is aimed at)."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(exist_ok=True)
    if not outside.exists():
        outside.mkdir()
        (outside / "victim").write_text("as it was")
        (outside / "victim").chmod(0o666)
        os.utime(outside / "victim", (1, 1))
        os.utime(outside, (1, 1))
    return inside, outside


def untouched(tmp_path: Path, outside: Path) -> bool:
    found, folder = (outside / "victim").stat(), outside.stat()
    return (
        sorted(os.listdir(outside)) == ["victim"] and (outside / "victim").read_text() == "as it was"
        and (oct(found.st_mode), found.st_nlink, found.st_mtime) == ("0o100666", 1, 1.0)
        and (folder.st_mtime, folder.st_mode & 0o002) == (1.0, 0)
        and sorted(os.listdir(tmp_path)) == ["inside", "outside"]
    )  # fmt: skip


@pytest.mark.parametrize("what", hostile_tar.CORPUS)
def test_hostile_archives_stay_in_their_root(tmp_path: Path, what: str) -> None:
    inside, outside = world(tmp_path)
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for aim in (bytes(outside), b"/", b"/outside"):
        data = hostile_tar.build(hostile_tar.CORPUS[what](aim))
        said = unpacked(inside, data)
        assert len(said) < 400 and "\n" not in said and said.isprintable(), said
        assert untouched(tmp_path, outside), said
        subprocess.run(["rm", "-rf", inside], check=True)
        inside.mkdir()
    assert time.process_time() - begun < patient(5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KB of memory"


def seeds() -> list[bytes]:
    """Honest archives with everything in them, from which hostile ones are made."""
    found = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for member, content in sample():
                member.uid = member.gid = 0
                archive.addfile(member, io.BytesIO(content))
        found.append(out.getvalue().rstrip(b"\0") + bytes(2048 - len(out.getvalue().rstrip(b"\0")) % 512))
    sparse = [
        "a sparse file larger than all disks",
        "a sparse file that contradicts itself",
        "links up, then through them",
    ]
    found += [hostile_tar.build(hostile_tar.CORPUS[what](b"/outside")) for what in sparse]
    return found


def test_changed_archives_do_no_harm(tmp_path: Path) -> None:
    """Any stream ends in files below its root or in one ArchiveError: nothing else is raised, nothing else written."""
    inside, outside = world(tmp_path)
    chance, start = random.Random(7), seeds()
    until, tries, refused = time.monotonic() + FUZZ_SECONDS, 0, 0
    while time.monotonic() < until:
        tries += 1
        data = hostile_tar.mutated(chance.choice(start), chance)
        refused += bool(unpacked(inside, data))
        if tries % 20 == 0:
            assert untouched(tmp_path, outside), tries
            subprocess.run(["rm", "-rf", inside], check=True)
            inside.mkdir()
    print(f"{tries} archives, {refused} refused")
    assert untouched(tmp_path, outside)
    assert tries > 20 and 0 < refused < tries


# -- compression ------------------------------------------------------------------------------------------------------
def by_name(kind: str, data: bytes) -> bytes:
    import bz2
    import lzma

    return {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "plain": bytes}[kind](data)


@pytest.mark.parametrize("kind", ["plain", "gzip", "bzip2", "xz"])
def test_compressed_streams(kind: str) -> None:
    data = random.Random(3).randbytes(300_000) + bytes(2_000_000)
    for packed in (by_name(kind, data), by_name(kind, data[:1000]) + by_name(kind, data[1000:])):
        source = compressed.plain(io.BufferedReader(io.BytesIO(packed)))
        found = b""
        while piece := source.read(70_001):
            assert len(piece) == 70_001 or len(found) + len(piece) == len(data)
            found += piece
        assert found == data
    if kind != "plain":
        source = compressed.plain(io.BufferedReader(io.BytesIO(by_name(kind, data)[:-20])))
        with pytest.raises(tar.ArchiveError, match=r"ends in the middle|damaged"):
            while source.read(1 << 20):
                pass


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_a_file_of_many_compressed_members(kind: str) -> None:
    """As bgzip makes it: what lies behind a member is neither held nor copied for each of them."""
    content = random.Random(4).randbytes(5_000)
    member = by_name(kind, content)
    between = (b"", bytes(4), bytes(1 << 17))  # some pad what they write
    packed = b"".join(member + (between[number % 3] if number > 397 else b"") for number in range(400))
    file = io.BufferedReader(io.BytesIO(packed))
    source = compressed.plain(file)
    for number in range(400):
        assert source.read(len(content)) == content
        if number < 390:
            assert file.tell() < (number + 2) * len(member) + (2 << 16), number
    assert not source.read(1)


def test_a_bomb_takes_no_memory() -> None:
    packed = gzip.compress(gzip.compress(bytes(200 << 20), 1), 1)
    source = compressed.plain(io.BufferedReader(io.BytesIO(gzip.decompress(packed))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        assert source.read(1 << 20) == bytes(1 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


# -- packing ----------------------------------------------------------------------------------------------------------
def packed(top: Path) -> tuple[dict[str, tuple[tar.Member, bytes]], dict[str, object]]:
    out = io.BytesIO()
    said = Packer(out.write).pack(os.open(top, os.O_RDONLY), b"top")
    return {os.fsdecode(member.name): (member, content) for member, content in read(out.getvalue())}, said


@pytest.mark.parametrize("what", ["top", "top/sub", "top/sub/file"])
def test_a_stream_that_breaks_off_is_the_systems_error(tmp_path: Path, what: str) -> None:
    (tmp_path / "top" / "sub").mkdir(parents=True)
    (tmp_path / "top" / "sub" / "file").write_bytes(bytes(1 << 20))

    def write(data: bytes) -> None:
        if len(data) > 512 or what == "top/sub":
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        Packer(write).pack(os.open(tmp_path / what, os.O_RDONLY), b"top")


def test_what_a_tree_holds_is_packed_and_what_is_no_file_is_named(tmp_path: Path) -> None:
    import socket

    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_bytes(b"x" * 1000)
    (tree / "link").symlink_to("/proc/self/exe")
    os.link(tree / "sub/file", tree / "again")
    os.mkfifo(tree / "pipe")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.path.relpath(tree / "socket"))
    bound.close()
    os.mkdir(tree / os.fsdecode(b"\xff"))
    found, said = packed(tree)
    assert {name: member.kind for name, (member, _) in found.items()} == {
        "top": tar.FOLDER, "top/again": tar.FILE, "top/link": tar.LINK, "top/pipe": tar.PIPE, "top/sub": tar.FOLDER,
        "top/sub/file": tar.HARD_LINK, "top/\udcff": tar.FOLDER,
    }  # fmt: skip
    assert found["top/again"][1] == b"x" * 1000 and found["top/sub/file"][0].link == b"top/again"
    assert found["top/link"][0].link == b"/proc/self/exe"
    assert said == {"skipped": [["top/socket", "a socket"]], "skipped_count": 1}


def test_a_tree_that_is_too_deep_is_cut_and_said(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH_MOST + 100):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    before = len(os.listdir("/proc/self/fd"))
    found, said = packed(tmp_path)
    assert len(found) == DEPTH_MOST and said["skipped_count"] == 1
    assert len(os.listdir("/proc/self/fd")) == before
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
