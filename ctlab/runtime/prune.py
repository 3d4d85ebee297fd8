"""Remove what labs with a dead keeper have left: cgroup folders and runtime folders, nothing else."""

from __future__ import annotations

from ..kernel import cgroup
from . import runtime_folder


def prune() -> list[str]:
    """Clear every dead lab of this user; returns a line for each."""
    lines = []
    for path, note in runtime_folder.dead():
        cgroup.prune(note.get("cgroups", []))
        runtime_folder.delete(path)
        lines.append(f"lab {note.get('name', '?')} ({note['id']}): its keeper is dead; folders removed")
    return lines


def main() -> None:
    """``python -m ctlab prune``."""
    lines = prune()
    print("\n".join(lines) if lines else "nothing to prune")
