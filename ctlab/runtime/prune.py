"""Remove what labs with a dead keeper have left: cgroup folders, runtime folders and ids, nothing else.

Who asks for it has also those cgroup folders removed that no note names any more, if nobody is in them.

A keeper that is merely stopped (SIGSTOP) while its owner is dead still holds its lock: it is told to go on, and
then cleans up by itself.

A note is read only in a folder that is ours alone, and even then for no more than a hint: what it names is touched
only if it is a cgroup folder with the lab's id in its name, and a process only if it is ours and as old as noted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from ..errors import CtlabError
from ..kernel import cgroup_mounts, cgroup_outside, id_ranges
from . import base_folder, runtime_folder
from .base_folder import Base
from .note import Note

_WAKE_SECONDS = 8.0
_REMOVE_SECONDS = 5.0
_ROUND_SECONDS = 0.5


def prune() -> list[str]:
    """Clear every dead lab of this user; returns a line for each. What can't be read safely is left alone."""
    lines = []
    for base in base_folder.existing():
        with base, contextlib.suppress(CtlabError):
            lines += _wake(base)
            lines += [_clear(found) for found in runtime_folder.dead(base)]
    id_ranges.sweep()
    return lines


def everything() -> list[str]:
    """`prune`, and the cgroup folders of which no note is left; a line for each lab."""
    lines = prune()
    folders: dict[str, list[str]] = {}
    for above in cgroup_mounts.candidates():
        for name in cgroup_outside.names_in(above):
            lab_id = name.removeprefix("ctlab-")
            if name != lab_id and runtime_folder.is_lab_id(lab_id):
                folders.setdefault(lab_id, []).append(os.path.join(above, name))
    known: set[str] = set()
    for base in base_folder.existing():  # after the folders: a keeper writes them down before it makes them
        with base:
            known.update(runtime_folder.lab_ids(base))
    for lab_id, paths in folders.items():
        if lab_id not in known and cgroup_outside.remove_forsaken(paths, _is_ours):
            lines.append(f"lab {lab_id}: no note of it is left; its empty cgroup folders removed")
    return lines


def clear(lab_id: str) -> bool:
    """Clear one lab, wherever its folder is, if its keeper is dead; whether nothing of it is left."""
    left = False
    for base in base_folder.existing():
        with base:
            if not base.has(lab_id):
                continue
            with contextlib.suppress(CtlabError):
                found = runtime_folder.take_one(base, lab_id)
                if found is not None:
                    _clear(found)
                    id_ranges.sweep()
            left = left or base.has(lab_id)
    return not left


def _clear(found: runtime_folder.Found) -> str:
    note = found.note
    try:
        until = time.monotonic() + _REMOVE_SECONDS
        while (left := _remove_folders(note)) and time.monotonic() < until:
            pass  # looked at anew: the lab's processes may still be dying, and make or freeze folders
        left += [path for path in _trials(note) if not _remove_trial(path)]
        if not left:  # else the note stays, and the next to prune tries again
            found.remove()
    finally:
        found.close()
    outcome = "folders removed" if not left else f"still busy, left for the next time: {', '.join(left)}"
    return f"lab {note.name} ({note.id}): its keeper is dead; {outcome}"


def _remove_folders(note: Note) -> list[str]:
    """Remove the cgroup folders that the note names, of those that carry this lab's id and belong to a lab of ours."""
    name = f"ctlab-{note.id}"
    named = [path for path in note.cgroups if os.path.basename(path) == name]
    return cgroup_outside.prune(named, _ROUND_SECONDS, belongs=_is_ours)


def _is_ours(uid: int) -> bool:
    """Whether a folder of that user may be a lab's of ours: of ourselves, or of the ids that root gives away."""
    return uid == os.geteuid() or (os.geteuid() == 0 and id_ranges.contains(uid))


def _trials(note: Note) -> list[str]:
    """Folders that the keeper made to find out where it may make some, or to step aside into.

    They carry its pid and, if of the first kind, the time; so those of another process with that pid differ.
    """
    found = []
    for folder in note.tried_in:
        for name in cgroup_outside.names_in(folder):
            kind, _, rest = name.removeprefix("ctlab-").partition("-")
            made_by, _, at = rest.partition("-")
            if made_by != str(note.keeper) or not name.startswith("ctlab-"):
                continue
            if kind == "keeper" or (kind == "probe" and at.isdigit() and int(at) >= note.tried_since):
                found.append(os.path.join(folder, name))
    return found


def _remove_trial(path: str) -> bool:
    """Remove one; a bystander inside is killed, but a folder ``ctlab-keeper-…`` that is in use stays."""
    if os.path.basename(path).startswith("ctlab-probe-"):
        return not cgroup_outside.prune([path], 1.0, belongs=_is_ours)
    cgroup_outside.remove_unused(path)
    return True


def _wake(base: Base) -> list[str]:
    """Let stopped keepers of dead owners go on, and wait until they have cleaned up."""
    lines = []
    for lab_id in runtime_folder.lab_ids(base):
        note = runtime_folder.read_note(base, lab_id)
        if not note.keeper or not note.owner or not _go_on(note):
            continue
        until = time.monotonic() + _WAKE_SECONDS
        while base.has(lab_id) and time.monotonic() < until:
            time.sleep(0.005)
        lines.append(f"lab {note.name} ({note.id}): its keeper was stopped and its owner is dead; woken")
    return lines


def _go_on(note: Note) -> bool:
    """Let a stopped keeper of ours go on whose owner is dead; whether it was one."""
    try:
        pidfd = os.pidfd_open(note.keeper)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):
            ours = os.stat(f"/proc/{note.keeper}").st_uid == os.geteuid()
            same = runtime_folder.start_of(note.keeper) == note.keeper_start != 0
            dead = runtime_folder.start_of(note.owner) != note.owner_start
            if ours and same and dead and runtime_folder.is_stopped(note.keeper):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                return True
    finally:
        os.close(pidfd)
    return False


def main() -> None:
    """``python -m ctlab prune``."""
    lines = everything()
    lines += [f"not looked into: {line}" for line in base_folder.refusals()]
    print("\n".join(lines) if lines else "nothing to prune")
