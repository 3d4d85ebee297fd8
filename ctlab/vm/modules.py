"""Kernel modules: which are wanted, what they need, in which order they go in.

A package's modules come without `modules.dep` (the installation makes it), so dependencies are read from the modules
themselves: each has a section of ``key=value`` texts. From the same texts the guest's modprobe gets its tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..errors import CtlabError

# Without these the guest doesn't start.
ESSENTIAL = ("virtio_pci", "virtio_console", "fuse", "virtiofs", "overlay")
# What every lab uses at its start: loaded before, one call each instead of a program run by the kernel.
EARLY = ("veth", "bridge", "nf_tables")
# What labs ask for by name; a kernel without one of them is told of.
_WANTED = (
    "br_netfilter macvlan macvtap ipvlan ipvtap vxlan geneve tun ifb dummy 8021q vrf wireguard nlmon "
    "ip_gre ip6_gre ipip sit bonding team "
    "nft_ct nft_nat nft_masq nft_chain_nat nft_limit nft_quota nft_numgen nft_log nft_reject_inet nft_redir "
    "nft_fib_inet nft_queue nft_flow_offload nft_hash nft_socket nft_tproxy nft_connlimit nft_dup_ipv4 "
    "nft_fwd_netdev nft_dup_netdev nf_flow_table_inet nf_conntrack_bridge nft_meta_bridge nft_reject_bridge "
    "nft_compat nfnetlink_log nfnetlink_queue nf_conntrack_netlink "
    "sch_netem sch_tbf sch_htb sch_hfsc sch_ingress sch_fq sch_fq_codel sch_codel sch_prio sch_red sch_sfq sch_cake "
    "sch_pie sch_fq_pie sch_multiq sch_drr sch_qfq sch_mqprio cls_u32 cls_bpf cls_basic cls_fw cls_flower cls_matchall "
    "act_mirred act_police act_bpf act_gact act_pedit act_skbedit act_vlan act_csum "
    "tcp_bbr tcp_cubic tcp_dctcp tcp_vegas "
    "tcp_diag udp_diag inet_diag unix_diag netlink_diag af_packet_diag"
)
WANTED = tuple(_WANTED.split())


class Info(NamedTuple):
    """What a module says of itself."""

    name: str
    depends: tuple[str, ...]
    before: tuple[str, ...]  # loaded before it if it is there ("softdep pre")
    aliases: tuple[str, ...]


class Selection(NamedTuple):
    """Modules in the order in which they can be loaded, and the wanted ones that this kernel doesn't have."""

    modules: tuple[Info, ...]
    missing: tuple[str, ...]


def name_of(path: str) -> str:
    """A module's name from its file's: `net/8021q/8021q.ko.xz` is `8021q`, `nf-tables.ko` is `nf_tables`."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def info(name: str, module: bytes) -> Info:
    """Read a module's own texts (`module` is not compressed). Raises CtlabError if it has none."""
    depends: list[str] = []
    before: list[str] = []
    aliases: list[str] = []
    try:
        texts = list(_texts(module))
    except (struct.error, IndexError, OverflowError):
        texts = []
    if not texts:
        raise CtlabError(f"the kernel module {name} is damaged (no texts in its section .modinfo): fetch it again")
    for key, value in texts:
        if key == "depends":
            depends += [word.replace("-", "_") for word in value.split(",") if word]
        elif key == "alias":
            aliases.append(value)
        elif key == "softdep" and value.startswith("pre:"):
            before += [word.replace("-", "_") for word in value.partition("post:")[0].split()[1:]]
    return Info(name, tuple(dict.fromkeys(depends)), tuple(dict.fromkeys(before)), tuple(aliases))


def _texts(module: bytes) -> Iterator[tuple[str, str]]:
    """The ``key=value`` texts of the section .modinfo."""
    for raw in _section(module, b".modinfo").split(b"\0"):
        key, found, value = raw.partition(b"=")
        if found:
            yield key.decode("ascii", "replace"), value.decode("utf-8", "replace")


def _section(module: bytes, name: bytes) -> bytes:
    """A section of a 64-bit ELF file, by its name; empty if there is none, or if this is no such file."""
    if module[:5] != b"\x7fELF\x02":
        return b""
    offset, size, count, names = struct.unpack_from("<Q10xHHH", module, 40)
    headers = [struct.unpack_from("<IIQQQQ", module, offset + number * size) for number in range(count)]
    texts = module[headers[names][4] : headers[names][4] + headers[names][5]]
    for at, _, _, _, where, length in headers:
        if texts[at : at + len(name) + 1] == name + b"\0":
            return module[where : where + length]
    return b""


def builtin_names(modules_builtin: str) -> set[str]:
    """The names in a `modules.builtin` file."""
    return {name_of(line.strip()) for line in modules_builtin.splitlines() if line.strip()}


def select(there: Mapping[str, Info], builtin: set[str], wanted: Iterable[str], what: str) -> Selection:
    """The modules among `there` that `wanted` and `ESSENTIAL` need, dependencies first.

    Raises CtlabError if an essential one, or one that a wanted one needs, is neither there nor built in.
    """
    order: dict[str, Info] = {}
    missing: list[str] = []

    def take(name: str, asked: tuple[str, ...]) -> None:
        if name in order or name in builtin or name in asked:
            return
        found = there.get(name)
        if found is None:
            whose = f", which {asked[-1]} needs" if asked else ""
            raise CtlabError(f"{what} has no module {name}{whose}: take another kernel package")
        for other in found.before:
            if other in there:
                take(other, (*asked, name))
        for other in found.depends:
            take(other, (*asked, name))
        order[name] = found

    for name in ESSENTIAL:
        take(name, ())
    for name in wanted:
        if name in builtin or name in there:
            take(name, ())
        else:
            missing.append(name)
    return Selection(tuple(order.values()), tuple(missing))


def tables(modules: Iterable[Info]) -> dict[str, str]:
    """The files that modprobe reads, by name; every module lies beside them as NAME.ko."""
    depends: list[str] = []
    aliases: list[str] = []
    known = {module.name: module for module in modules}
    for module in known.values():
        needed = _closure(module, known)
        depends.append(f"{module.name}.ko:{''.join(f' {name}.ko' for name in needed)}\n")
        aliases += [f"alias {alias} {module.name}\n" for alias in module.aliases]
    return {"modules.dep": "".join(depends), "modules.alias": "".join(aliases), "modules.symbols": ""}


def _closure(module: Info, known: Mapping[str, Info]) -> list[str]:
    """All that `module` needs, direct needs first: modprobe loads from the last to the first."""
    found: dict[str, None] = {}

    def visit(one: Info, above: tuple[str, ...]) -> None:
        for name in (*one.depends, *one.before):
            if name in known and name not in above:  # soft ones may name each other
                found.pop(name, None)
                found[name] = None
                visit(known[name], (*above, name))

    visit(module, (module.name,))
    return list(found)
