"""The filter that containers get: complete, as strict as podman's, and the same as libseccomp would make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
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
    name_of,
    unknown_to,
)

from ctlab.kernel.capabilities import DEFAULT, GRANTABLE, NAMES
from ctlab.seccomp import docker
from ctlab.seccomp.compile import LATE, MACHINES, decisions, program
from ctlab.seccomp.default import BEYOND_DOCKER, BEYOND_PODMAN, GROUPS, PROFILE
from ctlab.seccomp.numbers import names, numbers
from ctlab.seccomp.profile import ALLOW, EINVAL, ENOSYS, EPERM, ERRNO

# What got through in an audit and podman's default profile denies, and what Docker's denies besides.
FOUND_OPEN = [
    "acct",
    "add_key",
    "bpf",
    "cachestat",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "futex_requeue",
    "futex_wait",
    "futex_waitv",
    "futex_wake",
    "init_module",
    "io_pgetevents",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_load",
    "kexec_file_load",
    "listmount",
    "lookup_dcookie",
    "lsm_get_self_attr",
    "lsm_list_modules",
    "lsm_set_self_attr",
    "map_shadow_stack",
    "migrate_pages",
    "move_pages",
    "mseal",
    "open_by_handle_at",
    "perf_event_open",
    "process_madvise",
    "quotactl",
    "quotactl_fd",
    "request_key",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "settimeofday",
    "statmount",
    "swapon",
    "swapoff",
    "sysfs",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vmsplice",
    "keyctl",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsmount",
    "fsconfig",
    "fspick",
    "mount_setattr",
    "open_tree_attr",
    "clone3",
]
CAPABILITY_OPENS = {
    "AUDIT_WRITE": "",  # a protocol of socket, below
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "NET_ADMIN": "",
    "PERFMON": "perf_event_open",
    "SYSLOG": "syslog",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "SYS_TTY_CONFIG": "vhangup",
}


def allows(capabilities: frozenset[str], machine: str = "x86_64") -> set[str]:
    """Calls that are allowed whatever their arguments."""
    return {call for call, decision in decisions(PROFILE, capabilities, machine).items() if decision == (((), ALLOW),)}


# -- the table --------------------------------------------------------------------------------------------------------
def test_every_call_is_in_one_group_and_no_other_name() -> None:
    calls = [call for group in GROUPS for call in group.calls.split()]
    assert sorted(calls) == sorted(names())
    for group in GROUPS:
        assert group.calls.split() == sorted(group.calls.split()), group.reason
        assert group.reason and set(group.opened_by) <= set(NAMES)
        assert {name for case in group.exceptions for name in case.unless} <= set(NAMES)
    assert names() >= LATE


def test_what_an_audit_found_open_is_shut() -> None:
    for machine, architecture in ARCHITECTURES:
        it = Program(program(PROFILE, USUAL, machine))
        for call in FOUND_OPEN:
            if call in numbers(architecture):
                verdict = it.verdict(numbers(architecture)[call], MARKS[architecture])
                assert verdict in (EPERM, ENOSYS), (architecture, call)
        # Half of what is left is personality, clone and socket by their arguments.
        assert it.verdict(numbers(architecture)["personality"], MARKS[architecture], (0x400000, *(0,) * 5)) == EPERM


@pytest.mark.parametrize("capability", [*CAPABILITY_OPENS, *sorted(set(GRANTABLE) - set(CAPABILITY_OPENS))])
def test_a_capability_opens_what_it_is_for(capability: str) -> None:
    without = USUAL - {capability}
    assert allows(without | {capability}) - allows(without) == set(CAPABILITY_OPENS.get(capability, "").split())


def test_the_administrators_capability_opens_namespaces_and_mounts() -> None:
    opened = allows(USUAL | {"SYS_ADMIN"}) - allows(USUAL)
    assert opened >= LATE | {"bpf", "perf_event_open", "quotactl", "syslog", "fanotify_init"}
    assert not opened & {"keyctl", "userfaultfd", "io_uring_setup", "kexec_load", "swapon", "init_module", "reboot"}


# -- arguments --------------------------------------------------------------------------------------------------------
def verdict(call: str, *arguments: int, architecture: str = "x86_64", capabilities: frozenset[str] = USUAL) -> int:
    machine = next(machine for machine, name in ARCHITECTURES if name == architecture)
    it = Program(program(PROFILE, capabilities, machine))
    given = (*arguments, *(0,) * (6 - len(arguments)))
    return it.verdict(numbers(architecture)[call], MARKS[architecture], given)


@pytest.mark.parametrize(
    ("architecture", "above"),
    [*((name, 0) for name in MARKS), *((name, high << 32) for name in MACHINES for high in (1, 0xFFFFFFFF))],
)
def test_arguments(architecture: str, above: int) -> None:
    """Whatever stands in the upper half of a register, of which the kernel looks at the lower."""

    def said(call: str, *arguments: int, **more: frozenset[str]) -> int:
        return verdict(call, *(value | above for value in arguments), architecture=architecture, **more)

    families = {family: said("socket", family, 1, 0) for family in range(50)}
    assert {family for family, answer in families.items() if answer != ALLOW} == {38, 40}
    assert families[38] == families[40] == EPERM
    audit = frozenset({"AUDIT_WRITE"})
    assert [said("socket", 16, 3, protocol) for protocol in (0, 8, 9, 10, 16)] == [ALLOW, ALLOW, EINVAL, ALLOW, ALLOW]
    assert said("socket", 17, 3, 9) == ALLOW and said("socket", 16, 3, 9, capabilities=USUAL | audit) == ALLOW
    assert said("socket", 38, 3, 9, capabilities=USUAL | audit) == EPERM

    allowed = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
    assert [said("personality", value) for value in allowed] == [ALLOW] * 5
    assert {said("personality", value) for value in (1, 4, 9, 0x400000, 0x40000, 0xFFFFFFFE)} == {EPERM}

    for bit in range(32):
        namespace = bool(1 << bit & 0x7E020000)
        assert said("clone", 17 | 1 << bit) == (EPERM if namespace else ALLOW), bit
        assert said("clone", 17 | 1 << bit, capabilities=USUAL | {"SYS_ADMIN"}) == ALLOW
    assert said("clone3", 0, 88) == ENOSYS and said("unshare", 0) == EPERM


def test_a_32_bit_programs_other_way_to_a_socket() -> None:
    assert [verdict("socketcall", call, architecture="i386") for call in (1, 2, 3, 8, 20)] == [EPERM] + [ALLOW] * 4


def test_a_call_that_came_later_is_missing() -> None:
    for machine, architecture in ARCHITECTURES:
        it = Program(program(PROFILE, USUAL, machine))
        for number in (470, 471, 500, 1024, 0x3FFFFFFF, 0x40000001, 0xFFFFFFFF):
            assert it.verdict(number, MARKS[architecture]) == ENOSYS


# -- beside others' ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PUBLIC or [None], ids=str)
def test_nothing_is_allowed_that_a_public_profile_denies(path: object) -> None:
    """For each call, architecture and argument that either looks at. Rows of exceptions are all needed."""
    if path is None:
        pytest.skip(f"no public profile here: {PODMAN} (golang-github-containers-common)")
    theirs = docker.parse(Path(str(path)).read_bytes(), str(path), (6, 18))
    needed: set[str] = set()
    for machine, architecture in ARCHITECTURES:
        ours_of, theirs_of = (decisions(profile, USUAL, machine) for profile in (PROFILE, theirs))
        our, their = (Program(program(profile, USUAL, machine)) for profile in (PROFILE, theirs))
        for number in all_numbers(architecture):
            name = name_of(architecture).get(number, "")
            compared = [*conditions_of(ours_of.get(name, ())), *conditions_of(theirs_of.get(name, ()))]
            wide = 32 if architecture in ("i386", "arm") else 64
            for arguments in arguments_for(compared, wide):
                said = [it.verdict(number, MARKS[architecture], arguments) for it in (our, their)]
                if said[0] == ALLOW != said[1] and not _means_the_same(said[1], their, number, architecture, arguments):
                    needed.add(name)
    # Whatever other file is tried by hand is Docker's, or made from it.
    assert needed == set(BEYOND_PODMAN if path == PODMAN else BEYOND_DOCKER)


def _means_the_same(said: int, their: Program, number: int, architecture: str, arguments: tuple[int, ...]) -> bool:
    """Whether they deny it only for what stands in the upper halves, at which the kernel doesn't look."""
    low = tuple(value & 0xFFFFFFFF for value in arguments)
    return low != arguments and their.verdict(number, MARKS[architecture], low) == ALLOW != said


@pytest.mark.parametrize("more", ["", "SYS_ADMIN", "SYS_PTRACE AUDIT_WRITE", " ".join(NAMES)])
@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
def test_libseccomp_makes_the_same_of_it(machine: str, architecture: str, more: str) -> None:
    """Calls without conditions in one filter of its own, each call with conditions in another."""
    library = Libseccomp()
    capabilities = frozenset((*DEFAULT, *more.split()))
    ours = Program(program(PROFILE, capabilities, machine))
    found = decisions(PROFILE, capabilities, machine)
    unknown = unknown_to(library)
    plain = [(call, entries[0][1], ()) for call, entries in found.items() if len(entries) == 1 and call not in unknown]
    mark = MARKS[architecture]
    theirs = library.program(
        ENOSYS, [rule for rule in plain if rule[1] != ENOSYS and rule[0] not in docker.MULTIPLEXED], [architecture]
    )
    conditional = {call for call, entries in found.items() if len(entries) > 1}
    skipped = unknown | conditional | set(docker.MULTIPLEXED)
    compared = 0
    for number in all_numbers(architecture):
        if name_of(architecture).get(number) not in skipped and number < 1 << 30:
            assert ours.verdict(number, mark) == theirs.verdict(number, mark), name_of(architecture).get(number)
            compared += 1
    assert compared > 280
    for call in sorted(conditional & set(numbers(architecture))):
        entries = found[call]
        rules = [(call, answer, conditions) for conditions, answer in entries if answer != entries[-1][1]]
        alone = library.program(entries[-1][1], rules, [architecture])
        number = numbers(architecture)[call]
        for arguments in arguments_for(conditions_of(entries), 32 if architecture in ("i386", "arm") else 64):
            assert ours.verdict(number, mark, arguments) == alone.verdict(number, mark, arguments), (call, arguments)
    # Its rules for i386 also reach into socketcall and ipc, so these calls are compared one by one.
    for call in sorted(set(docker.MULTIPLEXED) & set(numbers(architecture)) - conditional - unknown):
        entries = found[call]
        alone = library.program(ERRNO | 99, [(call, entries[0][1], ())], [architecture])
        number = numbers(architecture)[call]
        assert ours.verdict(number, mark) == alone.verdict(number, mark), call
