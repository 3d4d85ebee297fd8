"""Resource limits: what was asked for, as writes to control files of cgroup version 1 or 2. Pure.

Decisions:

- **Swap.** A limited container gets none (version 2: memory.swap.max 0; version 1: memory and memory+swap have the
  same limit). Docker's default, as much swap again as memory, would make a 64M container a 128M one on machines
  with swap, and the same experiment would give other figures there.
- **One killed, all killed** on version 2 (memory.oom.group), since half a container is no container. Version 1 has
  nothing like it: the kernel kills one process.
- **Processes.** Who says nothing gets `PIDS_DEFAULT`, podman's figure. Where no pids controller can be had the default
  isn't enforced by a cgroup and starts go on (`settle`); a number that was asked for is refused there as any limit is.
- **Shares.** Version 2 has weights of 1..10000 with 100 as default. They are computed as runc (since 1.3.2) and crun
  (since 1.23) do, see `weight`, so that 2, 1024 and 262144 shares become 1, 100 and 10000.

A missing value (None) means unlimited. Nothing is rounded or capped: what the kernel would change in silence is
BadInput.
"""

from __future__ import annotations

import errno
import math
import mmap
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import BadInput, LimitRefused
from ..spelling import option
from ..units import format_cpus, format_cpuset, format_size, parse_cpus, parse_cpuset

PERIOD_US = 100_000  # the kernel's default bandwidth period
SHARES_DEFAULT, SHARES_MIN, SHARES_MAX = 1024, 2, 262_144  # kernel/sched/sched.h: MIN_SHARES, MAX_SHARES
WEIGHT_DEFAULT, WEIGHT_MAX = 100, 10_000
MEMORY_MIN = 6 << 20  # Docker's smallest: with less, a program's own loader is killed
MEMORY_MAX = (1 << 63) - 1
PIDS_DEFAULT = 2048  # processes and threads of a container that nobody has set a limit for
PIDS_MAX = 4_194_304  # PID_MAX_LIMIT of 64-bit kernels; pids.max refuses more
PAGE = mmap.PAGESIZE  # limits are counted in pages


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one container; None = unlimited (shares: the default of 1024).

    `pids_default`: `pids_limit` is what it is because nobody has said anything; None where no cgroup can enforce it.
    """

    cpus: float | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    memory_bytes: int | None = None
    pids_limit: int | None = None
    pids_default: bool = False


class WriteCgroup(NamedTuple):
    """One write: ``echo value > file`` in the container's folder of that controller.

    A `value` ``../NAME`` stands for the content of that file of the folder above.
    `optional`: the file is absent where the kernel doesn't count swap (ENOENT); the executor goes on and says so.
    """

    controller: str
    file: str
    value: str
    optional: bool = False


class Missing(NamedTuple):
    """A limit that can't be set, and the controller that it needs."""

    option: str
    controller: str


# field of Limits -> (option, controller)
_NEEDS = {
    "cpus": ("--cpus", "cpu"),
    "cpu_shares": ("--cpu-shares", "cpu"),
    "cpuset_cpus": ("--cpuset-cpus", "cpuset"),
    "memory_bytes": ("--memory", "memory"),
    "pids_limit": ("--pids-limit", "pids"),
}


def check(limits: Limits, cpus_available: Iterable[int] | None = None) -> None:
    """BadInput for a value that the kernel would refuse, round or cap.

    `cpus_available`: the numbers of the CPUs that the lab may use; a cpuset must lie within (version 2 would
    ignore the rest in silence). More `cpus` than exist are allowed, see `notes`.
    """
    if limits.cpus is not None:
        parse_cpus(limits.cpus)
    shares = limits.cpu_shares
    if shares is not None and not SHARES_MIN <= shares <= SHARES_MAX:
        raise BadInput(
            f"{option('cpu-shares', shares)}: from {SHARES_MIN} to {SHARES_MAX} ({SHARES_DEFAULT} is the default)"
        )
    memory = limits.memory_bytes
    if memory is not None:
        if memory < MEMORY_MIN:
            without_unit = MEMORY_MIN >> 20 <= memory < 1 << 20 and memory % 1024
            meant = f"; did you mean {memory}M?" if without_unit else ""
            raise BadInput(f"{option('memory', format_size(memory))}: at least {format_size(MEMORY_MIN)}{meant}")
        if memory % PAGE or memory > MEMORY_MAX:
            near = min(memory, MEMORY_MAX) // PAGE * PAGE
            raise BadInput(f"{option('memory', memory)}: the kernel counts pages of {PAGE} bytes: write {near}")
    pids = limits.pids_limit
    if pids is not None and not 1 <= pids <= PIDS_MAX:
        raise BadInput(f"{option('pids-limit', pids)}: from 1 to {PIDS_MAX}, or none for no limit")
    if limits.cpuset_cpus is not None:
        wanted = set(parse_cpuset(limits.cpuset_cpus))
        if cpus_available is not None and (absent := wanted - (there := set(cpus_available))):
            raise BadInput(
                f"{option('cpuset-cpus', limits.cpuset_cpus)}: no CPU {format_cpuset(absent)} here, there are "
                f"{format_cpuset(there)}"
            )


def notes(limits: Limits, cpu_count: int, whose: str = "this machine's") -> list[str]:
    """What is allowed but should be said, a line each. `whose`: the CPUs are, in words."""
    if limits.cpus is not None and limits.cpus > cpu_count:
        asked_for = option("cpus", format_cpus(limits.cpus))
        return [f"{asked_for} is more than {whose} {cpu_count}: it limits nothing"]
    return []


def weight(shares: int) -> int:
    """cpu.weight (version 2) for cpu.shares (version 1).

    The formula of opencontainers/cgroups (runc >= 1.3.2) and crun >= 1.23: quadratic in log2(shares), through
    (2, 1), (1024, 100) and (262144, 10000):  10 ** ((l*l + 125*l) / 612 - 7/34), rounded up.
    """
    if shares <= SHARES_MIN:
        return 1
    if shares >= SHARES_MAX:
        return WEIGHT_MAX
    bits = math.log2(shares)
    return math.ceil(10 ** ((bits * bits + 125 * bits) / 612 - 7 / 34))


def prepared(controllers: Iterable[str]) -> Limits:
    """What the folder of a container has before anybody asks for one: written in advance, so no start pays for it."""
    return Limits(pids_limit=PIDS_DEFAULT, pids_default=True) if "pids" in controllers else Limits()


def settle(limits: Limits, controllers: Iterable[str]) -> Limits:
    """`limits` with a default that no cgroup can enforce here taken out."""
    if limits.pids_default and "pids" not in controllers:
        return replace(limits, pids_limit=None)
    return limits


def asked(limits: Limits) -> Limits:
    """`limits` without a default that nobody has asked for."""
    return replace(limits, pids_limit=None, pids_default=False) if limits.pids_default else limits


def plan(limits: Limits, version: str, before: Limits | None = None) -> list[WriteCgroup]:
    """The writes that bring a fresh container to `limits`, in order. `version`: "v1" or "v2".

    `before`: what its folder has already (see `prepared`); nothing, if None.
    """
    return changes(before or Limits(), limits, version)


def undo(before: Limits, after: Limits, version: str) -> list[WriteCgroup]:
    """The writes that take `changes(before, after)` back."""
    return changes(after, before, version)


def changes(before: Limits, after: Limits, version: str) -> list[WriteCgroup]:
    """The writes that bring a container from `before` to `after`; what is the same isn't written.

    What became None is reset to unlimited. Raises ValueError for another version than "v1" and "v2".
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"no limits on cgroup version {version!r}")
    writes: list[WriteCgroup] = []
    if before.cpuset_cpus != after.cpuset_cpus:
        cpus = format_cpuset(parse_cpuset(after.cpuset_cpus)) if after.cpuset_cpus is not None else _all_cpus(version)
        writes.append(WriteCgroup("cpuset", "cpuset.cpus", cpus))
    if before.cpu_shares != after.cpu_shares:
        writes.append(_shares(after.cpu_shares, version))
    if before.cpus != after.cpus:
        writes += _quota(after.cpus, version)
    if before.memory_bytes != after.memory_bytes:
        writes += _memory(before.memory_bytes, after.memory_bytes, version)
    if before.pids_limit != after.pids_limit:
        pids = "max" if after.pids_limit is None else str(after.pids_limit)
        writes.append(WriteCgroup("pids", "pids.max", pids))
    return writes


def _all_cpus(version: str) -> str:
    # An empty cpuset.cpus would mean "as above" on version 2, but neither version takes it (ENOSPC) while a
    # process is inside, so what is above is written out.
    return "../cpuset.cpus" if version == "v1" else "../cpuset.cpus.effective"


def _shares(shares: int | None, version: str) -> WriteCgroup:
    if version == "v1":
        return WriteCgroup("cpu", "cpu.shares", str(SHARES_DEFAULT if shares is None else shares))
    return WriteCgroup("cpu", "cpu.weight", str(WEIGHT_DEFAULT if shares is None else weight(shares)))


def _quota(cpus: float | None, version: str) -> list[WriteCgroup]:
    quota = None if cpus is None else round(cpus * PERIOD_US)
    if version == "v1":
        return [
            WriteCgroup("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
            WriteCgroup("cpu", "cpu.cfs_quota_us", "-1" if quota is None else str(quota)),
        ]
    return [WriteCgroup("cpu", "cpu.max", f"{'max' if quota is None else quota} {PERIOD_US}")]


def _memory(before: int | None, after: int | None, version: str) -> list[WriteCgroup]:
    if version == "v2":
        swap = WriteCgroup("memory", "memory.swap.max", "max" if after is None else "0", optional=True)
        group = WriteCgroup("memory", "memory.oom.group", "0" if after is None else "1")
        limit = WriteCgroup("memory", "memory.max", "max" if after is None else str(after))
        # Swap is shut before the limit bites, or what is above it would be pushed out there. A change from one
        # limit to another leaves both as they are.
        if before is not None and after is not None:
            return [limit]
        return [swap, group, limit]
    value = "-1" if after is None else str(after)
    limit = WriteCgroup("memory", "memory.limit_in_bytes", value)
    both = WriteCgroup("memory", "memory.memsw.limit_in_bytes", value, optional=True)
    # The kernel keeps limit <= memory+swap at every moment (EINVAL): upwards memory+swap goes first.
    upwards = before is not None and (after is None or after > before)
    return [both, limit] if upwards else [limit, both]


def needs(limits: Limits) -> dict[str, str]:
    """The limits that were asked for: option -> controller, in the order of the fields."""
    found = {option: controller for name, (option, controller) in _NEEDS.items() if getattr(limits, name) is not None}
    if limits.pids_default:
        found.pop("--pids-limit", None)
    return found


def missing(limits: Limits, controllers: Iterable[str]) -> list[Missing]:
    """The limits that can't be set with these controllers."""
    there = set(controllers)
    return [Missing(option, controller) for option, controller in needs(limits).items() if controller not in there]


def unavailable(absent: list[Missing], reason: str, remedy: str) -> LimitRefused:
    """The error for `missing`: which limits, why not, what to do."""
    options = ", ".join(option(item.option.removeprefix("--")).rstrip("=") for item in absent)
    controllers = sorted({item.controller for item in absent})
    noun = "controller" if len(controllers) == 1 else "controllers"
    text = f"{options} can't be set here: no cgroup {noun} {', '.join(controllers)}"
    return LimitRefused(text + (f" ({reason})" if reason else "") + (f"; {remedy}" if remedy else ""))


def below_usage(limit_bytes: int, usage_bytes: int) -> LimitRefused:
    """The error for a memory limit below what the container uses, after the kernel reclaimed what it could."""
    return LimitRefused(
        f"{option('memory', format_size(limit_bytes))} is below what the container uses: {format_size(usage_bytes, 3)} "
        f"({usage_bytes} bytes); nothing was changed"
    )


def refused(write: WriteCgroup, number: int, usage_bytes: int | None = None) -> LimitRefused:
    """The error for a write that the kernel refused with errno `number`.

    `usage_bytes`: for a memory limit, what the container uses; version 1 says EBUSY when the limit is below.
    """
    if write.controller == "memory" and number == errno.EBUSY and usage_bytes is not None and write.value.isdigit():
        return below_usage(int(write.value), usage_bytes)
    if write.controller == "cpuset" and number in (errno.EINVAL, errno.EACCES, errno.ERANGE):
        return LimitRefused(f"{option('cpuset-cpus', write.value)}: not all of these CPUs are the lab's to use")
    if number == errno.ENOENT:
        return LimitRefused(f"this kernel has no {write.file}")
    name = errno.errorcode.get(number, f"errno {number}")
    return LimitRefused(f"the kernel refused {write.value!r} for {write.file}: {name}")


def command(write: WriteCgroup, path: str) -> str:
    """The shell line that a person would have typed; `path`: the container's folder for that controller."""
    target = shlex.quote(f"{path}/{write.file}")
    if write.value.startswith("../"):
        return f"cat {shlex.quote(f'{path}/{write.value}')} > {target}"
    return f"echo {shlex.quote(write.value)} > {target}"
