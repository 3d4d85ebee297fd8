"""The dashboard's picture without a browser: where its lines go, what its axes say, what it leaves out."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.errors import LabGone
from ctlab.metrics.columns import CONTAINER, CONTAINERS_SCHEMA
from ctlab.metrics.ring import Ring
from ctlab.notebook import chart_svg as chart
from ctlab.notebook.chart_figure import figure
from ctlab.notebook.chart_panes import COLOURS, GREY, PANES
from ctlab.notebook.chart_picture import Picture
from ctlab.notebook.chart_svg import chart_svg, time_ticks, value_ticks
from ctlab.notebook.dashboard import Dashboard

if TYPE_CHECKING:
    from ctlab.notebook.chart_picture import Line

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
T0 = 1.7e12  # ms
NAN = math.nan
CPU, MEMORY, NETWORK, PROCESSES = range(4)
Points = list[tuple[float, float]]


def lines(*values: list[float], step: float = 1000.0) -> list[Line]:
    """One container: cpu, memory, received, sent, processes; what isn't given was never sampled."""
    count = len(values[0])
    x = np.arange(count, dtype=np.float64) * step + T0
    given_ = [np.array(column, dtype=float) for column in values]
    return [(x, y) for y in (given_ + [np.full(count, NAN)] * len(PANES))[: len(PANES)]]


def near(place: float) -> Any:
    """Places are written in tenths of a pixel."""
    return pytest.approx(place, abs=0.06)


def panels(svg: str) -> list[ElementTree.Element]:
    return [group for group in ElementTree.fromstring(svg) if group.get("class") == "panel"]


def paths(panel: ElementTree.Element, kind: str = "line") -> list[list[Points]]:
    """For each path of that class its pieces, as points."""
    return [
        [
            [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", piece)]
            for piece in (path.get("d") or "").split("M")[1:]
        ]
        for path in panel.iter(f"{SVG}path")
        if path.get("class") == kind
    ]


def texts(root: ElementTree.Element, kind: str) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text") if text.get("class") == kind]


def test_a_line_is_where_its_values_are() -> None:
    svg = chart_svg({"web": lines([0.0, 0.25, 1.0, 0.5, 0.0], [1.0, 2.0, 3.0, 4.0, 10.0])})
    one, other, *_ = panels(svg)
    top = chart.MARGIN + chart.ROW + chart.ABOVE
    bottom, full = top + chart.PANEL_HEIGHT, chart.PANEL_HEIGHT / chart.HEADROOM
    (pieces,) = paths(one)
    wanted = [(0, 0.0), (1, 0.25), (2, 1.0), (3, 0.5), (4, 0.0)]
    assert pieces == [
        [
            (
                near(chart.LEFT + at / 4 * chart.PANEL_WIDTH),
                near(bottom - y * full),
            )
            for at, y in wanted
        ]
    ]
    ((memory,),) = paths(other)
    assert memory[0] == (chart.WIDTH / 2 + chart.LEFT, near(bottom - full / 10))
    assert memory[-1] == (chart.WIDTH / 2 + chart.LEFT + chart.PANEL_WIDTH, near(bottom - full))
    # a number stands at the height of its value: 1.0 is the highest here
    level = next(text for text in one.iter(f"{SVG}text") if text.text == "1.0")
    assert float(level.get("y") or 0) - 4 == near(bottom - full)
    assert float(level.get("x") or 0) < chart.LEFT and level.get("text-anchor") == "end"


def test_axes_have_units_and_count_back_from_the_end() -> None:
    svg = chart_svg({"web": lines([0.5] * 61, [48.0] * 61, [2e6] * 61, [1e6] * 61, [3.0] * 61)})
    said = [texts(panel, "level") for panel in panels(svg)]
    assert said[CPU] == ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    assert said[MEMORY] == ["0", "10 MiB", "20 MiB", "30 MiB", "40 MiB", "50 MiB"]
    assert said[NETWORK] == ["0", "0.5 Mbit/s", "1.0 Mbit/s", "1.5 Mbit/s", "2.0 Mbit/s"]
    assert said[PROCESSES] == ["0", "1", "2", "3"]
    times = [texts(panel, "time") for panel in panels(svg)]
    assert times[:2] == [[], []]
    assert times[2] == times[3] == ["−60 s", "−50 s", "−40 s", "−30 s", "−20 s", "−10 s", "0 s"]
    last = [text for text in panels(svg)[NETWORK].iter(f"{SVG}text") if text.text == "0 s"]
    assert [float(text.get("x") or 0) for text in last] == [chart.LEFT + chart.PANEL_WIDTH]


def test_missing_values_are_gaps() -> None:
    svg = chart_svg({"web": lines([NAN, 0.1, 0.2, NAN, 0.3, NAN, math.inf, 0.4, 0.5, 0.7])})
    panel = panels(svg)[CPU]
    (pieces,), (alone,) = paths(panel), paths(panel, "alone")
    at = [chart.LEFT + n / 9 * chart.PANEL_WIDTH for n in range(10)]
    assert [[x for x, _ in piece] for piece in pieces] == [
        [near(at[n]) for n in piece] for piece in ((1, 2), (7, 8, 9))
    ]
    assert [x for ((x, _),) in alone] == [near(at[4])]


def test_a_time_without_samples_is_a_gap() -> None:
    x = T0 + np.r_[np.arange(20), 80 + np.arange(20)] * 100.0
    y = np.linspace(1, 2, 40)
    (pieces,) = paths(panels(chart_svg({"web": [(x, y)] * len(PANES)}))[CPU])
    assert [len(piece) for piece in pieces] == [20, 20]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100) | st.just(NAN), min_size=1, max_size=300), st.integers(8, 60))
def test_thinned_lines_keep_their_peaks_and_gaps(values: list[float], limit: int) -> None:
    x, y = np.arange(len(values), dtype=np.float64), np.array(values, dtype=np.float64)
    pieces = chart._pieces(x, y, limit)
    points = [(a, b) for piece in pieces for a, b in zip(*piece, strict=True)]
    known = [float(np.round(value, 1)) for value in values if not math.isnan(value)]
    assert len(points) <= limit and bool(points) == bool(known)
    if known:
        assert (min(b for _, b in points), max(b for _, b in points)) == (min(known), max(known))
        assert (points[0][0], points[-1][0]) == tuple(np.flatnonzero(~np.isnan(y))[[0, -1]])
    assert set(points) <= {(float(n), float(np.round(value, 1))) for n, value in enumerate(values)}
    assert [a for a, _ in points] == sorted({a for a, _ in points})
    for drawn, _ in pieces:  # no piece runs over a missing value
        assert not np.isnan(y[int(drawn[0]) : int(drawn[-1]) + 1]).any()


def test_level_lines_cost_nothing_and_steps_stay_upright() -> None:
    values = [2.0] * 3000 + [5.0] * 3000
    (pieces,) = paths(panels(chart_svg({"web": lines(values, step=100)}))[CPU])
    (piece,) = pieces
    assert len(piece) == 4 and piece[0][1] == piece[1][1] and piece[2][1] == piece[3][1]
    assert piece[2][0] - piece[1][0] < 0.21
    (pieces,) = paths(panels(chart_svg({"web": lines([1.0, 1.0, NAN, 1.0, 1.0, 1.0])}))[CPU])
    assert [len(piece) for piece in pieces] == [2, 2]  # a gap between equals is a gap


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a&b", "\"quoted'", "]]>", "bell\x07", "\ud800"])
def test_names_are_only_ever_text(name: str) -> None:
    svg = chart_svg({name: lines([1.0, 2.0])})
    root = ElementTree.fromstring(svg)
    assert "<script" not in svg and not [tag for tag in root.iter() if tag.tag == f"{SVG}script"]
    clean = name.replace("\x07", "\ufffd").replace("\ud800", "\ufffd")
    assert [title.text for title in root.iter(f"{SVG}title")] == [clean] * 2  # in the legend, and of the line
    svg.encode()


def test_nothing_sampled_is_said() -> None:
    for svg in (chart_svg({}), chart_svg({"web": lines([NAN, NAN])}), chart_svg({"web": lines([])})):
        for panel in panels(svg):
            assert texts(panel, "nothing") == ["no samples"] and texts(panel, "level") == []
            assert paths(panel) == paths(panel, "alone") == []
        assert "nan" not in re.sub(r"<style>.*?</style>", "", svg)
    assert texts(ElementTree.fromstring(chart_svg({})), "name") == []


def test_zeros_are_a_line_on_the_axis() -> None:
    panel = panels(chart_svg({"web": lines([0.0, 0.0, 0.0])}))[CPU]
    bottom = chart.MARGIN + chart.ROW + chart.ABOVE + chart.PANEL_HEIGHT
    assert paths(panel) == [[[(chart.LEFT, bottom), (chart.LEFT + chart.PANEL_WIDTH, bottom)]]]
    assert texts(panel, "level")[0] == "0" and len(texts(panel, "level")) > 1


def test_one_sample_is_a_dot_at_the_end() -> None:
    svg = chart_svg({"web": lines([NAN], [12.0], [NAN], [NAN], [1.0])})
    for number in (MEMORY, PROCESSES):
        panel = panels(svg)[number]
        ((x, _),) = paths(panel, "alone")[0][0]
        assert x == chart.WIDTH / 2 + chart.LEFT + chart.PANEL_WIDTH and paths(panel) == []
    assert texts(panels(svg)[CPU], "nothing") == ["no samples"]
    assert texts(panels(svg)[PROCESSES], "time")[-1] == "0 s"


def test_many_containers_stay_small_and_keep_their_peaks() -> None:
    random = np.random.default_rng(0)
    series: dict[str, list[Line]] = {}
    for number in range(40):
        columns = [random.uniform(0, 1, 6000) for _ in PANES]
        columns[0][1234] = 100.0 + number
        series[f"worker-{number}"] = lines(*(list(column) for column in columns), step=100)
    svg = chart_svg(series)
    root = ElementTree.fromstring(svg)
    assert texts(root, "name") == [f"worker-{number}" for number in range(33)]
    places = [(text.get("x"), text.get("y")) for text in root.iter(f"{SVG}text") if text.get("class") == "name"]
    assert len(set(places)) == 33 and all(float(x or 0) < chart.WIDTH for x, _ in places)
    drawn = [paths(panel) for panel in panels(svg)]
    assert [len(panel) for panel in drawn] == [33, 33, 66, 33]
    assert sum(len(piece) for panel in drawn for line in panel for piece in line) <= chart.ALL_POINTS
    assert len(svg) < 200_000
    heights = [min(y for piece in line for _, y in piece) for line in drawn[CPU]]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) > 16  # each its own peak
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for panel in drawn:
        assert all(0 <= x <= width and 0 <= y <= height for line in panel for piece in line for x, y in piece)
    (piece,) = paths(panels(chart_svg({"web": series["worker-0"]}))[CPU])[0]
    assert 250 <= len(piece) <= chart.POINTS
    assert (piece[0][0], piece[-1][0]) == (chart.LEFT, chart.LEFT + chart.PANEL_WIDTH)


@pytest.mark.parametrize(
    ("panel", "highest", "unit", "ticks"),
    [
        (CPU, 0.0003, "", [0, 0.0001, 0.0002, 0.0003]),
        (CPU, 3.9, "", [0, 1, 2, 3, 4]),
        (MEMORY, 0.25, " KiB", [0, 50 / 1024, 100 / 1024, 150 / 1024, 200 / 1024, 250 / 1024]),
        (MEMORY, 2048, " GiB", [0, 512, 1024, 1536, 2048]),
        (NETWORK, 0.5, " bit/s", [0]),
        (NETWORK, 999, " bit/s", [0, 200, 400, 600, 800, 1000]),
        (NETWORK, 4.2e9, " Gbit/s", [0, 1e9, 2e9, 3e9, 4e9]),
        (PROCESSES, 1, "", [0, 1]),
        (PROCESSES, 0, "", [0, 1]),
    ],
)
def test_ticks_of_values(panel: int, highest: float, unit: str, ticks: list[float]) -> None:
    found, values = value_ticks(highest, chart.AXES[panel].units)
    assert found.text == unit and values == pytest.approx(ticks)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-9, 1e15), st.sampled_from(range(4)))
def test_ticks_fit_and_differ(highest: float, panel: int) -> None:
    unit, ticks = value_ticks(highest, chart.AXES[panel].units)
    assert 1 <= len(ticks) <= 7 and ticks[0] == 0 and max(ticks) <= highest * chart.HEADROOM * 1.000001
    if len(ticks) > 1:
        step = (ticks[1] - ticks[0]) / unit.size
        assert len({chart._number(tick / unit.size, step) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, ["−0.4 s", "−0.3 s", "−0.2 s", "−0.1 s", "0 s"]),
        (12.7, ["−10 s", "−5 s", "0 s"]),
        (59.9, ["−50 s", "−40 s", "−30 s", "−20 s", "−10 s", "0 s"]),
        (300, ["−5 min", "−4 min", "−3 min", "−2 min", "−1 min", "0 min"]),
        (4 * 3600, ["−4 h", "−3 h", "−2 h", "−1 h", "0 h"]),
        (90 * 86400, ["−2160 h", "−1800 h", "−1440 h", "−1080 h", "−720 h", "−360 h", "0 h"]),
    ],
)
def test_ticks_of_time(seconds: float, words: list[str]) -> None:
    found = time_ticks(seconds)
    assert [text for _, text in found] == words
    assert all(0 <= ago <= seconds * 1.000001 for ago, _ in found)


def test_the_colours_and_dashes_are_those_of_the_figure() -> None:
    names = [*(f"c{number}" for number in range(8)), "others (4)"]
    colours = (*COLOURS[3:], *COLOURS[:2], GREY)
    y = np.ones((len(names), len(PANES), 2))
    picture = Picture(tuple(names), colours, np.array([T0, T0 + 1000]), y, (T0, T0 + 1000), "")
    root = ElementTree.fromstring(chart_svg(picture.lines(), colours=colours))
    drawn: dict[str, tuple[str | None, bool]] = {}
    for panel in (group for group in root if group.get("class") == "panel"):
        for group in panel.iter(f"{SVG}g"):
            if group.get("stroke"):
                dashed = bool(group[1].get("stroke-dasharray"))
                drawn.setdefault(f"{group[0].text}/{dashed}", (group.get("stroke"), dashed))
    made = figure(picture, "").data
    assert drawn == {
        f"{line.name}/{line.line.dash == 'dot'}": (line.line.color, line.line.dash == "dot") for line in made
    }
    legend = [group[1].get("stroke") for group in root if group.get("class") == "entry"]
    assert legend == list(colours)


def test_it_can_be_read_without_its_style() -> None:
    svg = chart_svg({"web": lines([1.0, NAN, 2.0, 3.0])})
    assert "prefers-color-scheme" not in svg and "var(--ctlab-muted)" in svg
    bare = ElementTree.fromstring(re.sub(r"<style>.*?</style>", "", svg))
    assert bare.get("fill") == chart.GREY and bare.get("font-size")
    inherited = {path: group for group in bare.iter() for path in group if path.tag == f"{SVG}path"}
    assert inherited and all(path.get("stroke") or group.get("stroke") for path, group in inherited.items())
    for path, group in inherited.items():
        if path.get("class") in ("line", "alone"):
            assert group.get("fill") == "none"


class Source:
    """Counters of one container, and then their end."""

    name = "demo"

    def __init__(self) -> None:
        second = 1_000_000_000
        self.ring = Ring.create(CONTAINERS_SCHEMA, 1000)
        for tick in range(5):
            known = {"cpu_seconds_total": tick / 2, "pids": 2}
            values = [known.get(column.name, NAN) for column in CONTAINER]
            self.ring.append_rows([[int(T0) * 1_000_000 + tick * second, tick * second, 1, 1, *values]])
        self.gone = False

    def sampled(self) -> tuple[Ring, dict[int, str]]:
        if self.gone:
            raise LabGone("lab demo is gone")
        return self.ring, {1: "web"}


def test_a_dashboard_leaves_a_picture_and_a_table() -> None:
    board = Dashboard(Source())
    assert "<svg" not in board._repr_mimebundle_()["text/html"]  # nothing is asked before it is shown
    assert len(board.figure().data) == len(PANES)
    board.stop()
    html = board._repr_mimebundle_()["text/html"]
    whole = re.fullmatch(r"(<p>.*?</p>)(<svg.*</svg>)(<table.*</table>)", html)
    assert whole is not None
    title, svg, table = whole.groups()
    assert "demo · as of 2023-11-14 22:13:24 UTC" in title and "<td>web</td><td>0.50</td>" in table
    ((piece,),) = paths(panels(svg)[CPU])
    assert piece[0][0] == near(chart.LEFT + chart.PANEL_WIDTH / 4)  # the first sample has no rate


def test_a_saved_chart_is_as_wide_as_its_page() -> None:
    root = ElementTree.fromstring(chart_svg({"web": lines([1.0, 2.0])}))
    assert root.get("viewBox") == f"0 0 {chart.WIDTH:.0f} {root.get('height')}"
    assert re.search(r"\.ctlab-chart{[^}]*width:100%;max-width:1300px;height:auto}", "".join(root.itertext()))


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, ctlab.notebook.chart_svg; print({'pandas', 'plotly', 'IPython', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
