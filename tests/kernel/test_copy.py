"""Files in and out of containers; links stay on their side."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_freezer, wait_until

from ctlab.errors import BadInput, CtlabError, KernelError, NotFound, StateError

pytestmark = pytest.mark.kernel


def test_a_folder_takes_no_files_place(lab: Any, tmp_path: Path) -> None:
    """As with cp and Docker: what was in the file would be lost."""
    container = lab.run()
    container.write("/srv/file", "precious")
    container.exec(
        ["sh", "-c", "ln -s file /srv/link; ln -s nowhere /srv/broken; mkdir /srv/real; ln -s real /srv/good"]
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inner").write_text("new")
    for place in ("/srv/file", "/srv/link", "/srv/broken"):
        with pytest.raises(KernelError, match=rf"{place}: ENOTDIR \(Not a directory\)"):
            container.copy_in(tmp_path / "folder", place)
    assert container.exec(["cat", "/srv/file", "/srv/link"]).check().stdout == "precious" * 2
    container.copy_in(tmp_path / "folder", "/srv/good")
    assert container.exec(["find", "/srv/real", "-type", "f"]).check().stdout == "/srv/real/folder/inner\n"


def test_a_name_here_that_is_too_long_is_one_line(lab: Any) -> None:
    with pytest.raises(KernelError, match="ENAMETOOLONG"):
        lab.run().copy_in("x" * 5000, "/srv/")


def test_a_file_in_and_out(lab: Any, tmp_path: Path) -> None:
    container = lab.run()
    (tmp_path / "in").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "in").chmod(0o640)
    container.copy_in(tmp_path / "in", "/srv/deep/er/file")
    assert container.exec(["stat", "-c", "%a %u %s", "/srv/deep/er/file"]).check().stdout == "640 0 256000\n"
    assert container.copy_out("/srv/deep/er/file", tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    container.copy_in(tmp_path / "in", "/srv")
    container.copy_in(tmp_path / "in", "/srv/new/")
    listing = container.exec(["ls", "/srv", "/srv/new"]).check().stdout
    assert listing.split() == ["/srv:", "deep", "in", "new", "/srv/new:", "in"]


def test_a_folder_with_links(lab: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("x")
    (source / "link").symlink_to("sub/file")
    container = lab.run()
    container.copy_in(source, "/srv")
    assert container.exec(["readlink", "/srv/source/link"]).check().stdout == "sub/file\n"
    (tmp_path / "back").mkdir()
    found = container.copy_out("/srv/source", tmp_path / "back")
    assert found == tmp_path / "back/source"
    assert (found / "link").is_symlink() and (found / "link").read_text() == "x"


def test_write_a_file(lab: Any) -> None:
    container = lab.run()
    assert container.write("/srv/www/index.html", "<b>ü</b>\n", mode=0o600) == f"{container.name}:/srv/www/index.html"
    assert container.exec(["cat", "/srv/www/index.html"]).check().stdout == "<b>ü</b>\n"
    assert container.exec(["stat", "-c", "%a", "/srv/www/index.html"]).stdout == "600\n"
    container.write("/srv/www/index.html", b"")
    assert container.exec(["cat", "/srv/www/index.html"]).stdout == ""


def test_a_link_that_points_out_of_the_container_is_resolved_in_it(lab: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    secret.chmod(0o644)
    tmp_path.chmod(0o755)
    container = lab.run()
    container.exec(["sh", "-c", f"ln -s {secret} /srv/out; ln -s /../../../etc/hostname /srv/up"]).check()
    with pytest.raises(NotFound, match="does not exist"):
        container.copy_out("/srv/out", tmp_path / "copy")
    container.copy_out("/srv/up", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == f"{container.name}\n"
    container.exec(["sh", "-c", f"ln -s {tmp_path} /srv/folder"]).check()
    with pytest.raises(CtlabError):
        container.write("/srv/folder/planted", "x")
    assert not (tmp_path / "planted").exists()


def test_links_of_the_container_are_links_and_write_nothing_outside_the_destination(lab: Any, tmp_path: Path) -> None:
    container, outside, inside = lab.run(), tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    container.exec(["sh", "-c", f"mkdir /srv/d; ln -s {outside} /srv/d/a; ln -s ../../outside/x /srv/d/b"]).check()
    found = container.copy_out("/srv/d", inside)
    assert [os.readlink(found / name) for name in "ab"] == [str(outside), "../../outside/x"]
    container.exec(["sh", "-c", "rm /srv/d/a; mkdir /srv/d/a; echo planted > /srv/d/a/x"]).check()
    with pytest.raises(BadInput, match=r"nothing outside .* is written"):
        container.copy_out("/srv/d", inside)
    assert os.listdir(outside) == []


def test_devices_and_pipes_do_not_hang_a_copy(lab: Any, tmp_path: Path) -> None:
    container = lab.run()
    container.exec(["mkfifo", "/srv/pipe"]).check()
    for path in ("/srv/pipe", "/dev/zero"):
        with pytest.raises(CtlabError):
            container.copy_out(path, tmp_path / "copy")


@pytest.mark.parametrize("ended", ["paused", "stopped"])
def test_only_of_a_running_container(lab: Any, tmp_path: Path, ended: str) -> None:
    container = lab.run(["sleep", "60"])
    if ended == "stopped":
        container.kill()
    else:
        need_freezer(lab)
        container.pause()
    with pytest.raises(StateError, match=r"isn't running|is paused"):
        container.copy_out("/etc/hostname", tmp_path / "copy")
    with pytest.raises(StateError, match=r"isn't running|is paused"):
        container.write("/srv/x", "x")


def test_mistakes(lab: Any, tmp_path: Path) -> None:
    container = lab.run()
    for action, kind, message in (
        (lambda: container.copy_out("etc/hostname", tmp_path), BadInput, "an absolute path"),
        (lambda: container.copy_out("/nowhere", tmp_path), NotFound, ":/nowhere does not exist"),
        (lambda: container.copy_out("/etc/hostname", tmp_path / "no/where"), NotFound, "folder .* does not exist"),
        (lambda: container.copy_in(tmp_path / "nothing", "/srv"), NotFound, "nothing does not exist"),
        (lambda: container.copy_in(tmp_path, "srv"), BadInput, "an absolute path"),
        (lambda: container.write("/srv/", "x"), BadInput, "an absolute path of a file"),
    ):
        with pytest.raises(kind, match=message):
            action()
    assert os.listdir(tmp_path) == []


def test_a_container_removed_during_a_copy(lab: Any, tmp_path: Path) -> None:
    """The copy's child lives in the container's PID namespace: its end must not hold up the supervisor."""
    container, other = lab.run(["sleep", "60"]), lab.run()
    container.exec(["sh", "-c", "head -c 300000000 /dev/zero > /srv/big"]).check()
    outcome: list[BaseException] = []

    def copy() -> None:
        try:
            container.copy_out("/srv/big", tmp_path / "copy")
        except CtlabError as error:
            outcome.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    assert wait_until(lambda: (tmp_path / "copy").exists(), step=0.0005)
    container.remove()
    thread.join(10)
    assert not thread.is_alive()
    assert other.exec(["true"]).returncode == 0


def test_what_is_no_file_is_left_out_and_named(lab: Any, tmp_path: Path) -> None:
    container = lab.run(name="web")
    bind = "import socket; socket.socket(socket.AF_UNIX).bind('/srv/d/socket')"
    container.exec(["sh", "-c", f'mkdir /srv/d; mkfifo /srv/d/pipe; echo x > /srv/d/file; python3 -c "{bind}"']).check()
    found = container.copy_out("/srv/d", tmp_path)
    assert os.listdir(found) == ["file"]
    assert lab.notes[-1] == "cp: left out of web:/srv/d: d/socket (a socket), pipe (a pipe)"
    os.mkfifo(found / "pipe")
    container.copy_in(found, "/srv/e")
    assert container.exec(["stat", "-c", "%F", "/srv/e/pipe", "/srv/e/file"]).check().stdout == "fifo\nregular file\n"


@pytest.mark.parametrize("folder", ["/etc", "/usr/share/zoneinfo"])
def test_real_folders_come_out_and_what_cannot_be_read_is_named(lab: Any, tmp_path: Path, folder: str) -> None:
    if not os.path.isdir(folder):
        pytest.skip(f"no {folder} on this machine (package tzdata)")
    container = lab.run(name="web")
    script = f"cd {folder}; find . -type l -printf '%P %l\\n'; echo --; find . -type f ! -readable -printf '%P\\n'"
    done = container.exec(["sh", "-c", script])
    links, unreadable = (part.splitlines() for part in done.stdout.split("--\n"))
    found = container.copy_out(folder, tmp_path)
    for line in links:
        name, _, target = line.partition(" ")
        assert os.readlink(found / name) == target
    said = [note for note in lab.notes if note.startswith(f"cp: left out of web:{folder}: ")]
    assert bool(said) == bool(unreadable or done.stderr), (said, unreadable, done.stderr)
    if unreadable:
        assert "(Permission denied)" in said[0] and not any((found / name).exists() for name in unreadable)


def test_the_whole_of_the_machines_etc_goes_in(lab: Any) -> None:
    """Links to absolute paths, files that only root may read: links stay links, what can't be read is named."""
    container = lab.run()
    container.copy_in("/etc", "/srv/")
    links = {name for name in os.listdir("/etc") if os.path.islink(f"/etc/{name}")}
    inside = container.exec(["sh", "-c", "cd /srv/etc; find . -maxdepth 1 -type l"]).check().stdout.split()
    assert {name[2:] for name in inside} == links


@pytest.mark.parametrize("what", ["/srv/sparse", "/srv"])
def test_what_is_too_large_to_come_out_is_one_line(lab: Any, tmp_path: Path, what: str) -> None:
    container = lab.run()
    container.exec(["truncate", "-s", "7E", "/srv/sparse"]).check()
    said = rf"cp: {what}\S*: it is larger than \d+ MiB, half of what is free here: nothing outside .* is written"
    with pytest.raises(BadInput, match=f"^{said}$"):
        container.copy_out(what, tmp_path / "copy")
    assert os.listdir(tmp_path) == []


def test_what_is_too_large_to_go_in_is_one_line(lab: Any, tmp_path: Path) -> None:
    """A file, which is sent alone, and one in a folder."""
    container = lab.run()
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "folder" / "sparse", "wb") as file:
        file.truncate(80 << 20)
    for source in (tmp_path / "folder" / "sparse", tmp_path / "folder"):
        with pytest.raises(KernelError, match=r"cp: .*ENOSPC"):
            container.copy_in(source, "/dev/shm/")
