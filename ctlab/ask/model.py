"""What a noun, a verb, an option and a parsed line are: the shapes of the grammar's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Command = Literal["none", "optional", "required"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `kind` names its reader in `readers.py`; "flag" takes no value.

    `into`: the key of `Parsed.options` if it isn't the long name (`--volume` goes into "mount").
    """

    name: str
    short: str = ""
    metavar: str = ""
    kind: str = "text"
    repeatable: bool = False
    help: str = ""
    choices: tuple[str, ...] = ()
    into: str = ""

    @property
    def key(self) -> str:
        """The long name in snake_case: the key of `Parsed.options`."""
        return (self.into or self.name).replace("-", "_")

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value."""
        return self.kind == "flag"

    @property
    def title(self) -> str:
        """`-m/--memory`: how messages call it."""
        return f"-{self.short}/--{self.name}" if self.short else f"--{self.name}"


@dataclass(frozen=True, slots=True)
class Absent:
    """An option that people know (mostly from Docker) and that isn't there; `message` says so and what is."""

    name: str
    message: str
    short: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A word that isn't an option. `kind` says which names can stand there (for completion)."""

    metavar: str
    kind: str
    optional: bool = False
    repeated: bool = False

    def __str__(self) -> str:
        text = self.metavar + ("…" if self.repeated else "")
        return f"[{text}]" if self.optional else text


@dataclass(slots=True)
class Parsed:
    """A line that was understood.

    `options` has only what was given: True for a flag, a list for a repeatable one, else the value in base
    units. `command` is None when none was given. `notes` are to be printed. `help` is the text to show instead
    of doing anything.
    """

    noun: str
    verb: str
    options: dict[str, object] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    command: list[str] | None = None
    silenced: bool = False
    notes: list[str] = field(default_factory=list)
    help: str | None = None


Check = Callable[[Parsed, bool], None]
"""Raises BadInput for what can't go together; the bool says whether it is a cell magic."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of a noun. `cell`/`line`: whether a cell magic and a line magic can have it."""

    noun: str
    name: str
    help: str
    options: tuple[Option, ...] = ()
    subjects: tuple[Subject, ...] = ()
    command: Command = "none"
    cell: bool = False
    line: bool = True
    aliases: tuple[str, ...] = ()
    absent: tuple[Absent, ...] = ()
    check: Check | None = None

    def option(self, name: str) -> Option | None:
        """The option of that long name (without dashes)."""
        return next((option for option in self.options if option.name == name), None)

    def short_option(self, letter: str) -> Option | None:
        """The option of that letter."""
        return next((option for option in self.options if option.short == letter), None)


@dataclass(frozen=True, slots=True)
class Noun:
    """A magic. `implicit`: its one verb is never typed (`%stats web`). `later`: why the whole noun isn't there yet."""

    name: str
    help: str
    verbs: tuple[Verb, ...] = ()
    default: str = ""
    implicit: bool = False
    absent_verbs: dict[str, str] = field(default_factory=dict)
    later: str = ""

    def verb(self, name: str) -> Verb | None:
        """The verb of that name or alias."""
        return next((verb for verb in self.verbs if name == verb.name or name in verb.aliases), None)
