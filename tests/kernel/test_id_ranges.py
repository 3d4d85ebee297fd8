"""Each lab of root's has a range of ids of its own, as long as its keeper lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_world import need_root
from kernel_help import ROOT, patient, wait_until

import ctlab
from ctlab.errors import CtlabError
from ctlab.kernel import id_ranges

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def as_root() -> None:
    need_root()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for /run, where other labs of root's may be; empty again afterwards."""
    monkeypatch.setattr(id_ranges, "_PLACES", (str(tmp_path),))
    yield tmp_path
    assert os.listdir(tmp_path) == []


# Forks what takes a range and keeps it; says which, and ends them when it is told to.
TAKERS = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from ctlab.kernel import id_ranges
id_ranges._PLACES = (sys.argv[2],)
ready, go = os.pipe(), os.pipe()
pids = []
for number in range(int(sys.argv[3])):
    pid = os.fork()
    if pid == 0:
        os.close(go[1])
        os.read(go[0], 1)  # all at once
        held = id_ranges.take(f"{0:012x}" if number % 2 else f"{number:012x}")
        os.write(ready[1], b"%d\\n" % held.first)
        signal.pause()
    pids.append(pid)
os.close(go[1])
os.close(ready[1])
with os.fdopen(ready[0]) as file:
    print(json.dumps([[int(file.readline()) for _ in pids], pids]), flush=True)
    sys.stdin.readline()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print("dead", flush=True)
    sys.stdin.readline()
"""


def test_forty_at_once_have_forty_ranges_and_the_dead_have_none(place: Path) -> None:
    words = [sys.executable, "-c", TAKERS, str(ROOT), str(place), "40"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        firsts, _ = json.loads(process.stdout.readline())
        assert len(set(firsts)) == 40
        taken = id_ranges.taken()
        for first in firsts:
            assert id_ranges.contains(first) and (first - id_ranges.FIRST) % id_ranges.RANGE == 0
            assert not any(first < begin + count and begin < first + id_ranges.RANGE for begin, count in taken)
        (folder,) = place.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700 and len(os.listdir(folder)) == 40
        id_ranges.sweep()
        assert len(os.listdir(folder)) == 40, "they are held"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "dead\n"
        again = id_ranges.take(f"{0:012x}")
        assert again.first in firsts, "what a dead one held is free"
        id_ranges.sweep()
        assert os.listdir(folder) == [str(again.first)]
        again.release()
        again.release()
        process.stdin.write("\n")


def test_a_range_is_given_back_with_its_file(place: Path) -> None:
    one, two = id_ranges.take("same"), id_ranges.take("same")
    assert two.first == one.first + id_ranges.RANGE or two.first == id_ranges.FIRST
    one.release()
    three = id_ranges.take("same")
    assert three.first == one.first
    two.release()
    three.release()


def test_when_all_are_used_one_line_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_ranges, "COUNT", 3)
    held = [id_ranges.take(f"lab {n}") for n in range(3)]
    assert len({one.first for one in held}) == 3
    with pytest.raises(
        CtlabError, match="no range of ids is left for this lab: all 3 from 1610612736 on are"
    ) as caught:
        id_ranges.take("one more")
    assert "\n" not in str(caught.value) and "/etc/subuid" in str(caught.value)
    held.pop().release()
    held.append(id_ranges.take("one more"))
    for one in held:
        one.release()


def test_what_the_machines_files_name_is_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_ranges, "COUNT", 2)
    monkeypatch.setattr(id_ranges, "taken", lambda: [(id_ranges.FIRST + 5, 1)])
    one = id_ranges.take("x")
    assert one.first == id_ranges.FIRST + id_ranges.RANGE
    with pytest.raises(CtlabError, match="no range of ids is left"):
        id_ranges.take("y")
    one.release()


@pytest.mark.parametrize("what", ["file", "link", "folder of others"])
def test_a_taken_name_of_the_folder_is_walked_around(place: Path, what: str) -> None:
    name = place / id_ranges._NAME
    if what == "file":
        name.write_text("x")
    elif what == "link":
        name.symlink_to("/etc")
    else:
        name.mkdir(mode=0o777)
        os.chown(name, 54321, 54321)
    one, two = id_ranges.take("same"), id_ranges.take("same")
    assert one.first != two.first and len(os.listdir(place)) == 2
    one.release()
    two.release()
    assert os.listdir(place) == [name.name]
    name.rmdir() if what.startswith("folder") else name.unlink()


@pytest.mark.usefixtures("usable")
def test_two_labs_share_no_ids_and_so_no_quotas() -> None:
    with ctlab.Lab("one") as one, ctlab.Lab("two") as two:
        outside = []
        for lab in (one, two):
            text = lab.run(["sleep", "60"]).exec(["cat", "/proc/self/uid_map"]).check().stdout
            outside.append(int(Path(f"/proc/{lab._client.facts['supervisor']}/uid_map").read_text().split()[1]))
            assert text.split()[2] == str(id_ranges.RANGE)
            assert f"ids 0-65535 are {outside[-1]}-" in lab.status()["ids"]
        assert outside[0] != outside[1] and all(map(id_ranges.contains, outside))


@pytest.mark.usefixtures("usable")
def test_a_keeper_that_is_killed_frees_its_range() -> None:
    lab = ctlab.Lab("killed")
    first = int(Path(f"/proc/{lab._client.facts['supervisor']}/uid_map").read_text().split()[1])
    file = next(path for path in (Path(place, "ctlab-ids", str(first)) for place in id_ranges._PLACES) if path.exists())
    keeper = lab._client.facts["keeper"]
    holders = {int(pid) for pid in os.listdir("/proc") if pid.isdigit() and str(file) in _open_files(pid)}
    assert holders == {keeper}, "nothing of the lab itself holds it"
    os.kill(keeper, signal.SIGKILL)
    assert wait_until(lambda: lab.gone, patient(5))
    lab.stop()
    assert wait_until(lambda: not file.exists())


def _open_files(pid: str) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []
