"""Answers to netlink dumps: what is torn or malformed ends in one line, never in a loop or a wrong table."""

from __future__ import annotations

import struct

import pytest

from ctlab.asking import decode
from ctlab.errors import CtlabError, KernelError

LINK = (
    struct.pack("=IHHII", 44, 16, 2, 1, 0) + struct.pack("=BBHiII", 0, 0, 1, 7, 1, 0) + b"\x08\0\x03\0abc\0" + bytes(4)
)
DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)


def test_entries_up_to_done() -> None:
    [entry, again] = decode("links", LINK + LINK + DONE + LINK)
    assert entry == again
    assert (entry["index"], entry["attributes"]["IFLA_IFNAME"]) == (7, "abc")


@pytest.mark.parametrize(("raw", "shown"), [(b"\xff\xfe[\x1b", "\\xff\\xfe[\x1b"), ("ü".encode(), "ü")])
def test_a_name_is_text_whatever_its_bytes(raw: bytes, shown: str) -> None:
    attribute = struct.pack("=HH", 4 + len(raw) + 1, 3) + raw + bytes(1 + (-len(raw) - 1) % 4)
    length = 32 + len(attribute)
    link = struct.pack("=IHHII", length, 16, 2, 1, 0) + struct.pack("=BBHiII", 0, 0, 1, 7, 1, 0) + attribute
    assert decode("links", link + DONE)[0]["attributes"] == {"IFLA_IFNAME": shown}


def test_nothing_but_done_is_an_empty_table() -> None:
    assert decode("routes", DONE) == []


@pytest.mark.parametrize(
    "data",
    [b"", LINK, LINK[:-1], LINK + DONE[:12], bytes(64), struct.pack("=I", 15) + LINK[4:] + DONE, b"\xff" * 64],
    ids=["empty", "no end", "cut", "cut at the end", "length 0", "length 15", "length 4 GB"],
)
def test_torn_answers_are_one_line(data: bytes) -> None:
    with pytest.raises(CtlabError, match=r"^the answer to the dump of links is torn after \d+ of \d+ bytes$"):
        decode("links", data)


def test_the_kernels_error_has_its_number() -> None:
    refusal = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -1) + bytes(16)
    with pytest.raises(KernelError, match="netlink dump of links: Operation not permitted") as caught:
        decode("links", LINK + refusal)
    assert caught.value.number == 1
