"""Where ctlab may reach more than podman, and why. A row that no report needs fails the test; `*` stands for anything.

The rows are shown in docs/security.md (`scripts/wall-table.py` writes them there).
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Facts (see `wall_table.py`) that may be, and why they do no harm."""

    facts: str
    reason: str


EXCEPTIONS = (
    Row(
        "mount /dev/* allows: setuid",
        "each is one device node of the machine, bound over a file; a device can't be executed",
    ),
    Row("mount /dev/* allows: execute", "the same"),
    Row(
        "mount /proc/keys allows: write",
        "the machine's /dev/null lies over the file, and takes what is written; podman makes the same mount read-only",
    ),
    Row("mount /proc/timer_list allows: write", "the same"),
    Row("mount /proc/interrupts allows: *", "the same; podman doesn't hide this file"),
    Row(
        "call landlock_restrict_self",
        "it only takes from its caller; the kernel wants no_new_privs for it, which podman's containers haven't",
    ),
    Row("call personality", "of -1, which asks and changes nothing; podman's filter knows that number in 32 bits only"),
    Row(
        "sees the process ctlab-init",
        "the first process of a container without a command, which podman hasn't",
    ),
    Row(
        "looks into the first process: *",
        "the same one: a page of machine code; all that it has is the container's root and environment",
    ),
)

# In a VM, beside podman on this machine as a user with a range of ids.
OF_A_VM = (
    Row("reads /proc/*", "of another kernel, which has more in it; nothing there is the machine's"),
    Row("reads /sys/*", "the same: its devices are those that QEMU makes up"),
    Row("more of limit nofile", "the guest's own limits, in a machine whose memory is bounded"),
    Row("more of limit nproc", "the same"),
    Row("becomes traceable by all", "that kernel has the security module Yama, whose question this is"),
    Row(
        "mount /proc/kcore allows: *",
        "an empty device lies over it; the kernel here has no such file",
    ),
)

# What the image `system` adds to a folder of the same machine.
OF_THE_SYSTEM: tuple[Row, ...] = ()
