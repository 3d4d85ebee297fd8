"""What the lab's inside tells by itself: programs that end, helpers that die, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import ending

if TYPE_CHECKING:
    from .lab import Lab


def hear(lab: Lab, event: dict[str, Any]) -> None:
    """One event, on the thread that hears them."""
    kind = event["event"]
    if kind == "execution-ended":
        execution = lab._executions.pop(event["execution"], None)
        if execution is not None:
            execution.ended(event["returncode"])
    elif kind == "exited":
        _exited(lab, event)
    elif kind == "note":
        lab._note(event["text"])
    elif kind == "sampler-error":
        lab._doubt(f"the lab's sampler failed, and counters may be missing: {event['message']}")
    elif kind == "helper-died":
        text = f"the lab's {event['helper']} died (status {event['status']})"
        if event["helper"] == "sampler":
            lab._doubt(f"{text}: there are no newer counters")
        else:
            lab._note(text)
        lab._changed()
    elif kind == "gone":
        if event.get("why"):
            said, *console = event["why"].splitlines()
            lab._note(f"lab '{lab.name}' died: {said} {' | '.join(console)}".rstrip())
        while lab._executions:
            lab._executions.popitem()[1].ended(None)
        lab._changed()


def _exited(lab: Lab, event: dict[str, Any]) -> None:
    container = next((c for c in list(lab._containers.values()) if c.id == event["id"]), None)
    if container is None:
        return
    container._exited(event)
    if container.spec.rm:
        with lab._lock:
            if not container._gone:  # removed by hand meanwhile
                ending.forget(lab, container, "it was removed when it ended (--rm)")
        lab._changed()
