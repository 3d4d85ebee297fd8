"""Frames: windows, rates from real time stamps, keys, resampling, sums, and what is refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from ctlab.errors import BadInput, NotFound, Unsupported
from ctlab.metrics.columns import (
    CONTAINER,
    CONTAINERS_SCHEMA,
    ENDPOINTS_SCHEMA,
    NETWORK,
    columns,
    rate_name,
)
from ctlab.metrics.frame import Names, build_frame, read_frame
from ctlab.metrics.ring import Ring, Schema, Snapshot

T0 = 1_700_000_000_123_456_789
SECOND = 1_000_000_000
NAMES = Names(
    {1: "web", 2: "client", 3: "web"},  # 3: an earlier web that was replaced
    {10: ("web", "blue", "eth0"), 11: ("web", "green", "eth1"), 20: ("client", "blue", "eth0")},
    {1: "host", 2: "far", 3: "host"},
)


def container_row(time: int, read: int, key: int, source: int = 1, **values: float) -> list[float]:
    return [time, read, key, source, *(values.get(column.name, math.nan) for column in CONTAINER)]


def endpoint_row(time: int, read: int, key: int, endpoint: int, rx: float) -> list[float]:
    return [time, read, key, endpoint, rx, *(math.nan for _ in NETWORK[1:])]


def snapshot(rows: list[list[float]], schema: Schema = CONTAINERS_SCHEMA, capacity: int = 1000) -> Snapshot:
    ring = Ring.create(schema, capacity)
    ring.append_rows(rows)
    copied = ring.snapshot()
    ring.close()
    return copied


def two_containers() -> Snapshot:
    """web: 0.5 cores, read late at the second tick; client: 1 core, its counter starts anew at the last tick."""
    return snapshot(
        [
            container_row(T0, 0, 1, cpu_seconds_total=10.0, memory_bytes=100),
            container_row(T0, 5, 2, cpu_seconds_total=1.0, memory_bytes=7),
            container_row(T0 + SECOND, SECOND + SECOND // 2, 1, cpu_seconds_total=10.75, memory_bytes=300),
            container_row(T0 + SECOND, SECOND + 5, 2, cpu_seconds_total=2.0),
            container_row(T0 + 2 * SECOND, 2 * SECOND, 1, cpu_seconds_total=11.0, memory_bytes=200),
            container_row(T0 + 2 * SECOND, 2 * SECOND + 5, 2, cpu_seconds_total=0.25),
        ]
    )


def test_shape_of_a_frame() -> None:
    frame = build_frame(two_containers(), NAMES, attrs={"lab": "demo"})
    assert frame.index.name == "time" and str(frame.index.dtype) == "datetime64[ns, UTC]"
    assert frame.index[0].value == T0 and not frame.index.is_unique
    assert list(frame.columns[:2]) == ["container", "source"]
    assert all(str(frame[key].dtype) == "category" for key in ("container", "source"))
    assert list(frame["container"]) == ["web", "client"] * 3
    assert all(frame[name].dtype == np.float64 for name in frame.columns[2:])
    assert list(frame.columns[2 : 2 + len(CONTAINER)]) == [column.name for column in CONTAINER]
    assert frame.attrs == {"schema": 1, "lab": "demo", "overwritten_samples": 0}
    both = pd.concat([frame, frame])
    assert len(both) == 12 and both.attrs == frame.attrs


def test_rates_come_from_the_time_at_which_each_row_was_read() -> None:
    frame = build_frame(two_containers(), NAMES)
    web = frame[frame["container"] == "web"]["cpu_cores"]
    assert math.isnan(web.iloc[0])
    assert web.iloc[1] == pytest.approx(0.75 / 1.5)
    assert web.iloc[2] == pytest.approx(0.25 / 0.5)
    client = frame[frame["container"] == "client"]["cpu_cores"]
    assert client.iloc[1] == pytest.approx(1.0)
    assert math.isnan(client.iloc[2])  # a counter that fell gives no rate
    assert not [name for name in build_frame(two_containers(), NAMES, rates=False) if "per_second" in str(name)]
    assert rate_name("rx_bytes_total") == "rx_bytes_per_second"


def test_a_counter_that_is_sampled_now_and_then_has_rates_at_those_rows() -> None:
    known = {0: 1.0, 3: 1.75, 4: 2.75}
    rows = [
        container_row(T0 + n * SECOND, n * SECOND, 1, io_pressure_seconds_total=known.get(n, math.nan))
        for n in range(6)
    ]
    rates = build_frame(snapshot(rows), NAMES)["io_pressure_seconds_per_second"]
    assert rates.isna().tolist() == [True, True, True, False, False, True]
    assert rates.tolist()[3:5] == pytest.approx([0.25, 1.0])


def test_two_containers_of_one_name_are_not_mixed_up() -> None:
    rows = [
        container_row(T0, 0, 3, cpu_seconds_total=100.0),
        container_row(T0 + SECOND, SECOND, 1, cpu_seconds_total=200.0),
        container_row(T0 + 2 * SECOND, 2 * SECOND, 1, cpu_seconds_total=201.0),
    ]
    frame = build_frame(snapshot(rows), NAMES)
    assert list(frame["container"]) == ["web"] * 3
    assert frame["cpu_cores"].isna().tolist() == [True, True, False]


def test_nothing_is_filled() -> None:
    frame = build_frame(two_containers(), NAMES)
    assert frame["memory_bytes"].isna().tolist() == [False, False, False, True, False, True]
    assert frame["pids"].isna().all()


def test_wide_and_long_as_people_write_them() -> None:
    frame = build_frame(two_containers(), NAMES)
    wide = frame.pivot(columns="container", values="cpu_cores")
    assert list(wide.columns) == ["web", "client"] and len(wide) == 3
    import plotly.express as px

    figure = px.line(frame, y="cpu_cores", color="container")
    assert [trace.name for trace in figure.data] == ["web", "client"]


def test_windows() -> None:
    rows = two_containers()
    assert len(build_frame(rows, NAMES, last="1s")) == 4
    assert len(build_frame(rows, NAMES, last=0.5)) == len(build_frame(rows, NAMES, last=timedelta(seconds=0))) == 2
    assert len(build_frame(rows, NAMES, last=None)) == 6
    assert len(build_frame(rows, NAMES, last="1ns", since=T0 / SECOND + 0.5)) == 4
    exact = pd.Timestamp(T0 + SECOND, unit="ns", tz="UTC")
    assert len(build_frame(rows, NAMES, since=exact)) == 4
    assert len(build_frame(rows, NAMES, since=datetime.fromtimestamp(T0 / SECOND + 1.5, UTC))) == 2
    # without a zone it is the local time
    assert len(build_frame(rows, NAMES, since=datetime.fromtimestamp(T0 / SECOND + 1.5))) == 2
    assert len(build_frame(rows, NAMES, since=str(datetime.fromtimestamp(T0 / SECOND + 1.5)))) == 2
    with pytest.raises(BadInput, match="not a time"):
        build_frame(rows, NAMES, since="yesterday evening")
    with pytest.raises(BadInput):
        build_frame(rows, NAMES, last="soon")


def test_choosing_metrics_and_containers() -> None:
    rows = two_containers()
    frame = build_frame(rows, NAMES, metrics=["cpu_c*", "memory_bytes"], containers="WEB")
    assert list(frame.columns) == ["container", "source", "memory_bytes", "cpu_cores"]
    assert set(frame["container"]) == {"web"} and list(frame["container"].cat.categories) == ["web"]
    assert list(build_frame(rows, NAMES, metrics="pids, rx_*_total").columns[2:]) == [
        "pids", "rx_bytes_total", "rx_packets_total", "rx_errors_total", "rx_dropped_total",
    ]  # fmt: skip
    with pytest.raises(NotFound, match=r"no metric 'memory_byte'.*'memory_bytes'"):
        build_frame(rows, NAMES, metrics="memory_byte")
    with pytest.raises(NotFound, match="needs rates=True"):
        build_frame(rows, NAMES, metrics="cpu_cores", rates=False)
    with pytest.raises(NotFound, match=r"no container 'wob'.*'web'"):
        build_frame(rows, NAMES, containers=["client", "wob"])


def test_resampling_leaves_gaps_and_recomputes_rates() -> None:
    step = SECOND // 10
    rows = [
        container_row(n * step, n * step, 1, cpu_seconds_total=n * 0.05, memory_bytes=n)
        for n in [*range(20), *range(40, 50)]
    ]
    frame = build_frame(snapshot(rows), NAMES, resample="1s", last=None)
    assert [stamp.value // SECOND for stamp in frame.index] == [0, 1, 4]
    assert frame["memory_bytes"].tolist() == [4.5, 14.5, 44.5]
    assert frame["cpu_seconds_total"].tolist() == pytest.approx([9 * 0.05, 19 * 0.05, 49 * 0.05])  # the last of each
    assert frame["cpu_cores"].tolist()[1:] == pytest.approx([0.5, 0.5])
    with pytest.raises(BadInput):
        build_frame(snapshot(rows), NAMES, resample="0s")


def test_endpoints() -> None:
    rows = [
        endpoint_row(T0, 0, 1, 10, 0),
        endpoint_row(T0, 0, 1, 11, 50),
        endpoint_row(T0, 0, 2, 20, 7),
        endpoint_row(T0 + SECOND, SECOND, 1, 10, 1000),
        endpoint_row(T0 + SECOND, SECOND, 1, 11, 50),
    ]
    frame = build_frame(snapshot(rows, ENDPOINTS_SCHEMA), NAMES, by="endpoint")
    assert list(frame.columns[:3]) == ["container", "network", "interface"]
    assert list(frame["interface"]) == ["eth0", "eth1", "eth0", "eth0", "eth1"]
    assert frame["rx_bytes_per_second"].tolist()[3:] == [1000.0, 0.0]
    assert frame["rx_bytes_per_second"].isna().tolist() == [True, True, True, False, False]
    with pytest.raises(NotFound, match="not in frames by 'endpoint'"):
        build_frame(snapshot(rows, ENDPOINTS_SCHEMA), NAMES, by="endpoint", metrics="cpu_cores")


def test_nodes_add_up_their_containers() -> None:
    rows = [
        container_row(T0, 0, 1, memory_bytes=1, cpu_seconds_total=0),
        container_row(T0, 0, 3, memory_bytes=2, cpu_seconds_total=5),
        container_row(T0, 0, 2),
        container_row(T0 + SECOND, SECOND, 1, memory_bytes=10, cpu_seconds_total=0.5),
        container_row(T0 + SECOND, SECOND, 3, memory_bytes=20, cpu_seconds_total=5.25),
    ]
    frame = build_frame(snapshot(rows), NAMES, by="node")
    assert list(frame["node"]) == ["far", "host", "host"]
    assert "memory_peak_bytes" not in frame
    assert frame["memory_bytes"].tolist()[1:] == [3, 30] and math.isnan(frame["memory_bytes"].iloc[0])
    assert frame["cpu_cores"].tolist()[2] == 0.75


def test_what_is_not_there_is_named() -> None:
    for by in ("device", "connection", "qdisc"):
        with pytest.raises(Unsupported, match=f"by='{by}' is not in this version"):
            build_frame(two_containers(), NAMES, by=by)
    with pytest.raises(BadInput, match="no granularity 'pod'"):
        build_frame(two_containers(), NAMES, by="pod")


@pytest.mark.parametrize("by", ["container", "node"])
def test_an_empty_frame_has_the_same_columns(by: str) -> None:
    empty = build_frame(snapshot([]), NAMES, by=by, resample="1s")
    full = build_frame(two_containers(), NAMES, by=by, resample="1s")
    assert len(empty) == 0 and list(empty.columns) == list(full.columns)
    assert empty.index.dtype == full.index.dtype and list(empty.dtypes[2:]) == list(full.dtypes[2:])


def test_read_frame_copies_what_is_asked_for_and_counts_what_is_lost() -> None:
    containers, endpoints = Ring.create(CONTAINERS_SCHEMA, 10), Ring.create(ENDPOINTS_SCHEMA, 10)
    containers.set_state("interval_seconds", 0.1)
    empty = read_frame(containers, endpoints, NAMES, lab="demo")
    assert len(empty) == 0
    for n in range(25):
        stamp = T0 + n * SECOND
        containers.append(container_row(stamp, n * SECOND, 1, pids=n))
        endpoints.append(endpoint_row(stamp, n * SECOND, 1, 10, n))
    frame = read_frame(containers, endpoints, NAMES, last="3s", metrics="pids", lab="demo")
    assert frame["pids"].tolist() == [21, 22, 23, 24]
    assert frame.attrs == {"schema": 1, "lab": "demo", "interval_seconds": 0.1, "overwritten_samples": 0}
    everything = read_frame(containers, endpoints, NAMES, last=None)
    assert len(everything) == 10 and everything.attrs["overwritten_samples"] == 15
    assert read_frame(containers, endpoints, NAMES, last="30s").attrs["overwritten_samples"] == 15
    assert read_frame(containers, endpoints, NAMES, by="endpoint", last="1s")["rx_bytes_per_second"].tolist()[1] == 1.0
    containers.close()
    endpoints.close()


def test_the_table_of_columns_covers_every_column() -> None:
    table = columns()
    frame = build_frame(two_containers(), NAMES)
    assert set(table.index) == set(frame.columns) - {"container", "source"}
    assert table.index.is_unique
    counters = [column.name for column in CONTAINER if column.kind == "counter"]
    assert counters == [column.name for column in CONTAINER if column.name.endswith("_total")]
    assert (
        table.loc["cpu_cores", "unit"] == "cores" and table.loc["rx_bytes_total", "by"] == "container, node, endpoint"
    )
