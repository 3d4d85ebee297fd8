"""What the frames of listings hold: values to compute with, where the tables that are shown hold texts.

Each column has what pandas calls its type ("time": seconds since the epoch become UTC) and what gives the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from .apart import ready

if TYPE_CHECKING:
    import pandas

Values = Mapping[str, tuple[str, Callable[[Any], Any]]]


def _address(version: int) -> Callable[[Any], str | None]:
    """The first address of that version, bare."""

    def first(container: Any) -> str | None:
        found = (ip_interface(text) for endpoint in container.endpoints for text in endpoint.addresses)
        return next((str(one.ip) for one in found if one.version == version), None)

    return first


def _of_version(texts: Sequence[str], version: int) -> str | None:
    return next((text for text in texts if ip_interface(text).version == version), None)


CONTAINER: Values = {
    "name": ("object", lambda c: c.name),
    "state": ("object", lambda c: c.state),
    "image": ("object", lambda c: c.image),
    "command": ("object", lambda c: tuple(c.command)),
    "networks": ("object", lambda c: tuple(endpoint.network for endpoint in c.endpoints)),
    "ipv4": ("object", _address(4)),
    "ipv6": ("object", _address(6)),
    "pid": ("Int64", lambda c: c.pid),
    "returncode": ("Int64", lambda c: c.returncode),
    "oom_killed": ("bool", lambda c: c.oom_killed),
    "created_at": ("time", lambda c: c.created_at),
    "started_at": ("time", lambda c: c.started_at),
    "finished_at": ("time", lambda c: c.finished_at),
}

NETWORK: Values = {
    "name": ("object", lambda n: n.name),
    "driver": ("object", lambda n: n.driver),
    "ipv4_subnet": ("object", lambda n: _of_version(n.subnets, 4)),
    "ipv6_subnet": ("object", lambda n: _of_version(n.subnets, 6)),
    "ipv4_gateway": ("object", lambda n: _of_version(n.gateways, 4)),
    "ipv6_gateway": ("object", lambda n: _of_version(n.gateways, 6)),
    "containers": ("int64", lambda n: len(n.containers)),
    "internal": ("bool", lambda n: n.spec.internal),
}


def frame(items: Sequence[Any], values: Values) -> pandas.DataFrame:
    """One row for each item; all columns also where there is none."""
    ready("pandas")
    import pandas

    found = {}
    for name, (kind, get) in values.items():
        column = [get(item) for item in items]
        if kind == "time":
            found[name] = pandas.Series(pandas.to_datetime(column, unit="s", utc=True))
        else:
            found[name] = pandas.Series(column, dtype=kind)
    return pandas.DataFrame(found)
