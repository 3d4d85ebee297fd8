"""Ticks: how ctlab tells "the same cell" from "the cell was run again".

In a notebook a name is a variable: cells are run again. A tick counts IPython's ``pre_execute`` events, of
any front end. Outside IPython there are no ticks, and creating a name again is always an error, as in Docker.
"""

from __future__ import annotations

import sys
from typing import Any

_count = 0
_shell: Any = None


def _advance(*_: object) -> None:
    global _count
    _count += 1


def _running_shell() -> Any:
    """The running IPython shell, or None; IPython isn't imported to find out that there is none."""
    interactive = sys.modules.get("IPython.core.interactiveshell")
    return None if interactive is None else interactive.InteractiveShell._instance


def hook() -> None:
    """Count the cells of the running IPython shell, if there is one; again for a new shell."""
    global _shell
    shell = _running_shell()
    if shell is None or shell is _shell:
        return
    if _shell is not None:
        unhook()
    shell.events.register("pre_execute", _advance)
    _shell = shell


def unhook() -> None:
    """Stop counting."""
    global _shell
    if _shell is not None:
        try:
            _shell.events.unregister("pre_execute", _advance)
        except ValueError:
            pass  # the shell was reset
        _shell = None


def now() -> int | None:
    """The present tick; None outside IPython."""
    hook()
    return _count if _shell is not None else None


def cell() -> str:
    """``Out[5]``: how the present cell is called in messages, also while none are counted; empty outside IPython."""
    # The shell's own count is of the cell to come in some versions of IPython; the display hook knows the difference.
    shell = _running_shell()
    return f"Out[{shell.displayhook.prompt_count}]" if shell is not None else ""


def cell_id() -> str | None:
    """What the front end calls the present cell, the same whenever that is run; None where none does (a terminal)."""
    parent = getattr(_shell, "get_parent", None)
    message = parent() if parent is not None else None
    metadata = message.get("metadata") if isinstance(message, dict) else None
    found = metadata.get("cellId") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and found else None


def same(tick: int | None) -> bool:
    """Whether `tick` is the present one; without ticks everything happens in the same one."""
    present = now()
    return present is None or tick is None or tick == present
