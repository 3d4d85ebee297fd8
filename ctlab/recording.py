"""A recorded run: the map, the counters and the chart of a lab that ran elsewhere, to look at without one.

Nothing in it is simulated: `scripts/record-sample.py` runs a lab and stores what its map and its sampler's rings held.
"""

from __future__ import annotations

import gzip
import html
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from .errors import BadInput, NotFound
from .names import did_you_mean
from .recorded import LAB_METHODS, LAB_PROPERTIES, RecordedContainer, refusal, refuse, row

if TYPE_CHECKING:
    import pandas

    from .handles import Handles
    from .metrics.ring import Snapshot
    from .notebook.chart_picture import Picture
    from .notebook.chart_rows import Rows
    from .notebook.topology import Topology

FORMAT = 1
SAMPLE = "sample.json.gz"


class Recording:
    """What `ctlab.sample_run` returns. It has the methods of a `Lab` that look at one; those that change one refuse."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """`data`: as `store` has made it; BadInput for another format."""
        if data.get("format") != FORMAT:
            raise BadInput(f"a recording of format {data.get('format')!r}: this ctlab reads format {FORMAT}")
        self._data = data
        self.recorded_at = datetime.fromtimestamp(data["recorded_at"], UTC)
        self.name: str = f"{data['lab']}, {self.as_of}"
        self.kernel: str = data["kernel"]
        self.story: str = data["story"]
        self._rows: dict[str, Snapshot] = {}

    def __repr__(self) -> str:
        return f"<Recording {self.name}>\n{self.story}\n\n{self.topology().text}"

    def _repr_html_(self) -> str:
        from .notebook.chart_svg import chart_svg
        from .notebook.chart_table import html_table
        from .notebook.map_svg import map_svg

        rows, picture = self._picture(None, None)
        head = f"<p><b>{html.escape(self.name)}</b>, on Linux {html.escape(self.kernel)}</p>"
        story = f"<p>{html.escape(self.story)}</p>"
        chart = chart_svg(picture.lines(), colours=picture.colours) + html_table(rows.means(self._names))
        return head + story + map_svg(self.map_elements()) + chart

    @property
    def as_of(self) -> str:
        """``recorded 2026-11-25 09:33 UTC``."""
        return f"recorded {self.recorded_at:%Y-%m-%d %H:%M} UTC"

    def stats(
        self, containers: Any = None, metrics: Any = None, last: Any = "30s", *, by: str = "container", **options: Any
    ) -> pandas.DataFrame:
        """The counters as a DataFrame, with the options of `Lab.stats`; `last` counts back from the last sample."""
        from .metrics.frame import Names, build_frame, check_by

        names = Names(
            containers=self._names,
            endpoints={int(key): tuple(words) for key, words in self._data["endpoints"].items()},
        )
        rows = self._snapshot("endpoints" if check_by(by) == "endpoint" else "containers")
        attrs = {"lab": self.name, "interval_seconds": self._data["interval_seconds"]}
        return build_frame(
            rows, names, by=by, containers=containers, metrics=metrics, last=last, attrs=attrs, **options
        )

    def topology(self) -> Topology:
        """The map: a picture in a notebook, text in a terminal. It is frozen, so a saved notebook keeps it."""
        from .notebook.topology import Topology

        made = Topology(self)
        made.freeze()
        return made

    def chart(self, containers: Any = None, last: Any = None) -> Any:
        """The chart, a plotly Figure: CPU, memory, network and processes of each container."""
        from . import units
        from .metrics.frame import Names, check_names
        from .notebook.chart_figure import figure

        seconds = None if last is None else units.parse_duration(last)
        if containers is not None:
            check_names(containers, Names(self._names))
        _, picture = self._picture(containers, seconds)
        return figure(picture, " · ".join(filter(None, (self.name, picture.said))))

    @property
    def containers(self) -> Handles[RecordedContainer]:
        """Its containers."""
        from .handles import Handles

        names = [str(element["label"]) for element in self.map_elements() if element["kind"] == "container"]
        return Handles([RecordedContainer(self, name) for name in names], row, "container", self.as_of)

    def __getitem__(self, name: str) -> RecordedContainer:
        return self.containers[str(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.containers.__contains__(name)

    __iter__ = None  # as of a `Lab`: its containers are `containers`

    def __getattr__(self, name: str) -> Any:
        if name in LAB_METHODS | LAB_PROPERTIES:
            error = refusal("this lab", name, "topology, stats, chart, containers, details")
            if name in LAB_METHODS:
                return refuse(error)
            raise error
        raise AttributeError(f"a recording has no attribute '{name}'")

    # ---- what a map asks its source

    def map_elements(self) -> list[dict[str, object]]:
        """What the map shows."""
        return [dict(element) for element in self._data["elements"]]

    def details(self, element_id: str) -> Mapping[str, object]:
        """What a live map shows of a clicked element, by its id (``container:web``); NotFound if there is none."""
        found: Mapping[str, object] | None = self._data["details"].get(element_id)
        if found is None:
            raise NotFound(
                f"nothing on the map is called '{element_id}'{did_you_mean(element_id, self._data['details'])}"
            )
        return found

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Never calls: a recording doesn't change."""
        return lambda: None

    @property
    def _names(self) -> dict[int, str]:
        return {int(key): str(name) for key, name in self._data["containers"].items()}

    def _picture(self, containers: Any, seconds: float | None) -> tuple[Rows, Picture]:
        from .notebook.chart_picture import Chosen, take
        from .notebook.chart_rows import Rows

        rows, everything = Rows(seconds), self._snapshot("containers")
        rows.interval_ms = self._data["interval_seconds"] * 1000
        rows.add(everything)
        chosen = Chosen([containers] if isinstance(containers, str) else containers)
        return rows, take(rows, self._names, chosen, seconds, max(2, len(everything)))

    def _snapshot(self, ring: str) -> Snapshot:
        from .metrics.columns import CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA
        from .metrics.stored import unpack

        if ring not in self._rows:
            schema = ENDPOINTS_SCHEMA if ring == "endpoints" else CONTAINERS_SCHEMA
            self._rows[ring] = unpack(self._data["rows"][ring], schema)
        return self._rows[ring]


def store(data: Mapping[str, Any]) -> bytes:
    """What `load` reads: JSON, compressed; the same data gives the same bytes."""
    text = json.dumps({"format": FORMAT, **data}, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), mtime=0)


def load(stored: bytes) -> Recording:
    """A recording from what `store` made; BadInput if it is none."""
    try:
        data = json.loads(gzip.decompress(stored))
    except (OSError, EOFError, ValueError) as error:
        raise BadInput(f"not a recording: {error}") from None
    return Recording(data)


def sample_run() -> Recording:
    """A recorded lab that comes with the package: three containers, two networks, half a minute of traffic.

    It needs no namespaces, no cgroups and no root: only to be looked at.
    """
    return load(resources.files("ctlab.recordings").joinpath(SAMPLE).read_bytes())
