"""The program that libseccomp makes of a profile: what podman's runtimes load."""

from __future__ import annotations

import ctypes
import os

from benchmarks.peers.worker import Missing
from ctlab.seccomp.compile import MACHINES
from ctlab.seccomp.docker import MULTIPLEXED
from ctlab.seccomp.profile import ALL_BITS, Profile

_OPERATORS = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6}
_MASKED_EQUAL = 7
_ARCHITECTURES = {"i386": b"x86", "arm": b"arm"}


class _Comparison(ctypes.Structure):  # struct scmp_arg_cmp
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def program(profile: Profile, capabilities: frozenset[str], machine: str) -> bytes:
    """For this machine and its 32-bit calls. Raises Missing where there is no libseccomp."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise Missing(str(error)) from None
    library.seccomp_init.restype, library.seccomp_init.argtypes = ctypes.c_void_p, (ctypes.c_uint32,)
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    add = library.seccomp_rule_add_array
    add.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison),
    )  # fmt: skip

    context = library.seccomp_init(profile.default)
    library.seccomp_arch_add(context, library.seccomp_arch_resolve_name(_ARCHITECTURES[MACHINES[machine][1][0]]))
    for rule in profile.rules:
        # What our reader adds for socketcall and ipc, libseccomp adds by itself.
        added = rule.conditions and rule.calls[0] in {whole for whole, _ in MULTIPLEXED.values()}
        if added or not rule.counts(capabilities, machine):
            continue
        compared = (_Comparison * max(1, len(rule.conditions)))(
            *(
                _Comparison(argument, _OPERATORS[operator], value, 0)
                if mask == ALL_BITS
                else _Comparison(argument, _MASKED_EQUAL, mask, value)
                for argument, operator, value, mask in rule.conditions
            )
        )
        for call in rule.calls:
            add(
                context,
                rule.action,
                library.seccomp_syscall_resolve_name(call.encode()),
                len(rule.conditions),
                compared,
            )
    descriptor = os.memfd_create("filter")
    try:
        library.seccomp_export_bpf(context, descriptor)
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
        library.seccomp_release(context)
