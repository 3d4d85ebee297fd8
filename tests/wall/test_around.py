"""What stands beside the wall: the terminal of who started it, neighbours on its network, sockets without a file."""

from __future__ import annotations

import os
import pty
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import ROOT, need_ids, patient, wait_until

from ctlab import asking

pytestmark = pytest.mark.kernel

# -- the terminal (CVE-2016-9962, 2017-5226) --------------------------------------------------------------------------
TYPED = "typed by the container"
PUSH = f"""
import fcntl, os, sys, termios
for where in (0, 1, 2, "/dev/tty", "/dev/console", "/dev/pts/0", "/dev/tty0", "/dev/tty1"):
    try:
        number = where if isinstance(where, int) else os.open(where, os.O_RDWR | os.O_NOCTTY)
    except OSError:
        continue
    try:
        for sign in {TYPED!r} + chr(10):
            fcntl.ioctl(number, termios.TIOCSTI, sign.encode())
        print("pushed", where)
    except OSError:
        pass
    try:
        fcntl.ioctl(number, termios.TIOCSCTTY, 0)
        print("took", where)
    except OSError:
        pass
    try:
        fcntl.ioctl(number, 0x541C, bytes([3]))  # TIOCLINUX: paste what is marked
        print("pasted", where)
    except OSError:
        pass
"""
OWNER = f"""
import sys, ctlab
code = {PUSH!r}
with ctlab.Lab("terminal") as lab:
    plain = lab.run(["python3", "-c", code]); plain.wait(30); shown = plain.logs()
    for options in (dict(tty=True), dict(stdin="x"), dict(init=True)):
        made = lab.run(["python3", "-c", code], **options); made.wait(30); shown += made.logs()
    idle = lab.run()
    for options in (dict(), dict(tty=True), dict(stdin="x")):
        shown += idle.exec(["python3", "-c", code], **options).stdout
    shown += idle.script("python3 -c '" + code.replace("'", "'\\\\''") + "'").stdout
    print("SHOWN", sorted(set(shown.splitlines())), flush=True)
print("READY", flush=True)
sys.stdin.readline()
"""


def test_nothing_is_typed_into_the_terminal_of_who_started_it() -> None:
    """An owner with a controlling terminal: what containers push into every terminal they find isn't read there."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        os.execv(sys.executable, [sys.executable, "-B", "-c", OWNER])
    said = b""
    try:
        until = time.monotonic() + patient(40)
        while b"READY" not in said and time.monotonic() < until:
            if select.select([terminal], [], [], 0.5)[0]:
                try:
                    said += os.read(terminal, 65536)
                except OSError:
                    break
        assert b"READY" in said, said.decode()
        if select.select([terminal], [], [], 0.3)[0]:
            said += os.read(terminal, 65536)
        assert TYPED.encode() not in said, "it came as if somebody had typed it"
        shown = said.decode().partition("SHOWN ")[2]
        assert "Error" not in shown, shown
        switch = Path("/proc/sys/dev/tty/legacy_tiocsti")  # since Linux 6.2; before, everyone may
        if not switch.exists() or switch.read_text() != "0\n":
            assert "pushed /dev/tty'" in shown, f"into its own terminal it may, or this proves nothing: {shown}"
        assert "/dev/console" not in shown and "/dev/tty0" not in shown, shown
    finally:
        os.write(terminal, b"\n")
        os.waitpid(child, 0)
        os.close(terminal)


# -- sockets without a file -------------------------------------------------------------------------------------------
CONNECT = """
import socket, sys
for kind in (1, 2, 5):
    s = socket.socket(socket.AF_UNIX, kind)
    try:
        s.connect(chr(0) + sys.argv[1]); print("connected", kind)
    except OSError:
        pass
"""
LISTEN = """
import socket, sys, time
kept = []
for kind in (1, 2, 5):
    s = socket.socket(socket.AF_UNIX, kind); s.bind(chr(0) + sys.argv[1] + str(kind)); kept.append(s)
    if kind != 2: s.listen()
print("listening", flush=True)
time.sleep(60)
"""


def test_abstract_sockets_of_the_machine_and_of_others_are_out_of_reach(lab: Any) -> None:
    """They belong to a network: the machine's is nobody's here, and containers meet where they share one."""
    name = f"ctlab-wall-{os.getpid()}"
    kept = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        one = socket.socket(socket.AF_UNIX, kind)
        one.bind(f"\0{name}" if kind == socket.SOCK_STREAM else f"\0{name}{kind.value}")
        kept.append(one)
    kept[0].listen()
    listening = lab.run(["python3", "-c", LISTEN, "of-a-container"], name="listening")
    for options in ({}, {"networks": ["none"]}, {"networks": ["host"]}):
        container = lab.run(**options)
        for target in (name, *(f"{name}{kind}" for kind in (2, 5)), *(f"of-a-container{kind}" for kind in (1, 2, 5))):
            assert container.exec(["python3", "-c", CONNECT, target]).check().stdout == "", (options, target)
        names = container.exec(["cat", "/proc/net/unix"]).check().stdout
        assert "@" not in names, "no socket of the lab's own processes either"
    shared = lab.run(networks=["container:listening"])
    deadline = time.monotonic() + patient(10)
    while "listening" not in listening.logs() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "connected 1" in shared.exec(["python3", "-c", CONNECT, "of-a-container1"]).check().stdout
    for one in kept:
        one.close()


# -- neighbours -------------------------------------------------------------------------------------------------------
FORGE = """
import socket, struct, sys
claimed, target = sys.argv[1:3]
try:
    s = socket.socket(17, socket.SOCK_RAW, socket.htons(3)); s.bind(("eth0", 0))
except PermissionError:
    print("no frames")
else:
    mine = s.getsockname()[4]
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, mine, socket.inet_aton(claimed), b"\\xff" * 6,
                      socket.inet_aton(target))
    for _ in range(5):
        s.send(b"\\xff" * 6 + mine + struct.pack("!H", 0x806) + arp)
    print("sent frames")
try:
    r = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
except PermissionError:
    print("no advertisements")
except OSError as error:
    print("no advertisements:", error)
else:
    r.setsockopt(41, 18, 255)
    advert = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    try:
        r.sendto(advert, ("ff02::1%eth0", 0)); print("sent advertisements")
    except OSError as error:
        print("advertisements weren't sent:", error)
"""


def test_a_container_forges_no_frames_by_default(lab: Any) -> None:
    """ARP answers and router advertisements for others need NET_RAW, which only `--cap-add` gives."""
    victim = lab.run(name="victim")
    plain = lab.run(name="plain")
    said = plain.exec(["python3", "-c", FORGE, "10.255.0.1", str(victim.address())]).check().stdout
    assert said.splitlines()[0] == "no frames" and "sent" not in said, said
    if not lab._client.facts["single_id"]:
        need_ids(lab)
        said = plain.exec(["python3", "-c", FORGE, "10.255.0.1", "10.0.0.1"], user="1000").check().stdout
        assert said.splitlines()[0] == "no frames" and "sent" not in said, said


def believed(lab: Any, container: Any, about: str) -> str:
    """The hardware address that a container, or the node (None), has in its table of neighbours for an address."""
    names = asking.link_names(lab, None)
    table = asking.neighbours(lab, None, names) if container is None else container.neighbours()
    return " ".join(str(row["lladdr"]) for row in table if row["dst"] == about)


def test_forged_frames_stay_on_their_network(lab: Any) -> None:
    """With NET_RAW a container deceives who shares its network, the node included; another network is out of reach."""
    lab.network("one", subnet="10.61.0.0/24")
    lab.network("two", subnet="10.62.0.0/24")
    elsewhere = lab.run(name="elsewhere", networks=["two"])
    same = lab.run(name="same", networks=["one"])
    attacker = lab.run(name="attacker", networks=["one"], cap_add=["NET_RAW"])
    for one in (elsewhere, same):  # the resolver answers: now each stands in the node's table, and the node in its own
        one.exec(["getent", "hosts", "attacker"])
    macs = {one.name: one.endpoints[0].mac for one in (elsewhere, same, attacker)}
    address = {one.name: str(one.address()) for one in (elsewhere, same)}
    gateways = {"elsewhere": "10.62.0.1", "same": "10.61.0.1"}
    assert {name: believed(lab, None, address[name]) for name in address} == {name: macs[name] for name in address}
    of_gateways = {name: believed(lab, lab[name], gateways[name]) for name in gateways}
    assert macs["attacker"] not in of_gateways.values() and all(of_gateways.values())
    routes = lab.nodes["host"].routes(), elsewhere.routes(), same.routes()

    def forge() -> None:
        for name in ("elsewhere", "same"):
            for claimed, target in ((address[name], gateways[name]), (gateways[name], address[name])):
                said = attacker.exec(["python3", "-c", FORGE, claimed, target]).check().stdout
                assert "sent frames" in said, said

    def deceived() -> bool:
        forge()  # the kernel takes no second answer within a second
        found = believed(lab, None, address["same"]), believed(lab, same, gateways["same"])
        return found == (macs["attacker"],) * 2

    assert wait_until(deceived, 5, step=0.3), "or what is asserted of the other network proves nothing"
    assert believed(lab, None, address["elsewhere"]) == macs["elsewhere"]
    assert believed(lab, elsewhere, gateways["elsewhere"]) == of_gateways["elsewhere"]
    assert (lab.nodes["host"].routes(), elsewhere.routes(), same.routes()) == routes, "no router was believed"


ADVERTISE = """
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("eth0", 0x86DD))
mine = s.getsockname()[4]
source = socket.inet_pton(socket.AF_INET6, "fe80::bad"); all_nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
def advert(check):
    return struct.pack("!BBHBBHII", 134, 0, check, 64, 0, 1800, 0, 0) + b"\\x01\\x01" + mine
data = source + all_nodes + struct.pack("!IHBB", len(advert(0)), 0, 0, 58) + advert(0)
total = sum(struct.unpack(f"!{len(data) // 2}H", data))
while total >> 16:
    total = (total & 0xFFFF) + (total >> 16)
packet = struct.pack("!IHBB", 6 << 28, len(advert(0)), 58, 255) + source + all_nodes + advert(~total & 0xFFFF)
for _ in range(5):
    s.send(b"\\x33\\x33\\x00\\x00\\x00\\x01" + mine + b"\\x86\\xdd" + packet)
print("sent")
"""


def test_a_router_that_announces_itself_is_not_believed(lab: Any) -> None:
    lab.network("six", subnet="10.63.0.0/24", ipv6=True)
    victims = [lab.run(name="slot", networks=["six"]), lab.run(name="made", networks=["six"], cap_add="NET_ADMIN")]
    attacker = lab.run(name="attacker", networks=["six"], cap_add=["NET_RAW"])
    before = [victim.exec(["ip", "-6", "route"]).check().stdout for victim in victims]
    assert attacker.exec(["python3", "-c", ADVERTISE]).check().stdout == "sent\n"
    time.sleep(0.3)  # nothing announces that nothing comes of it
    assert [victim.exec(["ip", "-6", "route"]).check().stdout for victim in victims] == before
    assert not any("fe80::bad" in text for text in before)
