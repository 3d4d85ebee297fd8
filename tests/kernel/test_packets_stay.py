"""Nothing of a lab leaves by the machine's own interfaces, and nothing of the machine is in the lab's network."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient, uses, wait_until

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
pytestmark = pytest.mark.kernel

# Sends a marked packet everywhere that might lie outside; what the kernel refuses at once is fine.
SEND = """
import socket, sys
mark = sys.argv[1].encode()
places = ["192.0.2.1", "198.51.100.7", "8.8.8.8", "255.255.255.255", "224.0.0.251", "169.254.169.254", "10.88.0.255"]
places += ["2001:db8::1", "ff02::fb", "fe80::1"] + sys.argv[2:]
for place in places:
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    for port in (53, 5353, 80):
        sender = socket.socket(family, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            scope = (0, 2) if place[0] == "f" else ()
            sender.sendto(mark, (place, port, *scope))
        except OSError:
            pass
"""


def own_addresses() -> list[str]:
    """Addresses of the machine's own interfaces, the loopback's aside."""
    found = []
    with contextlib.suppress(socket.gaierror):  # a machine without a network has no name for itself either
        for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_DGRAM):
            found.append(str(info[4][0]))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; asks the routing table which address would be used
        found.append(probe.getsockname()[0])
    return sorted({address for address in found if not address.startswith("127.") and address != "::1"})


@pytest.mark.parametrize("network", ["bridge", "host", "inner"])
def test_marked_packets_are_not_seen_on_the_machines_interfaces(lab: Any, network: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to capture on the machine's interfaces")
    if network == "inner":
        lab.network("inner", ipv6=True, internal=True)
    container = lab.run(networks=network)
    mark = f"ctlab-mark-{os.getpid()}-{time.monotonic_ns()}"
    everything = 0x0003  # ETH_P_ALL
    uses("packet-socket")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything)) as capture:
        capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)  # nothing is lost of what else goes on
        container.exec(["python3", "-c", SEND, mark, *own_addresses()]).check()
        # The capture works: a packet that this machine sends to itself is seen, and it comes behind all the others.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(f"end-{mark}".encode(), ("127.0.0.1", 9))
        found = []
        until = time.monotonic() + patient(5)
        while time.monotonic() < until and select.select([capture], [], [], 1.0)[0]:
            packet = capture.recv(65536)
            if f"end-{mark}".encode() in packet:
                break
            if mark.encode() in packet:
                found.append(packet)
        else:
            pytest.fail("the capture did not see this machine's own packet")
    assert found == []


def test_the_node_has_no_way_out(lab: Any) -> None:
    lab.network("blue", subnet="10.61.0.0/24", ipv6=True)
    host = lab.run(networks="host")
    machine = {path.parent.name for path in Path("/sys/class/net").glob("*/ifindex")} - {"lo"}
    shown = set(host.exec(["ls", "/sys/class/net"]).check().stdout.split())
    assert shown & {"lo", "br-blue"} == {"lo", "br-blue"}
    assert not {name for name in shown if name in machine and not name.startswith(("br-", "v", "spare"))}
    for family in ("-4", "-6"):
        assert host.exec(["ip", family, "route", "show", "default"]).stdout == ""
    assert "10.61.0.0/24 dev br-blue" in host.exec(["ip", "route"]).stdout
    assert host.exec(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"
    assert host.exec(["cat", "/proc/sys/net/ipv6/conf/all/forwarding"]).stdout == "0\n"


def test_outside_addresses_are_unreachable_at_once_or_never(lab: Any) -> None:
    container = lab.run()
    script = (
        "import socket, sys; s = socket.socket(); s.settimeout(0.4)\n"
        "try: s.connect((sys.argv[1], 80)); print('connected')\nexcept OSError as error: print('no', error)"
    )
    for address in ("192.0.2.1", "8.8.8.8", "169.254.169.254", *[a for a in own_addresses() if ":" not in a]):
        assert container.exec(["python3", "-c", script, address]).check().stdout.startswith("no "), address


def test_names_of_the_world_are_not_asked_for(lab: Any) -> None:
    container = lab.run()
    begun = time.monotonic()
    assert container.exec(["getent", "hosts", "example.org"]).returncode == 2
    assert time.monotonic() - begun < patient(1.5)


def test_the_machine_is_as_it_was(lab: Any) -> None:
    def state() -> dict[str, str]:
        files = ("/proc/net/route", "/proc/net/ipv6_route", "/proc/net/fib_trie", "/proc/sys/net/ipv4/ip_forward")
        found = {file: Path(file).read_text() for file in files if os.path.exists(file)}
        # Counters of routes and caches move by themselves.
        six = found.get("/proc/net/ipv6_route", "").splitlines()
        found["/proc/net/ipv6_route"] = "\n".join(line[:66] for line in six)
        return found | {"interfaces": " ".join(sorted(os.listdir("/sys/class/net")))}

    before = state()
    for n in range(3):
        lab.network(f"n{n}", ipv6=True)
        lab.run(networks=[f"n{n}"]).exec(["ping", "-c1", "-W1", "127.0.0.1"]).check()
    assert wait_until(lambda: state() == before), state()
