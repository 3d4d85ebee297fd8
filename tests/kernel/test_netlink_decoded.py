"""Hand-packed netlink messages: what pyroute2 reads in them is what was meant, and the kernel agrees.

pyroute2's own message classes are the judge of the bytes; `ip` is the judge of what the kernel made of them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ctlab.kernel import netlink

ROOT = Path(__file__).resolve().parents[2]
REQUEST, CREATE = 0x1 | 0x4, 0x200 | 0x400  # NLM_F_REQUEST | NLM_F_ACK, NLM_F_EXCL | NLM_F_CREATE
UP, NODAD = 0x1, 0x2

names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/:%"), min_size=1, max_size=15)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
mtus = st.integers(68, 65535)
indices = st.integers(1, 2**31 - 1)
aliases = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
maybe = st.none


def decode(kind: type[Any], message: bytes) -> dict[str, Any]:
    """The header, the fixed fields and every attribute, nested ones too, as pyroute2 reads them."""
    assert struct.unpack_from("=I", message)[0] == len(message) and len(message) % 4 == 0
    read = kind(message)
    read.decode()
    assert read["header"].get("error") is None
    header = {"type": read["header"]["type"], "flags": read["header"]["flags"]}
    fixed = {name: read[name] for name, *_ in kind.fields if name != "__align"}
    return {**header, **fixed, "attributes": attributes(read)} | {"message flags": header["flags"]}


def attributes(read: Any) -> dict[str, Any]:
    """Attribute name -> value; an attribute that is there twice, or that pyroute2 does not know, is an error."""
    found: dict[str, Any] = {}
    for name, value, *_ in read["attrs"]:
        assert name not in found and name != "UNKNOWN", name
        nested = isinstance(value, dict) and "attrs" in value
        found[name] = attributes(value) if nested else value
        if nested and "index" in value:  # the peer of a veth: a header of its own
            assert (value["family"], value["index"], value["flags"], value["change"]) == (0, 0, 0, 0)
    return found


def given_only(**wanted: Any) -> dict[str, Any]:
    """The attributes of the arguments that were given."""
    return {name: value for name, value in wanted.items() if value is not None}


def link(message: bytes, kind: int, flags: int, index: int = 0, up: bool | None = None) -> dict[str, Any]:
    """Check everything of a link message but its attributes; return those."""
    read = decode(ifinfmsg, message)
    expected = {
        "type": kind, "message flags": flags, "family": socket.AF_UNSPEC, "ifi_type": 0, "index": index,
        "flags": UP if up else 0, "change": 0 if up is None else UP,
    }  # fmt: skip
    assert {name: read[name] for name in expected} == expected
    found: dict[str, Any] = read["attributes"]
    return found


@given(names, maybe() | macs, maybe() | mtus)
def test_new_bridge(name: str, mac: str | None, mtu: int | None) -> None:
    found = link(netlink.new_bridge(name, mac=mac, mtu=mtu), netlink.RTM_NEWLINK, REQUEST | CREATE)
    assert found == given_only(
        IFLA_IFNAME=name, IFLA_ADDRESS=mac, IFLA_MTU=mtu, IFLA_LINKINFO={"IFLA_INFO_KIND": "bridge"}
    )


@given(names, names, maybe() | indices, maybe() | macs, maybe() | mtus, maybe() | indices, st.booleans())
def test_new_veth(
    name: str, peer: str, pid: int | None, peer_mac: str | None, mtu: int | None, master: int | None, up: bool,
) -> None:  # fmt: skip
    message = netlink.new_veth(name, peer, peer_pid=pid, peer_mac=peer_mac, mtu=mtu, master=master, up=up)
    found = link(message, netlink.RTM_NEWLINK, REQUEST | CREATE, up=True if up else None)
    other = given_only(IFLA_IFNAME=peer, IFLA_NET_NS_PID=pid, IFLA_ADDRESS=peer_mac, IFLA_MTU=mtu)
    assert found == given_only(
        IFLA_IFNAME=name, IFLA_MTU=mtu, IFLA_MASTER=master,
        IFLA_LINKINFO={"IFLA_INFO_KIND": "veth", "IFLA_INFO_DATA": {"VETH_INFO_PEER": other}},
    )  # fmt: skip


@given(
    indices, maybe() | names, maybe() | macs, maybe() | mtus, maybe() | st.just(0) | indices, maybe() | aliases,
    maybe() | st.booleans(), st.booleans(),
)  # fmt: skip
def test_set_link(
    index: int, name: str | None, mac: str | None, mtu: int | None, master: int | None, alias: str | None,
    up: bool | None, no_link_local: bool,
) -> None:  # fmt: skip
    message = netlink.set_link(
        index, name=name, mac=mac, mtu=mtu, master=master, alias=alias, up=up, no_link_local=no_link_local
    )
    mode = {"AF_INET6": {"IFLA_INET6_ADDR_GEN_MODE": 1}} if no_link_local else None
    assert link(message, netlink.RTM_SETLINK, REQUEST, index, up) == given_only(
        IFLA_IFNAME=name, IFLA_ADDRESS=mac, IFLA_MTU=mtu, IFLA_MASTER=master, IFLA_IFALIAS=alias, IFLA_AF_SPEC=mode
    )


@given(names)
def test_a_link_is_found_and_deleted_by_name(name: str) -> None:
    assert link(netlink.set_link(0, find=name, up=True), netlink.RTM_SETLINK, REQUEST, 0, True) == {"IFLA_IFNAME": name}
    assert link(netlink.delete_link(name), netlink.RTM_DELLINK, REQUEST) == {"IFLA_IFNAME": name}


@given(indices)
def test_a_port_is_closed(index: int) -> None:
    read = decode(ifinfmsg, netlink.close_port(index))
    assert (read["type"], read["message flags"], read["family"], read["index"]) == (
        netlink.RTM_SETLINK, REQUEST, socket.AF_BRIDGE, index,
    )  # fmt: skip
    assert read["attributes"] == {"IFLA_PROTINFO": {"IFLA_BRPORT_STATE": 0}}


@given(indices, st.integers(1, 2**32 - 1), st.integers(0, 32))
def test_addresses_of_version_4(index: int, number: int, prefix: int) -> None:
    address = ipaddress.IPv4Interface((number, prefix))
    broadcast = str(address.network.broadcast_address) if prefix < 31 else None
    wanted = given_only(IFA_LOCAL=str(address.ip), IFA_ADDRESS=str(address.ip), IFA_BROADCAST=broadcast)
    read = decode(ifaddrmsg, netlink.new_address(index, str(address)))
    fields = (read["type"], read["message flags"], read["family"], read["prefixlen"], read["scope"], read["index"])
    assert fields == (netlink.RTM_NEWADDR, REQUEST | CREATE, socket.AF_INET, prefix, 0, index)
    assert read["attributes"] == wanted


@given(indices, st.integers(1, 2**128 - 1), st.integers(0, 128))
def test_addresses_of_version_6(index: int, number: int, prefix: int) -> None:
    address = ipaddress.IPv6Interface((number, prefix))
    read = decode(ifaddrmsg, netlink.new_address(index, str(address)))
    fields = (read["type"], read["message flags"], read["family"], read["prefixlen"], read["scope"], read["index"])
    assert fields == (netlink.RTM_NEWADDR, REQUEST | CREATE, socket.AF_INET6, prefix, 0, index)
    assert ipaddress.IPv6Address(read["attributes"].pop("IFA_ADDRESS")) == address.ip
    assert read["attributes"] == {"IFA_FLAGS": NODAD}


@pytest.mark.parametrize(
    ("destination", "gateway", "family", "length", "scope"),
    [
        ("default", "10.0.0.1", socket.AF_INET, 0, 0),
        ("::/0", "fd00::1", socket.AF_INET6, 0, 0),
        ("default", "fd00::1", socket.AF_INET6, 0, 0),
        ("10.1.0.0/16", "10.0.0.1", socket.AF_INET, 16, 0),
        ("10.1.2.3/32", None, socket.AF_INET, 32, 253),
        ("default", None, socket.AF_INET, 0, 253),
        ("fd00:1::/64", "fe80::1", socket.AF_INET6, 64, 0),
        ("fd00:1::/64", None, socket.AF_INET6, 64, 253),
    ],
)
def test_new_route(destination: str, gateway: str | None, family: int, length: int, scope: int) -> None:
    read = decode(rtmsg, netlink.new_route(9, destination, gateway))
    expected = {
        "type": 1, "message flags": REQUEST | CREATE, "family": family, "dst_len": length, "src_len": 0, "tos": 0,
        "table": 254, "proto": 3, "scope": scope,
    }  # fmt: skip
    assert {name: read[name] for name in expected} == expected  # "type" is the route's own here: unicast
    to = destination.partition("/")[0] if length else None
    assert read["attributes"] == given_only(RTA_DST=to, RTA_GATEWAY=gateway, RTA_OIF=9)


@given(st.integers(1, 2**32 - 1), st.integers(1, 32), st.integers(1, 2**32 - 1), indices)
def test_any_route_of_version_4(number: int, prefix: int, gateway: int, index: int) -> None:
    network = ipaddress.IPv4Network((number, prefix), strict=False)
    by = str(ipaddress.IPv4Address(gateway))
    read = decode(rtmsg, netlink.new_route(index, str(network), by))
    wanted = {"RTA_DST": str(network.network_address), "RTA_GATEWAY": by, "RTA_OIF": index}
    assert (read["dst_len"], read["attributes"]) == (prefix, wanted)


# -- the kernel --------------------------------------------------------------------------------------------------------
def ip(*words: str) -> Any:
    done = subprocess.run(["ip", "-j", "-d", *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "[]")


def errno_of(link: netlink.Netlink, messages: list[bytes]) -> list[int]:
    """[errno, position] of a batch that is refused."""
    try:
        link.run(messages)
    except netlink.NetlinkError as error:
        return [error.errno or 0, error.position]
    return []


def perform() -> dict[str, Any]:
    """In a fresh network namespace: one of everything; what `ip` sees afterwards."""
    link = netlink.Netlink()
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    seen: dict[str, Any] = {}
    try:
        link.run(
            [
                netlink.set_link(1, up=True),
                netlink.new_bridge("br-x", mac="02:00:00:00:00:aa", mtu=1400),
                netlink.set_link(0, find="br-x", no_link_local=True),
                # Not at creation: the kernel takes no notice of an alias there.
                netlink.set_link(0, find="br-x", alias="a bridge", up=True),
            ]
        )
        bridge = link.index("br-x")
        link.run(
            [
                netlink.new_veth(
                    "v1", "eth0", peer_pid=holder.pid, peer_mac="02:00:00:00:00:02", mtu=1400, master=bridge, up=True
                ),
                netlink.new_veth("left", "right"),
                netlink.new_address(bridge, "10.9.0.1/24"),
                netlink.new_address(bridge, "10.9.1.1/31"),
                netlink.new_address(bridge, "fd00:9::1/64"),
                netlink.new_route(bridge, "default", "10.9.0.2"),
                netlink.new_route(bridge, "10.8.0.0/16", "10.9.0.3"),
                netlink.new_route(bridge, "10.7.0.0/16", None),
                netlink.new_route(bridge, "::/0", "fd00:9::2"),
                netlink.new_route(bridge, "fd00:8::/64", None),
            ]
        )  # fmt: skip
        seen["links"] = ip("link")
        seen["inside"] = json.loads(
            subprocess.run(
                ["nsenter", "--target", str(holder.pid), "--net", "ip", "-j", "link", "show", "eth0"],
                check=True, capture_output=True, text=True,
            ).stdout
        )  # fmt: skip
        seen["addresses"] = ip("addr", "show", "br-x")
        seen["routes"] = ip("route"), ip("-6", "route")
        left = link.index("left")
        link.run(
            [
                netlink.set_link(left, name="renamed", mac="02:00:00:00:00:03", mtu=1300, master=bridge, alias="now"),
                netlink.set_link(link.index("v1"), master=0, up=False),
            ]
        )
        seen["changed"] = ip("link")
        # The second of three is refused, the third is done all the same; a later batch is not confused by that.
        wrong = [netlink.new_bridge("b1"), netlink.new_bridge("b1"), netlink.new_bridge("b2")]
        seen["refused"] = errno_of(link, wrong)
        link.run([netlink.delete_link("b1")])
        link.delete_if_there("b2")
        link.delete_if_there("b2")
        link.delete_if_there("renamed")
        seen["at the end"] = sorted(entry["ifname"] for entry in ip("link"))
        try:
            link.index("nothing")
        except OSError as error:
            seen["no index"] = [error.errno, "nothing" in str(error)]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        link.close()
    return seen


def by_name(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["ifname"] == name)


@pytest.mark.kernel
def test_the_kernel_makes_of_it_what_was_meant() -> None:
    new_node = ["unshare", "--user", "--map-root-user", "--net"]
    tried = subprocess.run([*new_node, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network namespace of one's own here: {tried.stderr.strip()}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*new_node, sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)

    bridge = by_name(seen["links"], "br-x")
    assert (bridge["address"], bridge["mtu"], bridge["ifalias"]) == ("02:00:00:00:00:aa", 1400, "a bridge")
    assert bridge["linkinfo"]["info_kind"] == "bridge" and bridge["inet6_addr_gen_mode"] == "none"
    assert "UP" in bridge["flags"] and "UP" in by_name(seen["links"], "lo")["flags"]
    veth = by_name(seen["links"], "v1")
    assert (veth["mtu"], veth["master"]) == (1400, "br-x")
    assert veth["linkinfo"]["info_kind"] == "veth" and "UP" in veth["flags"]
    (inside,) = seen["inside"]
    assert (inside["address"], inside["mtu"]) == ("02:00:00:00:00:02", 1400) and "UP" not in inside["flags"]
    assert by_name(seen["links"], "left")["link"] == "right"

    found = seen["addresses"][0]["addr_info"]
    assert {(a["local"], a["prefixlen"], a.get("broadcast"), a["scope"]) for a in found} == {
        ("10.9.0.1", 24, "10.9.0.255", "global"), ("10.9.1.1", 31, None, "global"), ("fd00:9::1", 64, None, "global"),
    }  # fmt: skip
    six = next(a for a in found if a["family"] == "inet6")
    assert six["nodad"] and "tentative" not in six
    four_routes = {(r["dst"], r.get("gateway"), r["scope"], r["protocol"]) for r in seen["routes"][0]}
    assert {
        ("default", "10.9.0.2", "global", "boot"), ("10.8.0.0/16", "10.9.0.3", "global", "boot"),
        ("10.7.0.0/16", None, "link", "boot"),
    } <= four_routes  # fmt: skip
    six_routes = {(r["dst"], r.get("gateway"), r["protocol"]) for r in seen["routes"][1]}
    assert {("default", "fd00:9::2", "boot"), ("fd00:8::/64", None, "boot")} <= six_routes

    renamed = by_name(seen["changed"], "renamed")
    assert (renamed["address"], renamed["mtu"], renamed["master"], renamed["ifalias"]) == (
        "02:00:00:00:00:03", 1300, "br-x", "now",
    )  # fmt: skip
    freed = by_name(seen["changed"], "v1")
    assert "master" not in freed and "UP" not in freed["flags"]
    assert seen["refused"] == [17, 1], "EEXIST, of the second"
    assert seen["at the end"] == ["br-x", "lo", "v1"]
    assert seen["no index"] == [19, True], "ENODEV, and the name is said"


if __name__ == "__main__":
    print(json.dumps(perform()))
