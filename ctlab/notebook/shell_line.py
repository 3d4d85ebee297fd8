"""The line that opens a shell inside a container from a terminal."""
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..container import Container
def shell_line(container: Container) -> str:
    """."""
    return f"nsenter -t {container.pid} -a"
