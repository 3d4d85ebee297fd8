"""A container as a shell script: cgroup, namespaces, network, root file system, limits, program.

One shell in fresh namespaces, fed by a here-document, becomes the container's first process, as the lab's slot does.
It reaches back into the node's network namespace through a descriptor that it was born with.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from . import limits as limits_plan
from . import ops
from .limits import WriteCgroup
from .render_network import NODE, inside_operation, node_operation
from .render_process import enter_and_execute
from .render_root import fresh_files, make_read_only, place_for, private, root_commands
from .render_words import comment, delimiter, quote, words

_OPTIONS = {  # name of a namespace in `ops.Unshare` -> option of unshare(1)
    "mount": "--mount", "uts": "--uts", "ipc": "--ipc", "net": "--net", "pid": "--pid --fork --kill-child --mount-proc",
    "cgroup": "--cgroup",
}  # fmt: skip


def container_commands(
    name: str,
    prepare: Sequence[ops.Operation],
    node_operations: Sequence[ops.Operation],
    inside: Sequence[ops.Operation],
    limits: Sequence[WriteCgroup],
    cgroup_paths: Mapping[str, str],
    *,
    network_of: str | None = None,
) -> list[str]:
    """The script that makes and starts a container.

    `prepare`: what makes its root (`plan.rootfs.prepare`), Unshare first. A RootOverlay's `lower` is the path of the
    image's folder or tar file here, not a key. `node_operations`, `inside`: of its endpoints; `inside` ends with
    Execute. `limits`: the writes of `plan.limits.plan`. `cgroup_paths`: controller -> the container's folder there.
    `network_of`: the container whose network namespace it shares.
    """
    unshare, *mounts = prepare
    if not isinstance(unshare, ops.Unshare):
        raise ops.UnknownOperation(unshare, "the beginning of a container")
    ops.check(mounts, ops.MAKING_ROOT, "the making of a root")
    *orders, execute = inside
    if not isinstance(execute, ops.Execute):
        raise ops.UnknownOperation(execute, "the end of a container's orders")
    network = [one for one in orders if type(one) in ops.IN_NETWORK]
    orders = [one for one in orders if type(one) not in ops.IN_NETWORK]
    ops.check(orders, ops.IN_ROOT, "a container")
    own_network = "net" in unshare.kinds
    if not own_network:
        ops.check([*node_operations, *network], (), "a container without a network of its own")
    place = place_for([*mounts, *orders])
    body = ["umask 022"]
    if own_network:
        body += _network(node_operations, network)
    body += _root(mounts, orders, execute, place)
    body += _limits([write for write in limits if write.file != "pids.max"], cgroup_paths)
    pids = [(one.value, f"{cgroup_paths[one.controller]}/{one.file}") for one in limits if one.file == "pids.max"]
    own_tools = any(isinstance(one, ops.Overlay) for one in mounts)
    body += enter_and_execute(execute, own_tools, pids[0] if pids else None)
    end = delimiter(body)
    return [
        *NODE,
        *([f': "${{pid:?set it to the number of the first process of {network_of}}}"'] if network_of else []),
        *_cgroups(name, limits, cgroup_paths),
        "",
        comment(f"namespaces: a shell in its own ones is the first process of {name}; it does all that follows"),
        _shell(unshare, cgroup_paths, network_of, own_network and bool(node_operations), end),
        *body,
        end,
    ]


def _shell(
    unshare: ops.Unshare, cgroup_paths: Mapping[str, str], network_of: str | None, reach_node: bool, end: str
) -> str:
    enter = 'nsenter --target "$pid" --net ' if network_of else ""
    kinds = [kind for kind in unshare.kinds if not (kind == "cgroup" and cgroup_paths)]
    options = " ".join(_OPTIONS[kind] for kind in kinds)
    shell = "setsid sh -e"
    if cgroup_paths:
        # The cgroup namespace begins where the process is when it is made, so the folders are joined before.
        joins = "; ".join(f"echo 0 > {quote(f'{path}/cgroup.procs')}" for path in _folders(cgroup_paths))
        cgroup = "unshare --cgroup " if "cgroup" in unshare.kinds else ""
        shell = f"setsid sh -e -c {quote(f'{joins}; exec {cgroup}sh -e')}"
    node = " 3< /proc/self/ns/net" if reach_node else ""
    return f"{enter}unshare {options} {shell}{node} << '{end}' &"


def _network(node_operations: Sequence[ops.Operation], inside: Sequence[ops.Operation]) -> list[str]:
    lines = ["", "# network: its own loopback"]
    lines += inside_operation(ops.LinkUp("lo"))
    if node_operations:
        lines += ["", "# and a veth pair for each endpoint: one end in the node, the other is born in here (process 1)"]
        lines.append('node() { nsenter --net=/proc/self/fd/3 "$@"; }')
        for operation in node_operations:
            lines += [f"node {line}" for line in node_operation(operation, "1")]
        lines.append("exec 3<&-")
    for operation in inside:
        lines += inside_operation(operation)
    return lines


def _root(
    mounts: Sequence[ops.Operation], orders: Sequence[ops.Operation], execute: ops.Execute, place: str
) -> list[str]:
    fresh = fresh_files(mounts)
    lines = ["", f"# root file system: what is private lies on a tmpfs of its own, which covers {place} in here only"]
    lines += private(place)
    making = [one for one in mounts if not isinstance(one, ops.PivotRoot)]
    first_mount = next((n for n, one in enumerate(making) if isinstance(one, ops.Mount)), len(making))
    first_mask = next((n for n, one in enumerate(making) if isinstance(one, ops.Mask)), len(making))
    last_mask = max((n for n, one in enumerate(making) if isinstance(one, ops.Mask | ops.ReadOnly)), default=-1) + 1
    # The Folder in front of the first Mount is its mount point.
    if first_mount and isinstance(making[first_mount - 1], ops.Folder):
        first_mount -= 1
    lines += root_commands(making[:first_mount], place, fresh)
    lines += ["", "# the kernel's own file systems and a few harmless devices"]
    lines += root_commands(making[first_mount:first_mask], place, fresh)
    lines += ["", "# what is nobody's business in a container: hidden, or read-only"]
    lines += root_commands(making[first_mask:last_mask], place, fresh)
    # A file that is made empty first, for a container that nobody has asked for yet, is written once here.
    written = {one.path for one in orders if isinstance(one, ops.WriteFile)}
    rest = [one for one in making[last_mask:] if not (isinstance(one, ops.WriteFile) and one.path in written)]
    for bound, group in groupby([*rest, *orders], key=lambda one: isinstance(one, ops.Bind)):
        about = "paths of this machine (=recursive: util-linux 2.39 or later)" if bound else "who it is"
        lines += ["", f"# {about}", *root_commands(list(group), place, fresh)]
    if execute.read_only_root:
        lines += ["", "# --read-only", *make_read_only([*mounts, *orders])]
    return lines


def _folders(cgroup_paths: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(cgroup_paths.values()))


def _version(limits: Iterable[WriteCgroup], cgroup_paths: Mapping[str, str]) -> str:
    """The cgroup version that paths belong to: version 1 has a folder per controller, named after it."""
    by_name = (set(posixpath.dirname(path).replace(",", "/").split("/")) for path in cgroup_paths.values())
    return "v1" if all(name in parts for name, parts in zip(cgroup_paths, by_name, strict=True)) else "v2"


def _cgroups(name: str, limits: Sequence[WriteCgroup], cgroup_paths: Mapping[str, str]) -> list[str]:
    """The container's cgroup folders, ready to be joined."""
    if not cgroup_paths:
        return []
    folders = _folders(cgroup_paths)
    if _version(limits, cgroup_paths) == "v2":
        lines = ["", comment(f"cgroup: a folder for {name}; the one above hands these controllers on")]
        for folder in folders:
            parent = posixpath.dirname(folder)
            on = " ".join(f"+{controller}" for controller, path in cgroup_paths.items() if path == folder)
            lines += [f"mkdir -p {quote(folder)}", f"echo {quote(on)} > {quote(f'{parent}/cgroup.subtree_control')}"]
        return lines
    lines = ["", comment(f"cgroup: a folder for {name} in the hierarchy of each controller")]
    lines.append(f"mkdir -p {words(folders)}")
    if "cpuset" in cgroup_paths:
        path = cgroup_paths["cpuset"]
        # A fresh cpuset has neither memory nodes nor CPUs and takes no process.
        for file in ("cpuset.mems", "cpuset.cpus"):
            lines.append(f"cat {quote(f'{posixpath.dirname(path)}/{file}')} > {quote(f'{path}/{file}')}")
    return lines


def _limits(limits: Sequence[WriteCgroup], cgroup_paths: Mapping[str, str]) -> list[str]:
    """The limits, as late as can be: what is above is not slowed down or stopped by them."""
    if not limits:
        return []
    lines = ["", "# limits"]
    for write in limits:
        path = cgroup_paths[write.controller]
        line = limits_plan.command(write, path)
        if write.optional:
            line = f"[ ! -e {quote(f'{path}/{write.file}')} ] || {line}"
        lines.append(line)
    return lines
