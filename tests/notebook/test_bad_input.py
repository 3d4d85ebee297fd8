"""Bad input: one clear line, the same as in the golden file, and nothing has changed.

A file has parts that begin with a line of three dashes: cells that come before (one part each), the input, what it
says. UPDATE_GOLDEN=1 writes the last part anew, to be read before it is believed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_controller, need_freezer, wait_until

from ctlab import labs
from ctlab.errors import CtlabError

pytestmark = pytest.mark.kernel

FOLDER = Path(__file__).parents[1] / "golden" / "bad_input"
FILES = sorted(FOLDER.glob("*.txt"))
ALONE = "lab-"  # how a file begins that is about labs themselves, so it has a shell of its own
KEPT = [path for path in FILES if not path.name.startswith(ALONE)]
STARTS_FINE = "in the same cell"  # in the title of a file whose first line does something


def world() -> object:
    """Everything that the labs hold: what a failed cell may not change. Links of what has ended are waited for."""
    return [
        {
            "lab": lab.name,
            "containers": {c.name: (c.id, c.state, c.pid, c.addresses, c.limits, c.returncode) for c in lab.containers},
            "networks": {n.name: (n.spec, [dict(pool.owners) for pool in n.pools]) for n in lab.networks},
            "links": _links(lab),
        }
        for lab in labs.running()
    ]


def _links(lab: Any) -> list[str]:
    found: list[str] = []

    def settled() -> bool:
        found[:] = sorted(link["name"] for link in lab.nodes["host"].links())
        return len(found) == expected

    expected = 1 + len(lab.networks) + sum(len(c.endpoints) for c in lab.containers if c.state != "exited")
    wait_until(settled, 2.0)
    return found


def same_everywhere(text: str, folder: Path) -> str:
    """Without what depends on the run or the machine."""
    text = text.replace(str(folder), "TMP")
    text = re.sub(r"Cell In\[\d+\]", "Cell In[n]", text)
    text = re.sub(r"there are 0(-\d+)?$", "there are 0-N", text, flags=re.MULTILINE)
    return re.sub(r"uses: \S+ \(\d+ bytes\)", "uses: N", text)


def check(shell: Any, path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the cells of a file; its last one must say what the file says, and change nothing."""
    title, *before, cell, says = re.split(r"^---.*\n", path.read_text(), flags=re.MULTILINE)
    assert title.startswith("# ")
    for earlier in before:
        shell.run(earlier.strip("\n"))
    was, files = world(), sorted(folder.rglob("*"))
    capsys.readouterr()
    error = shell.fails(cell.strip("\n"))
    printed = capsys.readouterr()
    assert isinstance(error, CtlabError), repr(error)
    assert STARTS_FINE in title or world() == was
    assert sorted(folder.rglob("*")) == files
    text = "\n".join(error._render_traceback_())
    assert printed.out.rstrip("\n").endswith(text)  # what the notebook shows is what the error says
    assert "\n" not in str(error)
    text = same_everywhere(text, folder) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(path.read_text().removesuffix(says) + text)
    else:
        assert text == says


@pytest.fixture(scope="module")
def kept(usable: None, runtime_base: Path, make_shell: Callable[[], Any]) -> Iterator[Any]:
    """One shell with one lab for all files that aren't about labs."""
    made = make_shell()
    made.run("%load_ext ctlab\n%lab start")
    yield made
    made.run("%lab stop\n%unload_ext ctlab")


NEEDS = {"memory-below-use": lambda lab: need_controller(lab, "memory"), "paused-exec": need_freezer}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_bad_input(
    path: Path, kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if path.stem in NEEDS:
        NEEDS[path.stem](kept.lab)
    try:
        check(kept, path, tmp_path, capsys)
    finally:
        for container in list(kept.lab.containers):
            container.remove()
        for network in list(kept.lab.networks):
            network.remove()


def test_every_kind_of_bad_input_has_a_file() -> None:
    assert len(FILES) >= 40


def test_more_cpus_than_there_are_is_allowed_and_said(kept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    need_controller(kept.lab, "cpu")
    more = (os.cpu_count() or 1) + 6
    container = kept.run(f"%container run -d --name wide --cpus {more}")
    assert container.state == "running" and f"--cpus {more}" in capsys.readouterr().out
    container.remove()
    kept.run("%network rm bridge")


def test_a_program_that_is_hidden_inside(kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    way = f"-v {tmp_path}/mine:/mnt/mine:ro"
    for cell in ("%container run -- mine", "%container run -d --name web\n%container exec web -- mine"):
        assert f"hidden inside: {way} shows it as /mnt/mine" in str(kept.fails(cell))
    assert kept.run(f"%container run {way} -- /mnt/mine").stdout == "mine\n"
    kept.run("%container rm web\n%network rm bridge")


def test_what_an_empty_image_has_no_program_for(kept: Any) -> None:
    """A program of this machine doesn't run there, wherever it is mounted: its libraries are missing."""
    for cell in ("%container run scratch -- ls", "%container run scratch -- /bin/ls"):
        error = str(kept.fails(cell))
        assert "scratch is empty: image system" in error and "/mnt/ls" not in error
    way = "-v /usr/bin/ls:/mnt/ls:ro"
    assert "the interpreter that it names isn't" in str(kept.fails(f"%container run {way} scratch -- /mnt/ls"))
