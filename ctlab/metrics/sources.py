"""Where a container's counters come from: one object per container, whatever the layout.

A source gives the values of `columns.CONTAINER` without the network's, in that order, NaN where unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from ctlab.kernel import cgroup_stats, proc_stats
from ctlab.kernel.kept_files import Room
from ctlab.metrics.columns import CONTAINER, NETWORK, SOURCE_CODES

NAMES = tuple(column.name for column in CONTAINER[: len(CONTAINER) - len(NETWORK)])


class Source(Protocol):
    """What the sampler asks of a container."""

    code: int

    def read(self, slow: bool) -> list[float] | None:
        """Values in the order of `NAMES`; None once the container is gone. `slow`: the expensive files as well."""
        ...

    def errors(self) -> int:
        """Reads that failed although the container was there, so far."""
        ...

    def close(self) -> None:
        """Close the descriptors."""
        ...


def _order(fields: Sequence[str]) -> list[int]:
    """For each of `NAMES` its position in `fields`; one past the end (where a NaN is put) if it isn't there."""
    return [fields.index(name) if name in fields else len(fields) for name in NAMES]


_CGROUP_ORDER = _order(cgroup_stats.FIELDS)
_PROC_ORDER = _order(proc_stats.FIELDS)


class CgroupSource:
    """A container in a cgroup of its own."""

    def __init__(self, kind: str, folders: Mapping[str, int], group: str, room: Room) -> None:
        """`kind`: ``cgroup-v1`` or ``cgroup-v2``; the others as in `CgroupReader`."""
        self.code = SOURCE_CODES[kind]
        self._reader = cgroup_stats.CgroupReader(kind.removeprefix("cgroup-"), folders, group, room)

    def read(self, slow: bool) -> list[float] | None:
        values = self._reader.read(slow=slow)
        if values is None:
            return None
        values.append(math.nan)
        return [values[position] for position in _CGROUP_ORDER]

    def errors(self) -> int:
        return self._reader.errors

    def close(self) -> None:
        self._reader.close()


class ProcSource:
    """A container without a cgroup: what /proc says of its processes."""

    code = SOURCE_CODES["proc"]

    def __init__(self, table: proc_stats.ProcessTable, pid: int, namespace: int | None = None) -> None:
        """`table` is shared and stays the caller's, who refreshes it once a tick.

        `namespace`, and an OSError, as in `ProcessTable.watch`.
        """
        self._table = table
        self._group = table.watch(pid, namespace)

    def read(self, slow: bool) -> list[float] | None:
        values = self._table.read(self._group)
        if values is None:
            return None
        values.append(math.nan)
        return [values[position] for position in _PROC_ORDER]

    def errors(self) -> int:
        return 0  # the table counts its own

    def close(self) -> None:
        self._table.forget(self._group)
