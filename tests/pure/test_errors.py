"""Errors as people see them: one line that ends, whatever was echoed in it, spelled as where it was typed."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab import spelling
from ctlab.errors import KINDS, LINES_BELOW, BadInput, KernelError, LabGone, NotFound, TimedOut, told


@given(st.text())
def test_nothing_that_is_echoed_breaks_the_line(text: str) -> None:
    for message in (text, f"no container '{text}'", text * 400):
        shown = str(NotFound(message))
        assert shown.isprintable() and len(shown) <= 2000
        assert told(shown) == shown  # so that an error made of another says the same


@pytest.mark.parametrize("kind", KINDS.values())
def test_of_every_kind(kind: type[Exception]) -> None:
    assert str(kind("a\nb\x1b[31m")) == "a b\\x1b[31m"


def test_what_is_printed_is_left_as_it_is() -> None:
    for text in ("", "sh -c 'echo  two   blanks'", "network 'wéb' 試 …", "/a/path/" + "x" * 200):
        assert str(BadInput(text)) == text


def test_the_end_is_left_since_it_says_what_to_do() -> None:
    shown = str(NotFound(f"no container '{'x' * 1_000_000}'; there are: web"))
    assert shown.startswith("no container 'xxx") and shown.endswith("x'; there are: web")
    assert "(1000003 characters)" in shown and len(shown) < 400
    shown = str(NotFound(f"no container 'w'; there are: {'web, ' * 10_000}and so on"))
    assert shown.endswith("web, and so on") and len(shown) < 2000


def test_half_a_surrogate_pair_can_be_printed() -> None:
    assert str(BadInput("mount '\udcff'")).encode() == b"mount '\\udcff'"


def test_the_console_of_a_vm_is_lines_below() -> None:
    error = LabGone(f"lab 'a\nb' died{LINES_BELOW}one\x1b[2J\n  two\n")
    assert str(error) == f"lab 'a b' died{LINES_BELOW}one\\x1b[2J\n  two"
    again = LabGone(f"container web: {error}")
    assert str(again).splitlines() == [
        "container web: lab 'a b' died; the console's last lines:",
        "one\\x1b[2J",
        "  two",
    ]
    assert len(str(LabGone(f"died{LINES_BELOW}" + "x\n" * 1000)).splitlines()) == 41


def test_what_they_carry() -> None:
    error = KernelError("mount: EPERM", errno.EPERM)
    assert (str(error), error.number) == ("mount: EPERM", errno.EPERM)
    assert isinstance(TimedOut("late"), TimeoutError) and str(TimedOut("la\nte")) == "la te"


def test_an_option_is_spelled_as_where_it_is_typed() -> None:
    assert spelling.option("exists", "replace") == "exists='replace'"
    assert spelling.option("cpu-shares", 1) == "cpu_shares=1" and spelling.option("volume") == "mounts="
    with spelling.of_a_magic():
        assert spelling.option("exists", "replace") == "--exists replace"
        assert spelling.option("cpu-shares", 1) == "--cpu-shares 1" and spelling.option("volume") == "--volume"
    assert not spelling.in_a_magic()
