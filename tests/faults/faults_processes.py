"""Who lives in the judge's world, and which part of a lab each process is."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def processes() -> dict[int, tuple[int, str, str]]:
    """pid -> (parent, state, command line) of every process in this world."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
            command = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        found[int(name)] = (int(stat[1]), stat[0], command)
    return found


def namespaces(pids: Iterable[int]) -> set[str]:
    """Every namespace that one of these processes is in or holds open."""
    found = set()
    for pid in pids:
        for folder in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    with contextlib.suppress(OSError):
                        text = os.readlink(f"{folder}/{name}")
                        if re.fullmatch(r"(net|mnt|pid|uts|ipc|user|cgroup):\[\d+\]", text):
                            found.add(text)
    return found


def same_process(thing: str, others: set[str]) -> bool:
    """A process that was there before and only changed its state (running, sleeping) is the same."""
    pid, state, command = (thing.split(" ", 2) + [""] * 2)[:3]
    return state != "Z" and any(f"{pid} {other} {command}" in others for other in "RSDTtI")


def children(pid: int, everyone: dict[int, tuple[int, str, str]]) -> Iterator[int]:
    """The children of a process."""
    for child, (parent, state, _) in everyone.items():
        if parent == pid and state != "Z":
            yield child


def parts_of(owner: int) -> dict[str, int]:
    """The processes of an owner's lab by name: keeper, supervisor, collector, resolver, sampler, nursery, container."""
    everyone = processes()
    found: dict[str, int] = {}
    for keeper in children(owner, everyone):
        command = everyone[keeper][2]
        if "ctlab.runtime.keeper" not in command and not command.startswith("ctlab keeper"):
            continue
        found["keeper"] = keeper
        for supervisor in children(keeper, everyone):
            if not _is_init(supervisor):
                continue
            found["supervisor"] = supervisor
            for helper in children(supervisor, everyone):
                command = everyone[helper][2]
                name = command.removeprefix("ctlab ")
                if name in ("collector", "resolver", "sampler", "nursery"):
                    found[name] = helper
                elif _is_init(helper):
                    found["container"] = helper
    return found


def _is_init(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = re.search(r"^NSpid:\s+(.*)$", status, re.MULTILINE)
    return numbers is not None and len(numbers[1].split()) > 1 and numbers[1].split()[-1] == "1"
