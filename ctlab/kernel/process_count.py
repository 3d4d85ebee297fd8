"""Whom the kernel counts for the limit of processes (RLIMIT_NPROC)."""

from __future__ import annotations

import re

_PER_NAMESPACE = (5, 14)


def per_namespace(release: str) -> bool:
    """Whether a kernel counts a user's processes in each user namespace by itself.

    Before, it counted all that the user had on the machine: the notebook's own as well.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _PER_NAMESPACE
