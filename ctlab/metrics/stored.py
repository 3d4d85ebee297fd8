"""Rows of a ring as plain JSON values, and back: exactly the same numbers.

A column is a list, or one value if all rows have the same; None is NaN, "inf" is infinity. int64 columns (time stamps,
keys) are written as differences, which compress well. Pure.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from ctlab.metrics.ring import Schema, Snapshot


def pack(rows: Snapshot) -> dict[str, Any]:
    """What `unpack` takes: ``{"rows": how many, "columns": {name: values}}``."""
    columns: dict[str, Any] = {}
    for name, values in rows.columns.items():
        if values.typecode == "q":
            written: list[Any] = [b - a for a, b in zip([0, *values], values, strict=False)]
        else:
            written = [_written(value) for value in values]
        columns[name] = written[0] if values.typecode == "d" and len(set(written)) == 1 else written
    return {"rows": len(rows), "columns": columns}


def unpack(packed: Mapping[str, Any], schema: Schema) -> Snapshot:
    """The rows with all columns of `schema`: NaN in one that wasn't recorded; one that is no longer known is left out.

    Raises KeyError for a missing time stamp or key, ValueError for a column of another length.
    """
    count = int(packed["rows"])
    columns: dict[str, array[int] | array[float]] = {}
    for name, kind in schema.columns:
        if kind == "q":
            columns[name] = array("q", accumulate(packed["columns"][name]))
        else:
            values = packed["columns"].get(name)
            several = values if isinstance(values, list) else [values] * count
            columns[name] = array("d", [math.nan if value is None else float(value) for value in several])
        if len(columns[name]) != count:
            raise ValueError(f"column {name} has {len(columns[name])} values for {count} rows")
    return Snapshot(schema, columns, 0, count, 0)


def _written(value: float) -> int | float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return str(value)
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
