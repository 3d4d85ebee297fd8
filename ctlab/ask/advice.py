"""What to type instead, where a line has something in it that only a shell could do."""

from __future__ import annotations

from collections.abc import Mapping

from ..words import Operator, needs_a_shell, shell_command


def no_variable(noun: str, rest: str) -> str:
    """For Python of a variable that isn't there, which IPython takes for the magic (`lab["web"]` with %automagic)."""
    shown = f"{noun}{rest}" if len(rest) <= 40 else f"{noun}{rest[:40]}…"
    return (
        f"{shown}: there is no variable '{noun}' here, so it was read as the magic %{noun}; "
        "the current lab's handle: import ctlab; lab = ctlab.current()"
    )


def in_head(operator: Operator, start: str, before: str) -> str:
    """For an operator among ctlab's own words; `start` is `%container`, `before` the words up to it."""
    shown, variable = operator.text, operator.text[1:]
    if shown.startswith("$") and variable.isidentifier():
        return f"{shown!r} isn't expanded here: Python's value is {{{variable}}}, the word itself '{shown}' in quotes"
    result = f"x = %{start.lstrip('%')} {before}".rstrip()
    return (
        f"{shown!r} is a shell's and means nothing here: quote it in a word, or take the result into Python: {result}"
    )


def in_command(operator: Operator, start: str, before: str, payload: str, namespace: Mapping[str, object]) -> str:
    """For an operator in the command; `before` is the verb with its options and subjects, `payload` the command."""
    if operator.text == "&" and payload.endswith("&") and payload.count("&") == 1:
        verb, _, rest = before.partition(" ")
        detach = [] if {"-d", "--detach"} & set(rest.split()) else ["-d"]
        line = " ".join([start, verb, *detach, *rest.split(" ")]).rstrip()
        return f"'&' needs a shell; to go on without waiting: {line} -- {payload[:-1].strip()}"
    message = needs_a_shell(operator.text, f"{start} {before} -- {shell_command(payload)}")
    variable = operator.text[1:]
    if operator.text.startswith("$") and variable in namespace:
        message += f"; Python's {variable} is {{{variable}}} with -x"
    return message
