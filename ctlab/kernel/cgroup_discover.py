"""Where may a lab make its cgroup folders? Found by making and removing one, never by looking at rights.

`discover` runs outside, in the keeper, before the user namespace is entered. It tries, in this order:

1. on version 2, where systemd can be asked: a transient scope with Delegate=yes, into which the process is moved. An
   ordinary user asks his own systemd over the session bus (the system's delegates nothing to a user), root the
   system's. It comes first, since systemd turns controllers off again below what it hasn't delegated;
2. the process's own folder in each hierarchy;
3. the folders above the own one, up to the mount point: that with the most controllers, the deepest of those.

Sources: Documentation/admin-guide/cgroup-v2.rst ("Delegation", "No Internal Process Constraint"), systemd's
"Control Group APIs and Delegation".
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from ..errors import describe
from .cgroup_mounts import LIMITS_V1, Mount, folders, mounts, own_paths, read
from .cgroup_trial import Attempt, bystander, end, try_v1, try_v2

_NO_BUS = "no session bus of the user's systemd"
_NO_SYSTEMD = "no systemd runs here"


class Delegation(NamedTuple):
    """What a lab may use. Paths are those of the machine, outside the lab."""

    version: str  # "v2", "v1" or "none"
    parents: dict[str, str]  # v1: controller -> folder to make the lab's folder in; v2: {"unified": folder}
    unified: str | None  # the version 2 folder (hybrid: for kill, freeze, clone), None where there is none
    controllers: list[str]  # the controllers whose limits can be set
    reason: str  # why there is none, or why some are missing; "" when all is there
    remedy: str  # what to do about it, "" when nothing has to be done
    leaf: str | None = None  # the folder that this process was moved into; `LabCgroup.remove` undoes it
    how: str = "none"  # "scope", "own" or "above": which of the three ways it was


def discover(probe: bool = False) -> Delegation:
    """Where a lab of this process may make its folders.

    `probe`: only find out (for a doctor): the process stays where it is and everything is as before, but a
    `Delegation` by way of a scope then names a folder that is gone again. Never raises for what a machine lacks.
    """
    all_mounts = mounts(read("/proc/self/mountinfo"))
    own = own_paths(read("/proc/self/cgroup"))
    if not all_mounts:
        return Delegation(
            "none", {}, None, [], "no cgroup file system is mounted here",
            "as root: mount -t cgroup2 none /sys/fs/cgroup; in a container, ask who runs it",
        )  # fmt: skip
    parents, trouble = _discover_v1(all_mounts, own)
    v2_mount = next((mount for mount in all_mounts if mount.version == 2), None)
    hybrid = any(mount.controllers & {"memory", "cpu", "pids"} for mount in all_mounts)
    unified = _discover_v2(v2_mount, own.get("", "/"), probe, hybrid) if v2_mount is not None else None
    controllers = [name for name in LIMITS_V1 if name in parents]
    if parents:
        missing = [name for name in ("cpu", "memory", "pids", "cpuset") if name not in parents]
        reason = f"cgroup v1: no folder can be made for {', '.join(missing)}: {trouble}" if missing else ""
        leaf = unified.leaf if unified else None
        folder = unified.unified if unified else None
        return Delegation("v1", parents, folder, controllers, reason, _remedy_v1() if missing else "", leaf, "own")
    if unified is not None and (unified.controllers or not hybrid):
        return unified
    reason = f"cgroup v1: {trouble or 'no controllers'}"
    remedy = _remedy_read_only() if all(mount.read_only for mount in all_mounts) else _remedy_v1()
    return Delegation("none", {}, unified.unified if unified else None, [], reason, remedy, None, "none")


def _discover_v1(all_mounts: list[Mount], own: dict[str, str]) -> tuple[dict[str, str], str]:
    """(controller -> folder that a lab's folder can be made in, the first refusal)."""
    parents: dict[str, str] = {}
    trouble = ""
    for mount in all_mounts:
        if not mount.controllers or mount.controllers <= parents.keys():
            continue
        for folder in folders(mount, own.get(next(iter(mount.controllers)), "/")):
            error = try_v1(folder)
            if error is None:
                parents.update(dict.fromkeys(mount.controllers, folder))
                break
            trouble = trouble or f"{folder}: {describe(error)}"
    return parents, trouble


def _discover_v2(mount: Mount, own: str, probe: bool, hybrid: bool) -> Delegation:
    """Version 2 alone; version "none" with a `unified` folder where there is a folder but no controller."""
    candidates = folders(mount, own)
    plain: str | None = None  # a folder without controllers: still good for kill, freeze and clone
    troubles: list[str] = []
    scope_trouble = ""
    if not hybrid:
        delegation, scope_trouble = scope(probe)
        if delegation is not None:
            return delegation
    best: tuple[int, str, Attempt] | None = None
    for depth, folder in enumerate(candidates):
        got = try_v2(folder, os.getpid() if depth == 0 and not probe else None, keep=not probe)
        if got.trouble:
            troubles.append(got.trouble)
        if got.usable and got.controllers and (best is None or len(got.controllers) > len(best[2].controllers)):
            best = (depth, folder, got)
            if depth == 0:
                break
        if got.usable and plain is None:
            plain = folder
        if depth == 0 and hybrid and plain is not None:
            break
    if best is not None:
        return _found(best[1], best[2], "above" if best[0] else "own")
    if hybrid and plain is not None:
        return Delegation("none", {}, plain, [], "", "", None, "own")
    reason = "cgroup v2: " + "; ".join(text for text in dict.fromkeys([*troubles[:1], scope_trouble]) if text)
    remedy = _remedy_read_only() if mount.read_only else _remedy_v2(candidates[0], scope_trouble)
    return Delegation("none", {}, plain, [], reason, remedy, None, "none")


def _found(folder: str, got: Attempt, how: str) -> Delegation:
    missing = [name for name in ("cpu", "memory", "pids", "cpuset") if name not in got.controllers]
    reason = f"cgroup v2: {', '.join(missing)} not turned on below {folder}" if missing else ""
    remedy = ""
    if missing and set(missing) <= set(got.offered):
        remedy = f"as root: echo '{' '.join('+' + name for name in missing)}' > {folder}/cgroup.subtree_control"
    elif missing:
        remedy = _remedy_delegate()
    return Delegation("v2", {"unified": folder}, folder, got.controllers, reason, remedy, got.leaf, how)


def scope(probe: bool = False) -> tuple[Delegation | None, str]:
    """A delegated transient scope of systemd, with this process in it (`probe`: a bystander instead).

    Returns (delegation or None, why not). The scope goes by itself when its last process ends.
    """
    environment = dict(os.environ)
    if os.geteuid() == 0:
        which, whose = "--system", "systemd"
        if not os.path.isdir("/run/systemd/system") or not os.path.exists("/run/dbus/system_bus_socket"):
            return None, _NO_SYSTEMD
    else:
        which, whose = "--user", "the user's systemd"
        runtime = environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        if not environment.get("DBUS_SESSION_BUS_ADDRESS") and not os.path.exists(os.path.join(runtime, "bus")):
            return None, f"{_NO_BUS} ({runtime}/bus)"
    pid = bystander() if probe else os.getpid()
    try:
        unit = f"ctlab-{pid}-{time.monotonic_ns()}.scope"
        why = _start_scope(which, unit, pid, environment)
        until = time.monotonic() + 3.0
        while not why and time.monotonic() < until:
            own = own_paths(read(f"/proc/{pid}/cgroup")).get("", "")
            if own.endswith("/" + unit):
                mount = next(mount for mount in mounts(read("/proc/self/mountinfo")) if mount.version == 2)
                folder = folders(mount, own)[0]
                got = try_v2(folder, pid, keep=not probe, subject=pid if probe else None)
                if got.usable and got.controllers:
                    return _found(folder, got, "scope"), ""
                return None, f"{whose} made {unit}, but {got.trouble}"
            time.sleep(0.01)
        return None, f"{whose} {why or f'did not start {unit} within 3 s'}"
    finally:
        if probe:
            end(pid)


def _start_scope(which: str, unit: str, pid: int, environment: dict[str, str]) -> str:
    """Ask a systemd (`which`: --user or --system) for a scope around `pid`; "" or what went wrong, in one line."""
    import subprocess  # only here: the keeper of everyone else doesn't pay for it

    command = [
        "busctl", which, "--timeout=3", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail",
        "4",
        "Description", "s", "ctlab lab",
        "Delegate", "b", "true",
        "CollectMode", "s", "inactive-or-failed",
        "PIDs", "au", "1", str(pid),
        "0",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
        )
    except FileNotFoundError:
        return "can't be asked for a scope: no busctl (package systemd)"
    except subprocess.TimeoutExpired:
        return "did not answer within 5 s"
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"refused a scope: {said[-1] if said else f'status {done.returncode}'}"
    return ""


def _remedy_v1() -> str:
    return (
        "cgroup v1 gives an ordinary user nothing; ask root to make and chown a folder per controller and to put your "
        "shell in it: for c in cpu cpuacct cpuset memory pids freezer blkio; do d=/sys/fs/cgroup/$c/USER; mkdir $d; "
        "[ $c != cpuset ] || for f in mems cpus; do cat $d/../cpuset.$f > $d/cpuset.$f; done; "
        "chown USER $d $d/tasks $d/cgroup.procs; echo PID > $d/cgroup.procs; done"
    )


def _remedy_v2(folder: str, scope_trouble: str) -> str:
    if scope_trouble.startswith(_NO_BUS):
        return (
            "log in as this user, on the console or by ssh ('sudo su -' has no session; or, as root: "
            "loginctl enable-linger USER), with the package dbus-user-session installed"
        )
    if scope_trouble and scope_trouble != _NO_SYSTEMD:
        return "see what 'systemctl --user status' says; as root, 'systemctl restart user@UID' starts it anew"
    return (
        f"as root, move the processes of {folder} into a folder below it: mkdir {folder}/rest; "
        f"for p in $(cat {folder}/cgroup.procs); do echo $p > {folder}/rest/cgroup.procs; done"
    )


def _remedy_delegate() -> str:
    return (
        "as root, write '[Service]' and 'Delegate=cpu cpuset io memory pids' into "
        "/etc/systemd/system/user@.service.d/delegate.conf, then systemctl daemon-reload, and log in again"
    )


def _remedy_read_only() -> str:
    return (
        "the cgroup file system is read-only here (a container): start it with --privileged, "
        "or with --cgroupns=private and a writable /sys/fs/cgroup"
    )
