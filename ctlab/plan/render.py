"""Plans as the commands that a person would have typed: what `--explain` shows.

Pure: nothing here asks the kernel. Every list is a script that runs when it is pasted into ``sh`` in a network and
mount namespace of one's own; the tests run it there and compare what it leaves behind with what the executor does.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..spec import NetworkSpec
from . import network as network_plan
from .render_container import container_commands
from .render_network import NODE, detach_commands, endpoint_commands, node_commands, node_operation
from .render_words import comment

__all__ = [
    "Commands",
    "container_commands",
    "detach_commands",
    "endpoint_commands",
    "network_commands",
    "node_commands",
]


class Commands(str):
    """Commands, one a line; shown as the text itself, so that it can be read and copied."""

    __slots__ = ()

    def __new__(cls, text: str | Iterable[str] = "") -> Commands:
        """From a text or from lines."""
        return super().__new__(cls, text if isinstance(text, str) else "\n".join(text))

    @property
    def lines(self) -> list[str]:
        """The lines, comments and empty ones included."""
        return self.split("\n") if self else []

    def __repr__(self) -> str:
        return str(self)


def network_commands(spec: NetworkSpec) -> list[str]:
    """The commands that make a network; for `host` and `none` a comment, since there is nothing to make."""
    operations = network_plan.create(spec)
    if not operations:
        return [comment(f"network {spec.name}: driver {spec.driver} has nothing of its own to make")]
    lines = [*NODE, "", comment(f"network {spec.name}: a bridge that has the gateway's addresses")]
    for operation in operations:
        lines += node_operation(operation)
    if spec.internal:
        lines.append(comment("internal: its containers get no default route"))
    return lines
