"""Messages among the lab's own processes, and what a runner says to an owner in the owner's form."""

from __future__ import annotations

import os
import resource
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_help import open_descriptors, wait_until

from ctlab.runtime import messages, orders, packets, protocol


def answered(message: dict[str, Any]) -> Any:
    """What an owner gets of an answer that a runner gives."""
    ours, theirs = protocol.pair()
    with ours, theirs:
        orders.answer(theirs, message)
        return protocol.unpack(packets.receive(ours)[0], messages.ANSWERS)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # no surrogate comes from a name that isn't UTF-8


@given(TEXTS, TEXTS, st.integers(0, 4095))
def test_a_failure_is_read_as_it_was_meant(kind: str, text: str, number: int) -> None:
    failure = {"error": kind, "message": text, "errno": number}
    assert answered(failure) == messages.Failure(kind, text, number)


@given(st.integers(0, 255))
def test_an_end_is_read_as_it_was_meant(status: int) -> None:
    assert answered({"returncode": status}) == messages.Ended(status)
    assert type(answered({"started": True})) is messages.Begun


def test_a_name_that_is_not_utf8_comes_through() -> None:
    failure = answered({"error": "NotFound", "message": os.fsdecode(b"a \xff name"), "errno": 2})
    assert os.fsencode(failure.message) == b"a \xff name"


def test_a_long_order_and_its_descriptors() -> None:
    ours, theirs = orders.pair()
    read_end, write_end = os.pipe()
    text = "x" * 1_000_000
    orders.send(ours, {"text": text, "list": [1, None, "a"], "raw": b"\0"}, [write_end])
    message, descriptors = orders.receive(theirs)
    assert message == {"text": text, "list": [1, None, "a"], "raw": b"\0"} and len(descriptors) == 1
    os.write(descriptors[0], b"hello")
    assert os.read(read_end, 10) == b"hello"
    for descriptor in (read_end, write_end, *descriptors):
        os.close(descriptor)
    ours.close()
    assert orders.receive(theirs) == (None, [])
    theirs.close()


def test_descriptors_that_there_is_no_room_for_are_an_error() -> None:
    """The kernel drops them and says so by a flag only; unseen, the rest of a message would be taken for the whole."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs:
        packets.send(ours, b"two", [0, 0])
        before = open_descriptors()
        top = os.dup(0)
        os.close(top)
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, hard))
        try:
            with pytest.raises(OSError, match="descriptors that came with a message were lost"):
                packets.receive(theirs)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert wait_until(lambda: open_descriptors() <= before)  # the one that came is closed again
