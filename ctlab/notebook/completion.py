"""Completion: verbs, options, values and live names, by one matcher for every form in which a magic is typed.

`%container`, `%%container`, `container` (automagic) and `x = %container`. Names come from the handles, which ask no
kernel; only the paths of `cp web:/…` do.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..ask import NOUNS
from ..ask.model import Noun, Option, Verb
from ..errors import CtlabError
from ..words import as_word, scan

if TYPE_CHECKING:
    from ..lab import Lab

_LINE = re.compile(
    r"\s*(?:[\w.\[\]'\", ]+=\s*)?(?P<marks>%{0,2})(?P<noun>" + "|".join(NOUNS) + r")\s+(?P<rest>.*)", re.DOTALL
)
_ASSIGNED = re.compile(r"\s*[\w.\[\]'\", ]+=\s*\w+\s")
_QUOTING = re.compile(r"""['"\\]""")
# What a verb can be done to; any other takes every container.
_STATES = {
    "start": ("exited", "created"), "stop": ("running", "paused"), "exec": ("running",), "shell": ("running",),
    "pause": ("running",), "unpause": ("paused",), "top": ("running", "paused"), "kill": ("running", "paused"),
    "cp": ("running",), "write": ("running",),
}  # fmt: skip
_SIGNALS = ("SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT", "SIGQUIT")


def matcher(shell: Any) -> Callable[[Any], Any]:
    """The matcher to append to a shell's `Completer.custom_matchers`."""
    from IPython.core.completer import SimpleCompletion, SimpleMatcherResult, context_matcher

    def ctlab_matcher(context: Any) -> Any:
        in_body = context.cursor_line > 0 and context.full_text.lstrip().startswith("%%")
        line = context.line_with_cursor[: context.cursor_position]
        found, fragment = ([], "") if in_body else complete(line)
        return SimpleMatcherResult(
            completions=[SimpleCompletion(text=text, type="param") for text in found],
            matched_fragment=fragment, suppress=bool(found), ordered=True,
        )  # fmt: skip

    marked: Callable[[Any], Any] = context_matcher(identifier="ctlab", priority=100)(ctlab_matcher)
    return marked


def complete(text: str) -> tuple[list[str], str]:
    """What can follow `text`, a line up to the cursor, and the last part of it that each of them replaces."""
    match = _LINE.fullmatch(text)
    if match is None or (not match["marks"] and _ASSIGNED.match(text)):
        return [], ""
    noun = NOUNS[match["noun"]]
    if noun.later:
        return [], ""
    words = match["rest"].split()
    fragment = "" if not words or match["rest"][-1:].isspace() else words.pop()
    try:
        if _QUOTING.search(match["rest"]):
            if _QUOTING.search(fragment):
                return [], ""
            words = [one.text for one in scan(match["rest"]).words]
            words = words[:-1] if fragment else words
        return _complete(noun, words, fragment, cell=match["marks"] == "%%")
    except CtlabError:  # a lab that has just gone has no names; a quote is open
        return [], ""


def _complete(noun: Noun, words: list[str], fragment: str, *, cell: bool) -> tuple[list[str], str]:
    typed_verb = None if noun.implicit or not words else noun.verb(words[0])
    if not noun.implicit and not words and not fragment.startswith("-"):
        return _that_begin(fragment, [verb.name for verb in noun.verbs if (verb.cell if cell else verb.line)]), fragment
    verb = typed_verb or noun.verb(noun.default)
    if verb is None or (words and not noun.implicit and typed_verb is None):
        return [], fragment
    head = words[1:] if typed_verb else words
    if "--" in head:
        return [], fragment
    subjects, waiting = _read(verb, head)
    if verb.command != "none" and subjects:
        return _that_begin(fragment, ["--"]) if not head or head[-1] == subjects[-1] else [], fragment
    if waiting is not None:
        return _values(waiting, fragment), fragment
    if fragment.startswith("--") and "=" in fragment:
        name, _, value = fragment[2:].partition("=")
        option = verb.option(name)
        return (_values(option, value) if option else []), value
    if fragment.startswith("-"):
        given = {word.partition("=")[0] for word in head}
        offered = [f"--{one.name}" for one in verb.options if one.repeatable or f"--{one.name}" not in given]
        return _that_begin(fragment, [*offered, "--help"]), fragment
    return _subjects(verb, subjects, fragment)


def _read(verb: Verb, head: list[str]) -> tuple[list[str], Option | None]:
    """The subjects among the words, and the option whose value comes next."""
    subjects: list[str] = []
    waiting: Option | None = None
    for word in head:
        if waiting is not None:
            waiting = None
        elif word.startswith("--"):
            option = verb.option(word[2:])
            waiting = option if option is not None and not option.is_flag else None
        elif word.startswith("-") and len(word) > 1:
            option = verb.short_option(word[-1])
            waiting = option if option is not None and not option.is_flag else None
        else:
            subjects.append(word)
    return subjects, waiting


def _that_begin(fragment: str, offered: Iterable[str]) -> list[str]:
    low = fragment.lower()
    return [text for text in offered if text.lower().startswith(low)]


def _values(option: Option, fragment: str) -> list[str]:
    """What an option's value can be."""
    if option.choices:
        return _that_begin(fragment, option.choices)
    if option.kind in ("path", "mount"):
        return _local(fragment) if ":" not in fragment else []
    if option.kind == "globs":
        from ..metrics.columns import CONTAINER, rate_name

        before, comma, last = fragment.rpartition(",")
        rates = [rate_name(column.name) for column in CONTAINER if column.kind == "counter"]
        names = [*(column.name for column in CONTAINER), *rates]
        return [before + comma + name for name in _that_begin(last, names)]
    kinds = {
        "network": [*_networks(), "host", "none", *(f"container:{name}" for name in _containers())],
        "lab": _labs(), "node": ["host"], "signal": list(_SIGNALS), "condition": ["port:"],
        "expect": ["0", "fail", "any"],
    }  # fmt: skip
    return _that_begin(fragment, kinds.get(option.kind, []))


def _subjects(verb: Verb, before: list[str], fragment: str) -> tuple[list[str], str]:
    """What can stand as the next subject."""
    if not verb.subjects:
        return [], fragment
    subject = verb.subjects[min(len(before), len(verb.subjects) - 1)]
    if len(before) >= len(verb.subjects) and not subject.repeated:
        return [], fragment
    if subject.kind == "container":
        offered = [name for name in _containers(_STATES.get(verb.name)) if name not in before]
        return _that_begin(fragment, offered), fragment
    if subject.kind == "network":
        return _that_begin(fragment, [name for name in _networks() if name not in before]), fragment
    if subject.kind == "lab":
        return _that_begin(fragment, _labs()), fragment
    if subject.kind == "image":
        files = _local(fragment) if fragment[:1] in (".", "/", "~") else []
        return [*_that_begin(fragment, ("system", "scratch")), *files], fragment
    if subject.kind == "path":
        return _paths(verb, before, fragment), fragment
    return [], fragment


def _paths(verb: Verb, before: list[str], fragment: str) -> list[str]:
    """A side of cp: `web:` and what lies in it; on the other side this machine's files."""
    name, colon, path = fragment.partition(":")
    if colon and not fragment.startswith(("/", ".")):
        lab = _lab()
        if lab is None or name not in lab:
            return []
        from ..copying import names

        folder, _, last = path.rpartition("/")
        if not path.startswith("/"):
            return [f"{name}:/"]
        return _typed(f"{name}:{folder}/{one}" for one in _that_begin(last, names(lab[name], folder or "/")))
    containers = [] if any(":" in word for word in before) else [f"{one}:" for one in _containers(_STATES[verb.name])]
    return [*_that_begin(fragment, containers), *(_local(fragment) if verb.name == "cp" else [])]


def _local(fragment: str) -> list[str]:
    """This machine's files."""
    folder, slash, last = fragment.rpartition("/")
    try:
        with os.scandir(os.path.expanduser(folder + slash) or ".") as entries:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    except OSError:
        return []
    found = (name for name in names if name.startswith(last) and (last or not name.startswith(".")))
    # By itself one of these would be an option, somebody's home or a container's.
    return _typed(
        f"./{name}" if not slash and re.match(r"[-~]|[^/]*:", name) else folder + slash + name for name in found
    )


def _typed(found: Iterable[str]) -> list[str]:
    """Files' names as the grammar reads them back: whoever made the file may have chosen its name to be run.

    What would steer a terminal, or end the line, isn't offered.
    """
    return [as_word(text) for text in found if text.isprintable()]


def _lab() -> Lab | None:
    if "ctlab.lab" not in sys.modules:
        return None
    from .. import labs

    return labs.chosen_or_none()


def _labs() -> list[str]:
    if "ctlab.lab" not in sys.modules:
        return []
    from .. import labs

    return [lab.name for lab in labs.running()]


def _containers(states: tuple[str, ...] | None = None) -> list[str]:
    lab = _lab()
    found = list(lab._containers.values()) if lab is not None else []
    return [container.name for container in found if states is None or container.state in states]


def _networks() -> list[str]:
    lab = _lab()
    return [network.name for network in list(lab._networks.values())] if lab is not None else []
