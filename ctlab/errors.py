"""Failures that people see: one line of what was asked, what the kernel answered, what to do.

Every error that ctlab raises on purpose is a `CtlabError`. The class name is the kind
(it becomes the ``ename`` of an error output in a notebook); the message is one line.
"""

from __future__ import annotations

import errno as _errno
import os


def errno_name(number: int) -> str:
    """The name of an errno value, for example ``EPERM``; ``errno 999`` where it has none."""
    return _errno.errorcode.get(number, f"errno {number}")


def describe(error: OSError) -> str:
    """``EPERM (Operation not permitted)``: the way every message names what the kernel said."""
    if error.errno is None:
        return str(error)
    return f"{errno_name(error.errno)} ({os.strerror(error.errno)})"


def describe_bug(error: BaseException) -> str:
    """``KeyError: 'do' (keeper.py:12)``: the last words of a process of ours that a bug has ended, in one line."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place is not None else "?"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where})"


def one_line(text: str, most: int = 2000) -> str:
    """Text that somebody else has made, as part of a line: nothing in it steers a terminal, breaks the line or is long.

    Tabs stay, bytes that were no text go.
    """
    shown = "".join(sign if sign.isprintable() or sign == "\t" else " " for sign in text[:most])
    return shown.rstrip() + (" …" if len(text) > most else "")


LINES_BELOW = "; the console's last lines:\n"
"""What comes behind this in a message is more lines: the one case of a message that has any."""
_MOST_CHARACTERS, _MOST_OF_A_WORD, _MOST_LINES_BELOW = 2000, 300, 40


def told(text: str) -> str:
    """A message as one line for a person, whatever was echoed in it: nothing steers a terminal, nothing is endless.

    What can't be printed is written as in Python's literals; of a very long word, and of a very long line, the
    beginning and the end are left, since the end says what to do.
    """
    if len(text) <= _MOST_OF_A_WORD and text.isprintable():
        return text
    text, mark, below = text.partition(LINES_BELOW)
    if mark:
        lines = [told(line) for line in below.splitlines()[-_MOST_LINES_BELOW:]]
        return told(text) + mark + "\n".join(lines)
    words = (_escaped(" ".join(word.split())) for word in text.split(" "))
    return _cut(" ".join(_cut(word, _MOST_OF_A_WORD) for word in words), _MOST_CHARACTERS)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…({len(text)} characters)…{text[-most // 4 :]}"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


class CtlabError(Exception):
    """Anything that ctlab refuses or that failed in an expected way; the text is one line."""

    def __init__(self, message: object = "") -> None:
        super().__init__(told(str(message)))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, and where in the cells it came from."""
        from .notebook.errors_view import render

        return render(self)


class BadInput(CtlabError):
    """Something that was typed can't be understood or isn't valid."""


class NameInUse(CtlabError):
    """An object of that name exists already."""


class NotFound(CtlabError):
    """No object of that name (or id) exists."""


class ProgramNotFound(CtlabError):
    """The program to run doesn't exist inside the container, or can't be executed."""


class ProgramFailed(CtlabError):
    """A foreground program ended with a status that wasn't expected."""


class Unsupported(CtlabError):
    """This kernel, machine or place can't do it; the message names what is missing and the remedy."""


class LimitRefused(CtlabError):
    """A resource limit can't be set here; nothing runs unlimited in silence."""


class AddressError(CtlabError):
    """A subnet or address that overlaps, is taken, is outside, or is exhausted."""


class StateError(CtlabError):
    """The object isn't in a state in which that can be done (stopped, paused, replaced, lab gone)."""


class KernelError(CtlabError):
    """The kernel refused an operation; carries the errno.

    ``number`` is the errno value.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class TimedOut(CtlabError, TimeoutError):
    """Something did not happen in the time that it was given; what was waited for goes on."""


class LabGone(StateError):
    """The lab that a handle belongs to was stopped or died."""


# What crosses the protocol is (kind, message, errno): the kind is looked up here and nowhere else.
KINDS: dict[str, type[CtlabError]] = {
    kind.__name__: kind
    for kind in (
        CtlabError, BadInput, NameInUse, NotFound, ProgramNotFound, ProgramFailed, Unsupported,
        LimitRefused, AddressError, StateError, KernelError, LabGone, TimedOut,
    )
}  # fmt: skip
