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
    if not context.option("keep"):
        for view in [view for view in lab.views if isinstance(view, Topology)]:
            view.freeze()
            lab.views.remove(view)
    return lab.topology()


VERBS = {"topology show": show}
