"""What the lab's inside tells by itself: programs that end, helpers that die, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import ending
from .errors import one_line
from .runtime import messages

if TYPE_CHECKING:
    from .lab import Lab
    from .runtime.connection import Event


def hear(lab: Lab, event: Event) -> None:
    """One event, on the thread that hears them. Its texts are the inside's: no more than a line of each is kept."""
    if isinstance(event, messages.ExecutionEnded):
        execution = lab._executions.pop(event.execution, None)
        if execution is not None:
            execution.ended(event.returncode)
    elif isinstance(event, messages.Exited):
        _exited(lab, event)
    elif isinstance(event, messages.Note):
        lab._note(one_line(event.text))
    elif isinstance(event, messages.SamplerError):
        lab._doubt(f"the lab's sampler failed, and counters may be missing: {one_line(event.message)}")
    elif isinstance(event, messages.HelperDied):
        text = one_line(event.lost)
        if event.again:
            helper, how = one_line(event.helper, 40), one_line(event.how, 40)
            text = f"the lab's {helper} died ({how}) and was started anew: {text}"
        if event.helper == "sampler" and text not in lab._doubts:
            lab._doubt(text)
        else:
            lab._note(text)
        lab._changed()
    elif isinstance(event, messages.Gone):
        if event.why:
            said, *console = event.why.splitlines()
            lab._note(f"lab '{lab.name}' died: {said} {' | '.join(console)}".rstrip())
        while lab._executions:
            lab._executions.popitem()[1].ended(None)
        lab._changed()


def _exited(lab: Lab, event: messages.Exited) -> None:
    container = next((c for c in list(lab._containers.values()) if c.id == event.id), None)
    if container is None:
        return
    container._exited(event)
    if container.spec.rm:
        with lab._lock:
            if not container._gone:  # removed by hand meanwhile
                ending.forget(lab, container, "it was removed when it ended (--rm)")
        lab._changed()
