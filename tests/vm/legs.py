"""Which tests run in which virtual machine, and as whom. Pure.

Two machines run side by side, each with one processor, since a test machine has two. The shares are balanced by the
times that the files took in an emulated guest (`SECONDS`; a file that is missing there is taken as small).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kernel_help import long_form

KERNEL_TESTS = Path(__file__).resolve().parents[1] / "kernel"
MACHINES = ("one", "two")
MACHINE_MEMORY_BYTES = 1536 << 20  # pandas, pytest and the largest test (200 MB that are eaten) at once
SLOWNESS = 10  # for CTLAB_TEST_SLOWNESS: work with processes takes about that many times as long when it is emulated

# Files that the leg leaves out, with why.
LEFT_OUT: Mapping[str, str] = {
    "test_as_user.py": "runs most other files again, three times; the ordinary user's share below stands for it",
    "test_channel.py": "the channel of a VM without one: what is emulated adds nothing to it",
    "test_channel_ends.py": "as test_channel.py",
}
# Files that it leaves to the long form: what they are about is the same on every kernel. What stays is what depends on
# it: cgroups of version 2, kinds of links and queues, namespaces, counters, the wall.
LONG: Mapping[str, str] = {
    "test_container_life.py": "states are the supervisor's; what ends, pauses and is limited stays",
    "test_copy.py": "files through descriptors; test_openat2.py stays",
    "test_copy_hardening.py": "as test_copy.py",
    "test_doctor.py": "sentences; test_capabilities.py asks the kernel itself",
    "test_dump.py": "tables that are decoded here; test_link_stats.py and test_networks.py read some there",
    "test_exec.py": "processes of a runner; test_container_limits.py has an exec that is counted",
    "test_filters.py": "as test_seccomp.py",
    "test_flood_descriptors.py": "quotas of old; test_container_limits.py has the cgroup's",
    "test_flood_keys.py": "as test_flood_descriptors.py",
    "test_flood_memory.py": "as test_flood_descriptors.py; test_oom_quick.py stays",
    "test_flood_networks.py": "as test_flood_descriptors.py",
    "test_flood_processes.py": "as test_flood_descriptors.py",
    "test_flood_storage.py": "as test_flood_descriptors.py",
    "test_host_mounts.py": "mounts of this machine, which a guest has not; tests/vm/test_lab.py has a guest's",
    "test_id_ranges.py": "which ids there are, of maps that are the same everywhere",
    "test_images.py": "files; tests/vm/test_lab.py has an image of each kind in a machine",
    "test_keyring.py": "one keyring a lab, joined by a call that has been the same for years",
    "test_labs.py": "what an owner starts and ends; every file there has a lab",
    "test_operations.py": "a table; every start there performs most of it",
    "test_seccomp.py": "programs for the kernel, on each the same; every start there loads two of them",
    "test_vm_shares.py": "shares of this machine's side",
    "test_bad_input_python.py": "sentences",
    "test_container_names.py": "names and addresses are the owner's",
    "test_abandoned_starts.py": "processes of an owner's side",
    "test_beside_ends.py": "threads of an owner",
    "test_copy_races.py": "races with a program on another processor, of which a guest has one",
    "test_dead_lab.py": "what an owner's callers are told",
    "test_descriptors.py": "what an owner's limit of open files leaves room for",
    "test_engines.py": "which engine an owner takes",
    "test_explain_node.py": "the commands for a node; those for a container, with cgroups of version 2, stay",
    "test_growth.py": "what an owner keeps",
    "test_helpers.py": "children of the supervisor, on each kernel the same; and a flood of 24 MB",
    "test_hostile_archives.py": "what is made of a tar stream; test_copy.py and test_images.py stay",
    "test_hostile_files.py": "what is made of files of an image",
    "test_interrupt_groups.py": "process groups; the last signals of test_exec.py stay",
    "test_interrupted_changes.py": "interrupts of an owner",
    "test_interrupts.py": "as test_interrupted_changes.py",
    "test_logs.py": "a ring between two processes",
    "test_many_callers.py": "threads of an owner",
    "test_nested_ids.py": "which ids there are, of maps that are the same everywhere",
    "test_netlink_decoded.py": "our bytes, which are the same everywhere; every lab's network has a kernel take them",
    "test_own_limits.py": "an owner's own process",
    "test_owner_environment.py": "what an owner's process has",
    "test_pool.py": "the slots of a lab, whose times an emulated machine changes",
    "test_races.py": "threads of an owner",
    "test_runtime_folders.py": "the owner's folders",
    "test_script_descriptors.py": "as test_hostile_files.py",
    "test_real_programs.py": "as test_system_image.py; and a minute of emulation each",
    "test_system_image.py": "files that were read here; tests/vm/test_lab.py changes some in a machine",
    "test_vm_cache.py": "an owner's folder",
    "test_shell.py": "terminals of a person; tests/vm has one in a machine",
}
# Again as an ordinary user of the guest: (range of ids, delegated folder) -> the files.
AS_USER: tuple[tuple[bool, bool, tuple[str, ...]], ...] = (
    (True, True, ("test_container_limits.py",)),
    (False, False, ("test_containers.py",)),
)
# Seconds in a guest without hardware acceleration on two cores of a cloud machine, both machines at work.
SECONDS: Mapping[str, float] = {
    "test_bad_input_python.py": 30,
    "test_beside_ends.py": 13,
    "test_capabilities.py": 10,
    "test_cgroup.py": 1,
    "test_cgroup_discovery.py": 1,
    "test_cgroup_freeze.py": 1,
    "test_cgroup_lab.py": 1,
    "test_cgroup_stats.py": 2,
    "test_cgroup_user.py": 2,
    "test_container_life.py": 40,
    "test_container_limits.py": 19,
    "test_container_limits.py as user": 22,
    "test_container_names.py": 75,
    "test_containers.py": 12,
    "test_containers.py as user": 13,
    "test_copy.py": 35,
    "test_copy_hardening.py": 12,
    "test_copy_races.py": 33,
    "test_doctor.py": 31,
    "test_dump.py": 11,
    "test_engines.py": 16,
    "test_exec.py": 18,
    "test_explain_container.py": 9,
    "test_explain_node.py": 61,
    "test_filters.py": 40,
    "test_flood_descriptors.py": 19,
    "test_flood_keys.py": 26,
    "test_flood_memory.py": 13,
    "test_flood_networks.py": 23,
    "test_flood_processes.py": 31,
    "test_flood_storage.py": 49,
    "test_growth.py": 77,
    "test_host_mounts.py": 30,
    "test_hostile_archives.py": 106,
    "test_hostile_files.py": 27,
    "test_id_ranges.py": 18,
    "test_images.py": 22,
    "test_interrupted_changes.py": 132,
    "test_interrupts.py": 12,
    "test_keyring.py": 12,
    "test_labs.py": 49,
    "test_launcher.py": 4,
    "test_link_stats.py": 4,
    "test_logs.py": 27,
    "test_many_callers.py": 45,
    "test_nested_ids.py": 32,
    "test_netlink_decoded.py": 15,
    "test_networks.py": 37,
    "test_oom_quick.py": 12,
    "test_openat2.py": 1,
    "test_operations.py": 9,
    "test_owner_environment.py": 17,
    "test_packets_stay.py": 9,
    "test_pool.py": 20,
    "test_proc_stats.py": 3,
    "test_races.py": 100,
    "test_runtime_folders.py": 23,
    "test_sampler.py": 22,
    "test_script_descriptors.py": 19,
    "test_seccomp.py": 36,
    "test_security.py": 35,
    "test_shell.py": 90,
    "test_system_image.py": 40,
    "test_vm_shares.py": 6,
}
_UNKNOWN_SECONDS = 10.0


class Step(NamedTuple):
    """One run of pytest in a guest. `who`: "root", or the ids and folders of an ordinary user."""

    who: str
    ids: bool
    cgroups: bool
    files: list[str]


def kernel_files() -> list[str]:
    """Every file of tests of the kernel that the leg runs as root."""
    out = LEFT_OUT if long_form() else {**LEFT_OUT, **LONG}
    return sorted(path.name for path in KERNEL_TESTS.glob("test_*.py") if path.name not in out)


def seconds(file: str, who: str = "root") -> float:
    """How long a file is expected to take there."""
    key = file if who == "root" else f"{file} as {who}"
    return SECONDS.get(key, SECONDS.get(file, _UNKNOWN_SECONDS))


def shares(files: Iterable[str] | None = None, as_user: bool = True) -> dict[str, list[Step]]:
    """Machine -> its runs of pytest: the longest first, each to the machine that has the least to do so far."""
    loads = dict.fromkeys(MACHINES, 0.0)
    roots: dict[str, list[str]] = {name: [] for name in MACHINES}
    users: dict[str, list[Step]] = {name: [] for name in MACHINES}
    for ids, cgroups, chosen in AS_USER if as_user else ():
        name = min(MACHINES, key=loads.__getitem__)
        users[name].append(Step("user", ids, cgroups, list(chosen)))
        loads[name] += sum(seconds(file, "user") for file in chosen)
    for file in sorted(kernel_files() if files is None else files, key=seconds, reverse=True):
        name = min(MACHINES, key=loads.__getitem__)
        roots[name].append(file)
        loads[name] += seconds(file)
    return {
        name: [*([Step("root", True, True, sorted(roots[name]))] if roots[name] else []), *users[name]]
        for name in MACHINES
    }  # fmt: skip


def orders(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """The steps as a guest is told them, in JSON's types."""
    return [step._asdict() for step in steps]
