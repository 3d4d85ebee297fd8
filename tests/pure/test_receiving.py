"""The person's side of a copy out of a container: a hostile supervisor sends any stream, and writes nowhere else."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_tar
import pytest
from hostile_tar import END, EVIL, TOP, entry
from kernel_help import long_form, open_descriptors

from ctlab import copying, receiving
from ctlab.errors import BadInput, CtlabError, KernelError
from ctlab.runtime import messages

FUZZ_SECONDS = 600.0 if long_form() else 1.5
WRONG_ALONE = {  # what is all right for the one folder into which it comes
    "a pipe", "many global headers", "a name that is no text", "a time beyond all", "an owner that nobody has",
}  # fmt: skip


class Stranger:
    """In the place of a container whose supervisor somebody has broken into: it answers a copy with these bytes."""

    name, id = "web", "0"

    def __init__(self, data: bytes | Iterator[bytes], answer: messages.Copied | None = None) -> None:
        self.data, self.answer, self.said = data, answer or messages.Copied([], 0), list[str]()
        self.lab = self._client = self
        self.say = self.said.append
        self.answered = False

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Any]:
        self.socket, self._far = socket.socketpair()
        with self.socket, self._far:
            yield self
            self._writer.join()

    def send(self, request: Any, descriptors: list[int]) -> None:
        self._writer = threading.Thread(target=self._write, args=(os.dup(descriptors[0]),))
        self._writer.start()

    def _write(self, descriptor: int) -> None:
        try:
            for piece in [self.data] if isinstance(self.data, bytes) else self.data:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
        except BrokenPipeError:
            pass
        os.close(descriptor)
        self._far.send(b"x")

    def receive(self, kind: Any) -> Any:
        return namedtuple("Reply", "message")(self.answer)


def copy(
    data: bytes | Iterator[bytes], destination: Path, answer: messages.Copied | None = None, source: str = "/srv/d"
) -> tuple[Path | str, list[str]]:
    """Where the copy lies, or the refusal; and what was said."""
    stranger = Stranger(data, answer)
    try:
        return copying.copy_out(stranger, source, destination), stranger.said  # type: ignore[arg-type]
    except (BadInput, KernelError) as error:
        assert "\n" not in str(error) and len(str(error)) < 600 and str(error).isprintable(), error
        return str(error), stranger.said


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with a destination in it, "here", and beside it what is aimed at."""
    (tmp_path / "here").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("as it was")
    (tmp_path / "outside/victim").chmod(0o644)
    os.utime(tmp_path / "outside/victim", (1, 1))
    os.utime(tmp_path / "outside", (1, 1))
    return tmp_path


def untouched(world: Path, *, names: tuple[str, ...] = ("here", "outside")) -> bool:
    found = (world / "outside/victim").stat()
    return (
        sorted(os.listdir(world)) == sorted(names) and os.listdir(world / "outside") == ["victim"]
        and (world / "outside/victim").read_text() == "as it was"
        and (oct(found.st_mode), found.st_nlink, found.st_mtime) == ("0o100644", 1, 1.0)
        and (world / "outside").stat().st_mtime == 1.0
    )  # fmt: skip


def harmless(place: Path) -> bool:
    """No setuid bit, no device, no pipe, and nothing but a link leads out of it."""
    for folder, folders, files in os.walk(place):
        for name in folders + files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if mode & 0o7022 and not os.path.islink(path):
                return False
            if not (os.path.isdir(path) or os.path.islink(path) or os.path.isfile(path)):
                return False
            if not os.path.islink(path) and not os.path.realpath(path).startswith(os.path.realpath(place) + "/"):
                return False
    return True


@pytest.mark.parametrize("what", hostile_tar.CORPUS)
def test_hostile_streams_write_below_the_destination_alone(world: Path, what: str) -> None:
    os.umask(0o022)
    before = open_descriptors()
    for aim in (bytes(world / "outside"), b"../outside"):
        data = hostile_tar.build(hostile_tar.CORPUS[what](aim))
        found, _ = copy(data, world / "here")
        assert untouched(world), found
        assert set(os.listdir(world / "here")) <= {"d"} and harmless(world / "here/d"), found
        found, _ = copy(data, world / "here/new")
        assert untouched(world), found
        assert set(os.listdir(world / "here")) <= {"d", "new"} and harmless(world / "here/new"), found
        subprocess.run(["rm", "-rf", world / "here"], check=True)
        (world / "here").mkdir()
    assert open_descriptors() == before


@pytest.mark.parametrize("what", hostile_tar.CORPUS)
def test_hostile_streams_without_a_top(world: Path, what: str) -> None:
    """The first entry chooses no place (security finding: `target / members[0].name`)."""
    data = b"".join(hostile_tar.CORPUS[what](bytes(world / "outside"))) + END
    for destination in (world / "here", world / "here/new"):
        found, _ = copy(data, destination)
        assert untouched(world), found
        assert set(os.listdir(world / "here")) <= {"d", "new"}, found


@pytest.mark.parametrize(
    "name", [b"../../x", b"/tmp/ctlab-hostile-x", b"..", b".", b"a/b/../../../x", b"a/", b"outside/x"]
)
@pytest.mark.parametrize("kind", [b"0", b"5"])
def test_the_first_name_chooses_no_place(world: Path, name: bytes, kind: bytes) -> None:
    found, _ = copy(entry(name, EVIL if kind == b"0" else b"", kind) + END, world / "here")
    assert untouched(world) and not os.path.exists("/tmp/ctlab-hostile-x"), found
    assert set(os.listdir(world / "here")) <= {"d"}, found


@pytest.mark.parametrize(
    "in_place", ["link to a folder", "link to a file", "link to nothing", "pipe", "socket", "folder"]
)
@pytest.mark.parametrize("kind", [b"0", b"5"])
def test_what_lies_in_the_place_is_not_written_through(world: Path, in_place: str, kind: bytes) -> None:
    place = world / "here/d"
    match in_place:
        case "pipe":
            os.mkfifo(place)
        case "socket":
            os.mknod(place, 0o140600)
        case "folder":
            place.mkdir()
        case _:
            where = {
                "link to a folder": "outside",
                "link to a file": "outside/victim",
                "link to nothing": "outside/new",
            }
            place.symlink_to(world / where[in_place])
    before = os.lstat(place)
    found, _ = copy(entry(b"d", EVIL if kind == b"0" else b"", kind) + END, world / "here")
    assert untouched(world), found
    if in_place == "folder":
        assert found == place if kind == b"5" else "something else than a file lies in its place" in str(found), found
    else:
        assert isinstance(found, str) and "nothing outside" in found and os.lstat(place).st_ino == before.st_ino


def test_a_destination_that_is_no_file_is_left_alone(world: Path) -> None:
    os.mkfifo(world / "here/pipe")
    for destination in (Path("/dev/null"), Path("/proc/x"), world / "here/pipe", world / "outside/victim/x"):
        found, _ = copy(entry(b"d", EVIL) + END, destination)
        assert isinstance(found, str), found
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null") and untouched(world)


def test_modes_and_owners_are_ours(world: Path) -> None:
    os.umask(0o022)
    data = (
        TOP
        + entry(b"d/s", EVIL, mode=0o6777, uid=7)
        + entry(b"d/s2", EVIL, mode=0)
        + entry(b"d/f/", kind=b"5", mode=0o7777)
    )
    found, _ = copy(data + END, world / "here")
    assert found == world / "here/d"
    modes = {name: oct((world / "here/d" / name).stat().st_mode & 0o7777) for name in ("s", "s2", "f")}
    assert modes == {"s": "0o755", "s2": "0o600", "f": "0o755"}
    assert (world / "here/d/s").stat().st_uid == os.geteuid()


def test_an_endless_stream_has_an_end(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free is the bound; here it is made small."""
    monkeypatch.setattr(receiving, "_free_bytes", lambda _: 64 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large, empty = entry(b"d/x", bytes(1 << 20)), entry(b"d/x") * 1000
    for data in (
        itertools.chain([TOP], itertools.repeat(large)), itertools.chain([TOP], itertools.repeat(empty)),
        itertools.chain([TOP, hostile_tar.block(b"d/x", size=1 << 33)], itertools.repeat(large)),
        itertools.repeat(bytes(1 << 16)),
    ):  # fmt: skip
        found, _ = copy(data, world / "here")
        assert isinstance(found, str), found
        assert untouched(world) and os.listdir(world / "here") == [], found
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000, "KB of memory"
    found, _ = copy(TOP + hostile_tar.block(b"d/x", size=1 << 33), world / "here")
    assert "larger than 32 MiB, half of what is free" in str(found)


def test_too_many_entries(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "ENTRIES_MOST", 50)
    found, _ = copy(TOP + b"".join(entry(b"d/%d" % number) for number in range(60)) + END, world / "here")
    assert "more than 50 entries" in str(found) and os.listdir(world / "here") == []


def test_what_ends_early_leaves_nothing(world: Path) -> None:
    for data in (b"", TOP, TOP + entry(b"d/x", EVIL), TOP + entry(b"d/x", b"y" * 5000)[:2000], END):
        found, _ = copy(data, world / "here")
        assert isinstance(found, str) and os.listdir(world / "here") == [], found


def test_a_full_disk_is_one_line_and_no_half_file(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    data = TOP + entry(b"d/x", EVIL) + END
    stream = io.BytesIO(data)
    monkeypatch.setattr(receiving.os, "write", full)
    with pytest.raises(KernelError, match=r"^cp: .*here/d: ENOSPC \(No space left on device\)$"):
        receiving.receive(stream, "/srv/d", "d", world / "here")
    monkeypatch.undo()
    assert os.listdir(world / "here/d") == []


def test_a_second_copy_replaces_the_first(world: Path) -> None:
    link = entry(b"d/l", kind=b"2", link=b"x")
    for content in (b"one", b"three"):
        found, _ = copy(
            TOP + entry(b"d/x", content) + link + entry(b"d/h", kind=b"1", link=b"d/x") + END, world / "here"
        )
        assert found == world / "here/d"
        assert {(world / "here/d" / name).read_bytes() for name in ("x", "l", "h")} == {content}
    assert (world / "here/d/x").stat().st_nlink == 2
    found, _ = copy(TOP + entry(b"d/l", EVIL) + END, world / "here")
    assert (
        "a symbolic link lies here in the place of 'l'" in str(found) and (world / "here/d/x").read_bytes() == b"three"
    )


@pytest.mark.parametrize(
    "answer",
    [
        messages.Copied([[], ["a"], ["a", "b", "c"]], 2),
        messages.Copied([["a", "b"]], -(1 << 62)),
        messages.Copied([], 1 << 62),
    ],
)
def test_any_answer_is_taken(world: Path, answer: messages.Copied) -> None:
    found, _ = copy(TOP + END, world / "here", answer)
    assert found == world / "here/d"


@pytest.mark.parametrize("kind", [b"0", b"2", b"5"])
def test_the_first_entry_is_what_was_asked_for(world: Path, kind: bytes) -> None:
    """And nothing below it: a link that comes alone would lie where the copy was to be, and lead anywhere."""
    for rest in (b"", TOP, entry(b"d/y", EVIL)):
        found, _ = copy(entry(b"d/a", kind=kind, link=b"." if kind == b"2" else b"") + rest + END, world / "here")
        assert "comes before the folder" in str(found) and os.listdir(world / "here") == [] and untouched(world)


def test_what_was_left_out_is_said_on_one_line(world: Path) -> None:
    answer = messages.Copied([["d/so\x1b[2Jck\n", "a socket"]], 9)
    found, said = copy(TOP + entry(b"d/p", kind=b"6") + END, world / "here", answer)
    assert found == world / "here/d" and os.listdir(found) == []
    assert said == ["cp: left out of web:/srv/d: d/so?[2Jck? (a socket), p (a pipe) and 8 more"]


@pytest.mark.parametrize("source", ["/srv/..", "/srv/.", "/", "//", "/srv/d/"])
def test_odd_sources_have_honest_names(world: Path, source: str) -> None:
    found, _ = copy(TOP + END, world / "here", source=source)
    assert isinstance(found, Path) and found.parent == world / "here" and found.name in ("root", "srv", "d"), found
    assert untouched(world)


@pytest.mark.parametrize(
    ("source", "destination"),
    [("/a\0b", "x"), ("", "x"), (None, "x"), ("/a", "x\0y"), ("/a", None), ("/a", ""), ("/\ud800", "x"), ("/a", b"x")],
)
def test_paths_that_are_none(source: Any, destination: Any) -> None:
    with pytest.raises(BadInput, match="not a path"):
        copying.copy_out(Stranger(b""), source, destination)  # type: ignore[arg-type]


def test_changed_streams_do_no_harm(world: Path) -> None:
    """Whatever comes: files below the destination, or one line; nothing else is raised or written."""
    os.umask(0o022)
    chance = random.Random(11)
    honest = TOP + entry(b"d/x", EVIL * 300) + entry(b"d/s/", kind=b"5") + entry(b"d/s/l", kind=b"2", link=b"../x")
    honest += entry(b"d/h", kind=b"1", link=b"d/x") + hostile_tar.pax(hostile_tar.record(b"path", b"d/s/" + b"n" * 200))
    honest += entry(b"d/y", EVIL) + END
    aim = bytes(world / "outside")
    start = [honest, *(hostile_tar.build(make(aim)) for make in hostile_tar.CORPUS.values())]
    start = [data for data in start if len(data) < 20_000] + [honest] * 60
    until, tries, refused = time.monotonic() + FUZZ_SECONDS, 0, 0
    while time.monotonic() < until:
        tries += 1
        data = hostile_tar.mutated(chance.choice(start), chance)
        try:
            receiving.receive(io.BytesIO(data), "/srv/d", "d", world / "here")
        except CtlabError as error:
            refused += 1
            assert "\n" not in str(error)
        if tries % 20 == 0:
            assert untouched(world), tries
            assert harmless(world / "here"), tries
            shutil.rmtree(world / "here")
            (world / "here").mkdir()
    print(f"{tries} streams, {refused} refused")
    assert untouched(world) and tries > 20 and 0 < refused < tries
