"""Which kernel tests run again as an ordinary user, as which kinds of users, and which don't, with why. Pure.

A new file of tests/kernel has to be in one of the four tables; a test looks that it is. Files of other folders,
which are run besides, are written as paths from there.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernel_help import long_form

# Kind of user: a range of ids in /etc/subuid, cgroup folders delegated.
KINDS: Mapping[str, tuple[bool, bool]] = {
    "range-and-folders": (True, True),
    "range": (True, False),
    "one-id": (False, False),
}
# What depends on who one is: as each kind of user, always.
FOR_EACH = ("test_containers.py",)
# What a kind of user is distinguished by, or is without: as that one, in the long form as each.
FOR_ONE: Mapping[str, tuple[str, ...]] = {
    "range-and-folders": ("test_cgroup_stats.py", "test_container_limits.py", "test_oom_quick.py"),
    "range": ("test_copy.py", "test_images.py", "test_packets_stay.py", "test_proc_stats.py", "test_security.py"),
    "one-id": (
        "test_capabilities.py", "test_copy_hardening.py", "test_hostile_files.py", "test_launcher.py",
        "test_runtime_folders.py", "test_system_image.py",
    ),
}  # fmt: skip
# In the long form alone, as each: they take long, or what they look at is the same for all users.
LONG = (
    "test_abandoned_starts.py", "test_bad_input_python.py", "test_beside_ends.py", "test_cgroup_discovery.py",
    "test_channel.py", "test_channel_ends.py", "test_container_life.py", "test_container_names.py",
    "test_copy_races.py", "test_dead_lab.py", "test_descriptors.py", "test_doctor.py", "test_dump.py",
    "test_engines.py", "test_exec.py", "test_explain_container.py", "test_explain_node.py", "test_filters.py",
    "test_flood_descriptors.py", "test_flood_keys.py", "test_flood_memory.py", "test_flood_networks.py",
    "test_flood_processes.py", "test_flood_storage.py", "test_growth.py", "test_helpers.py", "test_host_mounts.py",
    "test_hostile_archives.py", "test_interrupt_groups.py", "test_interrupted_changes.py", "test_interrupts.py",
    "test_keyring.py", "test_labs.py", "test_link_stats.py", "test_logs.py", "test_many_callers.py",
    "test_netlink_decoded.py", "test_networks.py", "test_openat2.py", "test_operations.py", "test_own_limits.py",
    "test_owner_environment.py", "test_pool.py", "test_races.py", "test_real_programs.py", "test_sampler.py",
    "test_script_descriptors.py", "test_seccomp.py", "test_shell.py", "test_vm_cache.py", "test_vm_shares.py",
    "../notebook/test_dead_lab_magics.py", "../notebook/test_fingers.py", "../wall/test_around.py",
    "../wall/test_escape_classes.py", "../wall/test_escapes.py",
)  # fmt: skip
_ROOTS_FOLDERS = "makes folders in hierarchies that are root's; test_cgroup_user.py does the same as a user"
LEFT_OUT: Mapping[str, str] = {
    "test_as_user.py": "is what runs the others",
    "test_cgroup.py": _ROOTS_FOLDERS,
    "test_cgroup_freeze.py": _ROOTS_FOLDERS,
    "test_cgroup_lab.py": _ROOTS_FOLDERS,
    "test_cgroup_user.py": "makes its ordinary users itself, as root",
    "test_id_ranges.py": "only root's labs have ranges of their own",
    "test_nested_ids.py": "makes its ordinary users itself, as root",
}
# How many tests pass at least, in the short form and in the long one: fewer are skipped where something is lacking.
LEAST_PASSED: Mapping[str, tuple[int, int]] = {
    "range-and-folders": (40, 700),
    "range": (70, 700),
    "one-id": (80, 700),
}
# What may be skipped for each kind of user; anything else that is skipped fails the leg. What
# scripts/system-packages.sh installs for the tests is not lacking.
_ANYONE = (
    "needs root", "version 2 folder", "this lab has", "this kernel has no", "this kernel lacks",
    "this kernel takes no 32-bit calls", "this kernel has netem", "the kernel's configuration can't be read here",
    "needs pidfd_getfd", "int 0x80 is x86's", "an x86 program", "/dev/net/tun: EACCES", "this machine's mtr-packet",
    "no node here", "no java here", "no busctl here",
)  # fmt: skip
_MAY_SKIP: Mapping[str, tuple[str, ...]] = {
    "range-and-folders": (*_ANYONE, "limits can be set here"),
    "range": (*_ANYONE, "no cgroup"),
    "one-id": (*_ANYONE, "no cgroup", "only one user id"),
}
# Of who has cgroup folders: what the machine's version of cgroups has not.
_OF_VERSION: Mapping[str, tuple[str, ...]] = {
    "v1": ("no cgroup v2 controllers on this machine",),
    "v2": (
        "no cgroup v1 on this machine",
        "version 2 ends the whole container",
        "no cgroup version 1 here for this user",
    ),
    "none": (),
}


def may_skip(kind: str, version: str) -> tuple[str, ...]:
    """Parts of the reasons for which this kind of user may skip a test, where its labs have cgroups of this version."""
    return (*_MAY_SKIP[kind], *_OF_VERSION[version])


def files_for(kind: str) -> list[str]:
    """The files that are run as this kind of user, relative to tests/kernel."""
    every = (*(name for names in FOR_ONE.values() for name in names), *LONG)
    return [*FOR_EACH, *(every if long_form() else FOR_ONE[kind])]


def decided() -> list[str]:
    """Every file that a table names, as often as it does."""
    return [*FOR_EACH, *(name for names in FOR_ONE.values() for name in names), *LONG, *LEFT_OUT]
