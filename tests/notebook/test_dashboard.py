"""The dashboard: its lines and table as functions, and the whole of it in a real kernel."""

from __future__ import annotations

import json
import math
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

from ctlab.errors import BadInput
from ctlab.metrics.columns import CONTAINER, CONTAINERS_SCHEMA
from ctlab.metrics.frame import Names, build_frame
from ctlab.metrics.ring import Ring
from ctlab.notebook import dashboard_figure
from ctlab.notebook.dashboard import Dashboard

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
nbformat: Any = import_module("nbformat")  # which has no types


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.001, 500), st.floats(-10, 10) | st.just(math.nan)), max_size=300), st.integers(4, 80)
)
def test_thinned_lines_keep_their_peaks(steps: list[tuple[float, float]], limit: int) -> None:
    x = np.array([1.7e12 + sum(step for step, _ in steps[: n + 1]) for n in range(len(steps))])
    y = np.array([value for _, value in steps], dtype=float)
    thin_x, thin_y = dashboard_figure.thin(x, y, limit)
    assert len(thin_x) == len(thin_y) <= max(limit, 4)
    assert (np.diff(thin_x) >= 0).all() and not np.isnan(thin_y).any()
    known = [value for _, value in steps if not math.isnan(value)]
    if known:
        assert (min(thin_y), max(thin_y)) == (min(known), max(known))
    if len(known) <= limit:
        assert len(thin_y) == len(known)
    assert set(zip(thin_x, thin_y, strict=True)) <= set(zip(x, y, strict=True))


def test_a_moving_window_keeps_the_grid() -> None:
    x = np.array([1.7e12 + n * 100.0 for n in range(6000)])
    y = np.array([math.sin(n * 0.7) for n in range(6000)])
    one = dict(zip(*dashboard_figure.thin(x[:5000], y[:5000], 200), strict=True))
    other = dict(zip(*dashboard_figure.thin(x[37:5037], y[37:5037], 200), strict=True))
    assert len(one.keys() ^ other.keys()) <= 8  # only at the two ends


def frame_of(count: int, **values: float) -> pd.DataFrame:
    ring = Ring.create(CONTAINERS_SCHEMA, 1000)
    for tick in range(5):
        ring.append_rows(
            [
                [T0 + tick * SECOND, tick * SECOND, key, 1, *(tick * values.get(c.name, math.nan) for c in CONTAINER)]
                for key in range(count)
            ]
        )
    rows = ring.snapshot()
    ring.close()
    return build_frame(rows, Names({key: f"nan<{key}>" for key in range(count)}), metrics=dashboard_figure.METRICS)


def test_lines_are_in_the_units_of_their_panes() -> None:
    frame = frame_of(2, cpu_seconds_total=0.5, memory_rss_bytes=1 << 20, rx_bytes_total=1000, tx_bytes_total=10, pids=2)
    cpu, memory, received, sent, pids = dashboard_figure.lines(frame, 100)["nan<1>"]
    assert cpu[1].tolist() == [0.5] * 4 and cpu[0][0] == T0 / 1e6 + 1000  # the first row has no rate
    assert memory[1].tolist() == [0, 1, 2, 3, 4]  # without a cgroup: what is resident
    assert received[1].tolist() == [8000] * 4 and sent[1].tolist() == [80] * 4
    assert pids[1].tolist() == [0, 2, 4, 6, 8]


def test_the_table_says_the_same() -> None:
    html = dashboard_figure.table(frame_of(1, cpu_seconds_total=0.5, rx_bytes_total=1000), "a & b")
    assert "<p>a &amp; b</p>" in html and "<td>nan&lt;0&gt;</td><td>0.50</td><td>0.50</td><td>–</td>" in html
    assert "<td>8 kbit/s</td><td>–</td>" in html
    assert dashboard_figure.table(None, "nothing") == "<p>nothing</p>"


def test_too_many_containers_are_said() -> None:
    figure, places = dashboard_figure.make(""), dict[str, int]()
    drawn = dashboard_figure.lines(frame_of(40, cpu_seconds_total=1), 60)
    said = dashboard_figure.fill(figure, places, drawn)
    assert said.startswith("8 more containers") and len(figure.data) == 32 * len(dashboard_figure.PANES)
    assert dashboard_figure.fill(figure, places, {name: drawn[name] for name in places}) == ""


def drawn_lines(seconds: float, names: tuple[str, ...] = ("web",)) -> dict[str, list[dashboard_figure.Line]]:
    """Lines of all panes that began so many seconds ago."""
    x = np.array([T0 / 1e6, T0 / 1e6 + seconds * 1000])
    return {name: [(x, np.ones(2)) for _ in dashboard_figure.PANES] for name in names}


@pytest.mark.parametrize(("age", "shown"), [(3.0, 10.0), (25.0, 25.0), (300.0, 60.0)])
def test_the_window_of_a_young_lab_begins_with_it(age: float, shown: float) -> None:
    figure = dashboard_figure.make("")
    dashboard_figure.fill(figure, {}, drawn_lines(age), seconds=60)
    first, last = (pd.Timestamp(text).timestamp() for text in figure.data[0].x)
    assert (last - first, last) == (pytest.approx(shown), pytest.approx(T0 / 1e9 + age))


def test_the_legend_stands_beside_the_title_where_it_has_room() -> None:
    figure, places = dashboard_figure.make(""), dict[str, int]()
    dashboard_figure.fill(figure, places, drawn_lines(20, ("web", "client")), seconds=60)
    assert figure.layout.legend.orientation == "h"
    long = "a-name-of-sixty-three-signs-" + "x" * 35
    dashboard_figure.fill(figure, places, drawn_lines(20, ("web", "client", long)), seconds=60)
    assert figure.layout.legend.orientation == "v"
    assert max(len(trace.name) for trace in figure.data if trace.showlegend and trace.name) == 24


def test_bad_settings_are_refused_before_anything_is_shown() -> None:
    with pytest.raises(BadInput):
        Dashboard(None, refresh_hz=50)  # type: ignore[arg-type]  # no lab is asked here
    with pytest.raises(BadInput):
        Dashboard(None, last="soon")  # type: ignore[arg-type]  # nor here


SOURCE = """
import math, threading, time
from ctlab.errors import LabGone
from ctlab.metrics.columns import CONTAINER, CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA
from ctlab.metrics.frame import Names, read_frame
from ctlab.metrics.ring import Ring
from ctlab.notebook.dashboard import Dashboard

class Source:
    names, gone = {1: "web", 2: "client"}, False

    def __init__(self):
        self.rings = Ring.create(CONTAINERS_SCHEMA, 10000), Ring.create(ENDPOINTS_SCHEMA, 10)
        threading.Thread(target=self.write, daemon=True).start()

    def write(self):
        started = time.monotonic()
        while not self.gone:
            now, used = time.time_ns(), time.monotonic() - started
            values = {"cpu_seconds_total": used / 2, "memory_bytes": 1e6, "pids": 1}
            for key in list(self.names):
                row = [now, now, key, 1, *(values.get(column.name, math.nan) for column in CONTAINER)]
                self.rings[0].append(row)
            time.sleep(0.05)

    def stats(self, containers=None, metrics=None, last="30s", *, rates=True):
        if self.gone:
            raise LabGone("lab demo is gone")
        names = Names(self.names)
        chosen = {"containers": containers, "metrics": metrics, "last": last, "rates": rates}
        return read_frame(*self.rings, names, lab="demo", **chosen)

source = Source()
time.sleep(0.3)
"""

CELLS = (
    SOURCE,
    "board = Dashboard(source, last='20s', refresh_hz=5)\nboard",
    # a cell that never lets go of its own accord: the chart moves all the same
    "before, end = board.updates, time.monotonic() + 20\n"
    "while board.updates < before + 4 and time.monotonic() < end:\n    pass\n"
    "print(board.updates - before)",
    "source.names = {**source.names, 3: 'late'}\ntime.sleep(1)\nboard",
    "board.stop()\nboard.stop()\nprint(board, board.live)",
    "board",
    "other = Dashboard(source)\nother",
    "source.gone = True\nend = time.monotonic() + 20\n"
    "running = lambda: any(thread.name == 'ctlab-dashboard' for thread in threading.enumerate())\n"
    "while running() and time.monotonic() < end: time.sleep(0.02)\n"
    "print(other, running())",
)


def test_a_dashboard_in_a_kernel() -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    NotebookClient(notebook, timeout=60, kernel_name="python3", store_widget_state=False).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert all(len(cell) == 1 for cell in outputs[1:])
    assert int(outputs[2][0].text) >= 4  # 5 a second are asked for; a busy machine takes longer
    assert outputs[4][0].text == "<Dashboard stopped> False\n"
    assert outputs[7][0].text == "<Dashboard stopped> False\n"
    for number in (1, 3, 5, 6):  # both displays of the first, its display after the end, the other
        data = outputs[number][0].data
        assert set(data) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
        figure = data["application/vnd.plotly.v1+json"]
        assert "demo · as of " in figure["layout"]["title"]["text"]
        names = [trace["name"] for trace in figure["data"] if trace["showlegend"]]
        assert names == ["web", "client", "late"]
        assert "<td>web</td><td>0.5" in data["text/html"]
        assert len(json.dumps(data)) < 200_000
    assert "lab demo is gone" in outputs[6][0].data["text/html"]
