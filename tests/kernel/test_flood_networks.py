"""A container that asks the resolver without end, or fills its network's tables, leaves the others at work."""

from __future__ import annotations

import time

import pytest
from floods_help import CALM_SECONDS, at_work
from kernel_help import patient, wait_until

import ctlab

pytestmark = pytest.mark.kernel

QUERIES = """
import os, socket, time
query = os.urandom(2) + bytes.fromhex("0100000100000000000005666c6f6f640000010001")
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("begun", flush=True)
end = time.monotonic() + 60  # it is killed before
while time.monotonic() < end:
    for _ in range(100):
        try:
            sock.sendto(query, (%r, 53))
        except OSError:
            pass
"""


def test_dns(flooded: ctlab.Lab) -> None:
    """Who shares the flooded network has its names again once it is over; another network's are there all the time."""
    flooded.network("other")
    one = flooded.run(["sleep", "60"], name="one", networks="other")
    flooded.run(["sleep", "60"], name="two", networks="other")
    gateway = flooded.networks["bridge"].gateways[0].partition("/")[0]
    flooded.run(["sleep", "60"], name="same")
    flood = flooded.run(["python3", "-c", QUERIES % gateway], name="flood")
    assert wait_until(lambda: flood.logs() == "begun\n", 10)
    begun = time.monotonic()
    assert one.exec(["getent", "hosts", "two"]).stdout.endswith("two\n")
    assert time.monotonic() - begun < patient(CALM_SECONDS)
    at_work(flooded)
    assert flood.state == "running", "it went on all the while"
    flood.kill()
    flood.wait(patient(10))
    begun = time.monotonic()
    assert flooded["calm"].exec(["getent", "hosts", "same"]).stdout.endswith("same\n")
    assert flooded["calm"].exec(["getent", "hosts", "flood"]).returncode == 2, "it has ended"
    assert time.monotonic() - begun < patient(CALM_SECONDS)
    one.remove()
    flooded["two"].remove()
    flooded.networks["other"].remove()


LINKS, ROUTES = 200, 2000


def test_netlink_objects(flooded: ctlab.Lab) -> None:
    """Interfaces, routes and neighbours (permanent ones: others are counted for the whole machine) of its own."""
    lines = []
    for number in range(LINKS):
        lines.append(f"link add v{number} type veth peer name w{number}")
    for number in range(ROUTES):
        lines.append(f"route add blackhole 172.{16 + number // 65536}.{number // 256 % 256}.{number % 256}/32")
        lines.append(f"neigh add 10.99.{number // 256}.{number % 256} lladdr 02:00:00:00:00:01 nud permanent dev lo")
    flood = flooded.run(["sleep", "60"], name="flood", cap_add="NET_ADMIN")
    process = flood.exec(["ip", "-batch", "-"], stdin="\n".join(lines), detach=True)
    at_work(flooded)
    assert process.wait(patient(20)) == 0
    assert len(flood.routes()) > ROUTES
    at_work(flooded)
    begun = time.monotonic()
    flood.remove()
    at_work(flooded)
    assert time.monotonic() - begun < patient(10)
