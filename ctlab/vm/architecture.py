"""What differs between processor architectures: names of packages and programs, machine types, the console."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import Unsupported


class Architecture(NamedTuple):
    """One architecture of host and guest (they are always the same one)."""

    machine: str  # uname -m
    debian: str  # as Debian and Ubuntu call it
    qemu: str  # the program
    qemu_package: str
    kernel_packages: tuple[str, ...]  # packages that depend on the newest kernel image
    machine_type: str  # QEMU's, for -machine
    console: str  # the kernel's name of the first serial port
    elf_machine: int  # e_machine of its programs


_KNOWN = {
    known.machine: known
    for known in (
        Architecture(
            "x86_64", "amd64", "qemu-system-x86_64", "qemu-system-x86",
            ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64"), "q35", "ttyS0", 62,
        ),
        Architecture(
            "aarch64", "arm64", "qemu-system-aarch64", "qemu-system-arm",
            ("linux-image-cloud-arm64", "linux-image-virtual", "linux-image-arm64"), "virt", "ttyAMA0", 183,
        ),
    )
}  # fmt: skip


def of(machine: str) -> Architecture:
    """The architecture that `uname -m` calls so. Raises Unsupported."""
    found = _KNOWN.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine))
    if found is None:
        raise Unsupported(f"a VM lab runs on {' and '.join(_KNOWN)}, and this machine is {machine}")
    return found


def here() -> Architecture:
    """This machine's. Raises Unsupported."""
    return of(os.uname().machine)


def named(elf_machine: int) -> str:
    """What an e_machine number is called, for messages."""
    return next((known.machine for known in _KNOWN.values() if known.elf_machine == elf_machine), str(elf_machine))
