"""Help texts, generated from the table."""

from __future__ import annotations

import textwrap

from .model import Noun, Option, Verb

WIDTH = 100


def prefix(noun: str, cell: bool = False) -> str:
    """`%container` or `%%container`."""
    return ("%%" if cell else "%") + noun


def title(noun: Noun, verb: Verb, cell: bool = False) -> str:
    """`%container run`, or `%stats` where the verb isn't typed."""
    start = prefix(noun.name, cell or not verb.line)
    return start if noun.implicit else f"{start} {verb.name}"


def usage(noun: Noun, verb: Verb, cell: bool = False) -> str:
    """`%container exec [OPTIONS] CONTAINER -- COMMAND…`."""
    words = [title(noun, verb, cell), "[OPTIONS]", *map(str, verb.subjects)]
    if verb.command != "none":
        words.append("-- COMMAND…" if verb.command == "required" and not cell else "[-- COMMAND…]")
    return " ".join(words)


def _rows(rows: list[tuple[str, str]], indent: str = "  ") -> list[str]:
    column = min(max((len(left) for left, _ in rows), default=0), 28) + len(indent) + 2
    lines: list[str] = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, WIDTH - column) or [""]
        start = f"{indent}{left}"
        if len(start) + 2 > column:
            lines.append(start)
            start = ""
        lines.append(f"{start:<{column}}{wrapped[0]}".rstrip())
        lines += [" " * column + more for more in wrapped[1:]]
    return lines


def _option_row(option: Option) -> tuple[str, str]:
    names = f"-{option.short}, --{option.name}" if option.short else f"    --{option.name}"
    repeat = " (can be repeated)" if option.repeatable else ""
    return f"{names} {option.metavar}".rstrip(), option.help + repeat


def verb_help(noun: Noun, verb: Verb) -> str:
    """The help of one verb."""
    lines = [usage(noun, verb), "", f"{verb.help[:1].upper()}{verb.help[1:]}."]
    if verb.cell and verb.line:
        lines += _cell_note(noun, verb)
    if verb.aliases:
        lines.append(f"Also: {', '.join(verb.aliases)}.")
    lines += ["", "Options:", *_rows([*map(_option_row, verb.options), ("-h, --help", "this text")])]
    if verb.command != "none":
        lines += ["", "Before -- options and words stand in any order and {expr} is Python's; after it all is literal."]
    return "\n".join(lines)


def _cell_note(noun: Noun, verb: Verb) -> list[str]:
    start = title(noun, verb, cell=True)
    return [f"As a cell magic, {start}, the body is the command's input, or without a command a script for /bin/sh."]


def noun_help(noun: Noun) -> str:
    """The help of a noun: its verbs, or its options if it has one verb that isn't typed."""
    if noun.later:
        return noun.later
    if noun.implicit:
        return verb_help(noun, noun.verbs[0])
    rows = [(verb.name, verb.help) for verb in noun.verbs]
    lines = [f"{prefix(noun.name)} VERB [OPTIONS] …", "", f"{noun.help[:1].upper()}{noun.help[1:]}."]
    lines += ["", "Verbs:", *_rows(rows)]
    lines += ["", f"Without a verb: {noun.default}. The options of one: {prefix(noun.name)} {noun.verbs[0].name} -h"]
    return "\n".join(lines)
