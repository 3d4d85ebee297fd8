"""What a program gave back, as it is shown: one line in Python, its output in a notebook, much of it cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from ctlab.completed import HEAD_LINES, LINE_CHARACTERS, TAIL_LINES, Completed, excerpt, signal_of
from ctlab.errors import ProgramFailed
from ctlab.notebook.display import collapsed


def completed(stdout: str = "", stderr: str = "", returncode: int = 0, **more: Any) -> Completed:
    return Completed(returncode, stdout, stderr, 0.0123, "web", ("prog", "word"), **more)


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (completed(), "<Completed web: status 0, 0.0123 s>"),
        (completed("hi\n"), "<Completed web: status 0, 0.0123 s, stdout 'hi'>"),
        (completed("", "no\n", 3), "<Completed web: status 3, 0.0123 s, stderr 'no'>"),
        (completed("a\nb\n"), "<Completed web: status 0, 0.0123 s, stdout 2 lines of 4B>"),
        (completed("x" * 2048), "<Completed web: status 0, 0.0123 s, stdout 1 line of 2K>"),
        (completed(returncode=137), "<Completed web: status SIGKILL, 0.0123 s>"),
        (completed(returncode=137, oom_killed=True), "<Completed web: status SIGKILL (OOMKilled), 0.0123 s>"),
        (completed(dropped_bytes=4096), "<Completed web: status 0, 0.0123 s, 4K dropped>"),
    ],
)
def test_in_python_it_is_one_line(made: Completed, shown: str) -> None:
    assert repr(made) == shown


def test_as_a_cells_value_it_shows_what_was_written() -> None:
    assert pretty(completed("a\nb\n", "c", 3)) == (
        "<Completed web: status 3, 0.0123 s>\nstdout:\na\nb\nstderr:\nc"
    )  # fmt: skip
    assert pretty(completed()) == "<Completed web: status 0, 0.0123 s>"


def test_among_others_it_stays_one_line() -> None:
    made = completed("a\nb\n")
    assert pretty([made, made]).splitlines() == [f"[{made!r},", f" {made!r}]"]


def test_the_middle_of_much_is_left_out() -> None:
    lines = [f"line {number}" for number in range(1000)]
    shown = pretty(completed("\n".join(lines) + "\n")).splitlines()[2:]
    left = 1000 - HEAD_LINES - TAIL_LINES
    assert shown == [*lines[:HEAD_LINES], f"[{left} lines more: .stdout has all]", *lines[-TAIL_LINES:]]
    assert excerpt("x" * 10_000, "stderr") == ["stderr:", "x" * LINE_CHARACTERS + "…"]


@given(st.text())
def test_what_is_shown_is_never_long(text: str) -> None:
    shown = excerpt(text * 50, "stdout")
    assert len(shown) <= HEAD_LINES + TAIL_LINES + 2
    assert all(len(line) <= LINE_CHARACTERS + 1 for line in shown)
    assert len(repr(completed(text * 50))) < 300


def test_a_status_that_means_a_signal() -> None:
    assert [signal_of(status) for status in (0, 128, 137, 143, 255)] == [None, None, "SIGKILL", "SIGTERM", None]


def test_check_says_the_last_line_of_what_it_wrote() -> None:
    good = completed("x")
    assert good.check() is good
    with pytest.raises(ProgramFailed, match=r"^prog word in web ended with status 2: second$"):
        completed("out\n", "first\nsecond\n", 2).check()
    with pytest.raises(ProgramFailed, match=r"^prog word in web was ended by SIGTERM: out$"):
        completed("out\n", "", 143).check()
    with pytest.raises(ProgramFailed, match=r"OOMKilled\): it reached its memory limit$"):
        completed(returncode=137, oom_killed=True).check()


def test_the_end_of_what_it_wrote_steers_no_terminal() -> None:
    with pytest.raises(ProgramFailed) as caught:
        completed("", "first\nl\x1b]52;c;ZXZpbA==\x07ast\x9b2J\n", 3).check()
    assert str(caught.value) == "prog word in web ended with status 3: l ]52;c;ZXZpbA== ast 2J"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("plain\n", "plain\n"),
        ("0%\r10%\r20%", "0%\r20%"),
        ("\r0% [Working]\r             \r50%\r", "\r50%          \r"),
        ("\rabc\rd\n", "\rdbc\n"),
        ("windows\r\n", "windows\r\n"),
        ("\r\x1b[2K1 of 9\r\x1b[2K2 of 9", "\r\x1b[2K2 of 9"),
    ],
)
def test_of_a_line_that_is_drawn_over_itself_only_the_last_look_is_left(line: str, left: str) -> None:
    assert "\n".join(map(collapsed, line.split("\n"))) == left
