"""Who reads this machine's files for the guest: where we are root, the user nobody, and else we ourselves."""

from __future__ import annotations

import os
import pwd

from ..errors import Unsupported

_NOBODY = "nobody"
_MAPS = ("/proc/self/uid_map", "/proc/self/gid_map")


def reader() -> tuple[int, int] | None:
    """(uid, gid) to become; None: nobody else, since what we may read is what an ordinary user may. Raises Unsupported.

    In a user namespace (`unshare -r`, a rootless container) root may have no other user to become. If it is an
    ordinary user outside, it reads what that one may; if it is root there too, nothing would keep root's files from
    the guest.
    """
    if os.getuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_NOBODY)
        ids = entry.pw_uid, entry.pw_gid
    except KeyError:
        ids = None
    if ids is not None and _can_become(ids):
        return ids
    outside = _outside(_MAPS[0], 0)
    if outside:
        return None
    where = "in this user namespace" if ids is not None else "here"
    raise Unsupported(
        f"started by root, a VM shares only what the user nobody may read, and there is no such user {where}: "
        f"{'start the lab outside of it' if ids is not None else 'make it'}, or start it as an ordinary user"
    )


def _can_become(ids: tuple[int, int]) -> bool:
    """Whether both ids are there, and root's groups can be left behind."""
    try:
        with open("/proc/self/setgroups", encoding="ascii") as file:
            if file.read().strip() == "deny":
                return False
    except OSError:
        pass
    return all(_outside(path, number) is not None for path, number in zip(_MAPS, ids, strict=True))


def _outside(path: str, number: int) -> int | None:
    """What an id is called outside of this user namespace; None if it isn't mapped."""
    try:
        with open(path, encoding="ascii") as file:
            lines = [tuple(map(int, line.split())) for line in file]
    except OSError:
        return number  # a kernel without user namespaces
    for inside, outside, count in lines:
        if inside <= number < inside + count:
            return outside + number - inside
    return None
