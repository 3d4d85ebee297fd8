"""Measurements side by side: rows and axes, where a value stands, the same quartiles in both pictures."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pandas as pd
import pytest

from ctlab.notebook.chart_panes import COLOURS
from ctlab.notebook.spread import Spread, arrange, quartiles
from ctlab.notebook.spread_svg import spread_svg

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = {
    ("Start-up, ms", "a lab", "container"): [120.0, 150.0, 130.0, 100.0],
    ("Exec, ms", "back to back", "container"): [1.0, 2.0, 4.0],
    ("Start-up, ms", "a lab", "microVM"): [5000.0, 9000.0],
    ("Start-up, ms", "the boot of it", "microVM"): [2500.0],
    ("Exec, ms", "back to back", "microVM"): [80.0, 95.0, 70.0, 400.0],
}


def drawn(samples: Any, title: str = "") -> ElementTree.Element:
    panels, sides = arrange(samples)
    return ElementTree.fromstring(spread_svg(panels, sides, title))


def texts(root: ElementTree.Element, kind: str) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text") if text.get("class") == kind]


def test_quantities_and_rows_come_in_the_order_in_which_they_were_measured() -> None:
    panels, sides = arrange(SAMPLES)
    assert sides == ["container", "microVM"]
    assert [(panel.quantity, [row.what for row in panel.rows]) for panel in panels] == [
        ("Start-up, ms", ["a lab", "the boot of it"]), ("Exec, ms", ["back to back"]),
    ]  # fmt: skip
    assert [(panel.low, panel.high) for panel in panels] == [(2, 4), (0, 3)]


def test_what_a_logarithmic_axis_has_no_place_for_is_left_out() -> None:
    panels, _ = arrange({("a", "b", "c"): [0.0, -1.0, math.nan, math.inf, 10.0], ("a", "none", "c"): [0.0]})
    assert [(panel.rows[0].values, len(panel.rows), panel.low, panel.high) for panel in panels] == [
        ({"c": [10.0]}, 1, 1, 2)
    ]


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0], [5.0, 1.0, 9.0, 2.0], [0.1, 0.2, 0.4, 0.8, 1.6]])
def test_quartiles_are_those_of_pandas(values: list[float]) -> None:
    assert quartiles(values) == pytest.approx(list(pd.Series(values).quantile([0.25, 0.5, 0.75])))


def test_a_value_stands_where_its_logarithm_is() -> None:
    root = drawn(SAMPLES)
    ticks = {text.text: float(text.get("x", "")) for text in root.iter(f"{SVG}text") if text.get("class") == "level"}
    middle = {"1": 0.0, "10": 1.0, "100": 2.0, "1,000": 3.0}
    exec_panel = list(root.iter(f"{SVG}g"))[-3]  # the panel, and in it a lane for each side
    assert exec_panel.get("class") == "panel"
    left, right = ticks["1"], ticks["1,000"]
    assert ticks["10"] - left == pytest.approx((right - left) / 3, abs=0.11) and set(middle) <= set(ticks)
    lane = exec_panel.findall(f"{SVG}g")[0]
    dots = re.findall(r"M([\d.]+) ", lane.findall(f"{SVG}path")[0].get("d", ""))
    wanted = [left + (right - left) / 3 * math.log10(value) for value in (1, 2, 4)]
    assert [float(dot) for dot in dots] == pytest.approx(wanted, abs=0.11)
    assert (lane.findtext(f"{SVG}title") or "") == "back to back, container: median 2, quartiles 1.5 and 3"
    assert [lane.get("stroke") for lane in exec_panel.findall(f"{SVG}g")] == list(COLOURS[:2])


def test_markup_in_what_was_measured_is_text() -> None:
    samples = {("<q>", "a & b", "<script>"): [1.0]}
    root = drawn(samples, "1 < 2")
    assert set(texts(root, "name")) == {"<script>", "1 < 2", "a & b"} and texts(root, "title") == ["<q>"]
    layout = Spread(samples, "<b>1</b>").figure().to_plotly_json()
    assert layout["layout"]["title"]["text"] == "&lt;b&gt;1&lt;/b&gt;"
    assert layout["layout"]["annotations"][0]["text"] == "&lt;q&gt;"


def test_both_pictures_show_the_same_values_and_need_no_script() -> None:
    spread = Spread(SAMPLES, "of two kernels")
    bundle = spread._repr_mimebundle_()
    traces = bundle["application/vnd.plotly.v1+json"]["data"]
    shown = {
        (trace["name"], what): (values, low, median, high)
        for trace in traces
        for what, values, low, median, high in zip(
            trace["y"], trace["x"], trace["q1"], trace["median"], trace["q3"], strict=True
        )
    }  # fmt: skip
    assert {(side, what): (list(values), *quartiles(values)) for (_, what, side), values in SAMPLES.items()} == shown
    assert "<script" not in bundle["text/html"] and bundle["text/html"].startswith("<svg")
    assert "of two kernels" in bundle["text/html"]


def test_nothing_measured_is_said() -> None:
    bundle = Spread({})._repr_mimebundle_()
    assert bundle["text/html"] == "<p>nothing was measured</p>" and repr(Spread({})) == "<Spread of nothing>"
    assert bundle.keys() == {"text/html", "text/plain"}
    Spread({}).figure()
