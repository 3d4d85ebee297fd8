"""%container cp, %%container write, %container shell: files go in and out, and so does a person."""

from __future__ import annotations

from typing import Any

from ..ask.container import is_inside
from .magic_context import Context, Text


def copy(context: Context) -> Any:
    """`%container cp web:/a ./b` or the other way: where it lies now, a Path here or the text `web:/b` inside."""
    source, target = context.subjects
    lab = context.lab
    if is_inside(source):
        name, _, path = source.partition(":")
        return lab[name].copy_out(path, target)
    name, _, path = target.partition(":")
    return Text(lab[name].copy_in(source, path))


def write(context: Context) -> Any:
    """`%%container write web:/path`: the body becomes that file."""
    name, _, path = context.subjects[0].partition(":")
    return Text(context.lab[name].write(path, context.body or ""))


def shell(context: Context) -> Any:
    """`%container shell web`: what to paste into a terminal of the same user."""
    from .shell_line import shell_line

    [name] = context.subjects
    return Text(shell_line(context.lab[name]))


VERBS = {"container cp": copy, "container write": write, "container shell": shell}
