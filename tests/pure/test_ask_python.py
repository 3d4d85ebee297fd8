"""Python's keywords and the magics' options are the same rows: both faces refuse the same, in the same words."""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import sys
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

import ctlab
from ctlab.ask import python
from ctlab.ask.model import Option
from ctlab.errors import CtlabError
from ctlab.notebook import grammar
from ctlab.spec import MountSpec

ROOT = Path(__file__).parents[2]
ROWS = [*(("run", name) for name in python.RUN), *(("create", name) for name in python.NETWORK)]
TABLES = {"run": python.RUN, "create": python.NETWORK}


class Unshowable:
    """A value whose own repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError


HOSTILE: list[Any] = [
    b"x", bytearray(b"x"), math.nan, math.inf, -math.inf, -2, 10**30, 10**5000, True, False, 2.5, object(),
    Unshowable(),
    [1.5], [None], [[]], {"a": None}, {1: "x"}, {"a": b"x"}, "\0", "a\nb", "\ud800", "x" * 1_000_000, "-", "=x", "a b",
    (b"",),
    lambda: None, int, range(3),
    {1, 2}, 1j,
]  # fmt: skip


@pytest.mark.parametrize(("verb", "name"), ROWS)
def test_a_hostile_value_is_read_or_refused_in_one_line_that_names_its_keyword(verb: str, name: str) -> None:
    refused = 0
    for value in HOSTILE:
        try:
            read = python.read(TABLES[verb], {name: value})
        except CtlabError as error:
            refused += 1
            said = str(error)
            assert said.startswith(f"{python.keyword(TABLES[verb][name])}="), said
            assert "\n" not in said
            assert len(said) < 1000
        else:
            # What was read may be read again: a magic hands over what its line gave.
            assert python.read(TABLES[verb], read) == read
    assert refused > len(HOSTILE) / 2


TEXTS = ["", "0", "-1", "-2", "1.5", "none", "64M", "64Q", "x", "/x", "a b", "=x", "10.0.0.1", "fd00::1", "10.0.0.0/24",
         "10.0.0.1/24", "02:42:0a:0a:00:05", "SIGKILL", "RTMIN", "net_admin", "all", "5s", "0-2", "9-1", "keep", "a:/b",
         "a:/b:rx", "a:b", "é", "99999999999999999999", "x" * 300]  # fmt: skip


def _is_typed(verb: str, name: str) -> bool:
    """Whether it is an option with a value in a line, too; a name is looked at beside --count."""
    return not TABLES[verb][name].is_flag and name not in ("image", "stdin", "script", "entrypoint", "name")


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, name in ROWS if _is_typed(verb, name)])
@pytest.mark.parametrize("text", TEXTS)
def test_both_faces_say_the_same_of_a_text(verb: str, name: str, text: str) -> None:
    row = TABLES[verb][name]
    try:
        python.read(TABLES[verb], {name: text})
    except CtlabError as error:
        ours = re.sub(r"^\w+=: ", "", str(error))
    else:
        ours = ""
    quoted = '"' + text + '"'
    noun = "container" if verb == "run" else "network"
    line = f"{verb} --{row.name}={quoted}" + (" n" if verb == "create" else "")
    try:
        grammar.parse(noun, line, {}, cell=False)
    except CtlabError as error:
        theirs = str(error)
    else:
        theirs = ""
    if ours:
        assert theirs == f"--{row.name}: {ours}" or row.choices
        assert theirs
    elif theirs:  # what options say of each other is looked at behind the reading
        assert not theirs.startswith(f"--{row.name}: ")


def test_natural_values_are_read() -> None:
    class Net:
        name, lab = "blue", None

    given = {
        "image": Path("/srv/root"), "networks": Net(), "memory": 64 << 20, "cpus": 0.5, "cpuset_cpus": [0, 2],
        "user": 1000,
        "env": {"A": 1, "B": Path("/x")}, "env_file": Path("a.env"), "mounts": {Path("/a"): "/b"},
        "stop_timeout": timedelta(seconds=2),
        "ip": IPv4Address("10.0.0.9"), "labels": {"n": 3},
        "workdir": Path("/srv"), "stop_signal": 9, "rm": False,
    }  # fmt: skip
    assert python.read(python.RUN, given) == {
        "image": "/srv/root", "networks": ["blue"], "memory": 64 << 20, "cpus": 0.5, "cpuset_cpus": "0,2",
        "user": "1000",
        "env": {"A": "1", "B": "/x"}, "env_file": ["a.env"], "mounts": ["/a:/b"], "stop_timeout": 2.0, "ip": "10.0.0.9",
        "labels": {"n": "3"}, "workdir": "/srv", "stop_signal": "SIGKILL", "rm": False,
    }  # fmt: skip
    assert python.read(python.NETWORK, {"subnet": IPv4Network("10.9.0.0/24")}) == {"subnet": ["10.9.0.0/24"]}
    mount = MountSpec("/a", "/b")
    assert python.read(python.RUN, {"mounts": mount}) == {"mounts": [mount]}


def test_the_signature_is_what_the_table_says() -> None:
    parameters = inspect.signature(ctlab.Lab.run).parameters
    assert list(parameters) == ["self", "command", *python.RUN, "unknown"]
    done = subprocess.run([sys.executable, ROOT / "scripts" / "write-signatures.py", "--check"], check=False)
    assert done.returncode == 0


def test_every_row_has_its_reader_and_help() -> None:
    for row in {id(row): row for table in TABLES.values() for row in table.values()}.values():
        assert isinstance(row, Option)
        assert row.help
        assert python.annotation(row)
