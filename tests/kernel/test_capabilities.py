"""What a kernel may have or lack, each used once with the programs that people use, and the doctor's word on it.

Everything happens in a network namespace of its own, below a user namespace, as in a lab. Where the kernel lacks
something the test is skipped with what the program said, provided that it said "unknown" and not something else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from kernel_help import patient, uses

from ctlab.doctor import Report, doctor

pytestmark = pytest.mark.kernel

LINKS = {
    "veth": "ip link add x type veth peer name y",
    "bridge": "ip link add x type bridge",
    "macvlan": "ip link add low0 type veth peer name low1; ip link add link low0 name x type macvlan mode bridge",
    "ipvlan": "ip link add low0 type veth peer name low1; ip link add link low0 name x type ipvlan mode l2",
    "vxlan": "ip link add x type vxlan id 7 dstport 4789 local 127.0.0.1 dev lo",
    "geneve": "ip link add x type geneve id 7 remote 127.0.0.1",
    "wireguard": "ip link add x type wireguard",
    "vlan": "ip link add low0 type veth peer name low1; ip link add link low0 name x type vlan id 5",
    "dummy": "ip link add x type dummy",
    "vrf": "ip link add x type vrf table 10",
    "ifb": "ip link add x type ifb",
    "tun": "ip tuntap add dev x mode tap",
}
QDISCS = {
    "tbf": "root tbf rate 1mbit burst 10k latency 50ms",
    "htb": "root handle 1: htb default 1",
    "netem": "root netem delay 20ms loss 1%",
    "ingress": "handle ffff: ingress",
    "fq": "root fq",
    "fq_codel": "root fq_codel",
    "prio": "root prio",
    "red": "root red limit 60000 avpkt 1000",
    "cake": "root cake bandwidth 10mbit",
}
_BASE = "table inet t { chain c { type filter hook input priority 0; %s; }; }"
_NAT = "table ip t { chain c { type nat hook postrouting priority 100; masquerade; }; }"
RULES = {
    "nftables": (_BASE % "tcp dport 80 accept", "dport 80 accept"),
    "nft-nat": (_NAT, "masquerade"),
    "nft-numgen": (_BASE % "numgen random mod 100 < 5 drop", "numgen random mod 100 < 5 drop"),
    "nft-queue": (_BASE % "queue num 3", r"queue (num|to) 3"),
    "nft-flowtable": (
        "table inet t { flowtable f { hook ingress priority 0; devices = { lo }; };"
        " chain c { type filter hook forward priority 0; meta l4proto tcp flow add @f; }; }",
        "flow add @f",
    ),
    "nft-bridge-conntrack": (
        "table bridge t { chain c { type filter hook forward priority 0; ct state established accept; }; }",
        "ct state established accept",
    ),
}
# EOPNOTSUPP, ENOENT, and what the bridge family answers for a tracker that isn't there (EPROTO).
UNKNOWN = re.compile(
    r"(?m)^.*(not supported|Unknown device type|qdisc kind is unknown|No such file or directory|Protocol error).*$"
)


@pytest.fixture(scope="module")
def here() -> Report:
    return doctor()


def inside(script: str) -> subprocess.CompletedProcess[str]:
    """A shell script in fresh user and network namespaces; both streams are one text."""
    return subprocess.run(
        ["unshare", "-Urn", "sh", "-ec", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=patient(20), check=False,
    )  # fmt: skip


def judge(name: str, here: Report, done: subprocess.CompletedProcess[str], shown: str) -> None:
    """Passes, or skips for a lack; the doctor, where it probes this at all, must say the same."""
    uses(name)
    works = done.returncode == 0
    if name in here:
        assert here[name].ok is works, (here[name], done.stdout)
    if not works:
        lack = UNKNOWN.search(done.stdout)
        assert lack, done.stdout
        pytest.skip(f"this kernel has no {name}: {lack[0]}")
    assert re.search(shown, done.stdout), done.stdout


@pytest.mark.parametrize("name", LINKS)
def test_a_link(name: str, here: Report) -> None:
    if name in ("ifb", "tun") and not here[name].ok:
        # Trying ifb would add ifb0 and ifb1 to the machine where it is a module; /dev/net/tun may be root's alone,
        # who is not the root of a lab.
        uses(name)
        pytest.skip(here[name].detail)
    judge(name, here, inside(f"ip link set lo up; {LINKS[name]}; ip -d link show x"), rf"\n    {name}\b")


@pytest.mark.parametrize("name", QDISCS)
def test_a_qdisc(name: str, here: Report) -> None:
    script = f"ip link add x type veth peer name y; tc qdisc add dev x {QDISCS[name]}; tc qdisc show dev x"
    judge(name, here, inside(script), rf"qdisc {name} ")


@pytest.mark.parametrize("name", RULES)
def test_a_rule(name: str, here: Report) -> None:
    if not shutil.which("nft"):
        pytest.skip("no program nft (package nftables)")
    rules, shown = RULES[name]
    judge(name, here, inside(f"ip link set lo up; nft '{rules}'; nft list ruleset"), shown)


def test_a_delay_is_had(here: Report) -> None:
    """Both ways through lo: twice the delay, whatever the machine's own speed adds."""
    uses("netem")
    if not here["netem"].ok:
        pytest.skip(here["netem"].detail)
    done = inside("ip link set lo up; tc qdisc add dev lo root netem delay 60ms; ping -n -c 3 -i 0.2 127.0.0.1")
    assert done.returncode == 0, done.stdout
    found = re.search(r"rtt min/avg/max/mdev = ([0-9.]+)/", done.stdout)
    assert found is not None and float(found[1]) >= 120, done.stdout


TWO = """
ip link set lo up; ip link add low0 type veth peer name low1; ip link set low0 up; ip link set low1 up
unshare -n sleep 60 & first=$!; unshare -n sleep 60 & second=$!
trap 'kill $first $second' EXIT
for pid in $first $second; do
    while [ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
done
ip link add link low0 name one type {kind} mode {mode}
ip link add link low0 name two type {kind} mode {mode}
ip link set one netns $first; ip link set two netns $second
for end in "$first one 1" "$second two 2"; do
    set -- $end
    nsenter -t $1 -n sh -ec "ip link set $2 up; ip addr add 10.9.0.$3/24 dev $2"
done
nsenter -t $first -n ping -n -c 2 -W 5 10.9.0.2
"""


@pytest.mark.parametrize(("name", "mode"), [("macvlan", "bridge"), ("ipvlan", "l2")])
def test_two_of_one_parent_hear_each_other(name: str, mode: str, here: Report) -> None:
    uses(name)
    if not here[name].ok:
        pytest.skip(here[name].detail)
    done = inside(TWO.format(kind=name, mode=mode))
    assert done.returncode == 0 and " 0% packet loss" in done.stdout, done.stdout


# Two WireGuard peers in two network namespaces, over a veth pair; the kernel derives the public keys.
TUNNEL = """
import base64, os, subprocess, sys
from pyroute2 import IPRoute, WireGuard
def run(*words):
    subprocess.run(words, check=True)
def enter(name):
    descriptor = os.open(f"/proc/{holders[name].pid}/ns/net", os.O_RDONLY)
    os.setns(descriptor, os.CLONE_NEWNET)
    os.close(descriptor)
own = os.readlink("/proc/self/ns/net")
holders = {name: subprocess.Popen(["unshare", "-n", "sleep", "120"]) for name in "ab"}
try:
    for holder in holders.values():
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            pass
    enter("a")
    run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(holders["b"].pid))
    public = {}
    for number, name in enumerate("ab", 1):
        enter(name)
        run("ip", "addr", "add", f"10.8.0.{number}/24", "dev", "wire")
        run("ip", "link", "set", "wire", "up")
        run("ip", "link", "add", "wg0", "type", "wireguard")
        with WireGuard() as guard:
            key = base64.b64encode(os.urandom(32)).decode()
            guard.set("wg0", private_key=key, listen_port=5000)
            public[name] = guard.info("wg0")[0].get_attr("WGDEVICE_A_PUBLIC_KEY").decode().rstrip("\\0")
    for number, (name, other) in enumerate(("ab", "ba"), 1):
        enter(name)
        with WireGuard() as guard:
            guard.set("wg0", peer={"public_key": public[other], "endpoint_addr": f"10.8.0.{3 - number}",
                                   "endpoint_port": 5000, "allowed_ips": ["10.7.0.0/24"]})
        run("ip", "addr", "add", f"10.7.0.{number}/24", "dev", "wg0")
        run("ip", "link", "set", "wg0", "up")
    run("ping", "-n", "-c", "2", "-W", "5", "10.7.0.1")
finally:
    for holder in holders.values():
        holder.kill()
        holder.wait()
"""


def test_a_tunnel_of_wireguard() -> None:
    uses("wireguard")
    tried = inside("ip link add x type wireguard")
    if tried.returncode:
        assert UNKNOWN.search(tried.stdout), tried.stdout
        pytest.skip(f"this kernel has no wireguard: {tried.stdout.strip()}")
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-B", "-c", TUNNEL], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=patient(20), check=False,
    )  # fmt: skip
    assert done.returncode == 0 and " 0% packet loss" in done.stdout, done.stdout
