"""Limits as writes: for both versions, in order, undone, refused."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctlab.errors import BadInput
from ctlab.plan import limits as lim
from ctlab.plan.limits import Limits, Missing, WriteCgroup

pytestmark = pytest.mark.usefixtures("in_a_magic")  # for how options are spelled
MIB = 1 << 20
ALL = Limits(cpus=0.5, cpu_shares=2000, cpuset_cpus="3,0-1", memory_bytes=64 * MIB, pids_limit=100)

some_limits = st.builds(
    Limits,
    cpus=st.none() | st.integers(1000, 400_000).map(lambda steps: steps / 100_000),
    cpu_shares=st.none() | st.integers(lim.SHARES_MIN, lim.SHARES_MAX),
    cpuset_cpus=st.none() | st.sampled_from(["0", "1", "0-1", "0,2-5"]),
    memory_bytes=st.none() | st.integers(6 * MIB // lim.PAGE, 1 << 30).map(lambda pages: pages * lim.PAGE),
    pids_limit=st.none() | st.integers(1, lim.PIDS_MAX),
)
versions = st.sampled_from(["v1", "v2"])
# What the kernel's files hold where nothing is limited; all CPUs are those of the folder above.
UNLIMITED = {
    "cpu.cfs_period_us": "100000",
    "cpu.cfs_quota_us": "-1",
    "cpu.shares": "1024",
    "memory.limit_in_bytes": "-1",
    "memory.memsw.limit_in_bytes": "-1",
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "pids.max": "max",
}
ALL_CPUS = {"v1": "../cpuset.cpus", "v2": "../cpuset.cpus.effective"}


def test_version_1() -> None:
    assert [tuple(write) for write in lim.plan(ALL, "v1")] == [
        ("cpuset", "cpuset.cpus", "0-1,3", False),
        ("cpu", "cpu.shares", "2000", False),
        ("cpu", "cpu.cfs_period_us", "100000", False),
        ("cpu", "cpu.cfs_quota_us", "50000", False),
        ("memory", "memory.limit_in_bytes", "67108864", False),
        ("memory", "memory.memsw.limit_in_bytes", "67108864", True),
        ("pids", "pids.max", "100", False),
    ]


def test_version_2() -> None:
    assert [tuple(write) for write in lim.plan(ALL, "v2")] == [
        ("cpuset", "cpuset.cpus", "0-1,3", False),
        ("cpu", "cpu.weight", "170", False),
        ("cpu", "cpu.max", "50000 100000", False),
        ("memory", "memory.swap.max", "0", True),
        ("memory", "memory.oom.group", "1", False),
        ("memory", "memory.max", "67108864", False),
        ("pids", "pids.max", "100", False),
    ]


def test_no_limits_no_writes_and_no_third_version() -> None:
    assert lim.plan(Limits(), "v1") == lim.plan(Limits(), "v2") == []
    with pytest.raises(ValueError, match="none"):
        lim.plan(ALL, "none")


# The values that runc 1.3.2 and crun 1.23 give; 2000 -> 170 is runc's own example of the change.
@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (3, 2), (100, 17), (1000, 99), (1024, 100), (2000, 170), (262_144, 10_000)]
)
def test_weight(shares: int, weight: int) -> None:
    assert lim.weight(shares) == weight


@given(st.integers(lim.SHARES_MIN, lim.SHARES_MAX - 1))
def test_weight_never_falls_and_stays_in_range(shares: int) -> None:
    assert 1 <= lim.weight(shares) <= lim.weight(shares + 1) <= lim.WEIGHT_MAX


def test_memory_on_version_1_keeps_limit_below_memory_and_swap() -> None:
    def order(before: int | None, after: int | None) -> list[tuple[str, str]]:
        writes = lim.changes(Limits(memory_bytes=before), Limits(memory_bytes=after), "v1")
        return [(write.file, write.value) for write in writes]

    limit, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    assert order(None, 64 * MIB) == [(limit, "67108864"), (both, "67108864")]
    assert order(64 * MIB, 32 * MIB) == [(limit, "33554432"), (both, "33554432")]
    assert order(32 * MIB, 64 * MIB) == [(both, "67108864"), (limit, "67108864")]
    assert order(64 * MIB, None) == [(both, "-1"), (limit, "-1")]


@given(some_limits, some_limits, versions)
def test_changes_end_in_the_same_state_as_a_fresh_plan(before: Limits, after: Limits, version: str) -> None:
    files: dict[str, str] = {}
    for write in lim.plan(before, version) + lim.changes(before, after, version):
        files[write.file] = write.value
    fresh = {write.file: write.value for write in lim.plan(after, version)}
    unlimited = {**UNLIMITED, "cpuset.cpus": ALL_CPUS[version]}
    assert {file: fresh.get(file, unlimited[file]) for file in files} == files
    assert fresh.keys() <= files.keys()


@given(some_limits, some_limits)
def test_version_1_never_has_the_limit_above_memory_and_swap(before: Limits, after: Limits) -> None:
    state = {"memory.limit_in_bytes": float("inf"), "memory.memsw.limit_in_bytes": float("inf")}
    there_and_back = lim.plan(before, "v1") + lim.changes(before, after, "v1") + lim.undo(before, after, "v1")
    for write in there_and_back:
        if write.controller == "memory":
            state[write.file] = float("inf") if write.value == "-1" else int(write.value)
            assert state["memory.limit_in_bytes"] <= state["memory.memsw.limit_in_bytes"]
    assert state["memory.limit_in_bytes"] == (before.memory_bytes or float("inf"))


@given(some_limits, versions)
def test_undo_takes_every_write_back(limits: Limits, version: str) -> None:
    writes = lim.plan(limits, version)
    undone = lim.undo(Limits(), limits, version)
    unlimited = {**UNLIMITED, "cpuset.cpus": ALL_CPUS[version]}
    assert {(write.controller, write.file, unlimited[write.file]) for write in writes} == {w[:3] for w in undone}
    assert lim.changes(limits, limits, version) == []


@given(some_limits)
def test_what_is_generated_is_accepted(limits: Limits) -> None:
    lim.check(limits, range(8))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(cpus=0.001), "0.001 CPUs is too little: the kernel's smallest quota is 0.01 (1 ms of each 100 ms)"),
        (Limits(cpus=0.123456), "0.123456 CPUs is finer than a quota can be (1 us of each 100 ms): write 0.12346"),
        (Limits(cpu_shares=1), "--cpu-shares 1: from 2 to 262144 (1024 is the default)"),
        (Limits(cpu_shares=262_145), "--cpu-shares 262145: from 2 to 262144 (1024 is the default)"),
        (Limits(memory_bytes=4 * MIB), "--memory 4M: at least 6M"),
        (Limits(memory_bytes=7_000_000), "--memory 7000000: the kernel counts pages of 4096 bytes: write 6995968"),
        (Limits(pids_limit=0), "--pids-limit 0: from 1 to 4194304, or none for no limit"),
        (Limits(cpuset_cpus="0-5"), "--cpuset-cpus 0-5: no CPU 2-5 here, there are 0-1"),
        (Limits(cpuset_cpus="x"), "'x' isn't a list of CPUs: write 0-2,4"),
    ],
)
def test_refused_input(limits: Limits, message: str) -> None:
    if lim.PAGE != 4096 and limits.memory_bytes == 7_000_000:
        pytest.skip(f"the page here has {lim.PAGE} bytes, the message is for 4096")
    with pytest.raises(BadInput) as caught:
        lim.check(limits, [0, 1])
    assert str(caught.value) == message


def test_more_cpus_than_there_are_is_allowed_and_said() -> None:
    lim.check(Limits(cpus=3.5), [0, 1])
    assert lim.notes(Limits(cpus=3.5), 2) == ["--cpus 3.5 is more than this machine's 2: it limits nothing"]
    assert lim.notes(Limits(cpus=2.0), 2) == lim.notes(Limits(), 2) == []


def test_missing_controllers_are_named_with_the_remedy() -> None:
    absent = lim.missing(ALL, ["memory", "pids"])
    assert absent == [Missing("--cpus", "cpu"), Missing("--cpu-shares", "cpu"), Missing("--cpuset-cpus", "cpuset")]
    assert lim.missing(Limits(memory_bytes=8 * MIB), ["memory"]) == lim.missing(Limits(), []) == []
    assert str(lim.unavailable(absent, "not delegated", "ask root")) == (
        "--cpus, --cpu-shares, --cpuset-cpus can't be set here: no cgroup controllers cpu, cpuset (not delegated); "
        "ask root"
    )
    assert str(lim.unavailable(absent[:1], "", "")) == "--cpus can't be set here: no cgroup controller cpu"


def test_what_the_kernel_refused() -> None:
    memory = WriteCgroup("memory", "memory.limit_in_bytes", str(8 * MIB))
    assert str(lim.refused(memory, errno.EBUSY, 36_700_160)) == (
        "--memory 8M is below what the container uses: 35M (36700160 bytes); nothing was changed"
    )
    assert str(lim.refused(memory, errno.EINVAL)) == ("the kernel refused '8388608' for memory.limit_in_bytes: EINVAL")
    assert str(lim.refused(WriteCgroup("cpuset", "cpuset.cpus", "7"), errno.EINVAL)) == (
        "--cpuset-cpus 7: not all of these CPUs are the lab's to use"
    )
    assert str(lim.refused(WriteCgroup("cpu", "cpu.max", "1 1"), errno.ENOENT)) == "this kernel has no cpu.max"


def test_commands() -> None:
    folder = "/sys/fs/cgroup/ctlab-a/web 1"
    assert [lim.command(write, folder) for write in lim.plan(Limits(cpus=2.0, pids_limit=9), "v2")] == [
        "echo '200000 100000' > '/sys/fs/cgroup/ctlab-a/web 1/cpu.max'",
        "echo 9 > '/sys/fs/cgroup/ctlab-a/web 1/pids.max'",
    ]
    one = Limits(cpuset_cpus="0")
    all_again = lim.changes(one, Limits(), "v1") + lim.changes(one, Limits(), "v2")
    assert [lim.command(write, "/c/x") for write in all_again] == [
        "cat /c/x/../cpuset.cpus > /c/x/cpuset.cpus",
        "cat /c/x/../cpuset.cpus.effective > /c/x/cpuset.cpus",
    ]
