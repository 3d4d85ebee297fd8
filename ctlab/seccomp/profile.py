"""What a filter of system calls says, as values: conditions on arguments, rules, a profile."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

# What the kernel does, linux/seccomp.h; the low 16 bits carry an errno where the action is ERRNO, a message for TRACE.
KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000
ACTION = 0xFFFF0000  # the part of a verdict that is the action

# Errno values of the machines in `compile.MACHINES`; this module is read on machines whose own differ.
EPERM = ERRNO | 1
EINVAL = ERRNO | 22
ENOSYS = ERRNO | 38

ALL_BITS = 0xFFFFFFFF_FFFFFFFF
LOW_BITS = 0xFFFFFFFF
"""The mask for an argument that the kernel takes as an `int`: it never looks at the upper half, so neither must a
rule. One that compares all 64 bits is passed by with bit 32 set."""


def strictness(verdict: int) -> int:
    """A number that is lower for the stricter action; of several filters the kernel takes the strictest."""
    action = verdict & ACTION
    return action - (1 << 32) if action & 0x80000000 else action


class Condition(NamedTuple):
    """What an argument (0 to 5), masked with `mask`, must be: `operator` is ==, !=, <, <=, > or >=, unsigned."""

    argument: int
    operator: str
    value: int
    mask: int = ALL_BITS

    def holds(self, arguments: Sequence[int]) -> bool:
        """Whether it does for these six arguments."""
        found = arguments[self.argument] & self.mask
        match self.operator:
            case "==":
                return found == self.value
            case "!=":
                return found != self.value
            case "<":
                return found < self.value
            case "<=":
                return found <= self.value
            case ">":
                return found > self.value
        return found >= self.value


class Rule(NamedTuple):
    """What is done with some calls when all `conditions` hold.

    It counts where the container has all capabilities of `needs` and none of `unless` (names without ``CAP_``), on a
    machine of `machines` (of any, if empty) that isn't in `not_machines`.
    """

    calls: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...] = ()
    needs: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()
    not_machines: frozenset[str] = frozenset()

    def counts(self, capabilities: Set[str], machine: str) -> bool:
        """Whether the rule counts there."""
        return (
            self.needs <= capabilities
            and not self.unless & capabilities
            and (not self.machines or machine in self.machines)
            and machine not in self.not_machines
        )


class Profile(NamedTuple):
    """Rules in order: of those for a call that count, the first whose conditions hold decides, else `default`.

    `architectures`: whose calls are filtered beside the machine's own ("i386", "arm"); a process that makes another
    architecture's call is killed. `name`: what people see, "default" or the path of a file.
    """

    name: str
    default: int
    rules: tuple[Rule, ...]
    architectures: frozenset[str] = frozenset({"i386", "arm"})
