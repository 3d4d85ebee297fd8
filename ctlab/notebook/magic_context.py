"""What the magics of all subjects share: the line that was understood, the lab that is meant, what is shown."""

from __future__ import annotations

import ast
import json
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .. import labs
from ..errors import NotFound
from .grammar import Parsed

if TYPE_CHECKING:
    from ..container import Container
    from ..handles import Handles
    from ..lab import Lab
    from .magics import CtlabMagics

T = TypeVar("T")
DEFAULT_LAB = "lab"


class Context:
    """One magic that was called: `parsed` is its line, `body` the cell's text (None for a line magic)."""

    def __init__(self, magics: CtlabMagics, parsed: Parsed, body: str | None) -> None:
        self.magics = magics
        self.shell: Any = magics.shell
        self.parsed = parsed
        self.body = body
        self._used: list[Lab] = []

    def option(self, key: str, default: Any = None) -> Any:
        """An option's value, or `default` if it wasn't given."""
        return self.parsed.options.get(key, default)

    @property
    def subjects(self) -> list[str]:
        """The words that aren't options."""
        return self.parsed.subjects

    @property
    def lab(self) -> Lab:
        """The lab that is meant and that must be there; NotFound. LabGone, once, for one that has died."""
        name = self.option("lab")
        return self.named(name) if name else self._noted(labs.current())

    @property
    def lab_or_none(self) -> Lab | None:
        """The lab that is meant; None if none runs at all. NotFound for a name among others. LabGone as `lab`."""
        name = self.option("lab")
        if name and (labs.running() or labs.died()):
            return self.named(name)
        found = labs.current_or_none()
        return None if found is None else self._noted(found)

    def named(self, name: str) -> Lab:
        """The lab of that name; NotFound. LabGone as `lab`."""
        return self._noted(labs.find(name))

    def _noted(self, lab: Lab) -> Lab:
        self._used.append(lab)
        return lab

    def heard_of_death(self) -> None:
        """An error has told of the death of a lab that was used: the next magic need not."""
        for lab in self._used:
            labs.told(lab)

    def lab_to_fill(self) -> Lab:
        """The lab that is meant; if none runs, one is started, and that is said."""
        found = self.lab_or_none
        if found is not None:
            return found
        from ..lab import Lab

        name, magics = self.option("lab", DEFAULT_LAB), self.magics
        made = Lab(name, interval=magics.interval, vm_if_needed=magics.vm_if_needed)
        print(f"lab '{made.name}' started")
        return made

    def vm_to_fill(self) -> dict[str, Any] | None:
        """The VM that `lab_to_fill` would start a lab in; None where it wouldn't."""
        if self.lab_or_none is not None:
            return None
        from .. import engines

        wanted = self.magics.vm_if_needed
        return engines.imagined_vm() if (engines.if_needed_by_default() if wanted is None else wanted) else None

    def containers(self, *, missing_is_fine: bool = False) -> list[Container]:
        """The containers that are named; all are looked up before anything is done to one."""
        lab = self.lab
        if self.option("all"):
            return list(lab.containers)
        found = []
        for name in dict.fromkeys(self.subjects):
            try:
                found.append(lab[name])
            except NotFound:
                if not missing_is_fine:
                    raise
        return found

    def each(self, act: Callable[[Container], object]) -> Any:
        """Do something to every container that is named; the handle comes back, or Handles of several."""
        found = self.containers()
        for container in found:
            act(container)
        return self.shown(found)

    def shown(self, found: list[Container]) -> Any:
        """What comes back for them; of --all where there is none, a line says that."""
        if not found and self.option("all"):
            print("there is no container")
            return None
        return one_or_all(found)

    def keep(self, result: T) -> T:
        """Put the result into the variable that `-o` names."""
        name = self.option("out")
        if name:
            self.shell.user_ns[name] = result
        return result


def same(name: str, other: str) -> bool:
    """Whether two names mean the same object."""
    return name.lower() == other.lower()


def one_or_all(found: Sequence[Container]) -> Container | Handles[Container]:
    """One object itself, several as Handles."""
    if len(found) == 1:
        return found[0]
    from ..cards import as_of, container_row
    from ..handles import Handles
    from ..values import CONTAINER

    return Handles(found, container_row, "container", as_of(), values=CONTAINER)


class Text(str):
    """Text that is shown as it is: a help, a command to paste."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


class Facts(dict[str, Any]):
    """A dictionary that is shown as JSON; on a page as cards: a title each, and what stands in it."""

    def __init__(self, facts: Mapping[str, Any], cards: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        super().__init__(facts)
        self._cards = cards or {}

    @classmethod
    def of(cls, kind: str, found: Mapping[str, Mapping[str, Any]]) -> Facts:
        """Of one object what is known of it, of several by name."""
        cards = {f"{kind} {name}": facts for name, facts in found.items()}
        return cls(next(iter(found.values())) if len(found) == 1 else found, cards)

    def _repr_html_(self) -> str | None:
        from ..cards import card

        return "".join(card(title, facts) for title, facts in self._cards.items()) or None

    def __repr__(self) -> str:
        return json.dumps(self, indent=2, default=str, ensure_ascii=False)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


def user_frame(shell: Any) -> Any:
    """The innermost frame whose code stands in a cell; None if there is none."""
    frame: Any = sys._getframe(1)
    while frame is not None and shell.compile.format_code_name(frame.f_code.co_filename) is None:
        frame = frame.f_back
    return frame


def is_statement(shell: Any) -> bool:
    """Whether the magic that runs is a statement of its own, so that only a display could use its value.

    A `;` silences the display, and `x = %container run …;` still gets its value.
    """
    frame = user_frame(shell)
    if frame is None:
        return True
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    source = "".join(linecache.getlines(frame.f_code.co_filename))
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if (call.lineno, call.end_lineno, call.col_offset, call.end_col_offset) == positions:
                return True
    return False
