"""Whoever has broken out of a container may be the supervisor: what it sends ends its lab and harms nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hostile_supervisor import Supervisor, hostile_lab
from kernel_help import no_hang, open_descriptors, wait_until

from ctlab.errors import LabGone, StateError
from ctlab.lab import Lab
from ctlab.runtime import keeper, messages, packets, protocol

Both = tuple[Lab, Supervisor]
MARKER = packets._BODY_IN_MEMFD


@pytest.fixture
def both() -> Iterator[Both]:
    with hostile_lab() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """Each takes a fraction of a second."""
    with no_hang(20):
        yield


def ended(lab: Lab, why: str) -> None:
    """It is over: each call says why, in one line, and whoever listens has heard of it."""
    assert wait_until(lambda: lab.gone and any(re.search(why, note) for note in lab.notes)), lab.notes
    for call in (lambda: lab._call(messages.Costs(), messages.Used), lab.run, lambda: lab.network("n")):
        with pytest.raises(LabGone, match=why) as error:
            call()
        assert "\n" not in str(error.value)
    assert wait_until(lambda: not any(t.name == f"ctlab-events-{lab.name}" for t in threading.enumerate()))


def memory(body: bytes, seals: int = 0) -> int:
    """A memfd that somebody else would send."""
    descriptor = os.memfd_create("theirs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, len(body))
    os.pwrite(descriptor, body[:1000], 0)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


ALL = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
NULL = os.open(os.devnull, os.O_RDWR)
NOTE = b'["Note","a note"]'
# What comes -> what is said of it.
EVENTS: dict[str, tuple[bytes, list[int], str]] = {
    "with descriptors": (NOTE, [NULL] * 20, "an event a message with 20 descriptors"),
    "a body that stays away": (MARKER, [], "a message whose body didn't come along"),
    "a body that is no memory": (MARKER, [NULL], "a descriptor that is no memory"),
    "a body that isn't sealed": (MARKER, [memory(NOTE)], "memory that isn't sealed"),
    "a body that may change": (MARKER, [memory(NOTE, ALL & ~fcntl.F_SEAL_WRITE)], "memory that isn't sealed"),
    "a body that is too large": (MARKER, [memory(bytes(200_000), ALL)], "memory of 200000 bytes, where 100000 are"),
    "no JSON": (b"[1", [], "what is no message"),
    "no list": (b'{"Note":"text"}', [], "a message without a kind"),
    "no kind": (b"[1]", [], "a message without a kind"),
    "another kind": (b'["Gone",true,"it has not"]', [], "a message of kind 'Gone'"),
    "another field": (b'["Note","text",1]', [], "a Note of 2 fields, which has 1"),
    "another type": (b'["ExecutionEnded",1,"0"]', [], "a ExecutionEnded whose returncode is no int"),
    "deep": (b"[" * 50_000, [], "what is no message .it is nested too deeply"),
    "no UTF-8": (b"\xff\xfe", [], "what is no message"),
    "no number": (b'["HelperDied","a",NaN]', [], "what is no message .NaN is no number"),
    "a large packet": (b'["Note","' + b"x" * 120_000 + b'"]', [], "a packet of more than 100000 bytes"),
}


@pytest.mark.parametrize("what", EVENTS)
def test_an_event_that_cannot_be_ends_the_lab(both: Both, what: str) -> None:
    lab, supervisor = both
    body, descriptors, why = EVENTS[what]
    before = open_descriptors()
    supervisor.owner.their_events.sendmsg([body], rights(descriptors))
    ended(lab, f"died: its inside sent as an event .*{why.removeprefix('an event ')}")
    assert wait_until(lambda: open_descriptors() <= before)


def rights(descriptors: list[int]) -> list[tuple[int, int, bytes]]:
    """The ancillary part of a packet."""
    return [(1, 1, b"".join(number.to_bytes(4, "little") for number in descriptors))] if descriptors else []


def test_events_are_heard_until_then(both: Both) -> None:
    lab, supervisor = both
    supervisor.tell(NOTE)
    assert wait_until(lambda: "a note" in lab.notes)
    supervisor.tell(b"{")
    with contextlib.suppress(BrokenPipeError):  # it is over already
        supervisor.tell(b'["Note","later"]')
    ended(lab, "what is no message")
    assert "later" not in lab.notes


ANSWERS: dict[str, tuple[bytes, list[int], str]] = {
    "with descriptors": (b'["Used",{},{}]', [NULL] * 3, "a Used with 3 descriptors"),
    "a failure with descriptors": (b'["Failure","BadInput","",0]', [NULL], "a Failure with 1 descriptors"),
    "a failure of no kind": (b'["Failure",["BadInput"],"",0]', [], "a Failure whose kind is no str"),
    "a failure of no errno": (b'["Failure","KernelError","",4000000000]', [], "a failure of errno 4000000000"),
    "another answer": (b'["Ok"]', [], "a message of kind 'Ok'"),
    "an answer of another shape": (b'["Used",{"a":{"b":"c"}},{}]', [], "a Used whose processes is no dict"),
    "a body of 4 GiB": (MARKER, [], "memory of 4294967296 bytes, where 67108864 are the most"),
    "a body that stays away": (MARKER, [], "a message whose body didn't come along"),
    "a million values": (MARKER, [], "a message of more than 1000000 values"),
    "no JSON": (b"nonsense", [], "what is no message"),
    "deep": (b'["Used",' * 20_000, [], "nested too deeply"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_cannot_be_ends_the_lab(both: Both, what: str) -> None:
    lab, supervisor = both
    body, descriptors, why = ANSWERS[what]
    if what == "a body of 4 GiB":
        descriptors = [os.memfd_create("large", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)]
        os.truncate(descriptors[0], 4 << 30)
        fcntl.fcntl(descriptors[0], fcntl.F_ADD_SEALS, ALL)
    elif what == "a million values":
        descriptors = [os.memfd_create("many", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)]
        os.write(descriptors[0], b'{"a":[' + b"[]," * 1_000_001 + b"[]]}")
        fcntl.fcntl(descriptors[0], fcntl.F_ADD_SEALS, ALL)
    before = open_descriptors()
    supervisor.lies[messages.Costs] = lambda _: (body, descriptors)
    began = time.monotonic()
    with pytest.raises(LabGone, match=f"died: its inside sent as an answer .*{why}"):
        lab.status()
    assert time.monotonic() - began < 2.0
    ended(lab, why)
    assert wait_until(lambda: open_descriptors() <= before)


def test_a_failure_is_one_line_that_steers_no_terminal(both: Both) -> None:
    lab, supervisor = both
    text = "a\x1b]0;title\x07\nline\ud800 of " + "x" * 5000
    supervisor.lies[messages.Costs] = lambda _: (
        json.dumps(["Failure", "StateError", text, 0]).encode(), ()
    )  # fmt: skip
    with pytest.raises(StateError, match="a ]0;title  line  of x") as error:
        lab.status()
    assert str(error.value).replace("…", "").isprintable() and len(str(error.value)) < 2100
    assert not lab.gone


def test_a_process_is_only_named_by_the_kernel(both: Both) -> None:
    """A number in an answer could be any of this machine's processes, of which somebody makes use (kill, nsenter)."""
    lab, supervisor = both
    supervisor.lies[messages.Start] = lambda _: (protocol.pack(messages.Running([], 1)), ())
    assert lab.run().pid == os.getpid()  # whose credentials came along: here the supervisor is this process
    supervisor.lies[messages.FirstProcesses] = lambda request: (
        protocol.pack(messages.Firsts(request.ids, [1] * len(request.ids))), [NULL] * len(request.ids)
    )  # fmt: skip
    assert [container.pid for container in lab.run(count=2)] == [None, None]
    supervisor.lies[messages.FirstProcesses] = lambda request: (
        protocol.pack(messages.Firsts(request.ids, [])), [NULL]
    )  # fmt: skip
    with pytest.raises(LabGone, match="1 first processes of 2 containers"):
        lab.run(count=2)


# -- memory of the inside ---------------------------------------------------------------------------------------------
def test_output_that_could_be_cut_off_is_not_mapped(both: Both) -> None:
    lab, supervisor = both
    container = lab.run(name="web")
    unsealed = os.memfd_create("log")
    os.truncate(unsealed, 4096 + 65536)
    supervisor.lies[messages.Logs] = lambda _: (b'["Output"]', [unsealed])
    with pytest.raises(LabGone, match="its inside sent as the output of web memory that isn't sealed"):
        container.logs()
    ended(lab, "isn't sealed")
    os.close(unsealed)


def test_counters_that_could_be_cut_off_are_not_mapped(both: Both) -> None:
    lab, supervisor = both
    unsealed = os.memfd_create("ring")
    os.write(unsealed, os.pread(supervisor.rings[0].fd, 8192, 0))
    os.truncate(unsealed, os.fstat(supervisor.rings[0].fd).st_size)
    supervisor.lies[messages.Rings] = lambda _: (b'["Counters"]', [unsealed, supervisor.rings[1].fd])
    with pytest.raises(LabGone, match="its inside sent as the rings of counters memory that isn't sealed"):
        lab.stats()
    ended(lab, "isn't sealed")
    os.close(unsealed)


def test_rings_that_are_swapped_end_the_lab(both: Both) -> None:
    lab, supervisor = both
    supervisor.lies[messages.Rings] = lambda _: (b'["Counters"]', [ring.fd for ring in reversed(supervisor.rings)])
    with pytest.raises(LabGone, match="a ring of other counters"):
        lab.stats()


def test_output_that_contradicts_itself_ends_the_lab(both: Both) -> None:
    lab, supervisor = both
    container = lab.run(name="web")
    os.pwrite(supervisor.log, (500).to_bytes(8, "little"), 8 * 3)  # the tail, above the head
    with pytest.raises(LabGone, match="as the output of web a log ring from 500 to 0 of 65536 bytes"):
        container.logs()
    ended(lab, "a log ring from 500 to 0")


def test_a_follower_waits_for_nobody(both: Both) -> None:
    """Its eventfd is the inside's, too: as long as somebody reads it there and lets it block, nobody here reads it."""
    lab, supervisor = both
    container = lab.run()
    kept: list[int] = []

    def follow(request: messages.Follow) -> Any:
        for name in os.listdir("/proc/self/fd"):  # here both ends are one process
            try:
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventfd]":
                    os.set_blocking(int(name), True)
                    kept.append(int(name))
            except OSError:
                continue
        return supervisor.honest(request)

    supervisor.lies[messages.Follow] = follow
    from ctlab.output import Follower

    with Follower(container) as follower:
        assert kept
        assert follower.read(lambda *_: None)  # and not never


# -- the keeper -------------------------------------------------------------------------------------------------------
@pytest.fixture
def heard_by_a_keeper() -> Iterator[tuple[Any, socket.socket]]:
    """A keeper that has done nothing yet, and the supervisor's end of what it hears."""
    made = cast(Any, keeper.Keeper.__new__(keeper.Keeper))
    (made.channel, theirs), (made.control, owner) = protocol.pair(), protocol.pair()
    made.any_path, made.allowed, made.port, made.why = False, set(), False, ""
    yield made, theirs
    for connection in (made.channel, theirs, made.control, owner):
        connection.close()


@pytest.mark.parametrize(
    ("body", "descriptors", "why"),
    [
        (b"[", [], "sent its keeper what is no message"),
        (b"[]", [], "sent its keeper a message that is no object"),
        (MARKER, [], "whose body didn't come along"),
        (b'{"path":"/etc","idmap":false}', [NULL], "a message with 1 descriptor, where no descriptor may come"),
        (b'{"idmap":false}', [], "asked for a mount of no path"),
        (b'{"path":["/etc"],"idmap":false}', [], "asked for a mount of no path"),
        (b'{"error":"x","message":"a\\nline\\u001b","errno":0}', [], "^a line$"),
    ],
)
def test_a_keeper_that_hears_what_cannot_be_ends_the_lab(
    heard_by_a_keeper: Any, body: bytes, descriptors: list[int], why: str
) -> None:
    made, theirs = heard_by_a_keeper
    theirs.sendmsg([body], rights(descriptors))
    assert not made._serve()
    assert re.search(why, made.why) and made.why.isprintable()


def test_a_keeper_waits_for_nobody_who_takes_no_answers(heard_by_a_keeper: Any) -> None:
    made, theirs = heard_by_a_keeper
    for _ in range(3000):
        theirs.send(b'{"path":"/etc/shadow","idmap":false}')
        assert made._serve()
    assert not made.why
