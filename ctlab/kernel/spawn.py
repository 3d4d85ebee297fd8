"""posix_spawn(3) with what Python's own lacks: the cgroup to be born in.

The C library makes the child with vfork semantics: no page table is copied and none torn down at `exec`, which
is most of what a fork of a Python process costs.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

SETSIGDEF, SETSIGMASK, SETSID, SETCGROUP = 0x04, 0x08, 0x80, 0x100  # spawn.h
# Larger than the structures are on any glibc or musl; they hold no pointers to themselves.
_ATTRIBUTES_BYTES, _ACTIONS_BYTES, _SIGSET_BYTES = 512, 256, 128

# POSIX_SPAWN_SETCGROUP came with glibc 2.39; without it the child is moved, which takes milliseconds.
CAN_SET_CGROUP = hasattr(_libc, "posix_spawnattr_setcgroup_np")


def _ok(number: int, what: str) -> None:
    if number:
        raise OSError(number, f"{what}: {os.strerror(number)}")


def spawn(
    path: str, argv: Sequence[str], environment: Mapping[str, str], streams: Mapping[int, int], cgroup: int = -1
) -> int:
    """Start a program in a session of its own; returns its pid. `streams`: descriptor there → descriptor here.

    `cgroup`: a v2 directory descriptor, -1 = where we are (ignored without `CAN_SET_CGROUP`).
    Raises OSError with what exec (or clone) said.
    """
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    actions = ctypes.create_string_buffer(_ACTIONS_BYTES)
    signals = ctypes.create_string_buffer(_SIGSET_BYTES)
    _ok(_libc.posix_spawnattr_init(attributes), "posix_spawnattr_init")
    _ok(_libc.posix_spawn_file_actions_init(actions), "posix_spawn_file_actions_init")
    try:
        flags = SETSIGDEF | SETSIGMASK | SETSID
        _ok(_libc.posix_spawnattr_setsigmask(attributes, signals), "posix_spawnattr_setsigmask")
        _libc.sigfillset(signals)
        _ok(_libc.posix_spawnattr_setsigdefault(attributes, signals), "posix_spawnattr_setsigdefault")
        if cgroup >= 0 and CAN_SET_CGROUP:
            flags |= SETCGROUP
            _ok(_libc.posix_spawnattr_setcgroup_np(attributes, cgroup), "posix_spawnattr_setcgroup_np")
        _ok(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)), "posix_spawnattr_setflags")
        for there, here in streams.items():
            _ok(_libc.posix_spawn_file_actions_adddup2(actions, here, there), "posix_spawn_file_actions_adddup2")
        words = (ctypes.c_char_p * (len(argv) + 1))(*[os.fsencode(word) for word in argv], None)
        pairs = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
        variables = (ctypes.c_char_p * (len(pairs) + 1))(*pairs, None)
        pid = ctypes.c_int(0)
        _ok(_libc.posix_spawn(ctypes.byref(pid), os.fsencode(path), actions, attributes, words, variables), path)
        return pid.value
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)
        _libc.posix_spawnattr_destroy(attributes)
