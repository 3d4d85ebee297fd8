"""Frames over a stream: however they are cut they come whole and in order; nonsense and an end are told once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.vm import calls, frames
from ctlab.vm.loop import Loop
from ctlab.vm.wire import Wire

Frame = tuple[int, int, bytes]
SOME: list[Frame] = [(frames.CALL, 1, b"abc"), (frames.DATA, 0xFFFFFFFF, b""), (99, 7, bytes(range(40)))]
PATIENCE_SECONDS = 20.0  # for what never waits that long


class End:
    """One end of a wire, what it has heard, and how often it was told that no more comes."""

    def __init__(self, loop: Loop, descriptor: int) -> None:
        self.heard: list[Frame] = []
        self.lost = 0
        self.wire = Wire(loop, descriptor, lambda *frame: self.heard.append(frame), self._lose)

    def _lose(self) -> None:
        self.lost += 1


@contextlib.contextmanager
def one_end() -> Iterator[tuple[Loop, End, socket.socket]]:
    """An end, and the bare socket that it hears."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop = Loop()
        yield loop, End(loop, ours.fileno()), theirs


@contextlib.contextmanager
def two_ends() -> Iterator[tuple[Loop, End, End]]:
    """Two ends of one wire in one loop."""
    first, second = socket.socketpair()
    with first, second:
        loop = Loop()
        yield loop, End(loop, first.fileno()), End(loop, second.fileno())


def settle(loop: Loop, *ends: End) -> None:
    """Serve until nothing is under way."""

    def flush() -> None:
        for end in ends:
            end.wire.flush()

    loop.run(lambda: False, 0.02, flush)


def packed(some: list[Frame]) -> bytes:
    return b"".join(frames.pack(*frame) for frame in some)


def test_frames_cut_at_every_byte_come_whole() -> None:
    whole = packed(SOME)
    for cut in range(len(whole) + 1):
        with one_end() as (loop, end, theirs):
            for piece in (whole[:cut], whole[cut:]):
                theirs.sendall(piece)
                if piece:
                    loop.run(lambda: False, 0.001, lambda: None)
            assert end.heard == SOME, cut
            assert not end.lost


def test_frames_that_come_byte_by_byte_come_whole() -> None:
    with one_end() as (loop, end, theirs):
        for byte in packed(SOME):
            theirs.send(bytes([byte]))
            loop.run(lambda: False, 0.0005, lambda: None)
        assert end.heard == SOME


bodies = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(some=bodies, cuts=st.lists(st.integers(0, 9000), max_size=8))
def test_what_is_sent_is_heard_however_it_is_cut(some: list[Frame], cuts: list[int]) -> None:
    whole = packed(some)
    with one_end() as (loop, end, theirs):
        at = 0
        for cut in [*sorted(cuts), len(whole)]:
            if cut > at:
                theirs.sendall(whole[at:cut])
                loop.run(lambda: False, 0.001, lambda: None)
                at = min(cut, len(whole))
        assert loop.run(lambda: len(end.heard) == len(some), PATIENCE_SECONDS, lambda: None)
        assert end.heard == some


def test_a_receiver_that_reads_late_gets_all_in_order() -> None:
    """The sender's descriptor is full for most of it, and more is sent meanwhile: large and small ones."""
    with two_ends() as (loop, one, two):
        sent = [(frames.DATA, n, bytes([n % 256]) * (n * n % 70_000)) for n in range(300)]
        for frame in sent:
            one.wire.send(*frame)
            one.wire.flush()
        assert one.wire.full and one.wire.waiting_bytes > 0
        assert loop.run(lambda: len(two.heard) == len(sent), PATIENCE_SECONDS, one.wire.flush)
        assert two.heard == sent
        assert not one.wire.full and one.wire.waiting_bytes == 0


def test_the_largest_message_passes_both_ways_at_once() -> None:
    body = os.urandom(1 << 20) * (frames.LARGEST_BODY_BYTES >> 20)
    frames.fits(body)
    with two_ends() as (loop, one, two):
        for end in (one, two):
            end.wire.send(frames.ANSWER, 5, body)
            end.wire.send(frames.END, 6)

        def flush() -> None:
            one.wire.flush()
            two.wire.flush()

        assert loop.run(lambda: len(one.heard) == len(two.heard) == 2, PATIENCE_SECONDS, flush)
        assert one.heard == two.heard == [(frames.ANSWER, 5, body), (frames.END, 6, b"")]
        assert not one.lost and not two.lost


def test_a_message_that_no_frame_can_hold_is_refused() -> None:
    with pytest.raises(OSError, match=r"too large: 64 MiB, and a VM lab's have at most 64 MiB \(EMSGSIZE\)") as caught:
        frames.fits(bytes(frames.LARGEST_BODY_BYTES + 1))
    assert caught.value.errno == errno.EMSGSIZE


def test_what_makes_no_sense_ends_the_wire_once_and_what_came_before_is_heard() -> None:
    with one_end() as (loop, end, theirs):
        too_large = frames.HEADER.pack(frames.LARGEST_BODY_BYTES + 1, frames.DATA, 1)
        theirs.sendall(packed(SOME) + too_large + packed(SOME))
        settle(loop, end)
        assert end.heard == SOME and end.lost == 1
        theirs.sendall(packed(SOME))
        end.wire.send(frames.DATA, 1, b"nobody hears this")
        settle(loop, end)
        assert end.heard == SOME and end.lost == 1 and end.wire.waiting_bytes == 0


@pytest.mark.parametrize("rest", [0, 3, 9, 15])
def test_the_end_is_told_once_and_half_a_frame_is_no_frame(rest: int) -> None:
    with one_end() as (loop, end, theirs):
        theirs.sendall(packed(SOME) + frames.pack(frames.DATA, 1, b"123456789")[:rest])
        theirs.close()
        settle(loop, end)
        assert end.heard == SOME and end.lost == 1


def test_last_words_are_heard_by_who_was_speaking_itself() -> None:
    """What a dying guest says (why) lies unread while a write of ours finds nobody any more."""
    with one_end() as (loop, end, theirs):
        theirs.sendall(packed(SOME))
        theirs.close()
        end.wire.send(frames.DATA, 1, b"to nobody")
        end.wire.flush()
        assert end.wire.waiting_bytes == 0
        settle(loop, end)
        assert end.heard == SOME and end.lost == 1


def test_an_event_of_a_descriptor_that_was_closed_is_not_its_successors() -> None:
    loop = Loop()
    served: list[str] = []
    pipes = [os.pipe() for _ in range(3)]
    for _, writing in pipes:
        os.write(writing, b"x")

    def close_all_and_open_one() -> None:
        served.append("first")
        for reading, _ in pipes:
            loop.off(reading)
            os.close(reading)
        again = os.pipe()  # has the number of one that was ready, too
        assert again[0] in {reading for reading, _ in pipes}
        pipes.append(again)
        loop.on(again[0], lambda: served.append("successor"))

    for reading, _ in pipes:
        loop.on(reading, close_all_and_open_one)
    loop.run(lambda: False, 0.05, lambda: None)
    assert served == ["first"]
    for _, writing in pipes:
        os.close(writing)
    os.close(pipes[-1][0])


messages = st.binary(min_size=1, max_size=100)
kinds = st.lists(st.tuples(st.sampled_from("rwfnelm"), st.integers(0, 2**31)).map(list), max_size=4)


@given(message=messages, described=kinds)
def test_a_call_is_unpacked_as_it_was_packed(message: bytes, described: calls.Described) -> None:
    assert calls.unpack(calls.pack(message, described)) == (message, described)
