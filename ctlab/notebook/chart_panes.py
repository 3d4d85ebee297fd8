"""The four panes of a chart: what is drawn where, from which counters, in which unit and colour. Pure."""

from __future__ import annotations

from typing import NamedTuple

BUSIEST = 8  # containers with a line of their own, unless somebody names others
MAX_CONTAINERS = 32  # lines of their own if they are named
MIN_SECONDS = 10.0  # of the time axis, unless less is asked for

# Middle tones, told apart on white and on black; what is several containers together is grey.
COLOURS = (
    "#4c8dd6", "#e8853a", "#3fa66b", "#d9534f", "#9a7bd0", "#a97156", "#dd6fb0", "#2fb3c4", "#a9a428",
)  # fmt: skip
GREY = "#8a8f98"


class Pane(NamedTuple):
    """One line of every container: where it is drawn and what from. `factor` turns the column into the axis' unit."""

    row: int
    column: int
    columns: tuple[str, ...]  # of the ring: the first that is known for the container
    rate: bool  # a counter's increase a second
    factor: float
    label: str  # added to the container's name in the hover text
    dash: str
    hover: str  # the value with its unit, in the words of plotly


PANES = (
    Pane(1, 1, ("cpu_seconds_total",), True, 1.0, "", "solid", "%{y:.2f} cores"),
    Pane(1, 2, ("memory_bytes", "memory_rss_bytes"), False, 1 / (1 << 20), "", "solid", "%{y:.1f} MiB"),
    Pane(2, 1, ("rx_bytes_total",), True, 8.0, " received", "solid", "%{y:.3s}bit/s"),
    Pane(2, 1, ("tx_bytes_total",), True, 8.0, " sent", "dot", "%{y:.3s}bit/s"),
    Pane(2, 2, ("pids",), False, 1.0, "", "solid", "%{y:.0f} processes"),
)
CPU, MEMORY, RECEIVED, SENT, PROCESSES = range(len(PANES))
TITLES = ("CPU, cores", "Memory, MiB", "Network, bit/s (dotted: sent)", "Processes")
# What an axis reaches at least: an idle lab's noise is drawn as noise, and processes are counted in whole ones.
LEAST = (0.1, 4.0, 1000.0, 4.0)
COLUMNS = ("time_ns", "read_ns", "container_key", *dict.fromkeys(name for pane in PANES for name in pane.columns))


def others(count: int) -> str:
    """The name of the line that is so many containers together: none of one has such signs in it."""
    return f"others ({count})"
