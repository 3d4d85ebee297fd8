"""Remove what labs with a dead keeper have left: cgroup folders and runtime folders, nothing else.

A keeper that is merely stopped (SIGSTOP) while its owner is dead still holds its lock: it is told to go on, and
then cleans up by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from ..errors import CtlabError
from ..kernel import cgroup_outside
from . import runtime_folder

_WAKE_SECONDS = 8.0
_REMOVE_SECONDS = 5.0
_ROUND_SECONDS = 0.5


def prune() -> list[str]:
    """Clear every dead lab of this user; returns a line for each. What can't be read safely is left alone."""
    lines = []
    for above in runtime_folder.bases():
        with contextlib.suppress(CtlabError):
            lines += _wake(above)
            lines += [_clear(found) for found in runtime_folder.dead(above)]
    return lines


def clear(path: str) -> bool:
    """Clear one lab if its keeper is dead; whether nothing of it is left."""
    found = runtime_folder.take_one(path)
    if found is not None:
        _clear(found)
    return not os.path.lexists(path)


def _clear(found: runtime_folder.Found) -> str:
    note = found.note
    try:
        until = time.monotonic() + _REMOVE_SECONDS
        while (left := cgroup_outside.prune(_own_folders(note), _ROUND_SECONDS)) and time.monotonic() < until:
            pass  # looked at anew: the lab's processes may still be dying, and make or freeze folders
        left += [path for path in _trials(note) if not _remove_trial(path)]
        if not left:  # else the note stays, and the next to prune tries again
            runtime_folder.remove(found.path)
    finally:
        found.close()
    outcome = "folders removed" if not left else f"still busy, left for the next time: {', '.join(left)}"
    return f"lab {note.get('name', '?')} ({note['id']}): its keeper is dead; {outcome}"


def _own_folders(note: runtime_folder.Note) -> list[str]:
    """The cgroup folders that the note names, of those that carry this lab's id."""
    name = f"ctlab-{note['id']}"
    return [path for path in note["cgroups"] if isinstance(path, str) and os.path.basename(path) == name]


def _trials(note: runtime_folder.Note) -> list[str]:
    """Folders that the keeper made to find out where it may make some, or to step aside into.

    They carry its pid and, if of the first kind, the time; so those of another process with that pid differ.
    """
    pid, since = note.get("keeper"), note.get("tried_since", 0)
    found = []
    for folder in note.get("tried_in", ()):
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                kind, _, rest = name.removeprefix("ctlab-").partition("-")
                made_by, _, at = rest.partition("-")
                if made_by != str(pid) or not name.startswith("ctlab-"):
                    continue
                if kind == "keeper" or (kind == "probe" and at.isdigit() and int(at) >= since):
                    found.append(os.path.join(folder, name))
    return found


def _remove_trial(path: str) -> bool:
    """Remove one; a bystander inside is killed, but a folder ``ctlab-keeper-…`` that is in use stays."""
    if os.path.basename(path).startswith("ctlab-probe-"):
        return not cgroup_outside.prune([path], 1.0)
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return True


def _wake(above: str) -> list[str]:
    """Let stopped keepers of dead owners go on, and wait until they have cleaned up."""
    lines = []
    for path, note in runtime_folder.held_ones(above):
        keeper, owner = note.get("keeper"), note.get("owner")
        if not isinstance(keeper, int) or not isinstance(owner, int):
            continue
        alive = runtime_folder.start_of(keeper) == note.get("keeper_start") != 0
        if not alive or not runtime_folder.is_stopped(keeper) or runtime_folder.start_of(owner) == note["owner_start"]:
            continue
        with contextlib.suppress(OSError):
            os.kill(keeper, signal.SIGCONT)
        until = time.monotonic() + _WAKE_SECONDS
        while os.path.lexists(path) and time.monotonic() < until:
            time.sleep(0.005)
        lines.append(f"lab {note.get('name', '?')} ({note['id']}): its keeper was stopped and its owner is dead; woken")
    return lines


def main() -> None:
    """``python -m ctlab prune``."""
    lines = prune()
    for above in runtime_folder.bases():
        try:
            runtime_folder.check(above)
        except FileNotFoundError:
            continue
        except CtlabError as error:
            lines.append(f"not looked into: {error}")
    print("\n".join(lines) if lines else "nothing to prune")
