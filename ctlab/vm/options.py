"""How large a VM is: memory and CPUs, as people write them."""

from __future__ import annotations

import os
from typing import NamedTuple

from .. import units
from ..errors import BadInput

DEFAULT_MEMORY_BYTES = 512 << 20
DEFAULT_CPUS = 1
# With 160M a container ran and 14M were free; with 128M the kernel soon killed the supervisor, with 112M it panicked.
MINIMUM_MEMORY_BYTES = 192 << 20
_LARGEST_CPUS = 255  # of the machine types that are used


class VmOptions(NamedTuple):
    """A VM's size."""

    memory_bytes: int = DEFAULT_MEMORY_BYTES
    cpus: int = DEFAULT_CPUS


def parse(memory: str | int | None, cpus: int | None) -> VmOptions:
    """The size from what was typed (`512M`, bytes; None: the default). Raises BadInput with one line."""
    memory_bytes = DEFAULT_MEMORY_BYTES if memory is None else units.parse_size(memory)
    if memory_bytes < MINIMUM_MEMORY_BYTES:
        least = units.format_size(MINIMUM_MEMORY_BYTES)
        raise BadInput(f"{memory!r} of memory is too little for a VM lab: it needs at least {least.upper()}")
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory_bytes > machine_bytes:
        has = units.format_size(machine_bytes, 3)
        raise BadInput(f"{memory!r} of memory is more than this machine has ({has})")
    memory_bytes = -(-memory_bytes // (1 << 20)) * (1 << 20)  # QEMU counts in MiB
    if cpus is None:
        return VmOptions(memory_bytes, DEFAULT_CPUS)
    if isinstance(cpus, bool) or not isinstance(cpus, int):
        raise BadInput(f"{cpus!r} isn't a number of CPUs for a VM: write 1 or 2")
    if not 1 <= cpus <= _LARGEST_CPUS:
        raise BadInput(f"{cpus!r} CPUs: a VM has 1 to {_LARGEST_CPUS}")
    return VmOptions(memory_bytes, cpus)
