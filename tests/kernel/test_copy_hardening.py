"""The processes that copy into and out of containers are out of their reach; hard links stay what they are."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_help import children_of, need_root, wait_until

from ctlab.errors import BadInput
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel
FILE = "/srv/big"


@contextlib.contextmanager
def copying(container: Any) -> Iterator[None]:
    """While it lasts, a process in the container is writing a large file to a pipe that nobody reads."""
    client = container.lab._client
    reading, writing = os.pipe2(os.O_CLOEXEC)
    connection = client.connection()
    try:
        connection.send(messages.CopyOut(container.id, FILE), [writing])
        os.close(writing)
        assert os.read(reading, 512), "it has begun"
        yield
    finally:
        os.close(reading)
        connection.close()


@pytest.fixture(params=[False, True], ids=["plain", "init"])
def container(lab: Any, request: pytest.FixtureRequest) -> Any:
    """Two kinds: of an init of ours the supervisor holds the namespaces, of other programs a pidfd."""
    made = lab.run() if request.param else lab.run(["sleep", "60"])
    made.exec(["truncate", "-s", "4M", FILE]).check()
    return made


def test_nobody_in_the_container_can_look_into_a_process_that_copies(container: Any) -> None:
    with copying(container):
        named = container.exec(["sh", "-c", "grep -l ctlab /proc/[0-9]*/comm"]).stdout
        pids = sorted({int(number) for number in re.findall(r"/proc/(\d+)/", named)} - {1})
        assert len(pids) == 1, named
        for path in ("fd/0", "cwd", "exe", "root", "environ", "maps", "mem", "ns/mnt"):
            done = container.exec(["sh", "-c", f"head -c 1 /proc/{pids[0]}/{path}; readlink /proc/{pids[0]}/{path}"])
            assert done.returncode != 0 and done.stdout == "", (path, done.stdout)
            assert "Permission denied" in done.stderr or path in ("cwd", "exe", "root", "ns/mnt"), (path, done.stderr)
        assert container.exec(["ls", f"/proc/{pids[0]}/fd"]).returncode != 0


def test_a_process_that_copies_holds_nothing_of_the_lab(container: Any) -> None:
    need_root("to look at what a child of the supervisor has open")
    supervisor = container.lab._client.facts["supervisor"]
    with copying(container):
        pids = []
        for pid in children_of(supervisor):
            with contextlib.suppress(OSError):  # a runner or a holder that has just ended
                if os.stat(f"/proc/{pid}/ns/pid").st_ino == _pid_ns(container):
                    pids.append(pid)
        copies = [pid for pid in pids if pid != container.pid]
        assert len(copies) == 1
        folder = f"/proc/{copies[0]}/fd"
        found = {int(number): os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
        # Folders are the container's alone, as are the root and the working folder.
        root = os.stat(f"/proc/{container.pid}/root")
        for place in ("root", "cwd", *(f"fd/{number}" for number in found if os.path.isdir(f"{folder}/{number}"))):
            assert os.path.samestat(os.stat(f"/proc/{copies[0]}/{place}"), root), (place, found)
    beside = [re.sub(r"\d+", "N", target) for number, target in found.items() if number > 2]
    own = {"pipe:[N]": 1, "socket:[N]": 1}
    for target in set(beside):
        if target in own:
            assert beside.count(target) == own[target], found
        else:  # what it copies, and the container's root by which it was found
            assert target in (FILE, "/"), found


def _pid_ns(container: Any) -> int:
    return os.stat(f"/proc/{container.pid}/ns/pid").st_ino


def test_hard_links_are_copied_out_as_links(lab: Any, tmp_path: Path) -> None:
    container = lab.run()
    names = ("first", "sub/second", "sub/na me")
    container.exec(["sh", "-c", "mkdir -p /srv/d/sub; echo same > /srv/d/first; echo other > /srv/d/single"]).check()
    for name in names[1:]:
        container.exec(["ln", "/srv/d/first", f"/srv/d/{name}"]).check()
    (tmp_path / "into").mkdir()
    for destination, top in ((tmp_path / "new name", "new name"), (tmp_path / "into", "into/d")):
        found = container.copy_out("/srv/d", destination)
        assert found == tmp_path / top
        assert {(found / name).stat().st_ino for name in names} == {(found / "first").stat().st_ino}
        assert [(found / name).read_text() for name in (*names, "single")] == ["same\n"] * 3 + ["other\n"]
    one = container.copy_out("/srv/d/sub/second", tmp_path / "alone")  # its other names aren't copied
    assert one.read_text() == "same\n" and one.stat().st_nlink == 1


def test_hard_links_are_copied_in_as_links(lab: Any, tmp_path: Path) -> None:
    container = lab.run()
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_text("same\n")
    os.link(source / "a", source / "sub/b")
    os.link(source / "a", tmp_path / "outside")
    container.copy_in(source, "/srv")
    container.copy_in(source, "/srv/other")
    for top in ("/srv/source", "/srv/other"):
        shown = container.exec(["stat", "-c", "%i %h", f"{top}/a", f"{top}/sub/b"]).check().stdout.splitlines()
        assert shown[0] == shown[1] and shown[0].endswith(" 2"), shown
        assert container.exec(["cat", f"{top}/sub/b"]).check().stdout == "same\n"


def test_what_a_container_plants_where_hard_links_go(lab: Any, tmp_path: Path) -> None:
    """In the container a link to a file of its own is replaced, not followed; so is a hard link."""
    container = lab.run()
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("of the machine\n")
    os.link(source / "a", source / "b")
    plant = "mkdir /srv/source; echo keep > /srv/victim; ln -s ../victim /srv/source/a; ln /srv/victim /srv/source/b"
    container.exec(["sh", "-c", plant]).check()
    container.copy_in(source, "/srv")
    assert container.exec(["cat", "/srv/victim", "/srv/source/a", "/srv/source/b"]).check().stdout.splitlines() == [
        "keep", "of the machine", "of the machine",
    ]  # fmt: skip


def test_planted_links_and_hard_links_do_not_lead_a_copy_out_elsewhere(lab: Any, tmp_path: Path) -> None:
    """A symbolic link that points out of the destination, and a hard link of it, are links there, and no more."""
    container = lab.run()
    victim = tmp_path / "victim"
    victim.write_text("keep\n")
    (tmp_path / "d").mkdir()
    plant = f"mkdir /srv/d; cd /srv/d; echo x > z; ln z y; ln -s {shlex.quote(str(victim))} l; ln -P l m; ln z m2"
    container.exec(["sh", "-c", plant]).check()
    container.copy_out("/srv/d", tmp_path / "copy")
    assert victim.read_text() == "keep\n" and victim.stat().st_nlink == 1
    assert [os.readlink(tmp_path / "copy" / name) for name in "lm"] == [str(victim)] * 2
    assert (tmp_path / "copy/m2").read_text() == "x\n" and os.listdir(tmp_path / "d") == []


def test_a_name_in_the_destination_that_is_a_link_is_not_written_through(lab: Any, tmp_path: Path) -> None:
    container = lab.run()
    container.exec(["sh", "-c", "mkdir /srv/d; echo new > /srv/d/a; ln /srv/d/a /srv/d/b"]).check()
    victim = tmp_path / "victim"
    victim.write_text("keep\n")
    (tmp_path / "into/d").mkdir(parents=True)
    (tmp_path / "into/d/b").symlink_to(victim)
    with pytest.raises(BadInput, match=r"nothing outside .* is written"):
        container.copy_out("/srv/d", tmp_path / "into")
    assert victim.read_text() == "keep\n"


def test_copies_end_with_their_callers(lab: Any) -> None:
    container = lab.run()
    container.exec(["truncate", "-s", "4M", FILE]).check()
    for _ in range(3):
        with copying(container):
            pass
    assert wait_until(lambda: "ctlab" not in _others(container)), _others(container)
    assert container.exec(["true"]).returncode == 0


def _others(container: Any) -> str:
    text: str = container.exec(["sh", "-c", "cat /proc/[0-9]*/comm | tail -n +2"]).stdout
    return text


def test_two_copies_to_one_place_write_nothing_beside_it(lab: Any, tmp_path: Path) -> None:
    """A link that the first copy would leave there must not lead the second one out."""
    container = lab.run()
    (tmp_path / "private").mkdir()
    container.exec(["sh", "-c", "mkdir /srv/d; ln -s ../private /srv/d/l"]).check()
    assert os.readlink(container.copy_out("/srv/d", tmp_path) / "l") == "../private"
    container.exec(["sh", "-c", "rm /srv/d/l; mkdir /srv/d/l; echo planted > /srv/d/l/keys"]).check()
    with pytest.raises(BadInput, match=r"nothing outside .* is written"):
        container.copy_out("/srv/d", tmp_path)
    assert os.listdir(tmp_path / "private") == []
