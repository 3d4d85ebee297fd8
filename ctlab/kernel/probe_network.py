"""Probing steps for networks: every kind of interface, queueing discipline and nftables expression, made once.

Works in a network namespace of its own, which goes with the process. Formats: linux/if_link.h,
linux/pkt_sched.h, linux/if_tun.h.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from functools import partial

from . import netlink, syscalls
from .netlink import _attribute, _message, _number, _text
from .probe_journal import Failed, Journal, Untried, spawn

_RTM_NEWQDISC = 36
_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TC_H_ROOT, _TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_TCA_HTB_INIT, _TCA_TBF_PARMS, _TCA_TBF_BURST = 2, 1, 6
_IFLA_LINK, _IFLA_VXLAN_ID, _IFLA_MACVLAN_MODE, _IFLA_IPVLAN_MODE = 5, 1, 1, 1
_MACVLAN_MODE_BRIDGE, _IPVLAN_MODE_L2 = 4, 0
_TUNSETIFF = 0x400454CA  # also on arm64; other orders of the direction bits (mips, powerpc) aren't supported
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_LOOPBACK = 1  # the first interface of every network namespace

_TABLE = "add table inet probe;"
_FILTER = (
    "add chain inet probe filter { type filter hook forward priority 0; policy accept; };"
    "add rule inet probe filter ct state established,related accept;"
)
_NAT = (
    "add chain inet probe nat { type nat hook postrouting priority 100; };"
    "add rule inet probe nat ip saddr 10.0.0.0/8 masquerade;"
)
_NUMGEN = (
    "add chain inet probe loss { type filter hook input priority 0; };"
    "add rule inet probe loss numgen random mod 1000 < 10 drop;"
)


def enter(journal: Journal) -> bool:
    """The network namespace itself, whether it could be made. A sysfs belongs to one, so mounts come after it."""
    entered = journal.step("network-namespace", lambda: syscalls.unshare(syscalls.CLONE_NEWNET))
    if entered:
        journal.step("loopback", _loopback)
    return entered


def steps(journal: Journal, nft: str, ifb_problem: str) -> None:
    """All interfaces, disciplines and rules; only to be called in a network namespace of the probe's own.

    `nft`: the program's path or empty. `ifb_problem`: why ifb must not be tried, or empty.
    """
    link = netlink.Netlink()
    if journal.step("veth", lambda: _veth(link)):
        journal.step("bridge", lambda: _bridge(link))
    journal.step("ipv6", lambda: _ipv6(link))
    journal.step("packet-socket", _packet_socket)
    # Ends of different pairs: an interface has room for one owner of its receive path.
    macvlan_mode = _number(_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE)
    journal.step("macvlan", lambda: _child_link(link, "macvlan", "b0", macvlan_mode))
    ipvlan_mode = _attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", _IPVLAN_MODE_L2))
    journal.step("ipvlan", lambda: _child_link(link, "ipvlan", "b1", ipvlan_mode))
    journal.step("vxlan", lambda: link.run([_new_link("vxlan", "vxlan", data=_number(_IFLA_VXLAN_ID, 42))]))
    journal.step("tun", _tun)
    journal.step("ifb", lambda: _ifb(link, ifb_problem))
    # struct tc_tbf_qopt with rate 125000 B/s, limit and buffer; struct tc_htb_glob version 3; struct tc_netem_qopt.
    tbf_parameters = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, 125_000) + bytes(12) + struct.pack("=III", 30_000, 15_625, 0)
    tbf = _attribute(_TCA_TBF_PARMS, tbf_parameters) + _number(_TCA_TBF_BURST, 10_000)
    htb = _attribute(_TCA_HTB_INIT, struct.pack("=IIIII", 3, 10, 0, 0, 0))
    for name, device, options in (
        ("tbf", "a0", tbf),
        ("htb", "a1", htb),
        ("netem", "b0", struct.pack("=IIIIII", 1000, 1000, 0, 0, 0, 0)),
    ):
        journal.step(name, partial(_qdisc, link, name, device, _TC_H_ROOT, 0, options))
    journal.step("ingress", lambda: _qdisc(link, "ingress", "b1", _TC_H_INGRESS, 0xFFFF0000, b""))
    link.close()
    _nftables(journal, nft)


def _loopback() -> None:
    link = netlink.Netlink()
    try:
        link.run([netlink.set_link(_LOOPBACK, up=True)])
    finally:
        link.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))


def _new_link(kind: str, name: str, *, lower: int = 0, data: bytes = b"") -> bytes:
    """RTM_NEWLINK of any kind; `data` is its kind's attributes, `lower` the interface that it sits on."""
    body = netlink._IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _text(netlink.IFLA_IFNAME, name)
    if lower:
        body += _number(_IFLA_LINK, lower)
    info = _text(netlink.IFLA_INFO_KIND, kind)
    if data:
        info += _attribute(netlink.IFLA_INFO_DATA | netlink.NLA_F_NESTED, data)
    body += _attribute(netlink.IFLA_LINKINFO | netlink.NLA_F_NESTED, info)
    return _message(netlink.RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body)


def _veth(link: netlink.Netlink) -> None:
    """Two pairs, both up: a0-a1 for the bridge and disciplines, b0-b1 for what sits on an interface."""
    link.run([netlink.new_veth("a0", "a1", up=True), netlink.new_veth("b0", "b1", up=True)])


def _bridge(link: netlink.Netlink) -> None:
    link.run([netlink.new_bridge("bridge")])
    link.run([netlink.set_link(link.index("a0"), master=link.index("bridge"))])


def _child_link(link: netlink.Netlink, kind: str, lower: str, data: bytes) -> None:
    link.run([_new_link(kind, kind, lower=link.index(lower), data=data)])


def _ipv6(link: netlink.Netlink) -> None:
    link.run([netlink.new_address(_LOOPBACK, "fd00::1/128")])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("fd00::1", 0))


def _packet_socket() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()


def _tun() -> None:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"tap", _IFF_TAP | _IFF_NO_PI))
    finally:
        os.close(descriptor)


def _ifb(link: netlink.Netlink, problem: str) -> None:
    if problem:
        raise Untried(problem)
    link.run([_new_link("ifb", "ifb")])


def _qdisc(link: netlink.Netlink, kind: str, device: str, parent: int, handle: int, options: bytes) -> None:
    body = _TCMSG.pack(socket.AF_UNSPEC, link.index(device), handle, parent, 0) + _text(_TCA_KIND, kind)
    if options:
        body += _attribute(_TCA_OPTIONS, options)
    link.run([_message(_RTM_NEWQDISC, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body)])


def _nftables(journal: Journal, nft: str) -> None:
    """One transaction for all; only if that fails one for each, so that the failing part is named."""
    parts = (("nftables", _TABLE + _FILTER), ("nft-nat", _TABLE + _NAT), ("nft-numgen", _TABLE + _NUMGEN))
    if not nft:
        for name, _ in parts:
            journal.outcome(name, False, 0, "the program nft isn't here")
        return

    def add(rules: str) -> None:
        status, output = spawn([nft, rules])
        if status:
            raise Failed(f"nft: {output.strip().splitlines()[0] if output.strip() else f'status {status}'}")

    if journal.step("nftables", lambda: add("".join(rules for _, rules in parts))):
        for name, _ in parts[1:]:
            journal.outcome(name, True)
        return
    for name, rules in parts:
        journal.step(name, partial(add, rules))
