"""The default filter as a text: which call is refused, why, and what opens it. `python -m ctlab seccomp [CALL …]`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from ..errors import BadInput
from ..kernel.capabilities import GRANTABLE
from ..names import did_you_mean
from .default import GROUPS, Group
from .profile import ALLOW, EINVAL, ENOSYS, EPERM

_NAMES = {ALLOW: "allowed", EPERM: "EPERM", ENOSYS: "ENOSYS", EINVAL: "EINVAL"}
_WIDTH = 100
_HEAD = (
    "What the default filter of system calls refuses, by reason. A program sees EPERM (not permitted) or ENOSYS (no "
    "such call); so it does where a capability is missing or the kernel itself refuses. To tell them apart: strace in "
    "the container names the call, `python -m ctlab seccomp CALL` says whether it is the filter's doing, and "
    "--security-opt seccomp=unconfined leaves the filter out."
)


def table() -> str:
    """All that is refused, to some at least."""
    blocks = [textwrap.fill(_HEAD, _WIDTH)]
    for group in GROUPS:
        if group.answer == ALLOW and not group.exceptions:
            continue
        calls = textwrap.fill(group.calls, _WIDTH, initial_indent="    ", subsequent_indent="    ")
        blocks.append("\n".join((f"{_answer(group)}: {group.reason}", calls, *_cases(group))))
    return "\n\n".join(blocks)


def about(calls: Iterable[str]) -> str:
    """A line for each call. Raises BadInput for a name that is none."""
    found = {call: group for group in GROUPS for call in group.calls.split()}
    lines = []
    for call in calls:
        if call not in found:
            raise BadInput(f"no system call {call!r} in the table{did_you_mean(call, found)}; unknown ones are ENOSYS")
        lines += [f"{call}: {_answer(found[call])}: {found[call].reason}", *_cases(found[call])]
    return "\n".join(lines)


def _cases(group: Group) -> Iterator[str]:
    for case in group.exceptions:
        conditions = " and ".join(
            f"argument {c.argument} & {c.mask:#x} {c.operator} {c.value:#x}" for c in case.conditions
        )
        opened = f"; not for who has {' or '.join(case.unless)}" if case.unless else ""
        yield f"    but {_NAMES.get(case.answer, hex(case.answer))} where {conditions}{opened}"


def _answer(group: Group) -> str:
    answer = _NAMES.get(group.answer, hex(group.answer))
    if not group.opened_by or group.answer == ALLOW:
        return answer
    granted = [f"--cap-add {name}" for name in group.opened_by if name in GRANTABLE]
    return f"{answer}, opened by {' or '.join(granted)}" if granted else f"{answer}, to all containers"
