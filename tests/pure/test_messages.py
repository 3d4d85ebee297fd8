"""Messages between owner and supervisor: what is sent arrives as it was; what has another shape is refused by name."""

from __future__ import annotations

import json
import random
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab.runtime import messages, protocol, shapes
from ctlab.runtime.packets import Surprise

TABLE = messages.REQUESTS | messages.ANSWERS | messages.EVENTS
ALL = tuple(TABLE.values())
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**62), 2**62),
    "float": st.floats(-1e9, 1e9) | st.integers(0, 5),
    "str": st.text(),
    "bool": st.booleans(),
    "Any": st.none() | st.integers(0, 9) | st.text(max_size=5),
}


def values(annotation: str) -> st.SearchStrategy[Any]:
    """Any value of a type as it is written there."""
    if annotation.endswith(" | None"):
        return st.none() | values(annotation.removesuffix(" | None"))
    if annotation.startswith("list["):
        return st.lists(values(annotation[5:-1]), max_size=3)
    if annotation.startswith("dict[str, "):
        return st.dictionaries(st.text(max_size=5), values(annotation[10:-1]), max_size=3)
    if annotation in VALUES:
        return VALUES[annotation]
    return made(getattr(messages, annotation))


def made(kind: Any) -> st.SearchStrategy[Any]:
    """Any message of a kind."""
    return st.tuples(*map(values, kind.__annotations__.values())).map(lambda fields: kind(*fields))


def sent(message: Any) -> bytes:
    try:
        return protocol.pack(message)
    except UnicodeEncodeError:  # half a character, which no text of ours holds
        return b""


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_message_arrives_as_it_was_sent(kind: Any) -> None:
    @given(made(kind))
    def check(message: Any) -> None:
        body = sent(message)
        if body:
            arrived = protocol.unpack(body, TABLE)
            assert arrived == message and type(arrived) is kind

    check()


def test_every_field_has_a_type_that_is_checked() -> None:
    for kind in ALL:
        assert set(typing.get_type_hints(kind, vars(messages) | {"Any": Any})) >= set(kind._fields)
        for annotation in kind.__annotations__.values():
            if annotation != "Any":
                with pytest.raises(ValueError):
                    shapes._check_of(annotation)(object())
    tables = (messages.REQUESTS, messages.ANSWERS, messages.EVENTS)
    assert len(TABLE) == sum(map(len, tables))


WRONG = {
    "a message without a kind": ({}, [], None, [1], [["Ok"]], "Ok"),
    "a message of kind": (["No"], ["Ok "], ["x" * 4000], ["Gone", True, ""]),
    "of 1 fields, which has 0": (["Ok", 1],),
    "of 0 fields, which has 1": (["Ended"], ["StartMany"]),
    "a Ended whose returncode is no int": (["Ended", "1"], ["Ended", True], ["Ended", 2**64], ["Ended", 1.0]),
    "a Seen whose seen is no bool": (["Seen", 1], ["Seen", None]),
    "a Note whose text is no str": (["Note", 1], ["Note", ["x"]]),
    "a Named whose names is no list": (["Named", "abc"], ["Named", [1]], ["Named", {}]),
    "a Used whose processes is no dict": (["Used", {"a": {"b": ""}}, 1], ["Used", {"a": {"b": 1e305}}, 1]),
    "a Table whose processes is no list": (["Table", [1]], ["Table", {}]),
    "a Process of 2 fields": (["Table", [[1, 2]]],),
    "a Process whose state is no str": (["Table", [[1, 2, 3, 4, 5, 6, "x"]]],),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG)
def test_another_shape_is_refused_in_one_line(why: str) -> None:
    for value in WRONG[why]:
        with pytest.raises(Surprise, match=why) as error:
            protocol.unpack(json.dumps(value).encode(), TABLE)
        assert len(str(error.value)) < 100 and str(error.value).isprintable()


def test_only_what_is_expected_is_taken() -> None:
    with pytest.raises(Surprise, match="a message of kind 'Ended'"):
        protocol.unpack(b'["Ended",0]', {"Ok": messages.Ok, "Failure": messages.Failure})


def test_a_shape_that_is_anything_is_a_message_or_a_surprise() -> None:
    order = random.Random(31)
    pieces: list[Any] = [None, True, 0, -1, 2**70, 1e308, "", "x", [], {}, [[]], {"a": 1}, ["Start"]]
    taken = 0
    for _ in range(20_000):
        kind = order.choice(ALL)
        value = [
            kind.__name__,
            *(order.choice(pieces) for _ in range(len(kind._fields) + order.choice((0, 0, 0, 1, -1)))),
        ]
        try:
            protocol.unpack(json.dumps(value).encode(), TABLE)
            taken += 1
        except Surprise as error:
            assert str(error)
    assert taken > 100
