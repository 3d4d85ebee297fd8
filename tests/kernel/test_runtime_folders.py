"""Runtime folders in places that others can write to: nobody leads us out of our own, no note makes us touch a thing.

The folders are made as a keeper makes them, without a lab, so that there can be hundreds of tries.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cgroup_world import need_root
from kernel_help import STRANGER, long_form, wait_until

from ctlab.errors import CtlabError
from ctlab.kernel import cgroup_discover
from ctlab.runtime import base_folder, prune, runtime_folder

pytestmark = pytest.mark.kernel

LAB = "0123456789ab"
ROUNDS = 5000 if long_form() else 300

# A stranger with a folder of its own: swaps what lies at a name in it, as fast as it can.
SWAP = """
import os, sys
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
place, other = sys.argv[1], sys.argv[1] + ".other"
print("ready", flush=True)
while True:
    for pair in ((place, place + ".real"), (other, place), (place, other), (place + ".real", place)):
        try: os.rename(*pair)
        except OSError: pass
"""


@pytest.fixture
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /tmp, without a login's folder."""
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o1777)
    monkeypatch.setattr(base_folder, "_SHARED", str(place))
    monkeypatch.setattr(base_folder, "_LOGIN", str(tmp_path / "nowhere"))
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    return place


@contextlib.contextmanager
def swapping(place: Path) -> Iterator[None]:
    words = [sys.executable, "-c", SWAP, str(place), str(STRANGER)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def start_many(base: Path) -> None:
    """Make and remove runtime folders, as labs do that are started with this folder in the environment."""
    for _ in range(ROUNDS):
        with contextlib.suppress(CtlabError, FileNotFoundError):
            folder = runtime_folder.create(LAB, "race", os.getpid())
            folder.record(cgroups=[])
            folder.remove()


def tree(path: Path) -> dict[str, Any]:
    return {
        str(one): (one.lstat().st_mode, one.lstat().st_uid, one.read_text() if one.is_file() else "")
        for one in (path, *path.rglob("*"))
    }


def victim(path: Path) -> Path:
    """A folder of ours as a runtime folder is, with what a keeper would write over."""
    (path / "ctlab" / LAB).mkdir(parents=True)
    for folder in (path, path / "ctlab", path / "ctlab" / LAB):
        folder.chmod(0o700)
    for name in ("note", "note.new", "lock"):
        (path / "ctlab" / LAB / name).write_text("precious\n")
        (path / "ctlab" / LAB / name).chmod(0o600)
    return path


def test_a_base_folder_that_is_swapped_leads_nowhere(
    own_place: Path, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stranger's folder is in the environment; in it `ctlab` is now root's, now one with a link to the victim."""
    precious = victim(tmp_path / "victim")
    trap = stranger / "ctlab.other"
    trap.mkdir()
    (trap / LAB).symlink_to(precious / "ctlab" / LAB)
    os.chown(trap, STRANGER, STRANGER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(stranger))
    before = tree(precious)
    with swapping(stranger / "ctlab"):
        start_many(stranger)
    assert tree(precious) == before
    # The link that was laid here, wherever the last swap has left it.
    assert [path.name for path in stranger.rglob("*") if path.lstat().st_uid != STRANGER] == [LAB]
    assert os.listdir(own_place) == []


@pytest.mark.parametrize("below", ["", "between/"], ids=["itself", "a folder above it"])
def test_a_folder_of_ours_with_a_stranger_above_leads_nowhere(
    own_place: Path, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    """What the environment names is a folder of root's, which the stranger swaps for a link to another of root's."""
    precious = victim(tmp_path / "victim" / "mine" if below else tmp_path / "victim")
    mine = stranger / f"{below}mine"
    mine.mkdir(parents=True)
    mine.chmod(0o700)
    swapped = stranger / (below.strip("/") or "mine")
    if below:
        os.chown(swapped, STRANGER, STRANGER)
    (stranger / f"{swapped.name}.other").symlink_to(precious.parent if below else precious)
    os.lchown(stranger / f"{swapped.name}.other", STRANGER, STRANGER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(mine))
    before = tree(precious)
    with swapping(swapped):
        start_many(mine)
    assert tree(precious) == before


def test_another_users_login_folder_is_not_taken(
    own_place: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `su` or `sudo -E`."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(stranger))
    folder = runtime_folder.create(LAB, "mine", os.getpid())
    assert folder.path == str(own_place / f"ctlab-{os.geteuid()}" / LAB)
    assert os.listdir(stranger) == []
    assert [line for line in base_folder.refusals() if f"{stranger} belongs to user {STRANGER}, not to you (0)" in line]
    folder.remove()
    assert os.listdir(own_place) == []


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "open folder", "stranger's folder"])
def test_a_taken_name_is_walked_around_and_what_is_left_there_is_found(own_place: Path, what: str) -> None:
    taken = own_place / f"ctlab-{os.geteuid()}"
    if what == "file":
        taken.write_text("x")
    elif what.endswith("link"):
        (own_place / "elsewhere").mkdir(mode=0o700)
        taken.symlink_to(own_place / ("elsewhere" if what == "link" else "nowhere"))
    else:
        taken.mkdir()
        taken.chmod(0o777)
        if what == "stranger's folder":
            need_root()
            os.chown(taken, STRANGER, STRANGER)
    before = set(os.listdir(own_place))
    one = runtime_folder.create(LAB, "one", os.getpid())
    two = runtime_folder.create("f" * 12, "two", os.getpid())
    assert os.path.dirname(one.path) == os.path.dirname(two.path), "the second lab found the first one's place"
    (place,) = set(os.listdir(own_place)) - before
    assert place.startswith(f"{taken.name}-") and (own_place / place).stat().st_mode & 0o777 == 0o700
    two.leave()  # as if its keeper had died
    assert prune.prune() == [f"lab two ({'f' * 12}): its keeper is dead; folders removed"]
    assert os.listdir(own_place / place) == [LAB], "the first one's keeper lives"
    one.leave()
    assert prune.clear(LAB)
    assert set(os.listdir(own_place)) == before
    assert any(line.startswith(f"{taken} ") for line in base_folder.refusals())


NOTES = [
    '{"cgroups": 5}', '{"tried_in": 7}', '{"cgroups": [5, null, {}], "tried_in": {"a": 1}}', "[]", "5", "null", "", "{",
    "[" * 90000, '{"keeper": 1e400, "owner": true}', '{"keeper": 99999999999999999999, "owner": 1, "name": 7}',
    '{"cgroups": ["/a\\u0000b/ctlab-0123456789ab"], "tried_in": ["\\ud800", "\\u0000", "relative", ""]}',
    '{"name": "two\\nlines \\ud800 \\u001b[31m"}', '{"tried_in": ["/"], "tried_since": "x", "keeper": -1}',
    f'{{"keeper": {os.getpid()}, "keeper_start": "1", "owner": [1], "owner_start": {{}}}}', '{"id": "../../x"}',
]  # fmt: skip


@pytest.mark.parametrize("text", NOTES, ids=range(len(NOTES)))
def test_whatever_a_note_says_its_folder_goes_with_one_line(own_place: Path, text: str) -> None:
    folder = runtime_folder.create(LAB, "one", os.getpid())
    Path(folder.path, "note").write_text(text)
    folder.leave()
    (line,) = prune.prune()
    assert line.isprintable() and f"({LAB}): its keeper is dead; folders removed" in line
    assert os.listdir(own_place) == []


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_note_that_is_no_file_is_not_read(own_place: Path, tmp_path: Path, kind: str) -> None:
    folder = runtime_folder.create(LAB, "one", os.getpid())
    note = Path(folder.path, "note")
    note.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_text('{"name": "of somewhere else"}')
        note.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(note)
    else:
        note.mkdir()
    folder.leave()
    if kind == "folder":
        note.rmdir()
    assert prune.prune() == [f"lab ? ({LAB}): its keeper is dead; folders removed"]
    assert os.listdir(own_place) == []


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A cgroup folder that carries the lab's id but belongs to somebody else, with a process of theirs in it."""
    need_root()
    delegation = cgroup_discover.discover(probe=True)
    parent = delegation.unified or next(iter(delegation.parents.values()), None)
    if parent is None:
        pytest.skip(f"no cgroup folder here: {delegation.reason}")
    folder = Path(parent, f"ctlab-{LAB}")
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            (folder / "cgroup.procs").write_text(str(process.pid))
            yield folder
            assert process.poll() is None, "its process was killed"
        finally:
            process.kill()
            process.wait()
            assert wait_until(lambda: _gone(folder))


def _gone(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def test_a_note_names_folders_in_vain_that_are_not_a_labs_of_ours(
    own_place: Path, foreign: Path, tmp_path: Path
) -> None:
    """Of another user, behind a link, and one that is no cgroup at all."""
    (tmp_path / "link").symlink_to(foreign.parent)
    plain = tmp_path / f"ctlab-{LAB}"
    plain.mkdir()
    (plain / "cgroup.procs").write_text("")
    folder = runtime_folder.create(LAB, "one", os.getpid())
    paths = [str(foreign), f"{tmp_path}/link/{foreign.name}", str(plain)]
    folder.record(cgroups=paths, tried_in=[str(tmp_path / "link"), str(tmp_path)])
    (tmp_path / f"ctlab-keeper-{os.getpid()}").mkdir()
    folder.leave()
    assert prune.prune() == [f"lab one ({LAB}): its keeper is dead; folders removed"]
    assert foreign.is_dir() and plain.is_dir() and (tmp_path / f"ctlab-keeper-{os.getpid()}").is_dir()


def test_a_stopped_process_of_somebody_else_stays_stopped(own_place: Path) -> None:
    """A note may name any process as its keeper, and when it started is no secret."""
    need_root()
    process = subprocess.Popen(["sleep", "600"], user=STRANGER, group=STRANGER, extra_groups=[])
    try:
        process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: runtime_folder.is_stopped(process.pid))
        folder = runtime_folder.create(LAB, "one", os.getpid())
        note = {"keeper": process.pid, "keeper_start": runtime_folder.start_of(process.pid), "owner": 1 << 22}
        Path(folder.path, "note").write_text(json.dumps(note | {"owner_start": 5}))
        assert prune.prune() == [], "its folder is held: by us"
        time.sleep(0.05)
        assert runtime_folder.is_stopped(process.pid)
        folder.remove()
    finally:
        process.kill()
        process.wait()
