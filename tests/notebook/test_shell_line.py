"""What `%container shell` prints really opens a shell inside, from a terminal of the same user."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from typing import Any

import pytest

from ctlab.errors import StateError, Unsupported
from ctlab.notebook.shell_line import shell_line

pytestmark = pytest.mark.kernel

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A terminal with a shell in it."""

    def __init__(self) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve("/bin/sh", ["sh"], {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "outside> "})
        self.seen = ""

    def until(self, text: str, timeout: float = 10.0) -> str:
        """Read until that text has come: what came."""
        until = time.monotonic() + timeout
        while text not in self.seen:
            left = until - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"{text!r} isn't in {self.seen!r}"
            self.seen += ANSI.sub("", os.read(self.master, 65536).decode(errors="replace"))
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self.master, f"{line}\n".encode())

    def close(self) -> None:
        """Hang up."""
        os.close(self.master)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("command", [["sleep", "60"], None], ids=["a program", "idle"])
def test_it_opens_a_shell_inside(lab: Any, command: list[str] | None) -> None:
    web = lab.run(command, name="web", hostname="inner")
    line = shell_line(web)
    terminal = Terminal()
    try:
        terminal.until("outside> ")
        terminal.type(line)
        # The marks are split, so that the echo of what is typed isn't mistaken for what is printed.
        terminal.type(
            "echo h''ost $(hostname) u''ser $(id -u); grep -E 'CapBnd|NoNewPrivs' /proc/self/status; echo e''nd"
        )
        said = terminal.until("end\n")
        assert "host inner user 0" in said
        inside = web.exec(
            "grep -E CapBnd|NoNewPrivs /proc/self/status".replace("CapBnd|NoNewPrivs", "'CapBnd|NoNewPrivs'")
        )
        for one in inside.stdout.splitlines():  # no more than the container's own programs have
            assert one in said
        terminal.type("ls -d /proc/[0-9]* | wc -l; echo c''ount")
        assert int(terminal.until("count\n").split()[-1]) < 12  # its own process numbers, not the machine's
        terminal.type("ip -brief address; echo d''one")
        assert str(web.address()) in terminal.until("done\n")
        terminal.type("exit")
        terminal.until("outside> ")
    finally:
        terminal.close()
    assert web.state == "running"


def test_what_cannot_be_entered(lab: Any) -> None:
    web = lab.run("sleep 60", name="web")
    web.kill()
    with pytest.raises(StateError, match="container web isn't running, it is exited"):
        shell_line(web)
    scratch = lab.run(name="empty", image="scratch")
    with pytest.raises(Unsupported, match="no shell in container empty"):
        shell_line(scratch)
