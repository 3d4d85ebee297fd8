"""A container that writes all it can, to files, folders or its output, leaves the others at work; see `floods_help`."""

from __future__ import annotations

import io
import os
import re
import resource
import tarfile
from pathlib import Path

import pytest
from floods_help import at_work
from kernel_help import patient, wait_until

import ctlab
from ctlab.errors import CtlabError

pytestmark = pytest.mark.kernel

FULL = r"the lab's storage is full \(ENOSPC; (32M|32768 files)\): .*--storage"
WRITE = "dd if=/dev/zero of=/flood bs=1M 2>&1 | grep -c 'No space left'"
FILES = """
import errno, os
os.mkdir("/flood")
try:
    for number in range(100_000):
        os.close(os.open(f"/flood/{number}", os.O_CREAT | os.O_WRONLY))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("command", [["sh", "-c", WRITE], ["python3", "-c", FILES]], ids=["bytes", "files"])
def test_the_storage(flooded: ctlab.Lab, command: list[str]) -> None:
    """A full one is ENOSPC for who writes; the others go on, or hear in one line what is full and what to do."""
    flood = flooded.run(["sleep", "60"], name="flood")
    before = flooded.status()["storage"]
    assert before["bytes"] == 32 << 20 and before["inodes"] == 32768
    assert flood.exec(command).stdout.strip() in ("1", "ENOSPC")
    now = flooded.status()["storage"]
    assert now["used_bytes"] + now["free_bytes"] == now["bytes"]
    assert now["used_inodes"] + now["free_inodes"] == now["inodes"]
    assert min(now["free_bytes"] / now["bytes"], now["free_inodes"] / now["inodes"]) < 0.01
    at_work(flooded, starts=False)
    failures = 0
    for number in range(20):  # some find a place that was made before
        try:
            flooded.run(["sleep", "60"], name=f"late{number}")
        except CtlabError as error:
            assert ctlab_line(error), error
            failures += 1
    assert failures
    if "dd" in command[-1]:
        with pytest.raises(CtlabError, match=FULL):
            flooded["calm"].write("/srv/file", "x" * 100_000)
    flood.remove()
    for number in range(3):  # at once: there is room when it says that it is gone
        assert flooded.run(["true"], name=f"after{number}").wait(patient(5)) == 0
    assert wait_until(lambda: all(flooded.status()["storage"][f"free_{kind}"] > 30_000 for kind in ("bytes", "inodes")))
    at_work(flooded)


@pytest.mark.parametrize("before", ["", "as it was"])
def test_a_file_that_does_not_fit_leaves_nothing(flooded: ctlab.Lab, tmp_path: Path, before: str) -> None:
    """A part of it stayed, and what had its name before was gone."""
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    flood = flooded.run(["sleep", "60"], name="flood")
    if before:
        flood.write("/srv/large", before, mode=0o640)
    for copy in (
        lambda: flood.write("/srv/large", bytes(40 << 20)),
        lambda: flood.copy_in(tmp_path / "large", "/srv/large"),
    ):
        with pytest.raises(CtlabError, match=FULL) as failed:
            copy()
        assert ctlab_line(failed.value)
        assert flood.exec(["ls", "-A", "/srv"]).stdout.split() == (["large"] if before else [])
    assert flooded.status()["storage"]["free_bytes"] > 28 << 20
    if before:
        assert flood.exec(["sh", "-c", "cat /srv/large; stat -c :%a /srv/large"]).stdout == "as it was:640\n"


def ctlab_line(error: CtlabError) -> bool:
    return re.search(FULL, str(error)) is not None and "\n" not in str(error)


def test_an_image_that_does_not_fit(flooded: ctlab.Lab, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "large.tar", "w") as archive:
        member = tarfile.TarInfo("large")
        member.size = 40 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    free = flooded.status()["storage"]["free_bytes"]
    with pytest.raises(CtlabError, match=FULL):
        flooded.run(image=str(tmp_path / "large.tar"))
    assert flooded.status()["storage"]["free_bytes"] > free - (1 << 20)  # what was begun is gone
    flooded.run(["sleep", "60"], name="second")
    at_work(flooded)


@pytest.mark.parametrize(("place", "most", "files"), [("/dev/shm", 64 << 20, 16384), ("/dev", 64 << 10, 1024)])
def test_the_small_file_systems(flooded: ctlab.Lab, place: str, most: int, files: int) -> None:
    """They have bounds of their own, bytes and files, and are nobody else's."""
    flood = flooded.run(["sleep", "60"], name="flood")
    assert flood.exec(["python3", "-c", FILES.replace("/flood", f"{place}/flood")]).stdout == "ENOSPC\n"
    size, inodes = map(int, flood.exec(["stat", "-fc", "%b %c", place]).stdout.split())
    assert (size * os.sysconf("SC_PAGE_SIZE"), inodes) == (most, files)
    at_work(flooded)


def test_logs(flooded: ctlab.Lab) -> None:
    flood = flooded.run(["yes", "flood"], name="flood")
    assert wait_until(lambda: flood.logs(tail=1).dropped_bytes > 0, patient(10))
    at_work(flooded)
    assert flooded["calm"].logs().dropped_bytes == 0
    costs = flooded.status()["processes"]["collector"]
    assert costs["resident_bytes"] < 64 << 20


DEEP = """
import os, sys
os.mkdir("/flood")
os.chdir("/flood")
for number in range(int(sys.argv[1])):
    os.mkdir("d")
    os.chdir("d")
with open("large", "wb") as file:
    file.write(bytes(4 << 20))
"""


@pytest.mark.long_in_guest  # which may have so many files open that it is no test of them
def test_folders_as_deep_as_they_can_be(flooded: ctlab.Lab) -> None:
    """Whoever removes them has neither a descriptor nor a path for each level."""
    before = flooded.status()["storage"]
    depth = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 100, 25_000)
    flood = flooded.run(["sleep", "60"], name="flood")
    flood.exec(["python3", "-c", DEEP, str(depth)]).check()
    flood.remove()
    at_work(flooded)
    for kind, room in (("used_inodes", 2000), ("used_bytes", 2 << 20)):
        assert wait_until(lambda kind=kind, room=room: flooded.status()["storage"][kind] < before[kind] + room, 60)
    assert not [note for note in flooded.notes if "nursery" in note]
