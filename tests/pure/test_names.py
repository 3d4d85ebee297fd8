"""Names: valid ones, near ones, several at once."""

from __future__ import annotations

import re
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab import names
from ctlab.errors import BadInput


@pytest.mark.parametrize("name", ["a", "web", "0", "A.b_c-d", "rm", "a" * 63, "10.0.0.1"])
def test_valid(name: str) -> None:
    assert names.check_name("container", name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a container's name can't be empty"),
        ("a" * 64, "is longer than 63 characters"),
        ("a" * 200, "(200 characters) is longer than 63"),
        ("-a", "starts with '-'"),
        (".a", "starts with '.'"),
        ("a b", "has ' ' in it"),
        ("a\n", "has '\\n' in it"),
        ("wéb", "has 'é' in it"),
        ("wеb", "has 'е' in it"),  # a Cyrillic e
        ("a/b", "has '/' in it"),
        ("а" * 200, "longer"),
        (5, "is text, not int (5)"),
        (None, "is text, not NoneType"),
    ],
)
def test_invalid(name: object, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        names.check_name("container", name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


@given(st.text(max_size=70))
def test_the_rule_is_the_surfaces(name: str) -> None:
    valid = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", name, re.ASCII) is not None
    try:
        names.check_name("network", name)
    except BadInput:
        assert not valid
    else:
        assert valid


@pytest.mark.parametrize(
    ("word", "choices", "near"),
    [
        ("strat", ["stop", "start", "status"], "start"),
        ("--memroy", ["--name", "--memory"], "--memory"),
        ("--mem", ["--name", "--memory"], "--memory"),
        ("RUN", ["rm", "run"], "run"),
        ("wbe", ["db", "web"], "web"),
        ("xyz", ["stop", "start"], None),
        ("web", [], None),
        ("", ["web"], None),
        ("--", ["--name"], None),
        ("start" * 200_000, ["start"], None),  # at once
    ],
)
def test_nearest(word: str, choices: list[str], near: str | None) -> None:
    assert names.nearest(word, choices) == near
    assert names.did_you_mean(word, choices) == (f"; did you mean '{near}'?" if near else "")


@given(st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1))
def test_a_choice_is_nearest_to_itself(choices: list[str]) -> None:
    assert all(names.nearest(choice, choices) == choice for choice in choices)


@pytest.mark.parametrize(
    ("pattern", "count", "expected"),
    [
        ("w{n}", 3, ["w1", "w2", "w3"]),
        ("w{n:02}", 2, ["w01", "w02"]),
        ("w{n:3d}", 1, None),
        ("{n:03}-x{n}", 2, ["001-x1", "002-x2"]),
        ("web", 1, ["web"]),
        ("web", 2, None),
        ("w{m}", 2, None),
        ("w{n.real}", 2, None),
        ("w{n}", 0, None),
        ("-{n}", 2, None),
        ("a" * 62 + "{n}", 10, None),
    ],
)
def test_patterns(pattern: str, count: int, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(BadInput):
            names.expand_pattern("container", pattern, count)
    else:
        assert names.expand_pattern("container", pattern, count) == expected


@given(st.sampled_from(["w{n}", "w{n:02}", "{n:03}.{n}", "a-{n:1}"]), st.integers(1, 300))
def test_patterns_give_as_many_valid_names(pattern: str, count: int) -> None:
    expanded = names.expand_pattern("container", pattern, count)
    assert len({names.key(name) for name in expanded}) == count
    assert all(names.check_name("container", name) for name in expanded)


def test_automatic_names_fill_gaps_without_case() -> None:
    assert names.auto_names("c", []) == ["c1"]
    assert names.auto_names("c", ["c1", "C2", "c4", "web"]) == ["c3"]
    assert names.auto_names("c", ["c1", "C2", "c4", "web"], 3) == ["c3", "c5", "c6"]


def test_signals_are_this_machines() -> None:
    for known in signal.Signals:
        if known.value < 32:
            assert names.parse_signal(known.name) == names.parse_signal(known.name[3:].lower()) == known
            assert names.parse_signal(names.signal_name(known)) == known
    assert names.parse_signal("RTMIN+3") == signal.SIGRTMIN + 3
    assert names.parse_signal("SIGRTMAX-1") == signal.SIGRTMAX - 1
    assert names.signal_name(37) == "SIGRTMIN+3"
    assert names.parse_signal(9) == names.parse_signal("9") == 9


@pytest.mark.parametrize("value", ["", "FOO", "0", "32", "65", "-1", "RTMIN+99", "RTMIN+", 0, 99, True])
def test_no_such_signal(value: str | int) -> None:
    with pytest.raises(BadInput, match="no signal"):
        names.parse_signal(value)


def test_capabilities() -> None:
    assert names.check_capability("cap_net_admin") == names.check_capability("NET_ADMIN") == "NET_ADMIN"
    assert names.check_capability("all") == "ALL"
    assert names.CAPABILITIES[12] == "NET_ADMIN"
    assert names.CAPABILITIES[21] == "SYS_ADMIN"
    assert len(names.CAPABILITIES) == 41
    with pytest.raises(BadInput, match="did you mean 'SYS_ADMIN'"):
        names.check_capability("SYSADMIN")
