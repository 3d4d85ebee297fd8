"""From the rings of counters to frames, and waiting for what a container does."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from .errors import BadInput, LabGone, StateError, TimedOut
from .keywords import unknown_keyword
from .runtime import messages, packets

if TYPE_CHECKING:
    import pandas

    from .container import Container
    from .lab import Lab
    from .metrics.ring import Ring


def _rings(lab: Lab) -> Any:
    """The mapped rings (containers, endpoints); they stay readable when the lab was stopped. Raises LabGone."""
    if lab.died:
        lab._alive()
    if lab._rings is None:
        lab._rings = attached(lab)
    return lab._rings


def attached(lab: Lab) -> tuple[Ring, Ring]:
    """The rings, mapped anew. Raises LabGone for what is none."""
    from .metrics.columns import CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA
    from .metrics.ring import Ring

    found: list[Ring] = []
    descriptors = lab._call(messages.Rings(), messages.Counters).descriptors
    with lab._client.doubting("the rings of counters"):
        try:
            for schema in (CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA):
                found.append(Ring.attach(descriptors[0], schema))
                del descriptors[0]
        except ValueError:
            packets.discard(descriptors)
            raise
    containers, endpoints = found
    return containers, endpoints


def sampled(lab: Lab) -> tuple[Ring, dict[int, str]]:
    """See `Lab.sampled`."""
    lab._alive()
    return _rings(lab)[0], dict(lab._names)


def _read_now(lab: Lab) -> None:
    """Have all counters read once more: what has just been done is in no row of the sampler's grid yet."""
    with contextlib.suppress(LabGone):  # there is none any more: what there is can be looked at all the same
        lab._call(messages.Sampler({"do": "now"}), messages.Ok)


def stats(
    lab: Lab, *, containers: Any = None, metrics: Any = None, last: Any = "30s", by: str = "container", **options: Any
) -> pandas.DataFrame:
    """See `Lab.stats`."""
    from .metrics.frame import OPTIONS, Names, read_frame

    for word in options:
        if word not in OPTIONS:
            raise unknown_keyword(word, ("containers", "metrics", "last", "by", *OPTIONS))
    containers_ring, endpoints_ring = _rings(lab)
    if not lab.gone:
        _read_now(lab)
    nodes = dict.fromkeys(list(lab._names), "host")
    names = Names(containers=dict(lab._names), endpoints=dict(lab._endpoint_names), nodes=nodes)
    if containers is not None and not isinstance(containers, str):
        several = [containers] if hasattr(containers, "name") else containers
        containers = [c if isinstance(c, str) else c.name for c in several]
    return read_frame(
        containers_ring, endpoints_ring, names, by=by, containers=containers, metrics=metrics, last=last, lab=lab.name,
        **options,
    )  # fmt: skip


def wait_for_port(container: Container, port: int, timeout_seconds: float) -> None:
    """Until something listens on a TCP port inside; the kernel's socket table is read, nothing is connected to."""
    if not 1 <= int(port) <= 65535:
        raise BadInput(f"port {port}: from 1 to 65535")
    until = time.monotonic() + timeout_seconds
    while True:
        if int(port) in container.lab._call(messages.Listening(container.id), messages.Ports).message.ports:
            return
        if container.state not in ("running", "paused"):
            raise StateError(
                f"{container.name} ended (status {container.returncode}) before it listened on port {port}"
            )
        if time.monotonic() >= until:
            raise TimedOut(f"nothing listens on port {port} of {container.name} after {timeout_seconds:g} s")
        time.sleep(0.005)
