"""Everything known of a container, as plain values."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from . import engines, executing, filters
from .errors import CtlabError
from .runtime import messages

if TYPE_CHECKING:
    from .container import Container


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def inspect_container(container: Container) -> dict[str, Any]:
    """What was asked for, what the lab chose, what the kernel says now."""
    known = None
    try:
        known = container.lab._call(messages.Facts(container.id), messages.Known).message
    except CtlabError:
        if container.lab.gone:
            raise
        # it has just gone: what was known of it still is
    spec = container.spec
    limits = {k: v for k, v in dataclasses.asdict(spec.limits).items() if v is not None and k != "pids_default"}
    # What its program runs with, which an update doesn't change; else what it would be started with.
    processes = container._processes if container.state in ("running", "paused") else executing.processes(container)
    if processes:
        limits["ulimit_nproc"] = processes
    return {
        "name": container.name,
        "id": container.id,
        "state": container.state,
        "pid": container.pid,
        "returncode": container.returncode,
        "oom_killed": container.oom_killed,
        "image": spec.image,
        "command": list(spec.command),
        "env": dict(spec.env),
        "workdir": spec.workdir,
        "user": spec.user,
        "hostname": spec.hostname,
        "limits": limits,
        "memory_usage_bytes": None if known is None else known.memory_usage_bytes,
        "network_mode": spec.network_mode,
        "endpoints": [dataclasses.asdict(e) | {"addresses": list(e.addresses)} for e in container.endpoints],
        "mounts": [dataclasses.asdict(m) for m in spec.mounts],
        "capabilities": list(spec.capabilities),
        "no_new_privileges": True,
        "seccomp": filters.describe(spec, engines.kernel_release(container.lab)),
        "namespaces": {} if known is None else known.namespaces,
        "labels": dict(spec.labels),
        "created_at": _when(container.created_at),
        "started_at": _when(container.started_at),
        "finished_at": _when(container.finished_at),
        "node": spec.node,
    }
