"""The map of a lab: live in a notebook, a picture in a saved one, a tree of lines in a terminal.

Nothing heavy is imported here: anywidget only when a map is shown where there is a kernel to talk to a browser.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ctlab import cards
from ctlab.errors import CtlabError
from ctlab.keywords import checked
from ctlab.notebook import shown, theme
from ctlab.notebook.coalesce import Coalesced
from ctlab.notebook.map_boxes import Point
from ctlab.notebook.map_geometry import Geometry, measure
from ctlab.notebook.map_layout import place
from ctlab.notebook.map_model import Element, World, read
from ctlab.notebook.map_places import believed, still_free
from ctlab.notebook.map_sent import for_browser
from ctlab.notebook.map_svg import map_svg
from ctlab.notebook.map_text import map_text

if TYPE_CHECKING:
    from ctlab.notebook.topology_widget import TopologyWidget

REFRESH_SECONDS = 0.1
STORE_SECONDS = 2.0  # how old the picture may be that a notebook holds which is saved while the map is live


class Source(Protocol):
    """What a map shows. All methods may be called from any thread.

    One that has a `recorded_at` is a recording: its name says from when it is, so nothing is added that says "now".
    """

    @property
    def name(self) -> str:
        """The title."""

    def map_elements(self) -> list[dict[str, object]]:
        """The elements as they are now; see `ctlab.notebook.map_model`."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], object]:
        """Call ``callback``, from any thread, whenever elements may have changed; returns what ends that."""

    def details(self, element_id: str) -> Mapping[str, object]:
        """What to show of one element: name → value. An element that is gone: a CtlabError or KeyError."""


@checked
class Topology:
    """The map of a source, kept up to date until `freeze`; show it as often as you like.

    What is on the map stays where it is when the lab changes; what a person dragged stays where it was dropped.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source
        self._lock = threading.RLock()  # guards what follows; never held while the source is asked
        self._elements: list[dict[str, object]] = []
        self._places: dict[str, Point] = {}  # also of what is gone: a name that comes back returns to its place
        self._hues: dict[str, int] = {}
        self._measured: tuple[object, Geometry] | None = None  # the last geometry, and what it was computed from
        self._listeners: list[Callable[[str], object]] = []
        self._widget: TopologyWidget | None = None
        self._problem = ""  # why there is no live map
        self._closing = False
        self._frozen = False
        self._display_id = f"ctlab-map-{uuid.uuid4().hex}"  # of all outputs that show this map
        self._stored: object = None  # what those outputs hold, once there is one
        self._later = Coalesced(self.refresh, REFRESH_SECONDS, name=f"ctlab-map-{self.name}")
        self._store_later = Coalesced(self.refresh_stored, STORE_SECONDS, name=f"ctlab-map-store-{self.name}")
        self.refresh()
        self._cancel = source.on_change(self._later.request)

    def __repr__(self) -> str:
        return f"<Topology {self.name}: {self.world.summary()}{', frozen' if self._frozen else ''}>"

    @property
    def elements(self) -> list[dict[str, object]]:
        """The elements as last read."""
        with self._lock:
            return list(self._elements)

    @property
    def world(self) -> World:
        """The elements as last read, indexed."""
        return read(self.elements)

    @property
    def frozen(self) -> bool:
        """Whether the map no longer follows its source."""
        return self._frozen

    @property
    def selected(self) -> str:
        """The id of the selected element (``container:web``), or an empty text."""
        return str(self._widget.selected) if self._widget else ""

    @selected.setter
    def selected(self, element_id: str) -> None:
        if self._widget:
            self._widget.selected = element_id

    @property
    def svg(self) -> str:
        """The map as an SVG document, arranged as the live map is."""
        with self._lock:
            return map_svg(self._elements, hues=self._hues, geometry=self._geometry())

    @property
    def text(self) -> str:
        """The map as lines of text."""
        return map_text(self.elements, title=self._title())

    @property
    def widget(self) -> TopologyWidget | None:
        """The live map, made when first asked for; None where there can't be one, or once frozen."""
        with self._lock:
            if self._widget is None and not self._frozen and not self._problem and _has_kernel():
                widgets, self._problem = shown.widgets("ctlab.notebook.topology_widget", "map")
                if widgets is not None:
                    self._widget = widgets.TopologyWidget(still=self._display_id, **self._state())
                    self._widget.observe(self._on_selected, "selected")
                    self._widget.observe(self._on_moved, "moved")
                    self._widget.observe(lambda _: self.tidy(), "tidy_requests")
            return self._widget

    def on_select(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call ``callback(element_id)`` when another element is selected (an empty text: none); returns what ends that.

        It may be called in another thread, also while a cell runs.
        """
        self._listeners.append(callback)

        def cancel() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return cancel

    def refresh(self) -> None:
        """Read the source and bring every view up to date. A source that is gone leaves the map as it was."""
        try:
            elements = self._source.map_elements()
        except CtlabError:
            return
        with self._lock:
            if self._frozen:
                return
            self._take(elements)
            if self._widget:
                there = {str(element["id"]) for element in elements}
                with self._widget.hold_sync():
                    for name, value in self._state().items():
                        setattr(self._widget, name, value)
                    self._widget.moved = {key: at for key, at in self._widget.moved.items() if key in there}
        if self._widget and self._widget.selected:
            self._show_details()
        if self._stored is not None:
            self._store_later.request()

    def tidy(self) -> None:
        """Arrange everything anew, also what was dragged."""
        with self._lock:
            self._places = place(self._elements)
            if self._widget:
                with self._widget.hold_sync():
                    self._widget.moved = {}
                    self._widget.elements = self._state()["elements"]
                    self._widget.layout_version += 1

    def freeze(self) -> None:
        """Follow the source no longer and make every output a static picture; once more does nothing.

        A lab calls this before it takes anything down, so that the picture shows the world as it was.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._later.close()
        self._store_later.close()
        self._cancel()
        try:
            elements = self._source.map_elements()
        except CtlabError:
            elements = []
        with self._lock:
            if elements:
                self._take(elements)
            widget, self._widget, self._frozen = self._widget, None, True
        self._store(had_view=widget is not None)
        if widget is not None:
            widget.close()

    close = freeze

    def refresh_stored(self) -> None:
        """Bring what a saved notebook would hold (picture and text) up to date, in every output that shows this map.

        Does nothing if nothing has changed since it was last stored.
        """
        if not shown.captured():
            self._store(had_view=False)

    def _store(self, *, had_view: bool) -> None:
        with self._lock:
            if self._stored is None or self._stored == self._signature() or not _has_kernel():
                return
            self._stored = self._signature()
            bundle = self._repr_mimebundle_()
            if had_view:
                shown.end_live(bundle, self._display_id)
            else:
                live = self._widget is not None
                shown.replace(shown.still(bundle, self._display_id) if live else bundle, self._display_id)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """What is shown where there is no widget: picture and text."""
        return {"text/plain": self.text, "text/html": self._html()}

    def _ipython_display_(self) -> None:
        """Display with an id, so that the output can be replaced later (a plain cell result has none)."""
        with self._lock:
            self._stored = self._signature()
            widget = self.widget  # first: why there is none is said in the picture
            bundle = self._repr_mimebundle_()
        if widget is not None:
            shown.put_live(bundle, widget, self._display_id)
        else:
            shown.put(bundle, self._display_id)

    def _html(self) -> str:
        with self._lock:
            as_of = "" if hasattr(self._source, "recorded_at") else cards.as_of()
            caption = " · ".join(filter(None, (self._title(), self.world.summary(), as_of, self._problem)))
            return map_svg(self._elements, hues=self._hues, caption=caption, geometry=self._geometry())

    def _title(self) -> str:
        """The source's name, with how it has ended if it was a lab that has died."""
        why = "" if hasattr(self._source, "recorded_at") else getattr(self._source, "why_gone", "")
        return f"{self.name} ({why})" if why.startswith("died") else self.name

    def _signature(self) -> object:
        return self._title(), self._frozen, [dict(element) for element in self._elements]

    def _take(self, elements: list[dict[str, object]]) -> None:
        """New elements: places and colours for what is new."""
        world = read(elements)
        before = {str(element["id"]) for element in self._elements}
        kept = {key: at for key, at in self._places.items() if key in before}
        kept |= still_free(world, kept, {key: at for key, at in self._places.items() if key not in before})
        self._places = {**self._places, **place(elements, kept)}
        taken = {key: hue for key, hue in self._hues.items() if key in world.networks}
        for key in world.networks:
            if key not in self._hues:
                unused = [hue for hue in range(theme.HUES) if hue not in taken.values()]
                self._hues[key] = unused[0] if unused else len(taken) % theme.HUES
            taken[key] = self._hues[key]
        self._elements = elements

    def _geometry(self) -> Geometry:
        """Where everything is. A change of what stands nowhere, as that of a state, costs nothing."""
        world = read(self._elements)
        shown = ("label", "source", "target", "parent")
        there = [(key, *(element.get(name) for name in shown)) for key, element in world.elements.items()]
        places = place(self._elements, self._places)
        if self._measured is None or self._measured[0] != (there, places):
            self._measured = (there, places), measure(world, places)
        return self._measured[1]

    def _state(self) -> dict[str, Any]:
        """The traits that mirror the source."""
        return {"name": self._title(), "elements": for_browser(read(self._elements), self._geometry(), self._hues)}

    def _on_selected(self, change: Mapping[str, Any]) -> None:
        self._show_details()
        for listener in list(self._listeners):
            listener(str(change["new"]))

    def _on_moved(self, change: Mapping[str, Any]) -> None:
        with self._lock:
            before = dict(self._places)
            self._places.update(believed(read(self._elements), change["new"]))
            if self._widget and self._places != before:
                self._widget.elements = self._state()["elements"]  # the wires go round what was dropped

    def _show_details(self) -> None:
        """Answer a selection. An element that went away meanwhile has no details; that is no error."""
        widget = self._widget
        if widget is None:
            return
        try:
            found: Mapping[str, object] = self._source.details(widget.selected) if widget.selected else {}
        except (CtlabError, KeyError):
            found = {}
        widget.details = {str(name): _plain(value) for name, value in found.items()}


def _plain(value: object) -> str | list[str]:
    """A value as text, or as lines of text: what a panel can show and JSON can hold."""
    if isinstance(value, Mapping):
        return [f"{name}: {item}" for name, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [str(item) for item in value]
    return "" if value is None else str(value)


def _shell() -> Any:
    """The running IPython shell, or None; IPython isn't imported to find out that there is none."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def _has_kernel() -> bool:
    """Whether there may be a browser at the other end: a terminal's IPython has no kernel."""
    return getattr(_shell(), "kernel", None) is not None


__all__ = ["Element", "Source", "Topology"]
