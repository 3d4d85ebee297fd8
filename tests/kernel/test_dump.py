"""The kernel's tables, asked inside a network namespace and read outside, against what the programs in there say."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from kernel_help import held_beside_slots, wait_until

from ctlab import asking
from ctlab.errors import CtlabError, KernelError, StateError
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel

RTM_GETLINK, RTM_GETROUTE = 18, 26
REQUEST, DUMP = 1, 0x300


def request(kind: int, flags: int, body: int) -> str:
    return (struct.pack("=IHHII", 16 + body, kind, flags, 1, 0) + bytes(body)).hex()


def test_tables_are_those_that_ip_shows(lab: Any) -> None:
    web = lab.run()
    told = json.loads(web.exec(["ip", "-j", "addr"]).check().stdout)
    links = asking.ask(lab, web.id, "links")
    assert {e["index"]: e["attributes"]["IFLA_IFNAME"] for e in links} == {e["ifindex"]: e["ifname"] for e in told}
    addresses = {(e["index"], e["attributes"]["IFA_ADDRESS"]) for e in asking.ask(lab, web.id, "addresses")}
    assert addresses == {(e["ifindex"], a["local"]) for e in told for a in e["addr_info"]}
    routes = json.loads(web.exec(["ip", "-j", "route"]).check().stdout)
    assert {(r["dst"], r["dev"]) for r in web.routes() if ":" not in r["dst"]} == {
        (r["dst"] if r["dst"] == "default" or "/" in r["dst"] else f"{r['dst']}/32", r["dev"]) for r in routes
    }


def test_a_table_larger_than_a_packet_arrives_whole(lab: Any) -> None:
    """3000 routes: about 150 KB of the kernel's messages in some ten parts, beyond what one packet holds."""
    web = lab.run(cap_add=["NET_ADMIN"])
    batch = "".join(f"route add 198.18.{n // 200}.{n % 200} dev eth0\n" for n in range(3000))
    web.exec(["ip", "-batch", "-"], stdin=batch).check()
    found = {route["dst"] for route in web.routes()}
    assert {f"198.18.{n // 200}.{n % 200}/32" for n in range(3000)} <= found
    assert len(
        lab._call(messages.Dump(web.id, request(RTM_GETROUTE, REQUEST | DUMP, 12)), messages.Dumped).message.reply
    ) > (200_000)


@pytest.mark.parametrize(
    "asked",
    [request(RTM_GETLINK, REQUEST, 16), request(RTM_GETLINK, REQUEST | 0x100, 16), "", "00" * 8],
)
def test_what_is_no_dump_is_refused_and_the_lab_goes_on(lab: Any, asked: str) -> None:
    with pytest.raises(CtlabError, match="only netlink dumps"):
        lab._call(messages.Dump(None, asked), messages.Dumped)
    assert lab.nodes[0].links()


def test_what_the_kernel_refuses_is_named(lab: Any) -> None:
    """A message type that there isn't: the kernel's own answer comes back, and is raised."""
    answer = lab._call(messages.Dump(None, request(0x3FF, REQUEST | DUMP, 16)), messages.Dumped).message.reply
    with pytest.raises(KernelError, match="netlink dump of links: Operation not supported") as caught:
        asking.decode("links", bytes.fromhex(answer))
    assert caught.value.number == 95


def test_questions_leave_nothing_open(lab: Any) -> None:
    web = lab.run()
    web.routes()
    before = held_beside_slots(lab)
    for _ in range(20):
        web.routes()
        web.neighbours()
    # The supervisor has a sampled container's folders open for a moment: what counts is what stays.
    assert wait_until(lambda: not held_beside_slots(lab) - before), held_beside_slots(lab) - before


def test_a_container_that_has_ended_has_no_tables(lab: Any) -> None:
    web = lab.run(["true"])
    web.wait(timeout=5)
    with pytest.raises(StateError):
        asking.ask(lab, web.id, "routes")


RENAME = """
import fcntl, socket, struct
ours, name = socket.socket(), bytes.fromhex("fffe802c5b1b5b324a")
def up(name, flag): fcntl.ioctl(ours, 0x8914, struct.pack("16sH14x", name, flag))  # SIOCSIFFLAGS
up(b"eth0", 0)
fcntl.ioctl(ours, 0x8923, struct.pack("16s16s", b"eth0", name))  # SIOCSIFNAME
up(name, 1)
"""


def test_an_interface_whose_name_is_no_text_has_one_all_the_same(lab: Any) -> None:
    web = lab.run(cap_add=["NET_ADMIN"])
    web.exec(["python3", "-c", RENAME]).check()
    assert "\\xff\\xfe\\x80,[\x1b[2J" in {route["dev"] for route in web.routes()}
    json.dumps([web.routes(), web.neighbours(), web.inspect()])
