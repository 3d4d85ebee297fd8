"""Who the process is: capabilities, privileges, filter, namespaces, limits, descriptors, other processes."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from pathlib import Path
from typing import Any

from attempt import libc

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
_SETS = {
    "CapInh": "inheritable", "CapPrm": "permitted", "CapEff": "effective", "CapBnd": "bounding", "CapAmb": "ambient",
}  # fmt: skip
_PR_GET_SECUREBITS = 27
_PR_GET_KEEPCAPS = 7
_UNLIMITED = 1 << 40  # stands for "without a limit"
_LIMITS = ("NPROC", "NOFILE", "MEMLOCK", "RTPRIO", "NICE", "MSGQUEUE", "SIGPENDING", "CORE")


def status(pid: str = "self") -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def reach(order: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    own = status()
    for field, name in _SETS.items():
        bits = int(own[field], 16)
        found |= {f"capability {name} {NAMES[n]}" for n in range(len(NAMES)) if bits >> n & 1}
        if bits >> len(NAMES):
            found.add(f"capability {name} unknown to this list")
    if own["NoNewPrivs"] == "0":
        found.add("new privileges by execve")
    if own["Seccomp"] == "0":
        found.add("no filter of system calls")
    if bits := libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0):
        found.add(f"securebits {bits:#x}")
    if libc.prctl(_PR_GET_KEEPCAPS, 0, 0, 0, 0):
        found.add("capabilities are kept over setuid")
    for kind, outside in order["namespaces"].items():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/ns/{kind}") == outside:
                found.add(f"namespace {kind} is the machine's")
    if Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
        found.add("user ids are the machine's")
    return found | _descriptors() | _processes() | _executables()


def _descriptors() -> set[str]:
    """What was handed over beside the three streams, and what they lead to."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            status_of = os.fstat(number)
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # that of the listing itself
        if stat.S_ISDIR(status_of.st_mode) and target != "/proc/self/fd":
            found.add(f"descriptor of a folder: {target}")
        if number > 2:
            found.add(f"descriptor {number} beside the streams: {target.partition(':')[0]}")
        elif os.isatty(number) and not target.startswith("/dev/pts/"):
            found.add("a stream is a terminal of the machine")
    return found


def _processes() -> set[str]:
    """Processes that are neither this one nor its children."""
    own, found = str(os.getpid()), set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, KeyError):
            about = status(pid)
            if pid != own and about["PPid"] != own:
                found.add(f"sees the process {about['Name']}")
    return found


def _executables() -> set[str]:
    """What of the first process and of the parent can be named: their program, folders, memory, descriptors."""
    found: set[str] = set()
    for who, pid in (("first process", 1), ("parent", os.getppid())):
        if pid in (0, os.getpid()):
            continue
        for name in ("exe", "cwd", "root", "fd", "map_files"):
            with contextlib.suppress(OSError):
                (os.listdir if name in ("fd", "map_files") else os.stat)(f"/proc/{pid}/{name}")
                found.add(f"looks into the {who}: {name}")
        for name in ("mem", "environ", "maps", "syscall", "stack"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                if name == "mem" or file.read(1):
                    found.add(f"looks into the {who}: {name}")
    with contextlib.suppress(OSError):
        os.close(os.open("/proc/1/exe", os.O_WRONLY))
        found.add("writes the program of the first process")
    return found


def amounts() -> dict[str, int]:
    """Numbers where more is more reach."""
    found = {"out-of-memory killer: -oom_score_adj": -int(Path("/proc/self/oom_score_adj").read_text())}
    for name in _LIMITS:
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        found[f"limit {name.lower()}"] = _UNLIMITED if hard == resource.RLIM_INFINITY else hard
    return found
