"""The line that opens a shell inside a container from a terminal of the same user: `python -m ctlab shell LAB NAME`."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from typing import TYPE_CHECKING

from .. import shells
from ..runtime import door

if TYPE_CHECKING:
    from ..container import Container


def shell_line(container: Container) -> str:
    """The line to paste. Raises StateError for a container that doesn't run, Unsupported for one without a shell."""
    shells.check(container)
    shells.shell_of(container)
    lab = container.lab
    shells.open_door(lab)
    words = [sys.executable, "-m", "ctlab", "shell", door.word_for(lab._client.id, lab.name), container.name]
    return shlex.join([*_path_of_ours(), *words])


def _path_of_ours() -> list[str]:
    """What makes another interpreter find this package where it isn't installed: a notebook may run beside it."""
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return [] if parent in installed else ["env", f"PYTHONPATH={parent}"]
