"""Kernel options behind the probes: which one a failure points to, and what a lab is without it. Pure."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import NamedTuple

from . import probe_place
from .probe_facts import Facts


class Option(NamedTuple):
    """`config`: without ``CONFIG_``; `module`: its name, "" where it can't be one; `without`: the consequence."""

    config: str
    module: str
    without: str


OPTIONS: Mapping[str, Option] = {
    "user-namespace": Option("USER_NS", "", "no lab"),
    "network-namespace": Option("NET_NS", "", "no lab"),
    "uts-namespace": Option("UTS_NS", "", "no lab"),
    "ipc-namespace": Option("IPC_NS", "", "no lab"),
    "cgroup-namespace": Option("CGROUPS", "", "no lab"),
    "pid-namespace": Option("PID_NS", "", "no lab"),
    "seccomp": Option("SECCOMP_FILTER", "", "containers start only with --security-opt seccomp=unconfined"),
    "overlay": Option("OVERLAY_FS", "overlay", "no container gets a root file system of its own"),
    "veth": Option("VETH", "veth", "no container can be attached to a network"),
    "bridge": Option("BRIDGE", "bridge", "no network of driver bridge"),
    "ipv6": Option("IPV6", "ipv6", "networks have IPv4 only"),
    "packet-socket": Option("PACKET", "af_packet", "no captures"),
    "macvlan": Option("MACVLAN", "macvlan", "no network of driver macvlan"),
    "ipvlan": Option("IPVLAN", "ipvlan", "no network of driver ipvlan"),
    "vxlan": Option("VXLAN", "vxlan", "no network of driver overlay"),
    "tun": Option("TUN", "tun", "no TAP interfaces"),
    "ifb": Option("IFB", "ifb", "no shaping of what an interface receives"),
    "tbf": Option("NET_SCH_TBF", "sch_tbf", "no rate limits by tbf"),
    "htb": Option("NET_SCH_HTB", "sch_htb", "no shared rate limits"),
    "netem": Option("NET_SCH_NETEM", "sch_netem", "links have no delay and jitter (rate: tbf; loss: nftables)"),
    "ingress": Option("NET_SCH_INGRESS", "sch_ingress", "no policing or mirroring of what an interface receives"),
    "nftables": Option("NF_TABLES", "nf_tables", "no packet filters"),
    "nft-nat": Option("NFT_MASQ", "nft_masq", "no address translation between networks"),
    "nft-numgen": Option("NFT_NUMGEN", "nft_numgen", "no loss by nftables"),
}

NEEDS_KERNEL = "needs a kernel built with"  # how the remedies begin that no command is

_UNKNOWN_KIND = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_QDISCS = frozenset({"tbf", "htb", "netem", "ingress"})
_LINKS = frozenset({"veth", "bridge", "macvlan", "ipvlan", "vxlan", "ifb"})


def absent(name: str, number: int, detail: str, facts: Facts) -> bool:
    """Whether this errno of this step says that the kernel has no such thing (and not that it forbids it)."""
    if name in _LINKS:
        return number == errno.EOPNOTSUPP
    if name in _QDISCS:
        return number == errno.ENOENT
    if name == "overlay":
        return number == errno.ENODEV
    if name in ("ipv6", "packet-socket"):
        return number in _UNKNOWN_KIND
    if name.startswith("nft"):
        # nft passes on the kernel's text only: EOPNOTSUPP for a missing family, ENOENT for a missing expression.
        return "not supported" in detail or "No such file or directory" in detail or "cannot be handled" in detail
    if name == "tun":
        return False  # its device file speaks for itself
    # Namespaces and seccomp: EINVAL also has other causes, so the configuration has the last word where it is known.
    known = facts.options is None or f"CONFIG_{OPTIONS[name].config}" not in facts.options
    return number in (errno.EINVAL, errno.ENOSYS) and known and facts.place != "wsl1"


def missing_option(name: str, said: str, facts: Facts) -> tuple[str, str]:
    """(detail, remedy) for a thing that the kernel lacks, by the name of its option."""
    option = OPTIONS[name]
    config = f"CONFIG_{option.config}"
    detail = f"this kernel lacks {option.module or name} ({config}): {said}"
    without = f"without it: {option.without}"
    there = facts.place in probe_place.CONTAINERS
    where = " on the machine that the container runs on" if there else ""
    state = None if facts.options is None else facts.options.get(config, "n")
    if state == "n":
        return detail, f"{NEEDS_KERNEL} {config}, as distributions build theirs{where}; {without}"
    if state == "y":
        return detail, f"the kernel has {config} and yet refused; {without}"
    if not option.module:
        return detail, f"{NEEDS_KERNEL} {config}; {without}"
    if not facts.loadable:
        return detail, f"{NEEDS_KERNEL} {config}: this one can't load modules; {without}"
    if not there and facts.module_files is not None and option.module not in facts.module_files:
        return detail, (
            f"the module {option.module} isn't installed: on Ubuntu sudo apt install "
            f"linux-modules-extra-{facts.release}, on Fedora sudo dnf install kernel-modules-extra; {without}"
        )
    return detail, f"sudo modprobe {option.module}{where}; {without}"
