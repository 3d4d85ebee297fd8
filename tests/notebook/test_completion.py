"""Completion: verbs, options, values, live names; in every form in which a magic is typed; and through a kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter

pytestmark = pytest.mark.kernel


def found(shell: Any, text: str) -> list[str]:
    """The whole lines that completing `text` at its end can give."""
    with provisionalcompleter():
        shell.ip.Completer.use_jedi = False
        return [text[: one.start] + one.text for one in shell.ip.Completer.completions(text, len(text))]


@pytest.fixture(scope="module")
def busy(make_shell: Callable[[], Any], usable: None, runtime_base: Path) -> Iterator[Any]:
    """A shell whose lab has something to name."""
    shell = make_shell()
    shell.run("%load_ext ctlab")
    shell.run("%network create blue\n%container run -d --name web --network blue\n%container run -d --name worker")
    shell.run("%container run --name old -- true")
    yield shell
    shell.run("%lab stop\n%unload_ext ctlab")


@pytest.mark.parametrize(
    "start", ["%container ", "%%container ", "container ", "x = %container ", "a, b = %container "]
)
def test_every_form(busy: Any, start: str) -> None:
    assert found(busy, start + "ex") == [start + "exec"]
    if "%%" not in start:
        assert found(busy, start + "logs w") == [start + "logs web", start + "logs worker"]
    assert found(busy, start + "exec we") == [start + "exec web"]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("%network ", "create ls rm inspect connect disconnect prune"),
        ("%%container ", "run exec write"),
        ("%container start ", "old"),
        ("%container exec ", "web worker"),
        ("%container rm w", "web worker"),
        ("%container rm web w", "worker"),
        ("%container run --netw", "--network"),
        ("%container run --network b", "blue bridge"),
        ("%container run --network blue --network b", "blue bridge"),
        ("%container run --network container:o", "container:old"),
        ("%container run --exists ", "error keep replace"),
        ("%container run -d --nam", "--name"),
        ("%container run s", "system scratch"),
        ("%container kill -s SIGK", "SIGKILL"),
        ("%network connect bl", "blue"),
        ("%network connect blue wo", "worker"),
        ("%lab use ", "lab"),
        ("%container ps --lab ", "lab"),
        ("%topology --f", "--freeze"),
        ("%stats wo", "worker"),
        ("%stats --metrics memory_bytes,pid", "memory_bytes,pids"),
        ("%container exec web ", "--"),
        ("x = 1\n%container exec we", "web"),
    ],
)
def test_what_can_stand_where(busy: Any, text: str, ends: str) -> None:
    stem = text[: max(text.rfind(" "), text.rfind("\n")) + 1]
    assert [line.removeprefix(stem) for line in found(busy, text)] == ends.split()


def test_values_after_an_equals_sign(busy: Any) -> None:
    assert found(busy, "%container run --network=bl") == ["%container run --network=blue"]


def test_paths_of_cp(busy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wheel.txt").touch()
    os.mkdir(tmp_path / "work")
    assert found(busy, "%container cp w") == [
        f"%container cp {end}" for end in ("web:", "worker:", "wheel.txt", "work/")
    ]
    assert found(busy, "%container cp web:/etc/hostn") == ["%container cp web:/etc/hostname"]
    assert found(busy, "%container cp web:/us") == ["%container cp web:/usr/"]
    assert found(busy, "%container cp web:/etc/hosts wo") == ["%container cp web:/etc/hosts work/"]
    took = []
    for _ in range(5):
        began = time.monotonic()
        found(busy, "%container cp web:/usr/bin/pyth")
        took.append(time.monotonic() - began)
    assert min(took) < 0.5


def test_where_nothing_of_ours_can_stand(busy: Any) -> None:
    assert found(busy, "%%container exec web\n%container ex") != ["%%container exec web\n%container exec"]
    assert "container = run" not in found(busy, "container = ru")
    assert all("web" not in line for line in found(busy, "%container exec worker -- we"))


def test_a_lab_that_is_gone_has_no_names(busy: Any) -> None:
    busy.run("%lab start other\n%container run -d --name web-two")
    assert found(busy, "%container exec we") == ["%container exec web-two"]
    busy.run("%lab stop other")
    assert found(busy, "%container exec we") == ["%container exec web"]


def test_through_a_kernel(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    for text, matches in (
        ("x = %container logs w", ["web"]),
        ("%container sto", ["stop"]),
        ("%container run --network=b", ["bridge"]),
    ):
        kernel.client.complete(text, len(text))
        content = kernel.client.get_shell_msg(timeout=20)["content"]
        assert content["matches"] == matches
        stem = text[: content["cursor_start"]]
        assert stem + matches[0] in ("x = %container logs web", "%container stop", "%container run --network=bridge")


def test_a_file_whose_name_steers_a_terminal_is_not_offered(busy: Any) -> None:
    script = 'mkdir /srv/odd && cd /srv/odd && touch "$(printf "odd\\033]52;c;eA==")" "$(printf "odd\\nline")" odd-fine'
    busy.lab["web"].exec(["sh", "-c", script]).check()
    assert found(busy, "%container cp web:/srv/odd/od") == ["%container cp web:/srv/odd/odd-fine"]


def test_a_files_name_is_offered_as_it_has_to_be_typed(
    busy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in the container chooses these names, and what is offered is then run in the person's process."""
    names = [
        "od a b",
        "od{ran.append(1)}",
        "od$(x)",
        "od;ran",
        "od'q\"",
        "od#c",
        "od{{x}}",
        "od}",
        "od|x",
        "od&",
        "od\\\\",
    ]
    busy.ip.user_ns["ran"] = []
    for name in names:
        busy.lab["web"].exec(["mkdir", "-p", "/srv/names"]).check()
        busy.lab["web"].exec(["touch", f"/srv/names/{name}"]).check()
    lines = found(busy, "%container cp web:/srv/names/od")
    assert len(lines) == len(names)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        busy.run(f"{line} .")
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert busy.ip.user_ns["ran"] == []
    (tmp_path / "-rf").touch()
    (tmp_path / "~root").touch()
    assert {line.split()[-1] for line in found(busy, "%container cp ")} >= {"./-rf", "'./~root'"}
    assert found(busy, "%container cp 'web:/srv/names/od") == []


def test_tab_after_a_lab_or_a_container_offers_what_a_person_uses(busy: Any) -> None:
    busy.run("import ctlab\nlab = ctlab.current()\nweb = lab['web']")
    with provisionalcompleter():
        busy.ip.Completer.use_jedi = True
        of_lab = {one.text for one in busy.ip.Completer.completions("lab.", 4)}
        of_web = {one.text for one in busy.ip.Completer.completions("web.", 4)}
    assert {"containers", "networks", "run", "network", "stats", "topology", "stop"} <= of_lab
    assert {"exec", "logs", "stop", "stats", "address", "state"} <= of_web
    hidden = {"cell", "cell_id", "changes", "close_views", "map_elements", "on_change", "say", "tick", "views"}
    assert not hidden & (of_lab | of_web)
