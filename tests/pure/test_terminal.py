"""`python -m ctlab shell` looks at what a lab answers: what can't be right ends it in one line, and all is closed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_help import no_hang, open_descriptors, wait_until

from ctlab.errors import BadInput, CtlabError, LabGone, ProgramNotFound
from ctlab.runtime import messages, packets, protocol
from ctlab.terminal import _About, _begun, _Program

ABOUT = _About(7, "c" * 12, "web", "net")
NULL = os.open(os.devnull, os.O_RDWR)


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    with no_hang(20):
        yield


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = protocol.pair()
    with ours, theirs:
        yield ours, theirs


# What comes from inside, on a terminal that is still to begin or not -> what is said of it.
ANSWERS: dict[str, tuple[bool, bytes, int, str]] = {
    "no message": (True, b"\xff", 0, "what is no message"),
    "another kind": (True, b'["Used",{},{}]', 0, "a message of kind 'Used'"),
    "what nobody asked": (True, b'["Ok"]', 0, "a message of kind 'Ok'"),
    "another type": (True, b'["Ended","0"]', 0, "a Ended whose returncode is no int"),
    "a terminal for pipes": (False, b'["Begun"]', 1, "a message of kind 'Begun'"),
    "no terminal": (True, b'["Begun"]', 0, "as a terminal what is none"),
    "another thing": (True, b'["Begun"]', 1, "as a terminal what is none"),
    "an end with something": (True, b'["Ended",0]', 1, "a Ended with 1 descriptors"),
    "too many": (True, b'["Begun"]', 3, "a message with 3 descriptors, where 2 descriptors may come"),
    "a large packet": (True, b'["Failure","' + b"x" * 120_000 + b'","",0]', 0, "a packet of more than 100000 bytes"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_cannot_be(ends: tuple[socket.socket, socket.socket], what: str) -> None:
    on_terminal, body, count, why = ANSWERS[what]
    before = open_descriptors()
    program = _Program(ends[0], ABOUT, [], on_terminal=on_terminal)
    socket.send_fds(ends[1], [body], [NULL] * count)
    with pytest.raises(LabGone) as error:
        program._answer()
    text = str(error.value)
    assert text.startswith(f"the inside of lab 'net' has sent {why}") and "\n" not in text
    assert wait_until(lambda: open_descriptors() <= before)


def test_a_second_terminal_is_none(ends: tuple[socket.socket, socket.socket]) -> None:
    program = _Program(ends[0], ABOUT, [], on_terminal=True)
    program._modes = ["as with one"]
    socket.send_fds(ends[1], [b'["Begun"]'], [NULL])
    with pytest.raises(LabGone, match="a message of kind 'Begun'"):
        program._answer()


def test_a_failures_text_steers_no_terminal(ends: tuple[socket.socket, socket.socket]) -> None:
    program = _Program(ends[0], ABOUT, [], on_terminal=True)
    packets.send(ends[1], protocol.pack(messages.Failure("ProgramNotFound", "no \x1b[2J\nprogram", 2)))
    with pytest.raises(ProgramNotFound) as error:
        program._answer()
    assert str(error.value) == "container web: no  [2J program"


def test_what_was_asked_is_answered_and_the_end_is_the_last(ends: tuple[socket.socket, socket.socket]) -> None:
    program = _Program(ends[0], ABOUT, [], on_terminal=False)
    program._signal(15)
    asked = protocol.unpack(packets.receive(ends[1])[0], messages.REQUESTS)
    assert asked == messages.SignalExecution(7, 15, group=True)
    for answer in (messages.Ok(), messages.Ended(0x1FF)):
        packets.send(ends[1], protocol.pack(answer))
        program._answer()
    assert program._returncode == 0xFF
    ends[1].close()
    with pytest.raises(LabGone, match=r"^lab 'net' is gone, and container web with it$"):
        program._answer()


def test_what_a_notebook_answers(ends: tuple[socket.socket, socket.socket]) -> None:
    right: dict[str, Any] = ABOUT._asdict()
    protocol.send(ends[1], right, [NULL])
    about, descriptors = _begun(ends[0], "web", 1)
    assert about == ABOUT and len(descriptors) == 1
    os.close(descriptors[0])
    before = open_descriptors()
    for body, count in (
        (json.dumps(right), 0), (json.dumps(right), 2), (json.dumps(right | {"execution": "7"}), 1), ("{}", 1),
        (json.dumps(right | {"lab": None}), 1), ("[]", 1), ("nothing", 1),
    ):  # fmt: skip
        socket.send_fds(ends[1], [body.encode()], [NULL] * count)
        with pytest.raises(CtlabError, match=r"^lab of container web: its notebook has answered with "):
            _begun(ends[0], "web", 1)
    assert wait_until(lambda: open_descriptors() <= before)
    protocol.send(ends[1], protocol.failure(BadInput("no such\nthing")))
    with pytest.raises(BadInput, match=r"^no such thing$"):
        _begun(ends[0], "web", 1)
