"""The folder of what a VM boots from, where other users could get at the way to it: they lead root nowhere by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_help import STRANGER, tries

from ctlab.errors import CtlabError
from ctlab.vm import cache

pytestmark = pytest.mark.kernel

REMEDY = "set XDG_CACHE_HOME to a folder of yours"

# A stranger whose `ctlab` is a link to a folder of root's. As soon as a file is begun in there, the link leads to a
# folder of the stranger's own, in which that name is a link to another file of root's.
SWAP = """
import ctypes, os, struct, sys
os.setgroups([]); os.setgid(int(sys.argv[4])); os.setuid(int(sys.argv[4]))
link, roots, secret = sys.argv[1:4]
mine = os.path.dirname(link) + "/mine"
os.makedirs(mine + "/vm")
os.symlink(roots, link)
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
libc.inotify_add_watch(watch, os.fsencode(roots + "/vm"), 0x100)  # IN_CREATE
print("ready", flush=True)
while True:
    events, at = os.read(watch, 4096), 0
    while at < len(events):
        length = struct.unpack_from("iIII", events, at)[3]
        name = events[at + 16:at + 16 + length].rstrip(b"\\0").decode()
        at += 16 + length
        os.symlink(secret, f"{mine}/vm/{name}")
        os.symlink(mine, link + ".new")
        os.rename(link + ".new", link)
"""


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A folder of root's with one called `vm` in it, both for all to read, as an installed package has it."""
    path = tmp_path / "package"
    (path / "vm").mkdir(parents=True)
    for folder in (path, path / "vm"):
        folder.chmod(0o755)
    return path


def refusal(monkeypatch: pytest.MonkeyPatch, above: Path) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(above))
    with pytest.raises(CtlabError) as looked:
        cache.place()
    with pytest.raises(CtlabError) as made:
        cache.folder()
    assert str(looked.value) == str(made.value)
    return str(made.value)


def test_a_link_of_another_users_is_not_followed(stranger: Path, roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stranger / "ctlab").symlink_to(roots)
    assert refusal(monkeypatch, stranger) == f"{stranger} belongs to user {STRANGER}, not to you (0): {REMEDY}"
    assert (roots / "vm").stat().st_mode & 0o777 == 0o755 and os.listdir(roots / "vm") == []


def test_a_file_that_is_being_written_is_not_swapped_for_another(
    stranger: Path, roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode would be given to the file of root's that the stranger's link names."""
    secret = tmp_path / "secret"
    secret.write_text("root's own\n")
    secret.chmod(0o600)
    data = os.urandom(1 << 22)
    for number in range(tries(3, 30)):
        home = stranger / str(number)
        home.mkdir()
        os.chown(home, STRANGER, STRANGER)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        words = [sys.executable, "-c", SWAP, str(home / "ctlab"), str(roots), str(secret), str(STRANGER)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
                with pytest.raises(CtlabError):
                    cache.write(cache.folder() / "vmlinux", data)
            finally:
                process.kill()
        assert secret.stat().st_mode & 0o777 == 0o600
        assert os.listdir(roots / "vm") == []


@pytest.mark.parametrize("what", ["a folder of root's in it", "a link of root's to it", "a folder on the way"])
def test_no_part_of_the_way_is_another_users(stranger: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    above, at = stranger / "roots", stranger
    if what == "a link of root's to it":
        above = stranger.parent / "link"
        above.symlink_to(stranger)
    elif what == "a folder on the way":
        above = stranger.parent / "own"
        at = above / "ctlab"
        (at / "vm").mkdir(parents=True, mode=0o700)
        os.chown(at, STRANGER, STRANGER)
    else:
        above.mkdir()
    assert refusal(monkeypatch, above) == f"{at} belongs to user {STRANGER}, not to you (0): {REMEDY}"


def test_a_folder_on_the_way_that_all_may_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = tmp_path / "open"
    above.mkdir()
    above.chmod(0o777)
    assert refusal(monkeypatch, above) == f"{above} is open to others (mode 777): {REMEDY}"
    above.chmod(0o1777)  # as /tmp: what lies in it is its owner's alone
    assert cache.folder() == above / "ctlab" / "vm"


def test_links_of_ones_own_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ~/.cache on another disk; one that leads to itself ends."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / ".cache").symlink_to("disk/../disk/deep")
    (tmp_path / "disk" / "deep" / "ctlab").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    cache.write(cache.folder() / "facts", b"{}")
    assert (tmp_path / "disk" / "vm" / "facts").read_bytes() == b"{}"
    assert (tmp_path / "disk" / "vm").stat().st_mode & 0o777 == 0o700
    (tmp_path / "loop").symlink_to("loop")
    assert "ELOOP" in refusal(monkeypatch, tmp_path / "loop")


def test_what_is_open_to_others_is_closed_and_nothing_half_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "ctlab" / "vm").mkdir(parents=True)
    (tmp_path / "ctlab" / "vm").chmod(0o755)
    folder = cache.folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "taken").mkdir()
    with pytest.raises(CtlabError, match="EISDIR"):
        cache.write(folder / "taken", b"data")
    with pytest.raises(RuntimeError), cache.new_folder(folder / "half") as new:
        cache.write(new / "file", b"data")
        raise RuntimeError
    assert os.listdir(folder) == ["taken"]
    for text in (b"first", b"second"):
        with cache.new_folder(folder / "whole") as new:
            cache.write(new / "file", text)
        assert (folder / "whole" / "file").read_bytes() == text
    assert sorted(os.listdir(folder)) == ["taken", "whole"]
