"""Recordings: rows come back as they were, and the sample has the map, the frames and the chart of a lab."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ctlab
from ctlab.container import Container
from ctlab.errors import BadInput, NotFound, StateError, Unsupported
from ctlab.lab import Lab
from ctlab.metrics.columns import CONTAINERS_SCHEMA
from ctlab.metrics.ring import Schema, Snapshot
from ctlab.metrics.stored import pack, unpack
from ctlab.recorded import (
    CONTAINER_METHODS,
    CONTAINER_PROPERTIES,
    LAB_METHODS,
    LAB_PROPERTIES,
    RecordedContainer,
)
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


def test_its_containers_are_handles_to_look_at(sample: Recording) -> None:
    assert sample.containers.keys() == ["web", "client", "worker"]
    web = sample["WEB"]
    assert web.name == "web" and web.state == "running" and "web" in sample and "wep" not in sample
    assert sample["client"].addresses == {"blue": "10.10.0.3", "green": "10.20.0.2"}
    assert web.inspect()["command"] == "python3 -m http.server 80"
    assert set(web.stats(last=None)["container"]) == {"web"}
    assert repr(web) == f"<RecordedContainer web: running, blue 10.10.0.2, {sample.as_of}>"
    assert sample.as_of in web._repr_html_() and "as of" not in web._repr_html_()
    assert "cpus 0.3, memory_bytes 128M" in sample["worker"]._repr_html_() and ">pid<" not in web._repr_html_()
    table = repr(sample.containers)
    assert len(table.splitlines()) == 4 and sample.as_of in sample.containers._repr_html_()
    with pytest.raises(NotFound, match="did you mean 'web'"):
        sample["wep"]


def test_what_needs_a_running_lab_says_so(sample: Recording) -> None:
    with pytest.raises(StateError) as caught:
        sample["web"].exec(["ls"])
    assert str(caught.value) == (
        "exec: container web is recorded and can only be looked at (inspect, stats); a running one: ctlab.Lab()"
    )
    with pytest.raises(StateError, match=r"^run: this lab is recorded and can only be looked at \(topology"):
        sample.run("ls", name="x")
    for what, names in ((sample, LAB_METHODS), (sample["web"], CONTAINER_METHODS)):
        for name in names:
            with pytest.raises(StateError, match=f"^{name}: "):
                getattr(what, name)()
    for what, names in ((sample, LAB_PROPERTIES), (sample["web"], CONTAINER_PROPERTIES)):
        for name in names:
            with pytest.raises(StateError, match=f"^{name}: "):
                getattr(what, name)
    assert not hasattr(sample, "_ipython_display_") and not hasattr(sample["web"], "nonsense")


@pytest.mark.parametrize(
    ("live", "recorded", "methods", "properties"),
    [
        (Lab, Recording, LAB_METHODS, LAB_PROPERTIES),
        (Container, RecordedContainer, CONTAINER_METHODS, CONTAINER_PROPERTIES),
    ],
)
def test_every_name_of_the_live_ones_is_there_or_refused(
    live: type, recorded: type, methods: set[str], properties: set[str]
) -> None:
    missing = {name for name in dir(live) if not name.startswith("_") and not hasattr(recorded, name)}
    missing -= {"name"}  # set when one is made
    assert {name for name in missing if isinstance(getattr(live, name), property)} == properties
    assert missing - properties == methods


ELSEWHERE = """
import sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
import IPython, pandas, plotly
sys.platform = "win32"
import ctlab
sample = ctlab.sample_run()
print(len(sample.stats(last=None)), len(repr(sample)), len(sample._repr_html_()), len(sample.chart().data))
print(sample["web"], len(sample["web"]._repr_html_()))
"""


def test_it_needs_nothing_that_only_some_systems_have() -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(word) > 0 for word in done.stdout.splitlines()[0].split())


def test_what_is_no_recording_is_refused() -> None:
    for stored in (b"", b"text", gzip.compress(b"{")):
        with pytest.raises(BadInput, match="not a recording"):
            load(stored)
    with pytest.raises(BadInput, match="format 2: this ctlab reads format 1"):
        Recording({"format": 2})
