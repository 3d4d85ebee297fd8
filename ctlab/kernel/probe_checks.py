"""What is read rather than tried: limits, quotas, confinement, programs. Pure functions of facts and delegation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from . import probe_place
from .probe_facts import Facts
from .probe_remedies import raise_quota
from .process_count import per_namespace

# Name -> (Debian's package, what a lab uses it for).
PROGRAMS = {
    "ip": ("iproute2", "look at interfaces and routes inside containers"),
    "nft": ("nftables", "packet filters, address translation and loss"),
    "newuidmap": ("uidmap", "map more than one id for an ordinary user"),
    "ping": ("iputils-ping", "try out networks"),
    "iperf3": ("iperf3", "measure throughput"),
    "tcpdump": ("tcpdump", "look at packets"),
}

_LIMITS = ("cpu", "memory", "pids")
_FEW_NAMESPACES = 1024  # below, a lab of a hundred containers beside a browser's sandboxes gets near it
_FEW_TASKS = 512
_FEW_FILES = 4096  # a sampler holds about 8 descriptors per container


class Finding(NamedTuple):
    """One row of the report; `ok` None: it can't be told."""

    name: str
    ok: bool | None
    detail: str = ""
    remedy: str = ""


class DelegationLike(Protocol):
    """The part of `cgroup_discover.Delegation` that is shown."""

    @property
    def version(self) -> str: ...
    @property
    def controllers(self) -> list[str]: ...
    @property
    def reason(self) -> str: ...
    @property
    def remedy(self) -> str: ...


def checks(facts: Facts, delegation: DelegationLike) -> Iterator[Finding]:
    """All of them, in the order in which they are shown."""
    yield limits(facts, delegation)
    yield namespace_quota(facts)
    yield task_limit(facts)
    yield open_files(facts)
    yield unconfined(facts)
    yield from programs(facts)


def limits(facts: Facts, delegation: DelegationLike) -> Finding:
    """Whether the CPU, memory and process limits of a container can be set."""
    has = f"cgroup {delegation.version}: {', '.join(delegation.controllers)}" if delegation.controllers else ""
    ok = all(name in delegation.controllers for name in _LIMITS)
    detail = "; ".join(part for part in (has, delegation.reason) if part)
    if not ok:
        detail += f"{'; ' if detail else ''}containers run without these limits, a limit that is asked for is refused"
        if "pids" not in delegation.controllers:
            by = "ulimit -u counts a lab's processes" if per_namespace(facts.release) else "nothing counts them"
            detail += f"; instead of the default limit of processes of a container, {by}"
    return Finding("limits", ok, detail, delegation.remedy)


def namespace_quota(facts: Facts) -> Finding:
    """The kernel's quotas on namespaces (user.max_*_namespaces), the lowest first."""
    quotas = sorted((value, name) for name, value in facts.sysctls.items() if name.startswith("user/max_"))
    if not quotas:
        return Finding("namespace-quota", None, "the quotas can't be read here")
    value, name = quotas[0]
    dotted = name.replace("/", ".")
    detail = f"the lowest is {dotted} = {value}"
    if value >= _FEW_NAMESPACES:
        return Finding("namespace-quota", True, detail)
    return Finding("namespace-quota", False, detail, raise_quota(dotted))


def task_limit(facts: Facts) -> Finding:
    """How many processes this user and this cgroup may have."""
    known = {f"ulimit -u {facts.processes}": facts.processes, f"pids.max {facts.tasks}": facts.tasks}
    known = {text: value for text, value in known.items() if value}
    detail = ", ".join(known) or "no limit"
    if all(value >= _FEW_TASKS for value in known.values()):
        return Finding("task-limit", True, detail)
    remedy = "raise ulimit -u (/etc/security/limits.conf)" if 0 < facts.processes < _FEW_TASKS else (
        "start the container with a higher --pids-limit"
        if facts.place in probe_place.CONTAINERS
        else "raise TasksMax= of the systemd unit that Jupyter runs in"
    )  # fmt: skip
    return Finding("task-limit", False, detail, remedy)


def open_files(facts: Facts) -> Finding:
    """The hard limit on descriptors, to which a lab's own processes raise the soft one."""
    if not facts.files or facts.files >= _FEW_FILES:
        return Finding("open-files", True, f"ulimit -Hn {facts.files}" if facts.files else "no limit")
    remedy = f"raise it to {_FEW_FILES} (/etc/security/limits.conf, or LimitNOFILE= of a systemd unit)"
    return Finding("open-files", False, f"ulimit -Hn {facts.files}, about 8 are used per container", remedy)


def unconfined(facts: Facts) -> Finding:
    """What has been put on this process; what that forbids shows in the probes themselves."""
    found = []
    if facts.seccomp == 2:
        found.append("a system call filter (Seccomp: 2)")
    if facts.no_new_privs:
        found.append("NoNewPrivs, so setuid programs such as newuidmap gain nothing")
    if facts.label not in ("", "unconfined", "kernel") and not facts.label.startswith("unconfined_u:"):
        found.append(f"the security label {facts.label}")
    if facts.uid != 0 and facts.sysctls.get("kernel/apparmor_restrict_unprivileged_userns") == 1:
        found.append("kernel.apparmor_restrict_unprivileged_userns = 1")
    return Finding("unconfined", not found, "; ".join(found))


def programs(facts: Facts) -> Iterator[Finding]:
    """The programs that a lab, or the person in it, calls by name."""
    for name, (package, use) in PROGRAMS.items():
        path = facts.programs.get(name)
        if name == "newuidmap" and facts.uid == 0 and not path:
            yield Finding(name, True, "not needed by root")
        elif path:
            yield Finding(name, True, path)
        else:
            yield Finding(name, False, f"the program isn't installed (to {use})", f"sudo apt install {package}")
