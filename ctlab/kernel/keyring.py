"""Session keyrings: what a lab has in place of the keys of the person who started it.

A process inherits its session keyring, and whoever possesses one reads what is in it. So a lab joins an empty one,
once, before anything of a container exists, and takes every permission from it: inside, `add_key`, `request_key` and
`keyctl` on it are EACCES. One a lab and not one a container, since a user has a quota (200 keys), and who has used it
up would get no keyring, but keep the one before. See keyctl(2), session-keyring(7). Lean: see `kernel.lean`.
"""

from __future__ import annotations

import ctypes
import errno
import os

_X86 = os.uname().machine in ("x86_64", "AMD64")
_SYS_KEYCTL = 250 if _X86 else 219
_GET_KEYRING_ID, _JOIN_SESSION_KEYRING, _SETPERM = 0, 1, 5
_SESSION_KEYRING = -3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _keyctl(operation: int, first: int | None = None, second: int = 0) -> int:
    """keyctl(2): what it returns, or minus the errno."""
    result: int = _libc.syscall(
        ctypes.c_long(_SYS_KEYCTL), ctypes.c_int(operation), None if first is None else ctypes.c_long(first),
        ctypes.c_ulong(second),
    )  # fmt: skip
    return result if result >= 0 else -ctypes.get_errno()


def leave() -> None:
    """Join an empty session keyring that nobody may use. Raises OSError; where the kernel has no keys, none are lost.

    Nor are any where a filter of system calls (Docker's) forbids them to us, and with us to all that we start.
    """
    joined = _keyctl(_JOIN_SESSION_KEYRING)
    if joined < 0:
        number = -joined
        if number in (errno.ENOSYS, errno.EPERM) and _keyctl(_GET_KEYRING_ID, _SESSION_KEYRING) == joined:
            return
        hint = "; this user's quota of keys is used up (/proc/key-users)" if number == errno.EDQUOT else ""
        raise OSError(number, f"keyctl: join an empty session keyring: {errno.errorcode.get(number, number)}{hint}")
    done = _keyctl(_SETPERM, joined, 0)
    if done < 0:
        name = errno.errorcode.get(-done, str(-done))
        raise OSError(-done, f"keyctl: take the permissions from the lab's session keyring: {name}")
