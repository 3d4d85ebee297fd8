"""The compiler of filters: what the programs say, run by the kernel's rules, is what the profile says."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_help import ARCHITECTURES, MARKS, USUAL, Program, all_numbers, arguments_for, name_of

from ctlab.errors import BadInput, Unsupported
from ctlab.kernel.capabilities import GRANTABLE
from ctlab.seccomp.compile import LATE, MACHINES, MAX_INSTRUCTIONS, PARTS, X32_BIT, describe, digest, passes, program
from ctlab.seccomp.default import PROFILE
from ctlab.seccomp.numbers import numbers
from ctlab.seccomp.profile import (
    ALL_BITS,
    ALLOW,
    ENOSYS,
    EPERM,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    LOW_BITS,
    TRACE,
    TRAP,
    Condition,
    Profile,
    Rule,
    strictness,
)

BITS = {"x86_64": 64, "aarch64": 64, "i386": 32, "arm": 32}


def expected(profile: Profile, machine: str, architecture: str, number: int, arguments: tuple[int, ...]) -> int:
    """The profile's own word, straight from its rules."""
    if architecture == "x86_64" and number >= X32_BIT:
        return ENOSYS
    name = name_of(architecture).get(number)
    for rule in profile.rules:
        holds = all(condition.holds(arguments) for condition in rule.conditions)
        if name in rule.calls and rule.counts(USUAL, machine) and holds:
            return rule.action
    return profile.default


# -- any profile ------------------------------------------------------------------------------------------------------
ACTIONS = st.sampled_from([ALLOW, LOG, EPERM, ENOSYS, ERRNO | 22, TRAP, KILL_THREAD, KILL_PROCESS])
VALUES = st.sampled_from([0, 1, 2, 38, 0x7E020000, LOW_BITS, 1 << 32, (1 << 32) + 5, ALL_BITS]) | st.integers(
    0, ALL_BITS
)
MASKS = st.sampled_from([ALL_BITS, LOW_BITS, LOW_BITS << 32, 0xFF, 0x7E020000, 0]) | st.integers(0, ALL_BITS)
CONDITIONS = st.builds(
    Condition, st.integers(0, 5), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), VALUES, MASKS
)  # fmt: skip
CALLS = [
    "read",
    "socket",
    "clone",
    "mount",
    "personality",
    "semop",
    "clone3",
    "file_setattr",
    "restart_syscall",
    "set_tls",
]
RULES = st.builds(
    Rule,
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=3, unique=True).map(tuple),
    ACTIONS,
    st.lists(CONDITIONS, max_size=3).map(tuple),
    needs=st.sampled_from([frozenset(), frozenset({"CHOWN"}), frozenset({"SYS_ADMIN"})]),
    unless=st.sampled_from([frozenset(), frozenset({"CHOWN"}), frozenset({"SYS_ADMIN"})]),
    machines=st.sampled_from([frozenset(), frozenset({"x86_64"}), frozenset({"s390x"})]),
)
PROFILES = st.builds(
    Profile,
    st.just("any"),
    ACTIONS,
    st.lists(RULES, max_size=8).map(tuple),
    st.sampled_from([frozenset(), frozenset({"i386"}), frozenset({"i386", "arm"})]),
)


@settings(max_examples=150, deadline=None)
@given(PROFILES, st.sampled_from(ARCHITECTURES), st.data())
def test_a_program_says_what_its_profile_says(profile: Profile, where: tuple[str, str], data: st.DataObject) -> None:
    machine, architecture = where
    parts = {part: Program(program(profile, USUAL, machine, part)) for part in PARTS}
    filtered = architecture == machine or architecture in profile.architectures
    compared = [condition for rule in profile.rules for condition in rule.conditions]
    tried = [(0,) * 6, *data.draw(st.lists(st.tuples(*[VALUES] * 6), max_size=4))]
    tried += [
        tuple(data.draw(st.sampled_from([0, *(c.value for c in compared if c.argument == i)])) for i in range(6))
        for _ in range(4)
    ]
    known = [numbers(architecture)[call] for call in CALLS if call in numbers(architecture)]
    for number in (*known, 600, X32_BIT + 1, 0xFFFFFFFF):
        for wide in tried:
            arguments = tuple(value & (1 << BITS[architecture]) - 1 for value in wide)
            said = {part: it.verdict(number, MARKS[architecture], arguments) for part, it in parts.items()}
            wanted = expected(profile, machine, architecture, number, arguments) if filtered else KILL_PROCESS
            assert said["whole"] == wanted
            # The kernel's rule for filters on top of each other, whichever was loaded first.
            assert min((said["early"], said["late"]), key=strictness) == wanted
            assert min((said["late"], said["early"]), key=strictness) == wanted


def test_what_is_loaded_is_loaded_again_where_it_was_masked() -> None:
    """A condition that fails goes on behind the load of the next one, if that loads the same."""
    rules = (
        Rule(("read",), ERRNO | 1, (Condition(0, "==", 5, 0xFF), Condition(0, ">", 1 << 40))),
        Rule(("read",), ERRNO | 2, (Condition(0, "==", 0x106, LOW_BITS),)),
        Rule(("read",), ERRNO | 3, (Condition(0, "==", 0x107, LOW_BITS), Condition(0, "==", 7, 0xFF))),
        Rule(("read",), ERRNO | 4, (Condition(0, "<", 0x10F),)),
        Rule(("read",), ERRNO | 5, (Condition(0, "!=", 0x1FF, 0x1FF),)),
    )
    profile = Profile("masks", ALLOW, rules)
    it = Program(program(profile, USUAL, "x86_64"))
    for low in range(0x220):
        for high in (0, 1, 1 << 8, 1 << 9):
            arguments = (high << 32 | low, 0, 0, 0, 0, 0)
            assert it.verdict(0, MARKS["x86_64"], arguments) == expected(profile, "x86_64", "x86_64", 0, arguments)


def test_a_program_for_another_architecture_kills() -> None:
    for machine in MACHINES:
        for part in PARTS:
            it = Program(program(PROFILE, USUAL, machine, part))
            others = {mark for name, mark in MARKS.items() if (machine, name) not in ARCHITECTURES} | {0, 0x80000016}
            assert {it.verdict(1, mark) for mark in others} == {KILL_PROCESS}


def test_jumps_reach_however_long_the_program_is() -> None:
    """Blocks of conditions between the numbers, so that neither end of most jumps is within 255 instructions."""
    calls = sorted(set(numbers("x86_64")) & set(numbers("i386")), key=lambda name: numbers("x86_64")[name])[:180]
    rules = tuple(
        Rule((call,), ERRNO | 1 + at % 7, (Condition(at % 6, ">", at << 30), Condition((at + 1) % 6, "!=", at)))
        for at, call in enumerate(calls)
    )
    profile = Profile("long", ALLOW, rules)
    it = Program(program(profile, USUAL, "x86_64"))
    assert len(it) > 8 * 255
    for architecture in ("x86_64", "i386"):
        for rule in rules:
            number = numbers(architecture)[rule.calls[0]]
            for arguments in list(arguments_for(rule.conditions, BITS[architecture]))[::5]:
                wanted = expected(profile, "x86_64", architecture, number, arguments)
                assert it.verdict(number, MARKS[architecture], arguments) == wanted


def test_what_is_too_long_for_the_kernel_is_refused() -> None:
    calls = sorted(numbers("x86_64"))
    rules = tuple(Rule((call,), EPERM, (Condition(0, ">", at << 33 | 1),)) for at, call in enumerate(calls * 3))
    with pytest.raises(
        BadInput, match=rf"^seccomp profile huge: a filter of \d+ instructions; the kernel takes {MAX_INSTRUCTIONS}: "
    ):
        program(Profile("huge", ALLOW, rules), USUAL, "x86_64")


def test_a_machine_without_a_table_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="a filter of system calls on riscv64: there is a table of calls for x86_64"):
        program(PROFILE, USUAL, "riscv64")
    with pytest.raises(ValueError, match="no part 'middle'"):
        program(PROFILE, USUAL, "x86_64", "middle")


# -- the parts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
def test_early_and_late_together_are_the_whole(machine: str, architecture: str) -> None:
    mark, names = MARKS[architecture], name_of(architecture)
    parts = {part: Program(program(PROFILE, USUAL, machine, part)) for part in PARTS}
    flags = [(0,) * 6, (0x11, *(0,) * 5), (0x10000000, *(0,) * 5), (38, *(0,) * 5), (1, *(0,) * 5)]
    for number in (*all_numbers(architecture), X32_BIT + 1):
        for arguments in flags:
            said = {part: it.verdict(number, mark, arguments) for part, it in parts.items()}
            assert min(said["early"], said["late"], key=strictness) == said["whole"], names.get(number)
            if names.get(number) in LATE:
                assert said["early"] == ALLOW
            elif number < X32_BIT:
                assert said["late"] == ALLOW


def test_the_late_part_is_small() -> None:
    """It is loaded while somebody waits."""
    for machine in MACHINES:
        sizes = {part: len(program(PROFILE, USUAL, machine, part)) // 8 for part in PARTS}
        assert sizes["late"] <= 60 and sizes["whole"] <= 280, sizes


def test_compiling_takes_milliseconds() -> None:
    best = 1.0
    for _ in range(5):
        program.cache_clear()
        begin = time.perf_counter()
        program(PROFILE, USUAL, "x86_64")
        best = min(best, time.perf_counter() - begin)
    assert best < 0.020  # 1 ms on a machine that does nothing else; libseccomp: 45 to 60


def test_a_description_has_the_name_and_a_digest_that_tells_programs_apart() -> None:
    usual = describe(PROFILE, USUAL, "x86_64")
    assert usual.name == "default" and usual.digest == digest(program(PROFILE, USUAL, "x86_64"))
    assert usual.digest.startswith("sha256:") and len(usual.digest) == 7 + 16
    assert describe(PROFILE, USUAL | {"SYS_PTRACE"}, "x86_64").digest != usual.digest
    assert describe(PROFILE, USUAL | {"NET_ADMIN"}, "x86_64").digest == usual.digest


@pytest.mark.parametrize("machine", list(MACHINES))
def test_what_gets_to_the_kernel_at_all(machine: str) -> None:
    """By its last word, by some arguments only, or by whoever traces the caller."""

    def found(default: int, *rules: Rule, capabilities: frozenset[str] = USUAL) -> bool:
        return passes(Profile("x", default, rules), capabilities, machine, "keyctl")

    some = (Condition(0, "==", 11),)
    for verdict, gets_there in {
        ALLOW: True,
        LOG: True,
        TRACE | 1: True,
        EPERM: False,
        TRAP: False,
        KILL_THREAD: False,
    }.items():
        assert found(verdict) is gets_there
        assert found(EPERM, Rule(("read", "keyctl"), verdict)) is gets_there
        assert found(EPERM, Rule(("keyctl",), verdict, some)) is gets_there
        assert found(verdict, Rule(("keyctl",), EPERM)) is False
        assert found(verdict, Rule(("keyctl",), EPERM, some)) is gets_there
        assert found(verdict, Rule(("read",), EPERM)) is gets_there
    needs = Rule(("keyctl",), ALLOW, needs=frozenset({"NET_ADMIN"}))
    assert (found(EPERM, needs), found(EPERM, needs, capabilities=USUAL | {"NET_ADMIN"})) == (False, True)
    assert not any(passes(PROFILE, USUAL | {one}, machine, "keyctl") for one in GRANTABLE)
