"""Tables: what a container has put into a cell steers no terminal and forges no row; values stay as they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from ctlab.errors import NotFound
from ctlab.handles import Handles

COMMAND = "\x1b]52;c;ZXZpbA==\x07 sh\n2  root  \x9b2J\r<b>\ud800\u202e"


class One(NamedTuple):
    name: str
    facts: dict[str, Any]


TABLE = Handles([One(COMMAND, {"pid": 1, "command": COMMAND})], lambda one: one.facts, "process")


def test_a_row_is_a_line() -> None:
    head, row = repr(TABLE).split("\n")
    assert head.split() == ["PID", "COMMAND"] and row.startswith("1 ") and row.isprintable()
    assert "]52;c;ZXZpbA==" in row and "<b>" in row


def test_the_page_has_no_control_character_either() -> None:
    page = TABLE._repr_html_()
    assert page.isprintable() and "&lt;b&gt;" in page


def test_the_values_are_raw() -> None:
    assert TABLE.rows() == [{"pid": 1, "command": COMMAND}] and TABLE.keys() == [COMMAND]


def test_an_error_that_names_one_is_a_line() -> None:
    with pytest.raises(NotFound) as caught:
        TABLE[COMMAND[:-1]]
    assert "did you mean" in str(caught.value) and str(caught.value).isprintable()
