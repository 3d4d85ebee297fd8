"""The live chart in a real kernel, whose front end is the test: what goes out, and when, and what stays at the end."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctlab.errors import BadInput
from ctlab.notebook.dashboard import Dashboard
from ctlab.notebook.dashboard_widget import understood

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 2.5  # here; what a chart really has is in test_chart_pace.py
VIEW = "application/vnd.jupyter.widget-view+json"

SOURCE = (
    f"""
from ctlab.notebook import chart_pace
chart_pace.PATIENCE_SECONDS = {PATIENCE_SECONDS}
"""
    + """
import math, sys, threading, time
from ctlab.errors import LabGone
from ctlab.metrics.columns import CONTAINER, CONTAINERS_SCHEMA
from ctlab.metrics.ring import Ring
from ctlab.notebook.dashboard import Dashboard

class Source:
    name, names, gone = "demo", {1: "web", 2: "client"}, False

    def __init__(self):
        self.ring = Ring.create(CONTAINERS_SCHEMA, 10000)
        self.ring.set_state("interval_seconds", 0.05)
        threading.Thread(target=self.write, daemon=True).start()

    def write(self):
        started = time.monotonic()
        while not self.gone:
            now, used = time.time_ns(), time.monotonic() - started
            values = {"cpu_seconds_total": used / 2, "memory_bytes": 1e6, "pids": 1}
            for key in list(self.names):
                self.ring.append([now, now, key, 1, *(values.get(column.name, math.nan) for column in CONTAINER)])
            time.sleep(0.05)

    def sampled(self):
        if self.gone:
            raise LabGone("lab demo is gone")
        return self.ring, self.names

source = Source()
while source.ring.head < 12:  # six samples of two
    time.sleep(0.01)
board = Dashboard(source, last="20s", refresh_hz=5)
"""
)


class Page:
    """What a front end does with a chart: takes its pictures, says what it has drawn."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.comm = ""
        self.pictures: list[dict[str, Any]] = []  # as they came
        self.displays: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []

    def take(self, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        """Take what comes in that time, or until then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            try:
                message = self.kernel.client.get_iopub_msg(timeout=0.02)
            except queue.Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "comm_open" and "_esm" in content["data"]["state"]:
                self.comm = content["comm_id"]
            if kind in ("comm_open", "comm_msg") and content["comm_id"] == self.comm:
                data = content["data"]
                if "picture" in data.get("state", {}):
                    picture = dict(data["state"]["picture"])
                    for path, buffer in zip(data["buffer_paths"], message["buffers"], strict=True):
                        assert path[0] == "picture"
                        picture[path[1]] = buffer
                    self.pictures.append(picture)
            elif kind == "display_data":
                self.displays.append(content["data"])
            elif kind == "update_display_data":
                self.updates.append(content["data"])

    def say(self, view: str = "page", **more: Any) -> None:
        """What a view says, over the comm of its model."""
        newest = self.pictures[-1]["number"] if self.pictures else 0
        content = {"view": view, "visible": True, "drawn": newest, "took_seconds": 0.0, **more}
        data = {"method": "custom", "content": content}
        session = self.kernel.client.session
        message = session.msg("comm_msg", {"comm_id": self.comm, "data": data})
        self.kernel.client.shell_channel.send(message)

    def next(self, seconds: float = 10.0) -> dict[str, Any]:
        """The next picture that comes."""
        before = len(self.pictures)
        self.take(seconds, lambda: len(self.pictures) > before)
        assert len(self.pictures) > before, "no picture came"
        return self.pictures[-1]


@pytest.fixture
def page(bare_kernel: Any) -> Iterator[Page]:
    """A source of counters in a kernel, whose chart has just been shown."""
    if not (ROOT / "ctlab/static/chart.js").is_file():
        pytest.skip("ctlab/static/chart.js isn't built (pip install -e . builds it)")
    bare_kernel.good(SOURCE)
    made = Page(bare_kernel)
    bare_kernel.client.execute("board")
    made.take(20, lambda: len(made.displays) == 2)
    yield made
    bare_kernel.good("board.stop()\nsource.gone = True")


def test_the_first_picture_comes_with_the_view_and_plotly_is_not_imported(page: Page) -> None:
    picture, view = page.displays
    assert set(picture) == {"text/html", "text/plain"} and "<td>web</td><td>0.5" in picture["text/html"]
    assert VIEW in view and "web" in picture["text/plain"]
    (first,) = page.pictures  # in the message that opens the model: no view is ever made without one
    assert first["number"] == 1 and first["names"] == ["web", "client"] and first["lab"] == "demo"
    x, y = np.frombuffer(first["x"], "<f8"), np.frombuffer(first["y"], "<f4")
    assert len(x) >= 3 and len(y) == 2 * 5 * len(x) and (np.diff(x) > 0).all()
    assert np.nanmax(y[: len(x)]) == pytest.approx(0.5, abs=0.2)
    cell = page.kernel.run("print([name for name in ('plotly', 'pandas', 'nbformat') if name in sys.modules])")
    assert cell.stream() == "[]\n"


def test_the_next_picture_comes_when_the_last_one_is_drawn(page: Page) -> None:
    page.say()
    page.next()
    began = time.monotonic()
    for _ in range(5):
        page.say()
        page.next()
    assert time.monotonic() - began >= 4 * 0.2  # 5 a second are asked for
    assert [picture["number"] for picture in page.pictures] == list(range(1, len(page.pictures) + 1))
    before = len(page.pictures)
    page.take(PATIENCE_SECONDS * 0.5)
    assert len(page.pictures) == before  # nobody has drawn it
    page.next()  # ... and still there is one now and then
    page.say(took_seconds=0.6)
    said = time.monotonic()
    page.next()
    assert time.monotonic() - said >= 1.1  # a page that is slow has twice that time for itself


def test_a_hidden_page_gets_none(page: Page) -> None:
    page.say(visible=False)
    page.take(0.5)
    before = len(page.pictures)
    page.take(PATIENCE_SECONDS + 1)
    assert len(page.pictures) == before
    page.say()
    page.next(2)
    page.say("other")
    page.say("page", gone=True)
    page.next(2)


@pytest.mark.parametrize(("took", "believed"), [(0.5, 0.5), (-1, 0.0), (1e300, 10.0), (10**400, 10.0)])
def test_what_a_view_says_of_its_own_speed_is_bounded(took: float, believed: float) -> None:
    """Else one page keeps the pictures from all others."""
    heard = understood({"view": "page", "drawn": 1, "took_seconds": took})
    assert heard is not None and heard.took_seconds == believed
    assert understood({"view": "page", "drawn": 1, "took_seconds": float("nan")}) is None


def test_while_a_cell_computes_pictures_come_and_what_no_view_says_is_nothing(page: Page) -> None:
    """This front end knows no subshell: its answers wait until the cell has ended."""
    for nonsense in ({"drawn": "all"}, {"took_seconds": None}, {"view": 5}, {"drawn": True}):
        page.say(**nonsense)
    page.say()
    page.next()
    page.kernel.client.execute("end = time.monotonic() + 7\nwhile time.monotonic() < end: pass")
    page.take(0.5)
    page.say()
    before = len(page.pictures)
    page.take(7.2)
    assert 2 <= len(page.pictures) - before <= 5
    page.say()
    page.next(2)


def test_what_a_notebook_would_keep_is_no_older_than_some_seconds(page: Page) -> None:
    page.kernel.client.execute(
        "import ctlab.notebook.dashboard\nctlab.notebook.dashboard.STORE_SECONDS = 0.2\nsource.names[3] = 'late'"
    )
    for _ in range(3):
        page.say()
        page.next()
    page.take(5, lambda: page.updates)
    assert "<td>late</td>" in page.updates[-1]["text/html"] and "ctlab-still" in page.updates[-1]["text/html"]


def test_the_end_leaves_a_picture(page: Page) -> None:
    page.kernel.client.execute("source.names = {**source.names, 3: 'late'}\nhead = source.ring.head")
    page.kernel.client.execute("while source.ring.head < head + 15: time.sleep(0.01)\nboard")
    page.take(10, lambda: len(page.displays) == 4)
    page.kernel.client.execute("board.stop()\nboard.stop()\nprint(board, board.live)\nboard")
    page.take(10, lambda: len(page.displays) == 5 and len(page.updates) == 2)
    assert page.updates[0] == {"text/html": ""}  # in place of both views
    for data in (page.updates[1], page.displays[4]):  # both pictures, and one after the end
        assert sorted(data) == ["text/html", "text/plain"]
        html = data["text/html"]
        assert "demo · as of 20" in html and "<svg" in html and "<script" not in html and "live" not in html
        assert "<td>web</td><td>0.5" in html and "<td>late</td>" in html and "web" in data["text/plain"]
        assert len(html) < 200_000
    assert (
        page.kernel.run("print(board, board.live, len(board.figure().data))").stream()
        == "<Dashboard stopped> False 15\n"
    )


def test_a_lab_that_is_gone_ends_its_chart_also_if_nobody_looks(page: Page) -> None:
    page.say(visible=False)
    page.kernel.client.execute("source.gone = True")
    page.take(10, lambda: len(page.updates) == 2)
    data = page.updates[1]
    assert "lab demo is gone" in data["text/html"] and "<svg" in data["text/html"] and VIEW not in data
    assert page.kernel.run("print(board)").stream() == "<Dashboard stopped>\n"


def test_in_a_terminal_it_is_a_table(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%container run -d --name web -- sh -c 'while :; do :; done'")
    until = time.monotonic() + 10
    while len(shell.lab.sampled()[0].snapshot()) < 5 and time.monotonic() < until:
        time.sleep(0.02)
    capsys.readouterr()
    shell.ip.run_cell("%stats --live")
    title, head, row = (line for line in capsys.readouterr().out.splitlines() if line.strip())
    assert "a chart that moves needs a notebook" in title and " as of 20" in title
    assert head.startswith("container  CPU cores, mean") and row.startswith("web ")
    assert "not shown yet" not in title + head + row


def test_an_interrupt_of_the_first_picture_is_one_line(
    shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The display hook runs when the magic has returned, so the line is the chart's own."""
    shell.run("%container run -d --name web -- sleep 60")

    def interrupted(board: Dashboard) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Dashboard, "_read", interrupted)
    capsys.readouterr()
    shell.ip.run_cell("%stats --live")
    said = capsys.readouterr().out
    assert "the making of a chart of lab 'lab', whose counters go on" in said and "dashboard.py" not in said


def test_bad_settings_are_refused_before_anything_is_shown() -> None:
    with pytest.raises(BadInput):
        Dashboard(None, refresh_hz=50)  # type: ignore[arg-type]  # no lab is asked here
    with pytest.raises(BadInput):
        Dashboard(None, last="soon")  # type: ignore[arg-type]  # nor here
