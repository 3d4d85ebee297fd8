"""Profiles in Docker's format: read as runtimes read them, refused in one line where they can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_help import (
    ARCHITECTURES,
    MARKS,
    PODMAN,
    PUBLIC,
    USUAL,
    Libseccomp,
    Program,
    all_numbers,
    arguments_for,
    conditions_of,
    json_rules,
    name_of,
)

from ctlab.errors import BadInput
from ctlab.kernel.capabilities import NAMES
from ctlab.seccomp import docker
from ctlab.seccomp.compile import decisions, program
from ctlab.seccomp.numbers import numbers
from ctlab.seccomp.profile import ALLOW, ENOSYS, EPERM, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, TRACE, TRAP, Profile

RECENT = (6, 18)
SETS = {"usual": USUAL, "none": frozenset[str](), "all": frozenset(NAMES)} | {
    name: USUAL | {name}
    for name in (
        "SYS_ADMIN", "SYS_PTRACE", "SYS_TIME", "SYS_NICE", "SYSLOG", "SYS_BOOT", "SYS_MODULE", "SYS_RAWIO", "SYS_PACCT",
        "SYS_TTY_CONFIG", "DAC_READ_SEARCH", "AUDIT_WRITE", "BPF", "PERFMON",
    )
}  # fmt: skip


def parsed(value: Any, kernel: tuple[int, int] = RECENT) -> Profile:
    return docker.parse(json.dumps(value).encode(), "x.json", kernel)


def said(
    value: Any, call: str, *arguments: int, architecture: str = "x86_64", capabilities: frozenset[str] = USUAL
) -> int:
    machine = next(machine for machine, name in ARCHITECTURES if name == architecture)
    it = Program(program(parsed(value), capabilities, machine))
    given = (*arguments, *(0,) * (6 - len(arguments)))
    return it.verdict(numbers(architecture)[call], MARKS[architecture], given)


def refusing(**rule: Any) -> dict[str, Any]:
    """A profile that allows all but one rule's."""
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"} | rule]}


def argument(index: int, op: str, value: int, two: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": two, "op": f"SCMP_CMP_{op}"}


# -- public profiles --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PUBLIC or [None], ids=str)
@pytest.mark.parametrize("capabilities", SETS.values(), ids=list(SETS))
def test_a_public_profile_is_what_libseccomp_makes_of_it(path: Path | None, capabilities: frozenset[str]) -> None:
    """For each call, architecture and argument that it looks at."""
    if path is None:
        pytest.skip(f"no public profile here: {PODMAN} (golang-github-containers-common)")
    library = Libseccomp()
    profile = docker.parse(path.read_bytes(), str(path), RECENT)
    for machine, architecture in ARCHITECTURES:
        default, rules = json_rules(path, capabilities, machine)
        known = [rule for rule in rules if library.knows(rule[0])]
        newer = {name for name, _, _ in rules} - {name for name, _, _ in known}
        theirs = library.program(default, known, [architecture])
        ours = Program(program(profile, capabilities, machine))
        found = decisions(profile, capabilities, machine)
        mark = MARKS[architecture]
        for number in all_numbers(architecture):
            name = name_of(architecture).get(number, "")
            if name in newer or number >= 1 << 30:
                continue
            for arguments in arguments_for(conditions_of(found.get(name, ())), 32 if mark < 1 << 31 else 64):
                assert ours.verdict(number, mark, arguments) == theirs.verdict(number, mark, arguments), (
                    name,
                    arguments,
                )


# -- the format -------------------------------------------------------------------------------------------------------
def test_actions_and_errno() -> None:
    for name, action in {
        "ALLOW": ALLOW, "KILL": KILL_THREAD, "KILL_THREAD": KILL_THREAD, "KILL_PROCESS": KILL_PROCESS, "TRAP": TRAP,
        "LOG": LOG, "ERRNO": EPERM, "TRACE": TRACE | 1,
    }.items():  # fmt: skip
        assert said({"defaultAction": f"SCMP_ACT_{name}", "defaultErrnoRet": None}, "read") == action
    assert said({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38}, "read") == ENOSYS
    assert said({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 0}, "read") == ERRNO
    assert said({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS"}, "read") == ENOSYS
    assert said(refusing(errnoRet=22), "read") == ERRNO | 22
    assert said(refusing(errnoRet=1, errno="EINVAL"), "read") == ERRNO | 22
    assert said(refusing(action="SCMP_ACT_KILL", errnoRet=22), "read") == KILL_THREAD
    assert said(refusing(names=None, name="write"), "write") == EPERM
    assert said(refusing(), "write") == ALLOW


@pytest.mark.parametrize(
    ("op", "value", "two", "hits", "misses"),
    [
        ("EQ", 5, 0, [5], [4, 6, 5 | 1 << 32]),
        ("NE", 5, 0, [4, 6, 5 | 1 << 32], [5]),
        ("LT", 5, 0, [0, 4], [5, 6, 1 << 32]),
        ("LE", 5, 0, [4, 5], [6, 5 | 1 << 32]),
        ("GT", 5, 0, [6, 1 << 32], [5, 4]),
        ("GE", (1 << 32) + 5, 0, [(1 << 32) + 5, 2 << 32], [6, 5, (1 << 32) + 4]),
        ("MASKED_EQ", 0xF0, 0x50, [0x50, 0x5F, 0x150], [0x40, 0x60, 0]),
        ("MASKED_EQ", 0xF0, 0x51, [], [0x50, 0x51]),
    ],
)
def test_operators(op: str, value: int, two: int, hits: list[int], misses: list[int]) -> None:
    profile = refusing(args=[argument(1, op, value, two)])
    assert [said(profile, "read", 5, tried) for tried in hits] == [EPERM] * len(hits)
    assert [said(profile, "read", 5, tried) for tried in misses] == [ALLOW] * len(misses)


def test_all_conditions_must_hold_but_of_two_on_one_argument_any() -> None:
    both = refusing(args=[argument(0, "EQ", 1), argument(1, "EQ", 2)])
    assert [said(both, "read", *pair) for pair in ((1, 2), (1, 0), (0, 2))] == [EPERM, ALLOW, ALLOW]
    either = refusing(args=[argument(0, "EQ", 1), argument(0, "EQ", 2), argument(1, "EQ", 3)])
    assert [said(either, "read", *pair) for pair in ((1, 0), (2, 0), (0, 3), (0, 0))] == [EPERM] * 3 + [ALLOW]


def test_a_rule_without_conditions_comes_before_those_with_and_the_stricter_before_the_laxer() -> None:
    def rules(*pairs: tuple[int, list[dict[str, Any]]]) -> dict[str, Any]:
        entries = [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": n, "args": args} for n, args in pairs]
        return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries}

    assert said(rules((5, [argument(0, "EQ", 1)]), (6, []), (7, [])), "read", 1) == ERRNO | 6
    profile = rules((5, [argument(0, "EQ", 1)]))
    profile["syscalls"].append(
        {"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS", "args": [argument(1, "EQ", 2)]}
    )  # fmt: skip
    assert [said(profile, "read", *pair) for pair in ((1, 2), (1, 0), (0, 2))] == [
        KILL_PROCESS,
        ERRNO | 5,
        KILL_PROCESS,
    ]


def test_includes_and_excludes() -> None:
    admin = USUAL | {"SYS_ADMIN"}
    needs = refusing(includes={"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]})
    assert (said(needs, "read"), said(needs, "read", capabilities=admin)) == (ALLOW, EPERM)
    unless = refusing(excludes={"caps": ["CAP_SYS_ADMIN", "CAP_SYS_BOOT"]})
    assert (said(unless, "read"), said(unless, "read", capabilities=admin)) == (EPERM, ALLOW)
    here = refusing(includes={"arches": ["amd64", "x32"]})
    assert [said(here, "read", architecture=name) for name in ("x86_64", "aarch64")] == [EPERM, ALLOW]
    elsewhere = refusing(excludes={"arches": ["amd64"]})
    assert [said(elsewhere, "read", architecture=name) for name in ("x86_64", "aarch64")] == [ALLOW, EPERM]
    assert said(refusing(includes={"arches": ["s390"]}), "read") == ALLOW
    for version, includes, excludes in (("6.18", 1, 0), ("6.19", 0, 1), ("4.8", 1, 0), ("7.0", 0, 1)):
        assert len(parsed(refusing(includes={"minKernel": version})).rules) == includes
        assert len(parsed(refusing(excludes={"minKernel": version})).rules) == excludes


def test_architectures() -> None:
    one: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
    named = one | {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}
    mapped = one | {"archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}]}
    assert [said(named, "read", architecture=name) for name in ("x86_64", "i386", "arm")] == [
        ALLOW,
        ALLOW,
        KILL_PROCESS,
    ]
    assert [said(mapped, "read", architecture=name) for name in ("x86_64", "i386", "arm")] == [
        ALLOW,
        KILL_PROCESS,
        ALLOW,
    ]
    assert [said(one, "read", architecture=name) for name in ("x86_64", "i386")] == [ALLOW, KILL_PROCESS]
    assert (
        said(named, "fork") == ALLOW
        and Program(program(parsed(named), USUAL, "x86_64")).verdict(0x40000001, MARKS["x86_64"]) == ENOSYS
    ), "x32 stays shut"


def test_what_refuses_a_call_refuses_it_through_its_other_way_too() -> None:
    for conditions in ([], [argument(0, "EQ", 38)]):
        profile = refusing(names=["socket", "semget"], args=conditions) | {"architectures": ["SCMP_ARCH_X86"]}
        calls = [said(profile, "socketcall", number, architecture="i386") for number in (1, 2, 8)]
        assert calls == [EPERM, ALLOW, ALLOW]
        assert [said(profile, "ipc", n, architecture="i386") for n in (2, 0x10002, 1)] == [EPERM, EPERM, ALLOW]
    opening = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"]}
    some = {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [argument(0, "EQ", 2)]}
    assert said(opening | {"syscalls": [some]}, "socketcall", 1, architecture="i386") == EPERM
    assert said(opening | {"syscalls": [some | {"args": []}]}, "socketcall", 1, architecture="i386") == ALLOW


def test_calls_that_nobody_knows() -> None:
    allowing = {"names": ["swapcontext", "riscv_hwprobe", "read"], "action": "SCMP_ACT_ALLOW"}
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowing]}
    assert (said(profile, "read"), said(profile, "write")) == (ALLOW, EPERM)


def test_names_that_other_machines_and_versions_have() -> None:
    """What the default profiles of Docker and podman name beside this machine's own, and other ways to write it."""
    for name in ("s390", "s390x", "riscv64", "ppc64le", "x86", "x32", "386", "loong64", "x86_64", "mips64n32"):
        assert len(parsed(refusing(excludes={"arches": [name]})).rules) == 1
    for name in ("MIPS64N32", "MIPSEL64", "S390X", "RISCV64", "LOONGARCH64", "X32", "PPC64LE"):
        below = {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": None}
        assert parsed(
            GOOD | {"archMap": [below, {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]}
        ).architectures == {"i386"}
        assert parsed(GOOD | {"architectures": [f"SCMP_ARCH_{name}"]}).architectures == frozenset()
    for name in NAMES:
        assert parsed(refusing(includes={"caps": [f"CAP_{name}"]})) == parsed(refusing(includes={"caps": [name]}))
    assert (
        parsed(refusing()).rules == docker.parse(b"\xef\xbb\xbf" + json.dumps(refusing()).encode(), "x", RECENT).rules
    )


# -- what is refused --------------------------------------------------------------------------------------------------
GOOD = {"defaultAction": "SCMP_ACT_ERRNO"}
REFUSED: dict[str, tuple[bytes | Any, str]] = {
    "empty": (b"", "line 1, column 1: Expecting value"),
    "cut": (b'{"defaultAction":\n "SCMP', "line 2, column 2: Unterminated string starting at"),
    "not-utf8": (b'{"\xff": 1}', "JSON in UTF-8 is expected, not byte 0xff at position 2"),
    "surrogate": (b'{"\xed\xa0\x80": 1}', "JSON in UTF-8 is expected, not byte 0xed at position 2"),
    "utf16": (json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}).encode("utf-16"), "JSON in UTF-8 is expected, not byte "),
    "utf16-no-mark": (json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}).encode("utf-16-le"), "line 1, column 2: "),
    "utf32": (json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}).encode("utf-32"), "JSON in UTF-8 is expected, not byte "),
    "list": ([], "an object is expected, not a list"),
    "null": (None, "an object is expected, not null"),
    "no-action": ({}, "defaultAction: null isn't one of SCMP_ACT_ALLOW, "),
    "misspelt": (GOOD | {"syscals": []}, "unknown key syscals; there are archMap, architectures, "),
    "syscalls": (GOOD | {"syscalls": {}}, "syscalls: a list is expected, not an object"),
    "rule": (GOOD | {"syscalls": [3]}, "syscalls[0]: an object is expected, not 3"),
    "no-names": (GOOD | {"syscalls": [{"action": "SCMP_ACT_ALLOW"}]}, "syscalls[0]: names no system call"),
    "both-names": (refusing(name="x"), "syscalls[0]: name and names exclude each other"),
    "name": (refusing(names=["read", 7]), "syscalls[0].names[1]: a text is expected, not 7"),
    "unknown": (refusing(names=["opne"]), "syscalls[0].names: opne isn't a system call that is known here"),
    "action": (refusing(action="ALLOW"), "syscalls[0].action: ALLOW isn't one of SCMP_ACT_ALLOW, "),
    "action-type": (refusing(action=["x"]), "syscalls[0].action: a list isn't one of SCMP_ACT_ALLOW, "),
    "notify": (refusing(action="SCMP_ACT_NOTIFY"), "syscalls[0].action: there is no agent that "),
    "agent": (GOOD | {"listenerPath": "/x"}, "listenerPath: there is no agent that "),
    "errno": (refusing(errnoRet=4096), "syscalls[0].errnoRet: a whole number from 0 to 4095 is expected, not 4096"),
    "errno-text": (refusing(errnoRet="5"), 'syscalls[0].errnoRet: a whole number from 0 to 4095 is expected, not "5"'),
    "errno-bool": (refusing(errnoRet=True), "syscalls[0].errnoRet: a whole number from 0 to 4095 is"),
    "errno-name": (refusing(errno="EWHAT"), "syscalls[0].errno: EWHAT isn't one of "),
    "args": (refusing(args="x"), 'syscalls[0].args: a list is expected, not "x"'),
    "index": (refusing(args=[argument(6, "EQ", 1)]), "syscalls[0].args[0].index: a whole number from 0 to 5"),
    "no-index": (refusing(args=[{"op": "SCMP_CMP_EQ"}]), "syscalls[0].args[0].index: a whole number from 0 to 5"),
    "value": (refusing(args=[argument(0, "EQ", -1)]), "syscalls[0].args[0].value: a whole number from 0 to 1844674407"),
    "wide": (refusing(args=[argument(0, "EQ", 1 << 64)]), "syscalls[0].args[0].value: a whole number from 0 to 18446"),
    "float": (refusing(args=[argument(0, "EQ", 1) | {"value": 1.5}]), "syscalls[0].args[0].value: a whole number from"),
    "op": (refusing(args=[argument(0, "XX", 1)]), "syscalls[0].args[0].op: SCMP_CMP_XX isn't one of SCMP_CMP_EQ, "),
    "includes": (refusing(includes={"cap": []}), "syscalls[0].includes: unknown key cap; there are arches, caps, "),
    "version": (refusing(includes={"minKernel": "4"}), 'syscalls[0].includes.minKernel: a version like 4.8 is expec'),
    "version-text": (refusing(excludes={"minKernel": "4"}), "syscalls[0].excludes.minKernel: a version like 4.8 is"),
    "version-type": (refusing(excludes={"minKernel": 4.8}), "syscalls[0].excludes.minKernel: a text is expected"),
    "both": (
        GOOD | {"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]},
        "architectures and archMap exclude each other",
    ),
    "map": (GOOD | {"archMap": ["x"]}, 'archMap[0]: an object is expected, not "x"'),
    "capability": (
        refusing(includes={"caps": ["CAP_CHOWN", "CAP_CHWON"]}),
        "syscalls[0].includes.caps[1]: CAP_CHWON isn't a capability that is known here; did you mean 'CAP_CHOWN'?",
    ),
    "capability-unless": (
        refusing(excludes={"caps": ["SYS_ADMN"]}),
        "syscalls[0].excludes.caps[0]: SYS_ADMN isn't a capability that is known here; did you mean 'SYS_ADMIN'?",
    ),
    "arch": (
        refusing(includes={"arches": ["amd46"]}),
        "syscalls[0].includes.arches[0]: amd46 isn't an architecture that is known here; did you mean 'amd64'?",
    ),
    "arch-unless": (refusing(excludes={"arches": ["armv9"]}), "syscalls[0].excludes.arches[0]: armv9 isn't an arch"),
    "architecture": (
        GOOD | {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_FOO"]},
        "architectures[1]: SCMP_ARCH_FOO isn't an architecture that is known here",
    ),
    "map-architecture": (
        GOOD | {"archMap": [{"architecture": "x86_64"}]}, "archMap[0].architecture: x86_64 isn't an architecture that ",
    ),
    "map-below": (
        GOOD | {"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X68"]}]},
        "archMap[0].subArchitectures[0]: SCMP_ARCH_X68 isn't an architecture that is known here; did you mean ",
    ),
    "map-name": (GOOD | {"archMap": [{}]}, "archMap[0].architecture: a text is expected, not null"),
    "flags": (GOOD | {"flags": ["SECCOMP_FILTER_FLAG_LOG"]}, "flags[0]: SECCOMP_FILTER_FLAG_LOG isn't one of SECCOMP_"),
    "deep": (b'{"defaultAction":' + b"[" * 200_000, "nested too deep"),
    "digits": (b'{"defaultErrnoRet":' + b"1" * 5000 + b"}", "Exceeds the limit (4300 digits)"),
    "large": (b" " * (docker.MAX_BYTES + 1), "larger than 1 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_refusal_is_one_line_with_file_and_place(name: str) -> None:
    text, why = REFUSED[name]
    with pytest.raises(BadInput) as caught:
        docker.parse(text if isinstance(text, bytes) else json.dumps(text).encode(), "x.json", RECENT)
    line = str(caught.value)
    assert line.startswith(f"seccomp profile x.json: {why}"), line
    assert "\n" not in line and len(line) < 4000


KEYS = st.sampled_from([
    *docker._TOP, *docker._RULE, *docker._ARGUMENT, *docker._FILTER, "architecture", "subArchitectures", "x",
])  # fmt: skip
WORDS = st.sampled_from([
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "SCMP_ARCH_X86", "read",
    "socket", "amd64", "CAP_SYS_ADMIN", "4.8", "EPERM",
])  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 65) | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(KEYS, ANY, max_size=6), st.lists(st.dictionaries(KEYS, ANY, max_size=5), max_size=3))
def test_odd_json_is_read_or_refused(top: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    for value in (top, GOOD | {"syscalls": rules}, top | GOOD):
        try:
            profile = parsed(value)
        except BadInput as error:
            assert str(error).startswith("seccomp profile x.json: ") and "\n" not in str(error)
        else:
            program(profile, USUAL, "x86_64")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    with pytest.raises(BadInput):
        docker.parse(text, "x.json", RECENT)
