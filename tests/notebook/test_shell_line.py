"""What `%container shell` prints really opens a shell inside, from a terminal of the same user."""

from __future__ import annotations

import os
from typing import Any

import pytest
from terminal_help import CTRL_D, Person

from ctlab.errors import NotFound, StateError, Unsupported
from ctlab.notebook.shell_line import shell_line

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("command", [["sleep", "60"], None], ids=["a program", "idle"])
def test_it_opens_a_shell_inside(lab: Any, command: list[str] | None) -> None:
    web = lab.run(command, name="web", hostname="inner")
    line = shell_line(web)
    folder = lab._client.facts["runtime_folder"]
    assert line.endswith(f" -m ctlab shell {folder} web")  # where no terminal would look
    with Person(["sh"], env={"PS1": "outside> "}) as terminal:
        terminal.until("outside> ")
        terminal.type(f"{line}\n")
        # The marks are split, so that the echo of what is typed isn't mistaken for what is printed.
        terminal.type("echo h''ost $(hostname) u''ser $(id -u); echo e''nd\n")
        assert "host inner user 0" in terminal.until("end\n")
        terminal.type("ls -d /proc/[0-9]* | wc -l; echo c''ount\n")
        assert int(terminal.until("count\n").split()[-1]) < 12  # its own process numbers, not the machine's
        terminal.type("ip -brief address; echo d''one\n")
        assert str(web.address()) in terminal.until("done\n")
        terminal.until("# ")  # what is typed while the shell changes its terminal's modes may be lost, as anywhere
        terminal.type(CTRL_D)
        terminal.until("outside> ")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    assert web.state == "running"


def test_the_shortest_line_that_a_terminal_finds_the_lab_by(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctlab.runtime import base_folder, door, runtime_folder

    lab_id, name = lab._client.id, lab.name
    monkeypatch.setattr(base_folder, "_SHARED", os.environ["XDG_RUNTIME_DIR"])
    assert door.word_for(lab_id, name) == name
    other = runtime_folder.create("b" * 12, name.upper(), os.getpid())  # as another notebook's keeper does
    try:
        assert door.word_for(lab_id, name) == lab_id
        with pytest.raises(StateError, match=f"^lab '{name.upper()}' lets no terminal in"):
            door.connect("b" * 12)
    finally:
        other.remove()
    assert door.word_for(lab_id, name) == name
    with pytest.raises(NotFound, match=f"^no lab 'bbbbbbbbbbbb' of this user.*{name}"):
        door.connect("b" * 12)


def test_what_cannot_be_entered(lab: Any) -> None:
    web = lab.run("sleep 60", name="web")
    web.kill()
    with pytest.raises(StateError, match="container web isn't running, it is exited"):
        shell_line(web)
    scratch = lab.run(name="empty", image="scratch")
    with pytest.raises(Unsupported, match="no shell in container empty: neither /bin/bash nor /bin/sh"):
        shell_line(scratch)
