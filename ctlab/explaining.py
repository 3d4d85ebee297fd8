"""`--explain`: the commands that a person would have typed for a container or a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import engines
from .images.reference import parse
from .plan import limits as limits_plan
from .plan import ops, rootfs
from .plan.render_words import comment
from .runtime.resources import OOM_STEP
from .security_options import DEFAULT, UNCONFINED
from .starting import operations

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab
    from .spec import ContainerSpec


def in_vm(lab: Lab) -> list[str]:
    """What comes before the commands of a lab in a VM: they are for its inside, with what is elsewhere there."""
    if engines.vm_facts(lab) is None:
        return []
    return [f"# Inside the lab's VM, where this machine's files are, read-only, below {engines.HOST_SHARE}."]


def explain_container(lab: Lab, container: Container) -> list[str]:
    """The commands for a container that exists."""
    from .plan.render import container_commands

    spec = container.spec
    image = parse(spec.image, spec.command)
    prepare = rootfs.prepare(engines.guest_path(lab, image.path) if image.path else image.kind, lab._top)
    if spec.network_mode not in ("bridge", "none"):
        first = prepare[0]
        assert isinstance(first, ops.Unshare)
        prepare = [ops.Unshare([kind for kind in first.kinds if kind != "net"]), *prepare[1:]]
    version = lab._client.facts["cgroup"]
    limits = limits_plan.asked(spec.limits)
    writes = limits_plan.plan(limits, version) if version != "none" else []
    paths = {write.controller: _cgroup_path(lab, write.controller, version, container.name) for write in writes}
    in_node, inside = operations(container)
    inside = [
        ops.Bind(engines.guest_path(lab, one.source), one.target, one.read_only) if isinstance(one, ops.Bind) else one
        for one in inside
    ]
    commands = container_commands(
        container.name, prepare, in_node, inside, writes, paths,
        network_of=_shared_with(lab, spec.network_mode),
    )  # fmt: skip
    return [*in_vm(lab), *_besides(lab, spec), *commands]


_PIDS = {
    "cgroup": f"pids.max {limits_plan.PIDS_DEFAULT} where nothing else is said, ",
    "rlimit": f"ulimit -u {limits_plan.PIDS_DEFAULT} where nothing else is said, ",
    "none": "",
}
_FILTERS = {DEFAULT: "the default filter of system calls", UNCONFINED: "no filter of system calls (seccomp=unconfined)"}


def _besides(lab: Lab, spec: ContainerSpec) -> list[str]:
    """What the lab gives to a container which takes a cgroup to be made for it, or is no one command's.

    Where no lab runs nobody knows who counts processes; that it is a cgroup is likely.
    """
    return [
        f"# Every container of a lab has besides: {_PIDS[lab._client.facts.get('pids_by', 'cgroup')]}"
        f"oom_score_adj +{OOM_STEP},",
        "# as many open files as the hard limit allows, an empty session keyring without permissions,",
        comment(f"and {_FILTERS.get(spec.seccomp, f'the filter of system calls of {spec.seccomp_source}')}."),
    ]


def _shared_with(lab: Lab, mode: str) -> str | None:
    """The name of the container whose network is shared; None if it is no one's."""
    kind, _, container_id = mode.partition(":")
    if kind != "container":
        return None
    return next((one.name for one in list(lab._containers.values()) if one.id == container_id), container_id)


def _cgroup_path(lab: Lab, controller: str, version: str, name: str) -> str:
    return f"/sys/fs/cgroup/{name}" if version == "v2" else f"/sys/fs/cgroup/{controller}/{name}"
