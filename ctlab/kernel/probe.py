"""Probing the kernel by doing: each feature is used once, in a throw-away process, and the kernel's answer kept.

The process is a fresh interpreter (`python -I -S`), never a fork of the caller, which may be a notebook
with many threads. It reports every step on a pipe before and after doing it, so that a process which dies
in a step (a seccomp filter that kills, a time limit) still names it.

What a probe leaves behind: nothing but, on kernels with modules, the modules that the kernel loaded for it
(the same ones that using the feature would load). `ifb` is the one whose loading adds interfaces to the
machine; it is not tried unless it is loaded already (see `probe_facts.ifb_is_safe`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """One thing that is tried.

    `needs` names the steps without which it is not tried; `essential`: no lab can start without it.
    """

    name: str
    essential: bool = False
    needs: tuple[str, ...] = ()


# In the order in which they are tried, which is also the order of causes: the first that fails is the one to mend.
STEPS: tuple[Step, ...] = (
    Step("pidfd", essential=True),
    Step("clone3", essential=True),
    Step("openat2", essential=True),
    Step("no-new-privs", essential=True),
    Step("seccomp"),
    Step("user-namespace", essential=True),
    Step("uid-map", essential=True, needs=("user-namespace",)),
    Step("id-range", needs=("uid-map",)),
    Step("network-namespace", essential=True, needs=("uid-map",)),
    Step("loopback", essential=True, needs=("network-namespace",)),
    Step("mount-namespace", essential=True, needs=("uid-map",)),
    Step("uts-namespace", essential=True, needs=("uid-map",)),
    Step("ipc-namespace", essential=True, needs=("uid-map",)),
    Step("cgroup-namespace", essential=True, needs=("uid-map",)),
    Step("pid-namespace", essential=True, needs=("uid-map",)),
    Step("tmpfs", essential=True, needs=("mount-namespace",)),
    Step("proc", essential=True, needs=("pid-namespace", "tmpfs")),
    Step("sysfs", essential=True, needs=("network-namespace", "tmpfs")),
    Step("devpts", essential=True, needs=("tmpfs",)),
    Step("devices", essential=True, needs=("tmpfs",)),
    Step("overlay", essential=True, needs=("tmpfs",)),
    Step("overlay-usr", needs=("overlay",)),
    Step("detached-mount", needs=("tmpfs",)),
    Step("pivot-root", essential=True, needs=("pid-namespace", "tmpfs")),
    Step("veth", essential=True, needs=("network-namespace",)),
    Step("bridge", essential=True, needs=("veth",)),
    Step("ipv6", needs=("loopback",)),
    Step("packet-socket", needs=("network-namespace",)),
    Step("macvlan", needs=("veth",)),
    Step("ipvlan", needs=("veth",)),
    Step("vxlan", needs=("network-namespace",)),
    Step("tun", needs=("network-namespace",)),
    Step("ifb", needs=("network-namespace",)),
    Step("tbf", needs=("veth",)),
    Step("htb", needs=("veth",)),
    Step("netem", needs=("veth",)),
    Step("ingress", needs=("veth",)),
    Step("nftables", needs=("network-namespace",)),
    Step("nft-nat", needs=("nftables",)),
    Step("nft-numgen", needs=("nftables",)),
    Step("clone-into-cgroup", needs=("clone3",)),
    Step("cgroup-freeze", needs=("clone-into-cgroup",)),
    Step("cgroup-kill", needs=("clone-into-cgroup",)),
)

BY_NAME: Mapping[str, Step] = {step.name: step for step in STEPS}


class Outcome(NamedTuple):
    """What one step gave.

    `ok` None: it was not tried, and `detail` says why. `number` is the errno, 0 where there is none.
    """

    name: str
    ok: bool | None
    number: int = 0
    detail: str = ""


class Plan(NamedTuple):
    """What the probing process is told: the facts of the machine that it needs, all serialisable.

    `ids`, `ids_problem`, `uid_lines`, `gid_lines`: kind, reason and lines of the `idmap.IdMap` that a lab would have.
    `newuidmap`, `newgidmap`, `nft`: paths, empty where the program isn't there.
    `cgroup2`: a v2 folder in which folders may be made, or empty, and then `cgroup2_problem` says why.
    `ifb_problem`: why ifb must not be tried, or empty.
    """

    ids: str = "single"
    ids_problem: str = ""
    uid_lines: tuple[tuple[int, int, int], ...] = ()
    gid_lines: tuple[tuple[int, int, int], ...] = ()
    newuidmap: str = ""
    newgidmap: str = ""
    nft: str = ""
    cgroup2: str = ""
    cgroup2_problem: str = "no cgroup v2 folder in which folders can be made"
    ifb_problem: str = ""


# The package's parent goes last, so that nothing beside the package hides a module of the standard library.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from ctlab.kernel.probe_steps import main; main(sys.argv[2])"


def run(plan: Plan, seconds: float = 8.0) -> list[Outcome]:
    """Do every step of `STEPS`; the outcomes in that order, one per step.

    Raises nothing that the kernel can cause: a process that can't be started at all is the outcome of the first step.
    """
    arguments = [
        sys.executable or "/proc/self/exe",
        "-I",
        "-S",
        "-c",
        _BOOT,
        str(Path(__file__).resolve().parents[2]),
        json.dumps(plan._asdict()),
    ]
    try:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return parse(b"", f"the probing process could not be started: {error}", error.errno or 0)
    reason = "the probing process ended in this step"
    try:
        output, errors = child.communicate(timeout=seconds)
        if errors:
            reason += f": {errors.decode(errors='replace').strip().splitlines()[-1]}"
    except subprocess.TimeoutExpired:
        _kill(child.pid)
        output, _ = child.communicate()
        reason = f"this step did not end within {seconds:g} s"
    except BaseException:
        # An interrupted cell must not leave the process behind.
        _kill(child.pid)
        child.communicate()
        raise
    return parse(output, reason)


def _kill(group: int) -> None:
    """End the session that was started for the probing process (its leader is not reaped yet, so the id is ours)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def parse(output: bytes, reason: str, number: int = 0) -> list[Outcome]:
    """The outcomes in the lines that the process wrote; pure.

    A step that began and did not end failed with `reason`, or with the signal or error that a line names. Steps
    that never began are not tried. If none began at all, the first one failed with `reason` and errno `number`.
    """
    done: dict[str, Outcome] = {}
    begun: list[str] = []
    for line in output.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed while it wrote
        if "begin" in message:
            begun.append(message["begin"])
        elif "died" in message:
            for name in begun:
                if name not in done:
                    done[name] = Outcome(name, False, 0, f"the probing process ended: {message['died']}")
        else:
            done[message["name"]] = Outcome(message["name"], message["ok"], message["errno"], message["detail"])
    outcomes: list[Outcome] = []
    failed: set[str] = set()
    ended = begun[-1] if begun else ""
    for step in STEPS:
        outcome = done.get(step.name)
        lacking = next((name for name in step.needs if name in failed), "")
        if outcome is None and (not begun or step.name in begun):
            outcome = Outcome(step.name, False, number, reason)
            begun.append(step.name)
            ended = step.name
        elif outcome is None:
            outcome = Outcome(step.name, None, 0, f"needs {lacking}" if lacking else f"the process ended in {ended}")
        if not outcome.ok:
            failed.add(step.name)
        outcomes.append(outcome)
    return outcomes
