"""A lab that has died is told of by the first magic that would have used it: once, and no other lab steps in."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest
from kernel_help import wait_until

import ctlab
from ctlab import labs
from ctlab.errors import LabGone, NotFound
from ctlab.notebook.grammar import NOUNS

pytestmark = pytest.mark.kernel

# Every verb that uses a lab, with the cells that use it; the dead lab had a container web and a network blue.
CELLS = {
    "container run": (
        "%container run -d", "%container run -- true", "%%container run\ntrue", "%container run -d --explain",
    ),
    "container exec": ("%container exec web -- true", "%%container exec web\ntrue", "%container exec -d web -- true"),
    "container ps": ("%container", "%container ps -a", "%container ps -q"),
    "container write": ("%%container write web:/srv/x\ny",),
    "container cp": ("%container cp web:/etc/hosts there", "%container cp here web:/srv/x"),
    "container rename": ("%container rename web www",),
    "container logs": ("%container logs web", "%container logs -f web"),
    "container prune": ("%container prune",),
    "container stats": ("%container stats", "%container stats web"),
    "container update": ("%container update --memory 1G web",),
    **{f"container {verb}": (f"%container {verb} web",) for verb in (
        "stop", "kill", "start", "restart", "rm", "inspect", "top", "pause", "unpause", "wait", "shell")},
    "network create": ("%network create red", "%network create red --explain"),
    "network connect": ("%network connect blue web",),
    "network disconnect": ("%network disconnect blue web",),
    "network ls": ("%network", "%network ls -q"),
    "network rm": ("%network rm blue",),
    "network inspect": ("%network inspect blue",),
    "network prune": ("%network prune",),
    "node ls": ("%node", "%node ls -q"),
    "stats show": ("%stats", "%stats web", "%stats --live", "%stats --stop"),
    "topology show": ("%topology", "%topology --freeze"),
    "lab status": ("%lab", "%lab status", "%lab status x"),
    "lab stop": ("%lab stop", "%lab stop x"),
    "lab use": ("%lab use x",),
}  # fmt: skip
USES_NONE = {"lab start", "lab ls", "lab doctor", "lab prune"}


def dead_lab(name: str = "x", who: str = "supervisor") -> Any:
    """A lab that ran, and was killed."""
    lab = ctlab.Lab(name)
    os.kill(lab._client.facts[who], signal.SIGKILL)
    assert wait_until(lambda: lab.gone)
    return lab


def said(error: BaseException, name: str = "x", who: str = "supervisor") -> bool:
    """Whether an error tells of the death of that lab, and why it died."""
    return isinstance(error, LabGone) and f"lab '{name}' died: its {who} ended (SIGKILL); " in str(error)


def test_the_table_has_every_verb() -> None:
    every = {f"{noun.name} {verb.name}" for noun in NOUNS.values() if not noun.later for verb in noun.verbs}
    assert every == set(CELLS) | USES_NONE


@pytest.mark.parametrize("verb", CELLS)
def test_the_first_magic_says_it_and_uses_nothing_else(
    shell: Any, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("")
    other = ctlab.Lab("other")
    for cell in CELLS[verb]:
        lab = dead_lab()
        error = shell.fails(cell)
        assert said(error), (cell, error)
        assert "the current lab is 'other' from now on" in str(error)
        assert labs.running() == [other] and not other.containers and not other.networks
        assert labs.current() is other and shell.run("%lab ls -q") == ["other"]
        lab.stop()


def test_it_is_said_once_then_the_usual_rules_hold(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%container run -d --name a")
    os.kill(shell.lab._client.facts["keeper"], signal.SIGKILL)
    assert wait_until(lambda: not labs.running())
    assert said(shell.fails("%container ps"), "lab", "keeper")
    assert len(shell.run("%container ps")) == 0
    assert str(shell.fails("%container exec a -- true")) == "no lab runs here; start one: %lab start, or ctlab.Lab()"
    shell.run("%container run -d --name a")
    assert capsys.readouterr().out.count("lab 'lab' started\n") == 2 and shell.lab.name == "lab"


@pytest.mark.parametrize("who", ["supervisor", "keeper"])
def test_a_magic_that_meets_the_death_itself_has_said_it(shell: Any, who: str) -> None:
    """Before anybody here has noticed: what it asks is not answered."""
    shell.run("%lab start x\n%container run -d --name a")
    lab = shell.lab
    supervisor = os.pidfd_open(lab._client.facts["supervisor"])
    os.kill(lab._client.facts[who], signal.SIGKILL)
    select.select([supervisor], [], [], 10)  # a keeper's takes it along, in its own time
    os.close(supervisor)
    error = shell.fails("%container exec a -- true")
    assert isinstance(error, LabGone) and f"lab 'x' died: its {who} ended (SIGKILL)" in str(error)
    assert isinstance(shell.fails("%container exec a -- true"), NotFound)


def test_a_lab_that_is_named_is_told_of_too(shell: Any) -> None:
    shell.run("%lab start x\n%lab start other")
    other, x = shell.lab, labs.find("x")
    os.kill(x._client.facts["supervisor"], signal.SIGKILL)
    assert wait_until(lambda: x.gone)
    shell.run("%container run -d --name a")  # the current one runs
    assert other.containers.keys() == ["a"]
    assert said(shell.fails("%container run -d --name b --lab X"))
    assert "no lab 'x' runs here" in str(shell.fails("%container ps --lab x"))
    assert other.containers.keys() == ["a"]


def test_what_uses_no_lab_goes_on_and_a_new_one_of_the_name_ends_the_matter(shell: Any) -> None:
    dead_lab()
    assert [(row["name"], row["state"]) for row in shell.run("%lab ls").rows()] == [("x", "died")]
    assert shell.run("%lab ls -q") == [] and shell.run("%lab doctor").usable
    shell.run("%lab prune\n%stats --columns\n%container run -h")
    lab = shell.run("%lab start x")
    assert shell.lab is lab
    lab.stop()
    assert len(shell.run("%container ps")) == 0  # a lab that was stopped doesn't count, nor what it has replaced
    dead_lab("y")
    with ctlab.Lab("z") as inner:
        assert shell.lab is inner
    assert said(shell.fails("%container run -d"), "y")


def test_a_dead_lab_is_listed_until_the_matter_is_ended(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> list[tuple[str, str]]:
        return [(row["name"], row["state"]) for row in shell.run("%lab ls").rows()]

    dead_lab("x"), dead_lab("y")
    assert said(shell.fails("%lab stop x"), "x")  # not yet: this is how it is told
    assert said(shell.fails("%lab use y"), "y")
    assert listed() == [("x", "died"), ("y", "died")] and shell.run("%lab ls -q") == []
    for cell in ("%lab use x", "%container ps --lab X", "%lab status x"):
        shell.run("%lab start other --exists keep")
        text = str(shell.fails(cell))
        assert "runs here; it died: its supervisor ended (SIGKILL); another one: %lab start x" in text, (cell, text)
    assert listed() == [("x", "died"), ("y", "died"), ("other", "current")]
    capsys.readouterr()
    shell.run("%lab stop x")
    assert "lab 'x' died: its supervisor ended (SIGKILL); it is listed no more\n" in capsys.readouterr().out
    assert listed() == [("y", "died"), ("other", "current")]
    assert str(shell.fails("%lab stop x")).startswith("no lab 'x' runs here")
    shell.run("%lab start y")
    assert listed() == [("other", "running"), ("y", "current")]


def test_all_labs_stopped_are_also_those_that_have_died(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"lab '{name}' died: its supervisor ended (SIGKILL); it is listed no more\n" for name in "xy"]
    dead_lab("x"), dead_lab("y")
    assert said(shell.fails("%lab use y"), "y")
    capsys.readouterr()
    assert shell.run("%lab stop --all") is None
    assert capsys.readouterr().out == "".join(lines)
    assert len(shell.run("%lab ls")) == 0 and labs.died() == []
    dead_lab("x")
    shell.run("%lab start other")
    capsys.readouterr()
    assert shell.run("%lab stop --all").keys() == ["other"] and lines[0] in capsys.readouterr().out
    assert len(shell.run("%lab ls")) == 0
    capsys.readouterr()
    assert shell.run("%lab stop --all") is None and capsys.readouterr().out == "no lab runs here\n"


def test_within_its_with_a_dead_lab_is_told_of(usable: None) -> None:
    with ctlab.Lab("outer") as outer, ctlab.Lab("inner") as inner:
        os.kill(inner._client.facts["supervisor"], signal.SIGKILL)
        assert wait_until(lambda: inner.gone)
        with pytest.raises(LabGone, match=r"lab 'inner' died: .*; the current lab is 'outer' from now on"):
            ctlab.current()
        assert ctlab.current() is outer
