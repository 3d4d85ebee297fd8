"""A line into words, as a POSIX shell would, and Python expressions in them.

Quotes, backslashes and comments work as in a shell; there is no shell, so what only a shell could do (pipes,
redirections, `$NAME`) is an error and not a word. `{expr}` before `--` is Python's and stays one word.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import BadInput
from .names import did_you_mean, shorten

Braces = Literal["head", "all", "none"]
"""Where `{expr}` may hold blanks and quotes of its own: before `--`, everywhere, nowhere."""

_BLANK = " \t\r\n"
_OPERATORS = "|&;<>`"
_ESCAPED_IN_QUOTES = ('"', "\\", "$", "`", "\n")
# What a shell would replace after a `$`; a `$` before anything else is just a character.
_DOLLAR = re.compile(r"\$(?:[A-Za-z_]\w*|[0-9({?@*#!$])", re.ASCII)
_EXPRESSION = re.compile(r"\{[A-Za-z_]")
_LITERAL = "a literal brace is written '{{'"
_CONVERSIONS: dict[str, Callable[[object], str]] = {"r": repr, "s": str, "a": ascii}
_EXACT_NAME = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class Word:
    """One word without its quotes; `start` and `end` are its place in the line."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Operator:
    """Something that only a shell could do, and where it stands: `|`, `&&`, `2>`, `$HOME`, …"""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a line holds up to its end or to its first `operator`.

    `silenced`: it ended in `;`. `stop`: where the words end, before such a `;` or a comment. `open`: the line
    ends in a backslash, so the next line belongs to it.
    """

    words: tuple[Word, ...]
    silenced: bool = False
    operator: Operator | None = None
    stop: int = 0
    open: bool = False


def scan(line: str, braces: Braces = "head") -> Scan:
    """Split a line; BadInput for a quote that isn't closed, a NUL, a second line.

    An operator isn't an error here: whoever knows where the command begins can say what to type instead.
    """
    return _Scanner(line, braces).run()


def split(line: str) -> list[str]:
    """The words of a line in which no `{expr}` is special. BadInput for an operator too."""
    result = scan(line, "none")
    if result.operator is not None:
        raise BadInput(needs_a_shell(result.operator.text, f"-- {shell_command(line)}"))
    if result.open:
        raise BadInput("the line ends in a backslash, and no line follows")
    return [word.text for word in result.words]


def split_command(command: str) -> list[str]:
    """The argv of a command given to Python as one text: as `split`, and a shell is named in Python's way."""
    result = scan(command, "none")
    if result.operator is not None:
        argv = ["sh", "-c", command.strip()]
        raise BadInput(needs_a_shell(result.operator.text, repr(argv)))
    if result.open:
        raise BadInput("the command ends in a backslash, and no line follows")
    return [word.text for word in result.words]


def join(words: Iterable[str]) -> str:
    """A line that `split` turns back into the words."""
    return " ".join(shlex.quote(word) for word in words)


def as_word(text: str) -> str:
    """`text` as one word of a line's head: `scan` and `expand` give it back, and nothing in it is evaluated."""
    parts, doubled = [], 0
    for character in text:
        if character == "{":
            parts.append("{{")
            doubled += 1
        elif character == "}" and doubled:
            parts.append("}}")
            doubled -= 1
        else:
            parts.append(character)
    return shlex.quote("".join(parts))


def shell_command(text: str) -> str:
    """`sh -c 'ls | head'`: the words that give `text` to a shell inside the container."""
    return f"sh -c {shlex.quote(text.strip())}"


def needs_a_shell(operator: str, instead: str) -> str:
    """The message for an operator; `instead` is what to type, if that is one line."""
    if "\n" in instead:
        instead = "%%container exec NAME, and the script in the cell's body"
    return f"{operator!r} needs a shell, and the command is run without one; type: {instead}"


def continue_line(line: str, body: str) -> tuple[str, str]:
    r"""A cell magic's line and body, after each `\` at the line's end has drawn the body's next line to it.

    IPython does that for a line magic only.
    """
    while body and scan(line, "head").open:
        following, _, body = body.partition("\n")
        line = f"{line}\n{following}"
    return line, body


class _Scanner:
    """One pass over a line; a class only because the parts of the pass share its place."""

    def __init__(self, line: str, braces: Braces) -> None:
        self.line = line
        self.at = 0
        self.braces = braces
        self.words: list[Word] = []
        self.ended = 0  # where the last word ended
        self.open = False

    def run(self) -> Scan:
        line, silenced = self.line, False
        if "\0" in line:
            raise BadInput("a line can't hold a NUL character")
        while self.at < len(line):
            character = line[self.at]
            if character in _BLANK or line.startswith("\\\n", self.at):
                self._blank(character)
            elif character == "#":
                newline = line.find("\n", self.at)
                self.at = newline if newline >= 0 else len(line)
            elif character == ";" and not _rest(line, self.at + 1):
                silenced = True
                break
            else:
                operator = self._word()
                if operator is not None:
                    return Scan(tuple(self.words), operator=operator, stop=operator.start)
        return Scan(tuple(self.words), silenced, None, self.ended, self.open)

    def _blank(self, character: str) -> None:
        self.at += 2 if character == "\\" else 1
        if character == "\n" and self.words and (rest := _rest(self.line, self.at)):
            raise BadInput(f"a second line ({rest[:40].strip()!r}) isn't part of the command; end the first with \\")

    def _word(self) -> Operator | None:
        """Read one word. What stands before an operator is still a word: `ls|head`."""
        line, start, parts, quoted = self.line, self.at, list[str](), False
        operator = None
        while self.at < len(line):
            character = line[self.at]
            if character in _BLANK:
                break
            operator = self._operator(character)
            if operator is not None or (character == ";" and not _rest(line, self.at + 1)):
                break
            if character == "\\":
                self._escape(parts)
            elif character in "'\"":
                quoted = True
                self._quote(character, parts)
            elif character == "\u00a0":
                before = line[max(0, self.at - 10) : self.at].lstrip()
                raise BadInput(f"a no-break space stands after {before!r}: put an ordinary blank there")
            else:
                end = self._expression() or self.at + 1
                parts.append(line[self.at : end])
                self.at = end
        text = "".join(parts)
        if operator is not None and operator.text[0] in "<>" and text.isdecimal() and not quoted:
            return Operator(text + operator.text, start)  # `2>`: the digits aren't a word
        if text or quoted:
            self.words.append(Word(text, start, self.at))
            self.ended = self.at
            if text == "--" and self.braces == "head":
                self.braces = "none"
        return operator

    def _operator(self, character: str) -> Operator | None:
        if character in _OPERATORS and not (character == ";" and not _rest(self.line, self.at + 1)):
            end = self.at + 1
            while end < len(self.line) and self.line[end] == character != "`":
                end += 1
            return Operator(self.line[self.at : end], self.at)
        if character == "$" and (match := _DOLLAR.match(self.line, self.at)):
            return Operator(match[0], self.at)
        return None

    def _escape(self, parts: list[str]) -> None:
        following = self.line[self.at + 1 : self.at + 2]
        if not following:
            self.open = True
        if following != "\n":
            parts.append(following)
        self.at = min(self.at + 2, len(self.line))

    def _quote(self, quote: str, parts: list[str]) -> None:
        line, opened = self.line, self.at
        self.at += 1
        while self.at < len(line) and line[self.at] != quote:
            if quote == '"' and line[self.at] == "\\" and line[self.at + 1 : self.at + 2] in _ESCAPED_IN_QUOTES:
                self.at += 1
                if line[self.at] == "\n":
                    self.at += 1
                    continue
            parts.append(line[self.at])
            self.at += 1
        if self.at >= len(line):
            raise BadInput(f"a quote isn't closed: {shorten(line[opened:])}")
        self.at += 1

    def _expression(self) -> int | None:
        """Where an unquoted `{expr}` that begins here ends, so that it stays one word with its quotes."""
        if self.braces == "none":
            return None
        if self.line.startswith("{{", self.at):
            return self.at + 2
        if not _EXPRESSION.match(self.line, self.at):
            return None
        found = find_expression(self.line, self.at)
        return found.end if found else None


def _rest(line: str, position: int) -> str:
    """What is left from there on, without blanks and comments."""
    return re.sub(r"\A(?:[ \t\r\n]+|(?:(?<=[ \t\r\n])|\A)#[^\n]*)+", "", line[position:])


@dataclass(frozen=True, slots=True)
class Expression:
    """A `{code!r:format}` in a text; `end` is the place after its brace."""

    code: str
    conversion: str
    format: str
    end: int


def find_expression(text: str, start: int) -> Expression | None:
    """The expression whose `{` is at `start`; None if no `}` makes it Python.

    Braces may stand inside (`{d["}"]}`, `{ {1: 2}[1] }`): the first closing brace that gives valid Python ends it.
    """
    end = text.find("}", start)
    while end >= 0:
        inner = text[start + 1 : end]
        for cut in [len(inner), *(match.start() for match in re.finditer(r"!|:", inner))]:
            tail = re.fullmatch(r"(?:!([rsa]))?(?::(.*))?", inner[cut:], re.DOTALL)
            if tail and _is_python(inner[:cut]):
                return Expression(inner[:cut].strip(), tail[1] or "", tail[2] or "", end + 1)
        end = text.find("}", end + 1)
    return None


def _is_python(code: str) -> bool:
    try:
        ast.parse(code.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def expand(text: str, namespace: Mapping[str, object], keep: Iterable[str] = ()) -> str:
    """`text` with every `{expr}` replaced by its value's text.

    `{` before a letter or `_` begins an expression; `{{` is one brace (and a `}}` that follows it one too); any
    other brace is itself. An expression that is just a name in `keep` stays as it is. BadInput if an expression
    isn't Python, isn't defined or fails.
    """
    kept = frozenset(keep)
    parts: list[str] = []
    at, doubled = 0, 0
    while at < len(text):
        if text.startswith("{{", at):
            parts.append("{")
            at, doubled = at + 2, doubled + 1
        elif doubled and text.startswith("}}", at):
            parts.append("}")
            at, doubled = at + 2, doubled - 1
        elif _EXPRESSION.match(text, at):
            found = find_expression(text, at)
            if found is None:
                raise BadInput(f"{_until_brace(text, at)!r} isn't a Python expression in braces; {_LITERAL}")
            shown = text[at : found.end]
            parts.append(shown if found.code in kept else _evaluate(found, shown, namespace))
            at = found.end
        else:
            parts.append(text[at])
            at += 1
    return "".join(parts)


def _until_brace(text: str, start: int) -> str:
    end = text.find("}", start)
    return text[start : end + 1] if end >= 0 else text[start : start + 40]


def _evaluate(expression: Expression, shown: str, namespace: Mapping[str, object]) -> str:
    try:
        # A copy as globals, so that comprehensions and lambdas see it and nothing is left in the caller's.
        value = eval(expression.code, dict(namespace))  # the user's own code, in the user's own process
        if expression.conversion:
            value = _CONVERSIONS[expression.conversion](value)
        return format(value, expression.format)
    except NameError as error:
        near = did_you_mean(error.name or "", (name for name in namespace if not name.startswith("_")))
        raise BadInput(f"{shown}: {error}{near or '; ' + _LITERAL}") from None
    except Exception as error:  # whatever the user's code raises
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{shown}: {type(error).__name__}: {reason}") from None


def has_expression(text: str) -> bool:
    """Whether `expand` would evaluate something in it."""
    return _EXPRESSION.search(text.replace("{{", "")) is not None


def unexpanded_name(text: str, namespace: Mapping[str, object]) -> str | None:
    """The variable's name if a word is exactly `{name}` of a defined one: worth a note where nothing is expanded."""
    match = _EXACT_NAME.fullmatch(text)
    return match[1] if match and match[1] in namespace else None
