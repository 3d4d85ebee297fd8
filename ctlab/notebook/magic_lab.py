"""%lab: labs start, end and are looked at."""

from __future__ import annotations

from typing import Any

from .. import labs
from .magic_context import Context, Facts, same


def start(context: Context) -> Any:
    """`%lab start [NAME]`: the handle."""
    from ..lab import Lab

    name = str((context.subjects or [context.option("lab", "lab")])[0])
    running = next((lab for lab in labs.running() if same(lab.name, name)), None)
    if running is not None and context.option("exists") == "keep":
        return labs.use(running.name)
    engine = context.option("engine", "auto")
    made = Lab(
        name,
        interval=context.option("interval", context.magics.interval),
        engine=engine,
        vm_memory=context.option("vm_memory"),
        vm_cpus=context.option("vm_cpus"),
        vm_if_needed=context.option("vm_if_needed", context.magics.vm_if_needed if engine == "auto" else None),
        storage=context.option("storage"),
        exists=context.option("exists"),
    )
    for note in made.notes:
        if note.startswith("replaced"):
            print(note)
    return made


def stop(context: Context) -> Any:
    """`%lab stop [NAME…]`: the stopped ones."""
    if context.option("all"):
        found, dead = labs.running(), labs.dead()
        for lab in dead:
            _discard(lab)
        for lab in found:
            lab.stop()
        if not found and not dead:
            print("no lab runs here")
        return _table(found) if found else None
    names = context.subjects or ([context.option("lab")] if context.option("lab") else [])
    found = [_to_stop(context, name) for name in dict.fromkeys(names)] or [context.lab]
    for lab in found:
        if lab.died:
            _discard(lab)
        else:
            lab.stop()
    return found[0] if len(found) == 1 else _table(found)


def _discard(lab: Any) -> None:
    """List one that has died no more, and say so."""
    labs.told(lab)
    labs.discard(lab)
    print(f"lab '{lab.name}' {lab.why_gone}; it is listed no more")


def _to_stop(context: Context, name: str) -> Any:
    """The lab of that name, also one that has died, of which somebody has been told."""
    told = (lab for lab in labs.dead() if same(lab.name, name) and lab not in labs.died())
    return next(told, None) or context.named(name)


class _Status(Facts):
    """What is known of a lab: a dictionary, shown as the lab's card where there is a page."""

    def __init__(self, lab: Any) -> None:
        super().__init__(lab.status())
        self._card: str = lab._repr_html_()

    def _repr_html_(self) -> str:
        return self._card


def status(context: Context) -> Any:
    """`%lab status [NAME]`: what it holds, what it costs."""
    lab = context.named(context.subjects[0]) if context.subjects else context.lab
    return _Status(lab)


def listing(context: Context) -> Any:
    """`%lab ls`."""
    found = labs.running()
    if context.option("quiet"):
        return [lab.name for lab in found]
    return _table([*labs.dead(), *found])


def use(context: Context) -> Any:
    """`%lab use NAME`."""
    return labs.use(context.named(context.subjects[0]).name)


def doctor(context: Context) -> Any:
    """`%lab doctor`: the report."""
    from ..doctor import doctor as examine

    return examine()


def prune(context: Context) -> Any:
    """`%lab prune`: a line for each dead lab."""
    from ..runtime import prune as pruning

    lines = pruning.everything()
    print("\n".join(lines) if lines else "nothing to prune")
    return lines if lines else None


def _state(lab: Any, current: Any) -> str:
    if lab.gone:
        return "died" if lab.died else "stopped"
    return "current" if lab is current else "running"


def _table(found: list[Any]) -> Any:
    from ..cards import as_of
    from ..handles import Handles

    current = labs.chosen_or_none()

    def row(lab: Any) -> dict[str, Any]:
        return {
            "name": lab.name,
            "state": _state(lab, current),
            "engine": lab.engine,
            "containers": len(lab.containers),
            "networks": len(lab.networks),
        }

    return Handles(found, row, "lab", as_of())


VERBS = {
    "lab start": start, "lab stop": stop, "lab status": status, "lab ls": listing, "lab use": use,
    "lab doctor": doctor, "lab prune": prune,
}  # fmt: skip
