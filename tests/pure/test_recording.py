"""Recordings: rows come back as they were, and the sample has the map, the frames and the chart of a lab."""

from __future__ import annotations

import gzip
import math
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ctlab
from ctlab.errors import BadInput, NotFound, Unsupported
from ctlab.metrics.columns import CONTAINERS_SCHEMA
from ctlab.metrics.ring import Schema, Snapshot
from ctlab.metrics.stored import pack, unpack
from ctlab.recording import SAMPLE, Recording, load, store

SCHEMA = Schema("some", (("time_ns", "q"), ("a", "d"), ("b", "d")))
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def sample() -> Recording:
    return ctlab.sample_run()


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.floats(), st.sampled_from([7.0, math.nan]))))
def test_rows_come_back(rows: list[tuple[int, float, float]]) -> None:
    columns: dict[str, Any] = {
        "time_ns": array("q", [row[0] for row in rows]),
        "a": array("d", [row[1] for row in rows]),
        "b": array("d", [row[2] for row in rows]),
    }
    packed = pack(Snapshot(SCHEMA, columns, 10, 10 + len(rows), 0))
    stored = gzip.decompress(store({"rows": packed}))
    assert b"NaN" not in stored and b"Infinity" not in stored  # which not every reader of JSON takes
    found = unpack(packed, SCHEMA)
    assert len(found) == len(rows)
    assert found.columns["time_ns"] == columns["time_ns"]
    for name in ("a", "b"):
        assert np.array_equal(np.asarray(found.columns[name]), np.asarray(columns[name]), equal_nan=True)


def test_a_column_of_another_version() -> None:
    packed = {"rows": 2, "columns": {"time_ns": [5, 1], "a": 3, "gone": [1, 2]}}
    found = unpack(packed, SCHEMA)
    assert list(found.columns) == ["time_ns", "a", "b"]
    assert found.columns["a"].tolist() == [3.0, 3.0] and all(map(math.isnan, found.columns["b"]))
    with pytest.raises(ValueError, match="column a has 3 values for 2 rows"):
        unpack({"rows": 2, "columns": {"time_ns": [5, 1], "a": [1, 2, 3]}}, SCHEMA)
    with pytest.raises(KeyError, match="time_ns"):
        unpack({"rows": 0, "columns": {}}, CONTAINERS_SCHEMA)


def test_the_sample_is_small_and_names_no_path_of_the_machine_it_was_made_on() -> None:
    from importlib import resources

    stored = resources.files("ctlab.recordings").joinpath(SAMPLE).read_bytes()
    assert len(stored) < MAX_BYTES
    text = gzip.decompress(stored).decode()
    assert not [folder for folder in ("/work", "/root", "/home", "/tmp", "/var") if folder in text]


def test_the_samples_map(sample: Recording) -> None:
    topology = sample.topology()
    assert topology.frozen
    assert topology.world.summary() == "1 node, 2 networks, 3 containers"
    assert "web" in topology.text and "10.10.0.2" in topology.svg
    shown = topology._repr_mimebundle_()
    assert sample.as_of in shown["text/html"] and "as of" not in shown["text/html"]
    assert sample.details("container:worker")["limits"] == {"cpus": 0.3, "memory_bytes": "128M"}
    with pytest.raises(NotFound, match="did you mean 'container:web'"):
        sample.details("container:wep")


def test_the_samples_frames_have_the_form_of_a_labs(sample: Recording) -> None:
    frame = sample.stats(last=None)
    assert sorted(frame["container"].cat.categories) == ["client", "web", "worker"]
    assert (frame.index.name, str(frame.index.dtype)) == ("time", "datetime64[ns, UTC]")
    assert frame.index[-1] - frame.index[0] >= np.timedelta64(29, "s")
    assert set(frame["source"]) <= {"cgroup-v1", "cgroup-v2"}
    assert len(sample.stats(last="10s")) < len(frame)
    most = frame.groupby("container", observed=True).max(numeric_only=True)
    assert most.loc["client", "rx_bytes_per_second"] > 100_000 > most.loc["worker", "rx_bytes_per_second"]
    worker = sample.stats("worker", metrics="cpu_*", last=None, resample="5s")
    assert worker["cpu_cores"].max() == pytest.approx(0.3, abs=0.03)  # its limit
    assert worker["cpu_throttled_periods_total"].max() > 10
    by_endpoint = sample.stats(by="endpoint", metrics="rx_bytes_total")
    assert set(zip(by_endpoint["container"], by_endpoint["network"], strict=True)) == {
        ("web", "blue"), ("client", "blue"), ("client", "green"), ("worker", "green"),
    }  # fmt: skip
    assert set(sample.stats(by="node")["node"]) == {"host"}
    with pytest.raises(NotFound, match="'web'"):
        sample.stats("wep")
    with pytest.raises(Unsupported):
        sample.stats(by="device")


def test_the_samples_chart(sample: Recording) -> None:
    figure = sample.chart()
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == ["client", "web", "worker"]
    assert "recorded" in figure.layout.title.text
    assert {trace.legendgroup for trace in sample.chart("web", last="5s").data} == {"web"}


def test_what_a_notebook_and_a_terminal_show(sample: Recording) -> None:
    page = sample._repr_html_()
    assert page.count("<svg") == 2 and "<td>worker</td>" in page and "<script" not in page
    assert sample.as_of in page and sample.as_of in repr(sample)


def test_what_is_no_recording_is_refused() -> None:
    for stored in (b"", b"text", gzip.compress(b"{")):
        with pytest.raises(BadInput, match="not a recording"):
            load(stored)
    with pytest.raises(BadInput, match="format 2: this ctlab reads format 1"):
        Recording({"format": 2})
