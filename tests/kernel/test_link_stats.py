"""The counters of interfaces, read by netlink, against those that pyroute2 reads."""

from __future__ import annotations

import json

import pytest
from sampler_world import NEW_NETWORK, python

pytestmark = pytest.mark.kernel


COMPARE = (
    NEW_NETWORK
    + """
ip.link("set", index=1, state="up")
for n in range(60):
    ip.link("add", ifname=f"v{n}", kind="veth", peer=f"w{n}")
for name in ("v0", "w0", "v1", "w1"):
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
import time
until = time.monotonic() + 5  # a link that has just come up drops what is sent before the kernel's link watch ran
while time.monotonic() < until and ip.get_links(ifname="v0")[0].get_attr("IFLA_OPERSTATE") != "UP":
    time.sleep(0.005)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("v0", 0x88B5))
for n in range(7):
    raw.send(b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5" + bytes(100 + n))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(bytes(1000), ("127.0.0.1", 9))
time.sleep(0.1)
counters = link_stats.LinkCounters(link_stats.open_socket())
for attempt in range(50):  # background packets (IPv6, of the first seconds) may fall between two dumps
    judge = {}
    for link in ip.get_links():
        s = link.get_attr("IFLA_STATS64")
        judge[link["index"]] = [s[f"{d}_{w}"] for d in ("rx", "tx") for w in ("bytes", "packets", "errors", "dropped")]
    by_stats = counters.read()
    first = counters.request
    counters.request = link_stats.RTM_GETLINK
    by_link = counters.read()
    counters.request = link_stats.RTM_GETSTATS
    as_lists = [{i: list(c) for i, c in found.items()} for found in (by_stats, by_link)]
    if as_lists == [judge, judge]:
        break
    time.sleep(0.1)
print(json.dumps({
    "judge": judge, "stats": by_stats, "link": by_link, "v0": ip.link_lookup(ifname="v0")[0],
    "w0": ip.link_lookup(ifname="w0")[0], "swapped": link_stats.swapped((1, 2, 3, 4, 5, 6, 7, 8)),
}))
"""
)


def test_link_counters_are_those_that_pyroute2_reads() -> None:
    answer = json.loads(python(COMPARE))
    assert len(answer["judge"]) == 121
    assert answer["stats"] == answer["judge"]
    assert answer["link"] == answer["judge"]
    sent, received = answer["stats"][str(answer["v0"])], answer["stats"][str(answer["w0"])]
    assert sent[4] >= sum(114 + n for n in range(7)) and sent[5] >= 7  # tx bytes, packets
    assert received[0] >= sum(114 + n for n in range(7)) and received[1] >= 7
    assert answer["stats"]["1"][0] >= 1028
    assert answer["swapped"] == [5, 6, 7, 8, 1, 2, 3, 4]
