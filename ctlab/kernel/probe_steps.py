"""The probing process: does the steps of `probe.STEPS` and writes one line of JSON before and after each.

Runs in an interpreter of its own (single thread, standard library only), started by `probe.run`. Everything
is imported before a namespace is entered, since the package may lie where mapped ids can't read.
Lines: ``{"begin": name}``, ``{"name", "ok", "errno", "detail"}``, ``{"died": signal}``.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from . import probe_mounts, probe_network, probe_process, syscalls
from .probe_journal import Failed, Journal, spawn

_SECONDS = 10  # backstop: the caller's own time limit is shorter


def main(argument: str) -> None:
    """Entry point; `argument` is the JSON form of `probe.Plan`."""
    plan: dict[str, Any] = json.loads(argument)
    for number in (signal.SIGCHLD, signal.SIGALRM):  # ignored, as whoever started us may, they would stay so
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.alarm(_SECONDS)
    journal = Journal.take_stdout()
    journal.in_child(lambda: probe_process.steps(journal))
    if journal.in_child(lambda: _own_id(journal)):
        _world(journal, plan)
    journal.in_child(lambda: probe_process.cgroup_steps(journal, plan["cgroup2"], plan["cgroup2_problem"]))


def _enter_user_namespace() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER)


def _map_own_id(uid: int, gid: int) -> None:
    """Map 0 to the one own id, as any process may; setgroups has to be given up for it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        _write(f"/proc/self/{name}", text)


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Failed(f"write {text!r} to {path}: {os.strerror(error.errno or 0)}", error.errno or 0) from None


def _own_id(journal: Journal) -> bool:
    uid, gid = os.geteuid(), os.getegid()
    return journal.step("user-namespace", _enter_user_namespace) and journal.step(
        "uid-map", lambda: _map_own_id(uid, gid)
    )


def _world(journal: Journal, plan: dict[str, Any]) -> None:
    """Everything that needs a mapped user namespace, mapped as a lab would be: by a range, else by the own id."""
    uid, gid = os.geteuid(), os.getegid()
    ready, ready_end = os.pipe()
    go, go_end = os.pipe()

    def inside() -> bool:
        os.close(go_end)
        _enter_user_namespace()
        os.write(ready_end, b"r")
        answer = os.read(go, 1)
        if not answer:
            return False
        ranged = answer == b"r"
        if ranged:
            _become_mapped_root()
        else:
            _map_own_id(uid, gid)
        network = probe_network.enter(journal)
        probe_mounts.Mounts(journal, ranged=ranged, network=network).steps()
        # Never without the namespace of its own: the interfaces would be made on the machine.
        if network:
            probe_network.steps(journal, plan["nft"], plan["ifb_problem"])
        return True

    pid = journal.start(inside)
    os.close(ready_end)
    os.close(go)
    if os.read(ready, 1):
        ranged = journal.step("id-range", lambda: _map_range(pid, plan))
        os.write(go_end, b"r" if ranged else b"s")
    journal.wait(pid)


def _become_mapped_root() -> None:
    """Take id 0 of the namespace; needed where the own id is not the one that 0 stands for (root's range)."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # The change of ids made the process undumpable, and with it its own /proc files unwritable.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def _map_range(pid: int, plan: dict[str, Any]) -> str:
    """Give `pid` many ids: root (of whichever namespace) writes the map itself, a user asks newuidmap and newgidmap."""
    if plan["ids"] == "single":
        raise Failed(plan["ids_problem"])
    for name, lines in (("uid", plan["uid_lines"]), ("gid", plan["gid_lines"])):
        if plan["ids"] in ("root", "nested"):
            _write(f"/proc/{pid}/{name}_map", "".join(f"{' '.join(map(str, line))}\n" for line in lines))
            continue
        program = plan[f"new{name}map"]
        status, output = spawn([program, str(pid), *(str(number) for line in lines for number in line)])
        if status:
            raise Failed(f"{os.path.basename(program)}: {output.strip() or f'status {status}'}")
    return f"{sum(count for _, _, count in plan['uid_lines'])} ids"
