"""The live chart of a lab: four panes in the page, fed by a thread, a picture once stopped.

A widget of our own, since plotly's has no back-pressure: the next picture goes out when every page that looks has
drawn the last one (`chart_pace`). The thread reads what is new in the ring and sends one message for a picture. It
never prints, and no cell waits for it; a cell that computes doesn't stop it.

A widget lives as long as its kernel. `stop` therefore puts a picture without script in its place, which a saved
notebook keeps.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ctlab import units
from ctlab.errors import BadInput, StateError
from ctlab.interrupts import interruptible
from ctlab.notebook import shown
from ctlab.notebook.chart_pace import Pace
from ctlab.notebook.chart_picture import Chosen, Picture, take
from ctlab.notebook.chart_rows import Rows
from ctlab.notebook.chart_svg import chart_svg
from ctlab.notebook.chart_table import html_table, text_table
from ctlab.notebook.display import has_kernel

if TYPE_CHECKING:
    from ctlab.metrics.ring import Ring
    from ctlab.notebook.dashboard_widget import DashboardWidget, Heard

POINTS = 240  # of one line: what the 400 pixels of a pane show
STATIC_POINTS = 300  # of one line in what a saved notebook keeps
MAX_FAILURES = 20  # pictures in a row that may fail before the chart gives up
STORE_SECONDS = 10.0  # how old the picture may be that a notebook holds which is saved while the chart is live
LOOK_SECONDS = 1.0  # how often is looked whether the lab is still there, while no picture is wanted


class Sampled(NamedTuple):
    """Where counters are read: the ring of containers, and what its keys are called."""

    ring: Ring
    names: Mapping[int, str]


class Source(Protocol):
    """What a dashboard shows: a `Lab`, or anything that has such rows."""

    @property
    def name(self) -> str:
        """Of the lab."""

    def sampled(self) -> Any:
        """(The ring of containers, the names of its keys). StateError of a lab that is gone ends the dashboard."""


class Dashboard:
    """A live chart of containers; show it as a cell's last expression. `stop` leaves a picture behind."""

    def __init__(
        self,
        source: Source,
        containers: Iterable[str] | str | None = None,
        last: str | float = "60s",
        refresh_hz: float = 4.0,
    ) -> None:
        """`containers`: names, all of which are drawn; without any, the busiest eight, and the others together.

        `last`: the window of time that is shown; `refresh_hz`: pictures a second at most, 0.1 to 10; else BadInput.
        Nothing is asked of the source before the dashboard is shown.
        """
        if not 0.1 <= refresh_hz <= 10:
            raise BadInput(f"refresh_hz={refresh_hz!r}: between 0.1 and 10 pictures a second")
        self._seconds = units.parse_duration(last)
        self._source = source
        self._period = 1 / refresh_hz
        self._lock = threading.RLock()  # rows and widget belong to whoever holds it
        self._wake = threading.Condition()  # guards the pace
        self._pace = Pace(self._period)
        self._rows: Rows | None = None
        self._names: Mapping[int, str] = {}
        self._chosen = Chosen(
            [containers] if isinstance(containers, str) else list(containers) if containers is not None else None
        )
        self._stopping = threading.Event()
        self._finished = False
        self._thread: threading.Thread | None = None
        self._display_id = f"ctlab-chart-{uuid.uuid4().hex}"  # of all outputs that show this chart
        self._stored: float | None = None  # time.monotonic() of the picture in those, once there is one
        self._widget: DashboardWidget | None = None
        self._hidden = ""  # what is said about containers that have no line of their own
        self._failure = ""  # why the chart ended by itself, or there is none

    @property
    def live(self) -> bool:
        """Whether the chart moves."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    @property
    def updates(self) -> int:
        """Pictures sent so far."""
        return self._pace.number

    def __repr__(self) -> str:
        return f"<Dashboard {'stopped' if self._stopping.is_set() else 'live' if self.live else 'not shown yet'}>"

    def figure(self) -> Any:
        """The chart as it is now as a plotly Figure, to explore and to keep."""
        from ctlab.notebook.chart_figure import figure

        with self._lock:
            if not self._finished:
                self._read()
            picture = self._picture(STATIC_POINTS)
            return figure(picture, self._title())

    # ---- what a notebook shows

    @interruptible(lambda board: f"the making of a chart of lab {board._source.name!r}, whose counters go on")
    def _ipython_display_(self) -> None:
        with self._lock:
            if self._stopping.is_set() or not has_kernel():
                if not self._stopping.is_set():
                    self._read()
                shown.put(self._repr_mimebundle_())
                return
            try:
                self._read()
            except StateError:
                raise
            except Exception as error:
                self._failure = f"reading failed: {error}"  # the thread tries again, and gives up if it has to
            if self._widget is None:
                self._make_widget()
            bundle = self._repr_mimebundle_()
            self._stored = time.monotonic()
            if self._widget is not None:
                shown.put_live(bundle, self._widget, self._display_id)
            else:
                shown.put(bundle, self._display_id)
            if self._thread is None and self._widget is not None:
                self._thread = threading.Thread(target=self._run, name="ctlab-dashboard", daemon=True)
                self._thread.start()

    def _make_widget(self) -> None:
        """The widget with its first picture: a view that is made of it is never empty, whoever can't be heard."""
        widgets, failure = shown.widgets("ctlab.notebook.dashboard_widget", "chart")
        if widgets is None:
            self._failure = failure
        else:
            number = self._pace.sent(time.monotonic(), 0.0)
            first = widgets.wire(self._picture(POINTS), number, self._source.name)
            self._widget = widgets.DashboardWidget(first, self._period, self._hear, self._display_id)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The chart as it is now, static: it needs no kernel, and the page no script."""
        with self._lock:
            table = text_table(self._rows.means(self._names)) if self._rows is not None else ""
            return {"text/html": self._html(), "text/plain": "\n".join(filter(None, (self._said(), table)))}

    def stop(self) -> None:
        """End the thread and replace every output of this dashboard by a picture. A second call does nothing."""
        self._stopping.set()
        with self._wake:
            self._wake.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(3)
        self._finish(ask=not self._failure)

    close = stop

    def refresh_stored(self) -> None:
        """Nothing: while somebody looks, the thread does it now and then, and `stop` for good."""

    # ---- the page's answers

    def _hear(self, heard: Heard) -> None:
        """A view says something; in whatever thread serves the messages of the page."""
        with self._wake:
            if heard.gone:
                self._pace.left(heard.view)
            else:
                self._pace.heard(
                    heard.view, time.monotonic(), visible=heard.visible, drawn=heard.drawn,
                    took_seconds=heard.took_seconds,
                )  # fmt: skip
            self._wake.notify_all()

    # ---- the thread

    def _run(self) -> None:
        failures, looked = 0, time.monotonic()
        while not self._stopping.is_set():
            with self._wake:
                now = time.monotonic()
                wait = self._pace.due(now) - now
                if wait > 0:
                    self._wake.wait(min(wait, LOOK_SECONDS))
            now = time.monotonic()
            if wait > 0 and now - looked < LOOK_SECONDS:
                continue
            looked = now
            try:
                with self._lock:
                    if self._stopping.is_set():
                        return
                    if wait > 0:
                        self._source.sampled()
                    else:
                        self._send()
                failures, self._failure = 0, ""
            except StateError as gone:
                self._failure = str(gone)
                break
            except Exception as error:
                failures += 1
                self._failure = f"updating failed: {error}"
                if failures >= MAX_FAILURES:
                    break
                self._stopping.wait(self._period)
        if not self._stopping.is_set():
            self._stopping.set()
            self._finish(ask=False)

    def _send(self) -> None:
        """Read what is new, and send one picture."""
        from ctlab.notebook.dashboard_widget import wire

        used = time.thread_time()
        self._read()
        picture = wire(self._picture(POINTS), self._pace.number + 1, self._source.name)
        used = time.thread_time() - used
        with self._wake:
            self._pace.sent(time.monotonic(), used)
        if self._widget is not None:
            self._widget.picture = picture
        if self._stored is not None and time.monotonic() - self._stored > STORE_SECONDS and not shown.captured():
            self._stored = time.monotonic()
            shown.replace(shown.still(self._repr_mimebundle_(), self._display_id), self._display_id)

    def _read(self) -> None:
        ring, names = self._source.sampled()
        if self._rows is None:
            self._rows = Rows(self._seconds)
        self._rows.read(ring)
        self._names = dict(names)

    def _picture(self, points: int) -> Picture:
        rows = self._rows if self._rows is not None else Rows(self._seconds)
        picture = take(rows, self._names, self._chosen, self._seconds, points)
        self._hidden = picture.said
        return picture

    def _finish(self, *, ask: bool) -> None:
        """Replace the outputs; `ask`: take what was sampled since the last picture into the static one."""
        # The thread may hang in a lab that is being stopped by whoever calls this: then it is not waited for.
        mine = self._lock.acquire(timeout=2)
        try:
            if self._finished:
                return
            self._finished = True
            if ask and mine and self._stored is not None:
                try:
                    self._read()
                except StateError:  # the lab is gone already: the last picture is what there is
                    pass
                except Exception as error:
                    self._failure = f"reading failed: {error}"
            if self._stored is not None:
                shown.end_live(self._repr_mimebundle_(), self._display_id)
            if mine and self._widget is not None:
                self._widget.close()
                self._widget = None
        finally:
            if mine:
                self._lock.release()

    # ---- words

    def _html(self) -> str:
        """For pages without the widget: the title, a picture of the same lines, and a table."""
        drawn = table = ""
        if self._rows is not None and len(self._rows):
            picture = self._picture(STATIC_POINTS)
            drawn = chart_svg(picture.lines(), colours=picture.colours, points=STATIC_POINTS)
            table = html_table(self._rows.means(self._names))
        return f"<p>{escape(self._title())}</p>{drawn}{table}"

    def _title(self) -> str:
        """The lab, of when it is, and what has to be said about it."""
        return " · ".join(filter(None, (self._source.name, self._as_of(), self._hidden, self._failure)))

    def _as_of(self) -> str:
        known = self._rows is not None and len(self._rows)
        return f"as of {units.format_moment(self._rows.time_ms[-1] / 1000 if known and self._rows else None)}"

    def _said(self) -> str:
        """What stands above the table, where there is no picture."""
        return " · ".join(filter(None, (self._title(), "" if has_kernel() else "a chart that moves needs a notebook")))
