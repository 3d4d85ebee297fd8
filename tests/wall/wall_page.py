"""The tables of docs/security.md: what is reached on each leg and side, exceptions, what the system image adds. Pure.

They lie between two marks; `scripts/wall-table.py` measures and writes them, and a test compares what can be compared
without measuring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wall_table
from wall_exceptions import EXCEPTIONS, OF_A_VM, OF_THE_SYSTEM, Row

PAGE = Path(__file__).resolve().parents[2] / "docs/security.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
KNOWN = "Where ctlab may reach more than podman, and why that does no harm:"
SIDES = ("ctlab", "podman", "bubblewrap")
LEG_NAMES = {"root": "root", "ids": "user, range of ids", "one-id": "user, one id"}
# A fact belongs to the first group that one of whose patterns is meant for it.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("system calls that the kernel answers, of 462", ("call *",)),
    ("files of /sys that can be read", ("reads /sys*",)),
    ("files of /proc that can be read", ("reads /proc*",)),
    ("files of /proc and /sys that can be written", ("writes /*",)),
    ("mounts and programs for the kernel, in a user namespace of its own", ("*, in a user namespace of its own",)),
    ("namespaces made or entered", ("unshare *", "clone *", "clone3 *", "setns *")),
    (
        "mounts and roots made or changed",
        (
            "mounts *", "makes a mount *", "changes how mounts *", "takes a mount *", "uncovers *", "clones a tree *",
            "opens a tree *", "opens a file system *", "picks a file *", "changes a mount*", "changes the root",
            "lists mounts *", "changes its root *",
        ),
    ),
    ("capabilities, effective", ("capability effective *",)),
    ("capabilities, in the four other sets", ("capability *",)),
    (
        "keys: made, joined, linked, read",
        (
            "requests a key", "* of keys", "links *", "adds a key *", "reads the secret *",
            "reads the notebook's secret *", "reads the user's secret *",
        ),
    ),
    ("kinds of sockets", ("socket of *", "netlink socket*")),
    ("devices opened or made", ("reads device *", "writes device *", "makes and opens *")),
    (
        "programs for the kernel: BPF, perf, io_uring, userfaultfd, fanotify",
        ("*BPF*", "*(perf)*", "*io_uring*", "*(userfaultfd)*", "*(fanotify)*"),
    ),
    ("personalities", ("personality: *",)),
    (
        "processes seen, looked into, traced",
        ("sees the process *", "looks into *", "traces *", "signals *", "* memory of *", "*of its child", "compares *"),
    ),
    ("what is the machine's: namespaces, ids, loopback, sockets, files", ("* machine*",)),
    ("all else", ("*",)),
)  # fmt: skip


def group_of(fact: str) -> str:
    return next(name for name, patterns in GROUPS if any(wall_table.matches(fact, p) for p in patterns))


def counts(report: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, int]:
    """Group -> how many facts of it a report has."""
    found = dict.fromkeys((name for name, _ in GROUPS), 0)
    for fact in wall_table.facts(report, names):
        found[group_of(fact)] += 1
    return found


def measured(reports: Mapping[str, Any], names: Mapping[int, str], about: str) -> str:
    """Everything between the marks, from what was measured."""
    return "\n\n".join([BEGIN, about, _differences(reports, names), known(), END])


def _differences(reports: Mapping[str, Any], names: Mapping[int, str]) -> str:
    heads = [f"{LEG_NAMES[leg]}: {side}" for leg in reports for side in SIDES]
    found = [counts(reports[leg][side]["run"], names) for leg in reports for side in SIDES]
    rows = [[name, *[str(each[name]) for each in found]] for name, _ in GROUPS]
    return table(["reached", *heads], rows)


def known() -> str:
    """The exceptions, which need no measuring."""
    parts = [KNOWN, _rows(EXCEPTIONS)]
    parts += ["In a VM, beside podman on this machine as a user with a range of ids, besides:", _rows(OF_A_VM)]
    parts += ["What the image `system` adds to a folder of the same machine:", _rows(OF_THE_SYSTEM)]
    return "\n\n".join(parts)


def _rows(rows: Sequence[Row]) -> str:
    return table(["what", "why"], [[f"`{row.facts}`", row.reason] for row in rows]) if rows else "Nothing."


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def on_the_page(text: str) -> str:
    """What stands between the marks of a page, marks included."""
    found = re.search(f"{re.escape(BEGIN)}.*{re.escape(END)}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{PAGE}: no marks {BEGIN} and {END}")
    return found[0]


def numbers(text: str) -> list[list[int]]:
    """The figures of the first table between the marks."""
    rows = [line.strip("|").split("|") for line in on_the_page(text).splitlines() if line.startswith("|")]
    body = rows[2 : 2 + len(GROUPS)]
    return [[int(cell) for cell in row[1:]] for row in body]
