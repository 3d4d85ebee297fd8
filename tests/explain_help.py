"""What the two comparisons of printed commands with the executor share."""

from __future__ import annotations

import re
from typing import Any

# What can't be equal: indices count what a namespace (or, for a peer's, the whole machine) has ever had; timers tick.
_NEVER_EQUAL = re.compile(r"ifindex|link_index|.*_timer")


def comparable(value: Any) -> Any:
    """Without what can't be equal."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: comparable(item) for key, item in value.items() if not _NEVER_EQUAL.fullmatch(key)}
    if re.fullmatch(r"v\d+\.\d+", str(found.get("ifname"))):
        found.pop("address", None)  # of the node's end: nobody sets it, the kernel draws one
    return found
