"""How objects look in a notebook: small static tables that read on light and dark grounds alike."""

from __future__ import annotations

import html
import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import ticks, units

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab
    from .network import Network
    from .node import Node


# The class by which JupyterLab, Notebook and nbconvert leave a $ alone, which is a shell's and not a formula's.
NO_FORMULAS = "tex2jax_ignore mathjax_ignore"


def as_of() -> str:
    """``as of Out[5] 2026-11-26 14:02:11 UTC``: a stored output says when it was true."""
    cell = ticks.cell()
    return f"as of {cell + ' ' if cell else ''}{units.format_moment()}"


def status(container: Container) -> str:
    """``running 12 s``, ``exited (0)``, ``failed (3)``, ``failed (OOMKilled)``, ``exited (SIGTERM)`` of one stopped."""
    from .completed import ended

    state = container.state
    if state in ("running", "paused") and container.started_at:
        return f"{state} {units.format_duration(round(max(0.0, time.time() - container.started_at), 1), 2)}"
    if state == "exited":
        how, failed = ended(container.returncode, container.oom_killed)
        return f"{'failed' if failed else 'exited'} ({'OOMKilled' if how == 'OOM' else how})"
    return state


def short(text: str, length: int = 60) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split("\n"))
    return line if len(line) <= length else f"{line[: length - 1]}…"


def container_row(container: Container) -> dict[str, Any]:
    """What `ps` shows of one."""
    where = " ".join(f"{network} {address}" for network, address in container.all_addresses.items())
    return {
        "name": container.name,
        "status": status(container),
        "image": container.image,
        "command": short(shlex.join(container.command)) or "(idles)",
        "networks": where or container.spec.network_mode,
        "pid": container.pid or "",
    }


def network_row(net: Network) -> dict[str, Any]:
    """What `network ls` shows of one."""
    return {
        "name": net.name,
        "driver": net.driver,
        "subnets": " ".join(net.subnets),
        "gateways": " ".join(text.partition("/")[0] for text in net.gateways),
        "containers": len(net.containers),
        "internal": "yes" if net.spec.internal else "no",
    }


def node_row(node: Node) -> dict[str, Any]:
    """What `node ls` shows of one."""
    return {"name": node.name, "networks": " ".join(node.networks)}


def _plain(value: Any) -> str:
    """A value as a person writes it: several on a line each, pairs without brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items() if one not in (None, "", [], {}, ()))
    return "\n".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _short(value: Any) -> str:
    """A value within a line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def card(title: str, facts: Mapping[str, Any], when: str = "") -> str:
    """A small table of name and value, with the moment it was true (`when`: by default now)."""
    rows = "".join(
        f"<tr><td style='text-align:left;opacity:.7'>{html.escape(name)}</td>"
        f"<td style='text-align:left;white-space:pre-wrap'>{html.escape(_plain(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "", [], {}, ())
    )
    note = html.escape(when or as_of())
    return (
        f"<table class='ctlab-card {NO_FORMULAS}'>"
        f"<caption style='text-align:left;font-weight:bold'>{html.escape(title)}</caption>"
        f"<tbody>{rows}</tbody></table><p style='opacity:.7;margin:.2em 0;font-size:12px'>{note}</p>"
    )


def pid_label(lab: Lab) -> str:
    """What a first process's number is called: out of a VM it means nothing to this machine's tools."""
    from . import engines

    return "pid" if engines.vm_facts(lab) is None else "pid in the VM"


def container_card(container: Container) -> str:
    """A container."""
    row = container_row(container)
    row[pid_label(container.lab)] = row.pop("pid")
    limits = container.limits
    facts = {k: v for k, v in row.items() if k != "name"} | {
        "memory limit": units.format_size(limits.memory_bytes) if limits.memory_bytes else "",
        "cpus": limits.cpus or "",
        "pids limit": "" if limits.pids_default else limits.pids_limit or "none",
    }
    return card(f"container {container.name}", facts)


def network_card(net: Network) -> str:
    """A network."""
    facts = {k: v for k, v in network_row(net).items() if k != "name"}
    facts["containers"] = ", ".join(c.name for c in net.containers)
    return card(f"network {net.name}", facts)


def lab_card(lab: Lab) -> str:
    """A lab."""
    from . import engines

    if lab.gone:
        why = {"why": lab._client.why_gone} if lab.died else {}
        return card(f"lab {lab.name}", {"state": "died" if lab.died else "stopped", **why})
    facts, vm = lab._client.facts, engines.vm_facts(lab)
    limits = f"none ({facts['cgroup_reason']})"
    if facts["controllers"]:
        limits = f"cgroup {facts['cgroup']}: {', '.join(facts['controllers'])}"
    return card(
        f"lab {lab.name}",
        {
            "containers": ", ".join(c.name for c in lab.containers) or "none",
            "networks": ", ".join(n.name for n in lab.networks) or "none",
            "engine": lab.engine if vm is None else f"{lab.engine}: {engines.describe(vm)}",
            "ids": engines.ids_words(lab),
            "limits": limits,
        },
    )
