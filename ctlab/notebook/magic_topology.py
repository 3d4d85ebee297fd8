"""%topology: the map."""

from __future__ import annotations

from typing import Any

from .magic_context import Context


def show(context: Context) -> Any:
    """`%topology`: a live map, which replaces the lab's earlier one; --freeze: a still one."""
    from .topology import Topology

    lab = context.lab
    if context.option("freeze"):
        still = Topology(lab)
        still.freeze()
        return still
    return lab.topology(keep=bool(context.option("keep")))


VERBS = {"topology show": show}
