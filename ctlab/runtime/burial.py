"""What a nursery that has died leaves behind: slots and runners in the making, and folders that it was to remove."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .supervisor import Supervisor

_ROUNDS = 20  # a process that is killed may have borne another one meanwhile


def half_made(supervisor: Supervisor, asked: Iterable[int], ready: set[int]) -> None:
    """End what was being made, and remove its folders.

    `asked`: the numbers of the slots that it was to make; `ready`: of those whose folders are in use.
    """
    for _ in range(_ROUNDS):
        found = _strangers()
        if not found:
            break
        for pid in found:
            os.kill(pid, signal.SIGKILL)  # our child, which nobody else reaps
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED)
    if supervisor.folders is not None:
        for number in asked:
            supervisor.folders.adopt(f"c{number}").remove(0.2)
    used = ready | {record.private for record in supervisor.records.values()}
    for name in os.listdir("/work"):
        if int(name) not in used:
            supervisor.later(lambda number=int(name): supervisor.pool.clear_away(number))  # type: ignore[misc]


def _strangers() -> list[int]:
    """Our children of which we have no pidfd, as we have of each that we know.

    But for programs that a dead runner has left to us (see `orphans`): those are in a container's PID namespace, not
    its first process.
    """
    known = _known()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in known:
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith(("PPid:", "NSpid:")))
            numbers = lines["NSpid"].split()
            if int(lines["PPid"]) == os.getpid() and (len(numbers) == 1 or numbers[-1] == "1"):
                found.append(int(name))
    return found


def _known() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[pidfd]":
                with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as file:
                    found |= {int(line.split()[1]) for line in file if line.startswith("Pid:")}
    return found
