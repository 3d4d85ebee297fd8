"""From a profile to the program that the kernel runs at every system call: classic BPF, linux/filter.h.

First the architecture, then a binary tree over the numbers, whose leaves are runs of calls with the same answer; calls
whose arguments count have a block of their own behind. It is written from its end to its beginning, so that wherever
a jump is written its target is known. Jumps reach 255 instructions; what lies further gets a long jump (BPF_JA) or,
if it is one instruction, is written again.

The kernel tries each program in advance to find the calls that are always allowed, and never runs it for those; it
understands the instructions that the tree is made of, so only denied calls and calls with arguments pay.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence, Set
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from ..errors import BadInput, Unsupported
from .numbers import numbers
from .profile import ACTION, ALLOW, ENOSYS, KILL_PROCESS, LOG, LOW_BITS, TRACE, Condition, Profile

# os.uname().machine -> (architecture, number of its architecture: linux/audit.h), its own and its 32-bit one.
MACHINES = {
    "x86_64": (("x86_64", 0xC000003E), ("i386", 0x40000003)),
    "aarch64": (("aarch64", 0xC00000B7), ("arm", 0x40000028)),
}

X32_BIT = 0x40000000
"""On x86_64: a call of the third set of calls, x32, which few kernels have and no profile needs: missing (ENOSYS)."""

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

LATE = frozenset({
    "clone", "clone3", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree",
    "open_tree_attr", "pivot_root", "setdomainname", "sethostname", "setns", "umount", "umount2", "unshare",
})  # fmt: skip
"""What ctlab itself still does in a container before the container's program: only the part `late` decides on them."""

PARTS = ("early", "late", "whole")

# Operations and their places: linux/bpf_common.h, struct seccomp_data (little-endian, as both machines are).
_LOAD, _RETURN, _AND = 0x20, 0x06, 0x54
_JUMP, _EQUAL, _GREATER, _AT_LEAST = 0x05, 0x15, 0x25, 0x35
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_REACH = 255

Decision = tuple[tuple[tuple[Condition, ...], int], ...]
"""What is done with one call: the first entry whose conditions hold; the last one has none."""


@lru_cache(maxsize=64)
def program(profile: Profile, capabilities: frozenset[str], machine: str, part: str = "whole") -> bytes:
    """The filter (struct sock_filter[]) for a container with these capabilities (names without ``CAP_``).

    `machine`: what uname says. `part`: "early" leaves the calls of `LATE` alone, "late" decides on nothing else,
    "whole" is both in one: for every call, the stricter verdict of early and late is the verdict of whole.
    Raises Unsupported for a machine without a table of numbers, BadInput for a profile that the kernel's limit is too
    small for.
    """
    if machine not in MACHINES:
        raise Unsupported(f"a filter of system calls on {machine}: there is a table of calls for {', '.join(MACHINES)}")
    if part not in PARTS:
        raise ValueError(f"no part {part!r}; there are {', '.join(PARTS)}")
    code = _Code()
    (own, own_mark), (other, other_mark) = MACHINES[machine]
    miss = code.result(KILL_PROCESS)
    if other in profile.architectures:
        tree = code.tree(_runs(profile, capabilities, machine, other, part))
        entry = code.load(_NUMBER, tree)
        miss = code.test(_EQUAL, other_mark, entry, miss)
    entry = code.load(_NUMBER, code.tree(_runs(profile, capabilities, machine, own, part)))
    code.load(_ARCHITECTURE, code.test(_EQUAL, own_mark, entry, miss))
    if len(code) > MAX_INSTRUCTIONS:
        raise BadInput(
            f"seccomp profile {profile.name}: a filter of {len(code)} instructions; the kernel takes "
            f"{MAX_INSTRUCTIONS}: fewer rules, or fewer conditions on arguments"
        )
    return code.packed()


def digest(program: bytes) -> str:
    """``sha256:`` and 16 hexadecimal digits: the same for the same program."""
    return f"sha256:{hashlib.sha256(program).hexdigest()[:16]}"


class Description(NamedTuple):
    """What `inspect` shows of a filter: the profile's name and the digest of the whole program."""

    name: str
    digest: str


def describe(profile: Profile, capabilities: frozenset[str], machine: str) -> Description:
    """Of the filter that a container with these capabilities has there; raises what `program` raises."""
    return Description(profile.name, digest(program(profile, capabilities, machine)))


def decisions(profile: Profile, capabilities: Set[str], machine: str) -> dict[str, Decision]:
    """Call -> what is done with it, for every call that a rule names and that counts there."""
    lists: dict[str, list[tuple[tuple[Condition, ...], int]]] = {}
    closed: set[str] = set()
    for rule in profile.rules:
        if not rule.counts(capabilities, machine):
            continue
        for call in rule.calls:
            if call not in closed:
                lists.setdefault(call, []).append((rule.conditions, rule.action))
                if not rule.conditions:
                    closed.add(call)
    return {call: _closed(entries, profile.default) for call, entries in lists.items()}


def passes(profile: Profile, capabilities: Set[str], machine: str, call: str) -> bool:
    """Whether a call gets to the kernel, with some arguments at least (TRACE: if whoever traces the caller lets it)."""
    decision = decisions(profile, capabilities, machine).get(call, (((), profile.default),))
    return any(verdict & ACTION in (ALLOW, LOG, TRACE) for _, verdict in decision)


def _closed(entries: list[tuple[tuple[Condition, ...], int]], default: int) -> Decision:
    """The entries with a last one that always holds, and without those before it that only repeat its verdict."""
    if entries[-1][0]:
        entries = [*entries, ((), default)]
    while len(entries) > 1 and entries[-2][1] == entries[-1][1]:
        entries = [*entries[:-2], entries[-1]]
    return tuple(entries)


class _Run(NamedTuple):
    """The calls from `first` up to the next run's first, which are all decided alike."""

    first: int
    decision: Decision


def _runs(profile: Profile, capabilities: Set[str], machine: str, architecture: str, part: str) -> list[_Run]:
    """The whole range of numbers (32 bits, unsigned) in runs of equal decisions, ascending."""
    allow: Decision = (((), ALLOW),)
    rest: Decision = allow if part == "late" else (((), profile.default),)
    by_call = decisions(profile, capabilities, machine)
    marks: dict[int, Decision] = {}
    previous = -1
    for name, number in sorted(numbers(architecture).items(), key=lambda row: row[1]):
        if number != previous + 1:
            marks[previous + 1] = rest
        decided_here = part == "whole" or (name in LATE) == (part == "late")
        marks[number] = by_call.get(name, (((), profile.default),)) if decided_here else allow
        previous = number
    marks[previous + 1] = rest
    if architecture == "x86_64":
        marks[X32_BIT] = (((), ENOSYS),)
    runs: list[_Run] = []
    for first, decision in marks.items():
        if not runs or runs[-1].decision != decision:
            runs.append(_Run(first, decision))
    return runs


class _Code:
    """Instructions from the last to the first. A place in it is the number of instructions that lie behind it."""

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []
        self._results: dict[int, int] = {}  # verdict -> its nearest copy
        self._blocks: dict[Decision, int] = {}

    def __len__(self) -> int:
        return len(self._reversed)

    def packed(self) -> bytes:
        """struct sock_filter[]: operation, where to go if true and if false, operand."""
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(self._reversed))

    def _add(self, operation: int, operand: int, yes: int = 0, no: int = 0) -> int:
        self._reversed.append((operation, yes, no, operand))
        return len(self._reversed) - 1

    def result(self, verdict: int) -> int:
        """The place of an instruction that ends with this verdict."""
        if verdict not in self._results:
            self._results[verdict] = self._add(_RETURN, verdict)
        return self._results[verdict]

    def _again(self, target: int) -> int:
        """A place right here that does what `target` does."""
        operation, _, _, operand = self._reversed[target]
        if operation == _RETURN:
            self._results[operand] = self._add(_RETURN, operand)
            return self._results[operand]
        return self._add(_JUMP, len(self) - target - 1)

    def _nearest(self, target: int) -> int:
        """`target`, or the nearest copy of it if it is an end."""
        operation, _, _, operand = self._reversed[target]
        return self._results[operand] if operation == _RETURN else target

    def test(self, comparison: int, operand: int, yes: int, no: int) -> int:
        """Go to `yes` if what was loaded compares so with `operand`, else to `no`."""
        yes, no = self._nearest(yes), self._nearest(no)
        if yes == no:
            return yes
        # Each of the two may need one instruction more between this one and the rest.
        if len(self) + 1 - yes > _REACH:
            yes = self._again(yes)
        if len(self) - no > _REACH:
            no = self._again(no)
        here = len(self)
        return self._add(comparison, operand, here - yes - 1, here - no - 1)

    def load(self, offset: int, then: int, mask: int = LOW_BITS) -> int:
        """Load 32 bits of the call's data, leave those of `mask`, and go on at `then`."""
        if then != len(self) - 1:
            self._again(then)
        if mask != LOW_BITS:
            self._add(_AND, mask)
        return self._add(_LOAD, offset)

    def tree(self, runs: Sequence[_Run]) -> int:
        """Find the run that the loaded number is in, and do what it says.

        Calls with conditions are the ones that programs make and the kernel runs this for: they lie near the root.
        """
        if len(runs) == 1:
            return self._decision(runs[0].decision)
        weights = [len(runs) if len(run.decision) > 1 else 4 for run in runs]
        reached = list(accumulate(weights))
        middle = min(range(1, len(runs)), key=lambda at: abs(2 * reached[at - 1] - reached[-1]))
        above = self.tree(runs[middle:])
        return self.test(_AT_LEAST, runs[middle].first, above, self.tree(runs[:middle]))

    def _decision(self, decision: Decision) -> int:
        if len(decision) == 1:
            return self.result(decision[0][1])
        if decision not in self._blocks:
            place = self.result(decision[-1][1])
            for conditions, verdict in reversed(decision[:-1]):
                yes = self.result(verdict)
                for condition in reversed(conditions):
                    yes = self._condition(condition, yes, place)
                place = yes
            self._blocks[decision] = place
        return self._blocks[decision]

    def _condition(self, condition: Condition, yes: int, no: int) -> int:
        """Load an argument, in two halves where both count, and go to `yes` if the condition holds, else to `no`."""
        argument, operator, value, mask = condition
        if operator in ("!=", "<", "<="):
            operator, yes, no = {"!=": "==", "<": ">=", "<=": ">"}[operator], no, yes
        comparison = {"==": _EQUAL, ">=": _AT_LEAST, ">": _GREATER}[operator]
        offset = _ARGUMENTS + 8 * argument
        high, high_mask = value >> 32, mask >> 32
        if high_mask == 0 and high:  # nothing is as large
            return no
        if self._nearest(yes) == self._nearest(no):
            return yes
        low_mask = mask & LOW_BITS
        targets = (self._loaded(target, offset, low_mask) for target in (yes, no))
        low = self.load(offset, self.test(comparison, value & LOW_BITS, *targets), low_mask)
        if high_mask == 0:
            return low
        yes, no = (self._loaded(target, offset + 4, high_mask) for target in (yes, no))
        test = self.test(_EQUAL, high, low, no)
        if comparison != _EQUAL:
            test = self.test(_GREATER, high, yes, test)
        return self.load(offset + 4, test, high_mask)

    def _loaded(self, target: int, offset: int, mask: int) -> int:
        """`target`, or the instruction after it if it only loads what is loaded (and not masked) already."""
        return target - 1 if mask == LOW_BITS and self._reversed[target] == (_LOAD, 0, 0, offset) else target
