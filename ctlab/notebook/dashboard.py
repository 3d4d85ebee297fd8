"""The live chart of a lab: one plotly `FigureWidget` with four panes, fed by a thread, static once stopped.

One widget and not four: each one sends plotly.js (5 MB) to the browser. The thread asks the lab for a frame a few
times a second, thins the lines to what a browser can draw, and sends one update; it draws fewer pictures rather than
queue them. It never prints, and no cell waits for it; a cell that computes doesn't stop it.

A widget lives as long as its kernel. `stop` therefore puts a static figure in its place, which a saved notebook keeps.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from ctlab import units
from ctlab.apart import ready
from ctlab.errors import BadInput, NotFound, StateError
from ctlab.notebook import dashboard_figure, shown
from ctlab.notebook.chart_svg import chart_svg
from ctlab.notebook.dashboard_figure import MAX_CONTAINERS, METRICS, PANES

if TYPE_CHECKING:
    import pandas as pd

    from ctlab.notebook.dashboard_figure import Line

MAX_POINTS = 1000  # of one line
MIN_POINTS = 60
STATIC_POINTS = 300  # of one line in what a saved notebook keeps
POINTS_PER_SECOND = 30_000  # what a browser without a GPU, on a machine that has other things to do, draws in time
MAX_FAILURES = 20  # updates in a row that may fail before the chart gives up


class StatsSource(Protocol):
    """What a dashboard asks for frames: a `Lab`, or anything that has recorded one."""

    def stats(
        self,
        containers: Iterable[str] | str | None = None,
        metrics: Iterable[str] | str | None = None,
        last: str | float = "30s",
        *,
        rates: bool = True,
    ) -> pd.DataFrame:
        """A frame by container, as `lab.stats`. NotFound for a container that isn't there yet is waited out;
        StateError (a lab that is gone) ends the dashboard.
        """
        ...


class Dashboard:
    """A live chart of containers; show it as a cell's last expression. `stop` leaves a static figure behind."""

    def __init__(
        self,
        source: StatsSource,
        containers: Iterable[str] | str | None = None,
        last: str | float = "60s",
        refresh_hz: float = 4.0,
    ) -> None:
        """`last`: the window of time that is shown; `refresh_hz`: pictures a second, 0.1 to 10. BadInput otherwise.

        Nothing is asked of the source before the dashboard is shown.
        """
        if not 0.1 <= refresh_hz <= 10:
            raise BadInput(f"refresh_hz={refresh_hz!r}: between 0.1 and 10 pictures a second")
        self._seconds = units.parse_duration(last)
        self._source = source
        self._containers = [containers] if isinstance(containers, str) else containers and list(containers)
        self._last = last
        self._period = 1 / refresh_hz
        self._lock = threading.RLock()  # the figure belongs to whoever holds it
        self._stopping = threading.Event()
        self._finished = False
        self._thread: threading.Thread | None = None
        self._handles: list[Any] = []
        self._figure: Any = None
        self._places: dict[str, int] = {}
        self._frame: pd.DataFrame | None = None
        self._hidden = ""  # what is said about containers that have no line
        self._failure = ""  # why the chart ended by itself
        self.updates = 0  # pictures sent so far

    @property
    def live(self) -> bool:
        """Whether the chart moves."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    def __repr__(self) -> str:
        return f"<Dashboard {'stopped' if self._stopping.is_set() else 'live' if self.live else 'not shown yet'}>"

    # ---- what a notebook shows

    def _ipython_display_(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                shown.put(self._repr_mimebundle_())
                return
            if self._figure is None:
                ready("plotly.graph_objects")
                import plotly.graph_objects as go

                self._figure = go.FigureWidget(dashboard_figure.make(self._title()))
                try:
                    self._update()
                except Exception as error:
                    self._failure = str(error)  # the thread tries again, and gives up if it has to
            bundle = dict(self._figure._repr_mimebundle_())
            # What is shown where there is no widget: a page made of the notebook, another kernel.
            bundle["text/html"] = self._html()
            bundle["text/plain"] = repr(self)
            self._handles.append(shown.put(bundle, True))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ctlab-dashboard", daemon=True)
                self._thread.start()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The chart as it is now, static: it needs no kernel."""
        frame = self._frame
        figure = dashboard_figure.make(escape(self._title()))
        if frame is not None:
            dashboard_figure.fill(figure, {}, self._ordered(dashboard_figure.lines(frame, STATIC_POINTS)))
        return {
            "application/vnd.plotly.v1+json": json.loads(figure.to_json()),
            "text/html": self._html(),
            "text/plain": repr(self),
        }

    def stop(self) -> None:
        """End the thread and replace every output of this dashboard by a static figure. A second call does nothing."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(3)
        self._finish(ask=not self._failure)

    close = stop

    def refresh_stored(self) -> None:
        """Nothing: what shows a live chart is brought up to date when it stops."""

    # ---- the thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began, used = time.monotonic(), time.thread_time()
            try:
                with self._lock:
                    if not self._stopping.is_set():
                        self._update()
                failures, self._failure = 0, ""
            except StateError as gone:
                self._failure = str(gone)
                break
            except Exception as error:
                failures += 1
                self._failure = f"updating failed: {error}"
                if failures >= MAX_FAILURES:
                    break
            # At most a fifth of a CPU; waiting for a busy cell to give up the interpreter doesn't count.
            took, used = time.monotonic() - began, time.thread_time() - used
            self._stopping.wait(max(self._period - took, 4 * used))
        if not self._stopping.is_set():
            self._stopping.set()
            self._finish(ask=False)

    def _update(self) -> None:
        """Ask for a frame and send one picture of it."""
        try:
            frame = self._source.stats(containers=self._containers, metrics=METRICS, last=self._last, rates=True)
        except NotFound:
            return
        self._frame = frame
        names = max(1, min(frame["container"].nunique(), MAX_CONTAINERS))
        limit = int(POINTS_PER_SECOND * self._period / (names * len(PANES)))
        drawn = dashboard_figure.lines(frame, min(MAX_POINTS, max(MIN_POINTS, limit)))
        self._hidden = dashboard_figure.fill(self._figure, self._places, drawn, seconds=self._seconds)
        title = escape(self._title())
        if self._figure.layout.title.text != title:
            self._figure.layout.title.text = title
        self.updates += 1

    def _finish(self, *, ask: bool) -> None:
        """Replace the outputs; `ask`: take what was sampled since the last picture into the static one."""
        # The thread may hang in a lab that is being stopped by whoever calls this: then it is not waited for.
        mine = self._lock.acquire(timeout=2)
        try:
            if self._finished:
                return
            self._finished = True
            if ask and mine and self._figure is not None:
                try:
                    self._frame = self._source.stats(
                        containers=self._containers, metrics=METRICS, last=self._last, rates=True
                    )
                except Exception:  # the lab may be gone already: then the last picture is what there is
                    pass
            bundle = self._repr_mimebundle_() if self._handles else {}
            for handle in self._handles:
                handle.update(bundle, raw=True)
            if mine and self._figure is not None:
                self._figure.close()
                self._figure = None
        finally:
            if mine:
                self._lock.release()

    def _ordered(self, drawn: dict[str, list[Line]]) -> dict[str, list[Line]]:
        """In the order, and so with the colours, of the live figure."""
        return {name: drawn[name] for name in (*self._places, *drawn) if name in drawn}

    def _html(self) -> str:
        """For pages that draw no plotly figure: the title, a picture of the same lines, and a table."""
        frame, picture = self._frame, ""
        if frame is not None and len(frame):
            picture = chart_svg(self._ordered(dashboard_figure.series(frame)), points=STATIC_POINTS)
        return dashboard_figure.table(frame, self._title(), picture)

    def _title(self) -> str:
        """The lab, whether the chart is live, and what has to be said about it."""
        lab = str(self._frame.attrs.get("lab", "")) if self._frame is not None else ""
        if not self._stopping.is_set():
            return " · ".join(filter(None, (lab, "live", self._hidden)))
        newest = self._frame.index[-1] if self._frame is not None and len(self._frame) else datetime.now(UTC)
        return " · ".join(filter(None, (lab, f"as of {newest:%Y-%m-%d %H:%M:%S} UTC", self._hidden, self._failure)))
