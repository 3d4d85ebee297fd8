"""%stats: counters and rates, as a frame or as a live chart."""

from __future__ import annotations

import time
from typing import Any

from ..errors import NotFound
from .magic_context import Context


def show(context: Context) -> Any:
    """`%stats [CONTAINER…]`: the frame; --live: the Dashboard; --columns: what there is to ask for."""
    if context.option("columns"):
        from ..metrics.columns import columns

        return columns()
    lab = context.lab
    if context.option("stop"):
        return _stop(lab)
    for name in context.subjects:
        lab[name]  # which says what there is instead
    containers = context.subjects or None
    if context.option("live"):
        return _live(context, lab, containers)
    options: dict[str, Any] = {"last": context.option("last", "30s")}
    since = context.option("since")
    if since is not None:
        options = {"since": time.time() - since if isinstance(since, float) else since, "last": None}
    if context.option("by"):
        options["by"] = context.option("by")
    metrics = context.option("metrics")
    return lab.stats(containers=containers, metrics=metrics, **options)


def _dashboards(lab: Any) -> list[Any]:
    from .dashboard import Dashboard

    return [view for view in list(lab.views) if isinstance(view, Dashboard)]


def _live(context: Context, lab: Any, containers: list[str] | None) -> Any:
    from .dashboard import Dashboard

    every = context.option("interval", context.magics.refresh)
    made = Dashboard(lab, containers, last=context.option("last", "60s"), refresh_hz=1 / every)
    if not context.option("keep"):
        _stop(lab, missing_is_fine=True)
    lab.views.append(made)
    return made


def _stop(lab: Any, *, missing_is_fine: bool = False) -> Any:
    found = _dashboards(lab)
    if not found and not missing_is_fine:
        raise NotFound(f"no live chart of lab '{lab.name}'; %stats --live makes one")
    for dashboard in found:
        if lab._forget_view(dashboard):
            dashboard.stop()
    return None


VERBS = {"stats show": show}
