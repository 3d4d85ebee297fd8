"""Capability names and the small default set (podman's eleven)."""

from __future__ import annotations

import os

from . import syscalls

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

NUMBER = {name: number for number, name in enumerate(NAMES)}

DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
)  # fmt: skip

# What a container may ask for beyond the default set; the rest would reach the whole lab. (SYS_PTRACE, too: it holds in
# the lab's user namespace, so by a pidfd that a socket hands out another container's descriptors can be taken, and a
# program that is exec'ed be seized while it still is a runner's child. Who has the same user needs none to trace.)
GRANTABLE = (
    "NET_ADMIN", "NET_RAW", "SYS_NICE", "SYS_RESOURCE", "IPC_LOCK", "MKNOD", "AUDIT_WRITE", "DAC_READ_SEARCH",
    "SYS_TIME", "LEASE", "NET_BROADCAST", *DEFAULT,
)  # fmt: skip


def mask(names: tuple[str, ...] | list[str]) -> int:
    """The bit mask of capability names (without ``CAP_``)."""
    total = 0
    for name in names:
        total |= 1 << NUMBER[name]
    return total


_ATTRIBUTE = "security.capability"  # of a file; linux/capability.h: struct vfs_cap_data, little-endian
_EFFECTIVE = 1


def lacking(path: str, keep: int) -> list[str]:
    """The capabilities of a program's file that aren't in `keep`, where the kernel won't execute it without (EPERM).

    A file whose capabilities aren't effective by themselves is executed without them.
    """
    try:
        data = os.getxattr(path, _ATTRIBUTE)
    except OSError:
        return []
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - 3, 4)]
    if len(words) < 3 or not words[0] & _EFFECTIVE:
        return []
    permitted = words[1] | (words[3] << 32 if len(words) > 3 else 0)
    return [name for name, number in NUMBER.items() if permitted & ~keep & 1 << number]


def drop_bounding(keep: int) -> None:
    """Drop every capability outside `keep` from the bounding set; those the kernel doesn't know are skipped."""
    for number in range(len(NAMES)):
        if not keep >> number & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError:
                return  # EINVAL: the kernel knows no capability from this number on


def limit(keep: int) -> None:
    """Leave the calling thread only the capabilities of `keep`: bounding, permitted, effective; none inheritable."""
    drop_bounding(keep)
    syscalls.capset(keep, keep, 0)
