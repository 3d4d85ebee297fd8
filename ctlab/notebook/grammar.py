"""A line of a magic, understood: `%NOUN VERB [OPTIONS] [SUBJECT…] [-- COMMAND…]`.

The table is in `ask/`; this is what reads a line by it. Nothing is done here and nothing is asked of a lab,
so that whatever is wrong with the line itself is said before anything has happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ask import NOUNS, advice
from ..ask.help import noun_help, prefix, title, usage, verb_help
from ..ask.model import Absent, Noun, Option, Parsed, Subject, Verb
from ..ask.readers import READERS
from ..errors import AddressError, BadInput
from ..names import did_you_mean, shorten
from ..words import (
    Operator,
    Scan,
    Word,
    expand,
    has_expression,
    join,
    scan,
    unexpanded_name,
)

__all__ = ["NOUNS", "Absent", "Noun", "Option", "Parsed", "Subject", "Verb", "help_text", "parse"]

_LONG_DASHES = ("\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2212")


def help_text(noun: str, verb: str | None = None) -> str:
    """The help of a noun or of one of its verbs; BadInput for one that isn't there."""
    found = _noun(noun)
    if verb is None:
        return noun_help(found)
    return verb_help(found, _verb(found, verb, cell=False))


def parse(noun: str, line: str, namespace: Mapping[str, object] | None = None, *, cell: bool = False) -> Parsed:
    """Understand a magic's line.

    `noun`: the magic's name. `namespace`: what `{expr}` sees (an empty one if None). `cell`: whether it is a cell
    magic, whose body the caller holds. Raises BadInput; AddressError for a subnet or gateway that can't be,
    Unsupported for a network driver that comes later.
    """
    found = _noun(noun)
    if found.later:
        raise BadInput(found.later)
    return _Reader(found, line, namespace or {}, cell).run()


def _noun(name: str) -> Noun:
    if name not in NOUNS:
        magics = [f"%{known}" for known in NOUNS]
        raise BadInput(f"no magic %{name}{did_you_mean(name, magics) or ': ' + ', '.join(magics)}")
    return NOUNS[name]


def _verb(noun: Noun, name: str, cell: bool) -> Verb:
    verb = noun.verb(name)
    if verb is not None:
        return verb
    if name in noun.absent_verbs:
        raise BadInput(noun.absent_verbs[name])
    names = [known for verb in noun.verbs for known in (verb.name, *verb.aliases)]
    near = did_you_mean(name, names)
    typed = [other for other in NOUNS.values() if other is not noun and not other.implicit]
    others = [other.name for other in typed if other.verb(name)] if not near else []
    elsewhere = f"; %{others[0]} has it" if others else ""
    magic = prefix(noun.name)
    raise BadInput(f"no verb {shorten(name)} in {magic}{near or elsewhere} ({magic} -h lists them)")


@dataclass(slots=True)
class _Head:
    """What stands before the command: raw option values and subjects, and where the command begins."""

    options: list[tuple[Option, str]] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    command_start: int | None = None  # in the line
    head_end: int = 0  # where the head ends in the line, for messages
    dashes: bool = False  # whether `--` begins the command
    help: bool = False


class _Reader:
    def __init__(self, noun: Noun, line: str, namespace: Mapping[str, object], cell: bool) -> None:
        self.noun, self.line, self.namespace, self.cell = noun, line, namespace, cell

    def run(self) -> Parsed:
        scanned = scan(self.line)
        if scanned.open:
            raise BadInput("the line ends in a backslash, and no line follows")
        words = list(scanned.words)
        if self.line.lstrip()[:1] in ("[", "("):
            raise BadInput(advice.no_variable(self.noun.name, self.line.strip()))
        if not self.noun.implicit and words and words[0].text in ("-h", "--help"):
            return Parsed(self.noun.name, self.noun.default, silenced=scanned.silenced, help=noun_help(self.noun))
        self.verb = self._take_verb(words)
        self.title = title(self.noun, self.verb, self.cell)
        head = self._walk(words, scanned)
        parsed = Parsed(self.noun.name, self.verb.name, silenced=scanned.silenced)
        if head.help:
            parsed.help = verb_help(self.noun, self.verb)
            return parsed
        self._check_place()
        if head.command_start is None and scanned.operator is not None:
            raise BadInput(self._operator_message(scanned.operator, head))
        parsed.options = self._values(head)
        parsed.subjects = [self._subject(text) for text in head.subjects]
        if head.command_start is not None:
            parsed.command = self._command(head, "expand" in parsed.options, parsed.notes)
        self._count_subjects(parsed, head)
        if self.verb.check is not None:
            self.verb.check(parsed, self.cell)
        return parsed

    def _take_verb(self, words: list[Word]) -> Verb:
        """Take the verb away from the words; a noun alone means its default."""
        noun = self.noun
        first = words[0].text if words else ""
        if noun.implicit or not words or (first.startswith("-") and first != "--"):
            default = _verb(noun, noun.default, self.cell)
            if not noun.implicit:
                self._check_verb_comes_first(default, words)
            return default
        if first == "--":
            raise BadInput(f"a verb comes first: {prefix(noun.name, self.cell)} {noun.verbs[0].name} -- …")
        verb = _verb(noun, first, self.cell)
        del words[0]
        return verb

    def _check_verb_comes_first(self, default: Verb, words: list[Word]) -> None:
        """BadInput for a line that begins with options although a verb follows: Docker's own options stand there."""
        before = ""
        for word in words:
            if word.text == "--":
                return
            option = default.option(before[2:]) if before.startswith("--") else default.short_option(before[1:])
            value = bool(before) and option is not None and not option.is_flag
            if not value and self.noun.verb(word.text) is not None:
                rest = f"{self.line[: word.start].strip()} {self.line[word.end :].strip()}".strip()
                raise BadInput(f"the verb comes first: {prefix(self.noun.name, self.cell)} {word.text} {rest}")
            before = word.text

    def _check_place(self) -> None:
        verb, start = self.verb, prefix(self.noun.name)
        if self.cell and not verb.cell:
            takers = [f"%{other}" for other in (f"{start} {v.name}" for v in self.noun.verbs if v.cell)]
            others = f" ({', '.join(takers)} do)" if takers else ""
            raise BadInput(f"'{self.title}' takes no cell body{others}: write it with one %")
        if not self.cell and not verb.line:
            raise BadInput(f"{verb.name} takes its text from the cell's body: {usage(self.noun, verb)}")

    # -- the head: options and subjects ---------------------------------------------------------------

    def _walk(self, words: list[Word], scanned: Scan) -> _Head:
        head = _Head(head_end=scanned.stop)
        takes_command = self.verb.command != "none"
        separator = next((index for index, word in enumerate(words) if word.text == "--"), None)
        if separator is not None:
            head.dashes = True
            head.head_end, head.command_start = words[separator].start, words[separator].end
            del words[separator:]
        index = 0
        while index < len(words):
            word = words[index]
            index += 1
            text = word.text
            if text in ("-h", "--help"):
                head.help = True
                return head
            if text.startswith(_LONG_DASHES):
                raise BadInput(f"{text!r} begins with a long dash: type it as '--{text.lstrip(''.join(_LONG_DASHES))}'")
            if text.startswith("-") and text != "-":
                following = words[index].text if index < len(words) else None
                index += self._option(text, following, head)
            else:
                head.subjects.append(text)
                if takes_command and not head.dashes:
                    # Docker's rule: options end at the first subject, so what looks like one is the command's.
                    head.command_start = self._command_after(words[index:], scanned.operator)
                    head.head_end = scanned.stop if head.command_start is None else head.command_start
                    break
        return head

    @staticmethod
    def _command_after(words: list[Word], operator: Operator | None) -> int | None:
        """Where the command begins after the subject; `$HOME/x` begins one, a pipe is none."""
        if words:
            return words[0].start
        return operator.start if operator is not None and operator.text[0] in "$`" else None

    def _option(self, text: str, following: str | None, head: _Head) -> int:
        """Read one option word; returns how many words its value took (0 or 1)."""
        if text.startswith("--"):
            name, equals, value = text[2:].partition("=")
            option = self.verb.option(name)
            if option is None:
                raise BadInput(self._no_option(f"--{name}", name, long=True))
            if equals:
                head.options.append((option, value))
                return 0
            if option.is_flag:
                head.options.append((option, "true"))
                return 0
            head.options.append((option, self._next_value(option, following)))
            return 1
        for place, letter in enumerate(text[1:], start=1):
            option = self.verb.short_option(letter)
            if option is None and letter == "h":
                raise BadInput(self._help_among(text))
            if option is None:
                raise BadInput(self._no_option(text if place == 1 else f"-{letter}", letter, long=False))
            attached = text[place + 1 :]
            if attached.startswith("=") or (attached and not option.is_flag):
                head.options.append((option, attached.removeprefix("=")))
                return 0
            if not option.is_flag:
                head.options.append((option, self._next_value(option, following)))
                return 1
            head.options.append((option, "true"))
        return 0

    def _next_value(self, option: Option, following: str | None) -> str:
        known = following is not None and following.startswith("-") and self._is_option(following)
        if following is None or known:
            raise BadInput(f"{option.title} needs a value: --{option.name} {option.metavar}")
        return following

    def _is_option(self, text: str) -> bool:
        if text.startswith("--"):
            return self.verb.option(text[2:].partition("=")[0]) is not None
        return len(text) == 2 and self.verb.short_option(text[1]) is not None

    def _help_among(self, text: str) -> str:
        docker = "; docker's -h is --hostname NAME" if self.verb.option("hostname") is not None else ""
        return f"{text!r}: -h is help here and stands alone, {self.title} -h{docker}"

    def _no_option(self, shown: str, name: str, long: bool) -> str:
        """Why an option isn't there: named if it is known to be missing, else with the nearest that is there."""
        letter = name if not long else ""
        # `-name` means --name, more likely than four letters
        typed = shown.lstrip("-").partition("=")[0]
        for absent in self.verb.absent:
            if (long and absent.name == name) or (letter and absent.short == letter):
                return absent.message
        if not long and len(typed) > 1 and self.verb.option(typed):
            return f"unknown option '{shown}' of '{self.title}'; did you mean '--{typed}'?"
        available = [f"--{option.name}" for option in self.verb.options]
        near = did_you_mean(shown, available) if len(typed) > 1 else ""
        if not near and long:
            having = [verb.name for verb in self.noun.verbs if verb.option(name)]
            near = f"; {', '.join(having[:4])} {'has' if len(having) == 1 else 'have'} it" if having else ""
        return f"unknown option {shown!r} of '{self.title}'{near or f' ({self.title} -h lists them)'}"

    # -- values -----------------------------------------------------------------------------------------

    def _values(self, head: _Head) -> dict[str, object]:
        counted = any(option.name == "count" for option, _ in head.options)
        values: dict[str, object] = {}
        for option, raw in head.options:
            # With --count, {n} in the name is the number of each and not a variable.
            text = expand(raw, self.namespace, keep=("n",) if counted and option.key == "name" else ())
            value = self._read(option, text)
            if option.repeatable:
                several = values.setdefault(option.key, [])
                assert isinstance(several, list)
                several.extend(value if isinstance(value, list) else [value])
            elif option.key in values and not (option.is_flag and values[option.key] == value):
                raise BadInput(f"{option.title} is given twice")
            else:
                values[option.key] = value
        return {key: value for key, value in values.items() if value is not False}

    def _read(self, option: Option, text: str) -> object:
        if option.is_flag:
            if text.lower() in ("true", "1"):
                return True
            if text.lower() in ("false", "0"):
                return False
            raise BadInput(f"{option.title} is a flag: true or false, not {shorten(text)}")
        if option.kind == "choice":
            if text in option.choices:
                return text
            near = did_you_mean(text, option.choices)
            raise BadInput(f"--{option.name}: {shorten(text)} isn't one of {', '.join(option.choices)}{near}")
        try:
            return READERS[option.kind](text)
        except (BadInput, AddressError) as error:
            raise type(error)(f"--{option.name}: {error}") from None

    def _subject(self, raw: str) -> str:
        text = expand(raw, self.namespace)
        if not text:
            raise BadInput(f"an empty word stands in '{self.title}'" + (f" ({raw} is empty)" if raw else ""))
        if text.startswith("-") and has_expression(raw):
            raise BadInput(f"{raw} is {shorten(text)}: an expression gives one word that isn't an option")
        return text

    def _command(self, head: _Head, expanded: bool, notes: list[str]) -> list[str] | None:
        """The command's words: literal, unless -x is given."""
        if self.verb.command == "none":
            raise BadInput(f"'{self.title}' takes no command after '--'")
        # Read once more, since only now it is known whether braces are Python's there.
        scanned = scan(self.line[head.command_start :], "all" if expanded else "none")
        if scanned.operator is not None:
            raise BadInput(self._operator_message(scanned.operator, head))
        words = [word.text for word in scanned.words]
        if expanded:
            return [expand(word, self.namespace) for word in words] or None
        names = dict.fromkeys(unexpanded_name(word, self.namespace) for word in words)
        notes += [
            f"{{{name}}} is passed on as it is: without -x nothing in a command is expanded" for name in names if name
        ]
        return words or None

    def _count_subjects(self, parsed: Parsed, head: _Head) -> None:
        subjects, given = self.verb.subjects, parsed.subjects
        least = sum(1 for subject in subjects if not subject.optional)
        if len(given) < least:
            missing = [subject for subject in subjects if not subject.optional][len(given)]
            raise BadInput(f"'{self.title}' needs {missing.metavar}: {usage(self.noun, self.verb, self.cell)}")
        if len(given) <= len(subjects) or (subjects and subjects[-1].repeated):
            return
        if self.verb.command != "none" and parsed.command is not None:
            kept, left = given[: len(subjects)], given[len(subjects) :]
            line = join([*kept, "--", *left, "--", *parsed.command])
            raise BadInput(
                f"before '--' '{self.title}' takes one {subjects[0].metavar}, {join(given)} is more; if the command "
                f"has a '--' of its own, put one before it: {self.title} {line}"
            )
        left_over = shorten(given[len(subjects)])
        raise BadInput(f"{left_over} is one word too many: {usage(self.noun, self.verb, self.cell)}")

    def _operator_message(self, operator: Operator, head: _Head) -> str:
        start = prefix(self.noun.name, self.cell)
        before = self.line[: head.head_end].strip()
        if self.verb.command == "none" or head.command_start is None:
            return advice.in_head(operator, start, before)
        return advice.in_command(operator, start, before, self.line[head.command_start :].strip(), self.namespace)
