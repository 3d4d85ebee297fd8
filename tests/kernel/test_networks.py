"""Networks on the real kernel: addresses, names, connecting while it runs, isolation, first packets."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kernel_help import patient, uses, wait_until

from ctlab.errors import AddressError, BadInput, NotFound, StateError

pytestmark = pytest.mark.kernel

ASK = r"""
import socket, struct, sys
server, name, kind = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in server else socket.AF_INET
asker = socket.socket(family, socket.SOCK_DGRAM)
asker.settimeout(3)
question = struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0)
question += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
question += struct.pack("!HH", kind, 1)
asker.sendto(question, (server, 53))
print(asker.recv(4096).hex())
"""
A, PTR, AAAA, NXDOMAIN = 1, 12, 28, 3


def ask(container: Any, name: str, kind: int, server: str | None = None) -> tuple[int, list[str]]:
    """(response code, what the answers hold) of one DNS question asked inside a container."""
    if server is None:
        server = container.exec(["sed", "-n", "s/^nameserver //p", "/etc/resolv.conf"]).check().stdout.split()[0]
    packet = bytes.fromhex(container.exec(["python3", "-c", ASK, server, name, str(kind)]).check().stdout.strip())
    identifier, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", packet)
    assert identifier == 77
    offset = packet.index(b"\0", 12) + 5
    found = []
    for _ in range(answers):
        _, record, _, _, length = struct.unpack_from("!HHHIH", packet, offset)
        data = packet[offset + 12 : offset + 12 + length]
        offset += 12 + length
        if record == PTR:
            found.append(data[1 : 1 + data[0]].decode())
        else:
            found.append(socket.inet_ntop(socket.AF_INET if record == A else socket.AF_INET6, data))
    return flags & 15, found


def interfaces(container: Any) -> dict[str, dict[str, Any]]:
    found = json.loads(container.exec(["ip", "-j", "addr"]).check().stdout)
    return {entry["ifname"]: entry for entry in found}


def addresses(container: Any, interface: str) -> set[str]:
    entry = interfaces(container)[interface]
    return {f"{a['local']}/{a['prefixlen']}" for a in entry["addr_info"] if a["scope"] == "global"}


def default_route(container: Any, family: str = "-4") -> tuple[str, str] | None:
    found = json.loads(container.exec(["ip", "-j", family, "route", "show", "default"]).check().stdout or "[]")
    return (found[0]["gateway"], found[0]["dev"]) if found else None


def listen(lab: Any, port: int = 8000, **options: Any) -> Any:
    """A container that answers each TCP connection with its own name and closes."""
    script = (
        f"import socket; s = socket.create_server(('::', {port}), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "while True:\n c = s.accept()[0]; c.sendall(socket.gethostname().encode()); c.close()"
    )
    container = lab.run(["python3", "-c", script], **options)
    lab.wait_for(container, port)
    return container


def fetch(container: Any, host: str, port: int = 8000, timeout: float = 3) -> Any:
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])); "
        "print(s.recv(99).decode())"
    )
    return container.exec(["python3", "-c", script, host, str(port), str(timeout)])


SENDER = """
import socket, time
listener = socket.create_server(("", 81))
print("listens", flush=True)
taker, _ = listener.accept()
taker.setblocking(False)
try:
    while True:
        taker.send(b"x" * 65536)
except BlockingIOError:
    print("full", flush=True)
time.sleep(1000)
"""
TAKER = "import socket, time; peer = socket.create_connection(('sender', 81)); time.sleep(1000)"


@pytest.mark.long_in_guest
def test_what_has_ended_answers_nobody_whatever_its_connections_wait_for(lab: Any) -> None:
    """A connection with something to send keeps the dead's namespace, and in it the address, for minutes."""
    lab.network("blue")
    sender = lab.run(["python3", "-c", SENDER], name="sender", networks=["blue"])
    assert wait_until(lambda: "listens" in sender.logs())
    taker = lab.run(["python3", "-c", TAKER], name="taker", networks=["blue"])
    assert wait_until(lambda: "full" in sender.logs())
    address = sender.address("blue")
    ping = ["ping", "-c1", "-W1", str(address)]
    taker.exec(ping).check()
    for end in (sender.kill, sender.remove):
        end()
        assert taker.exec(ping).returncode == 1, "it answers after its end"
        # The one link that carries its name is gone, too, though nothing has taken what it sent.
        assert wait_until(lambda: not [link for link in lab.nodes["host"].links() if link["alias"] == "sender:blue"])
        if end == sender.kill:
            sender.start()
            assert wait_until(lambda: "listens" in sender.logs())
            taker.exec(ping).check()


def test_what_the_handle_says_is_what_the_kernel_has(lab: Any) -> None:
    network = lab.network("blue", subnet="10.40.0.0/24", mtu=1400)
    container = lab.run(networks=["blue"])
    (endpoint,) = container.endpoints
    entry = interfaces(container)["eth0"]
    assert addresses(container, "eth0") == {"10.40.0.2/24"} == set(endpoint.addresses)
    assert (entry["address"], entry["mtu"], "LOWER_UP" in entry["flags"]) == (endpoint.mac, 1400, True)
    assert default_route(container) == ("10.40.0.1", "eth0")
    assert set(interfaces(container)) == {"lo", "eth0"}
    assert f"{container.address('blue')}" == "10.40.0.2"
    assert network.containers == [container]


def test_they_reach_each_other_by_name_and_address(lab: Any) -> None:
    lab.network("blue", subnet="10.40.0.0/24")
    web, client = listen(lab, name="web", networks=["blue"]), lab.run(networks=["blue"])
    for host in ("web", "WEB", web.addresses["blue"]):
        assert fetch(client, host).check().stdout == "web\n"
    assert client.exec(["ping", "-c1", "-W1", "web"]).returncode == 0


def test_ipv6_and_both(lab: Any) -> None:
    uses("ipv6")
    lab.network("six", subnet="fd00:6::/64")
    lab.network("both", subnet=["10.41.0.0/24", "fd00:41::/64"])
    lab.network("chosen", ipv6=True)
    alone = lab.run(networks=["six"])
    web, client = listen(lab, name="web", networks=["both"]), lab.run(networks=["both"])
    assert addresses(alone, "eth0") == {"fd00:6::2/64"}
    assert default_route(alone) is None and default_route(alone, "-6") == ("fd00:6::1", "eth0")
    assert addresses(web, "eth0") == {"10.41.0.2/24", "fd00:41::2/64"}
    assert ask(client, "web", A) == (0, ["10.41.0.2"]) and ask(client, "web", AAAA) == (0, ["fd00:41::2"])
    assert fetch(client, "10.41.0.2").stdout == fetch(client, "fd00:41::2").check().stdout == "web\n"
    other = lab.run(networks=["chosen"])
    assert {other.address("chosen").version, other.address("chosen", 6).version} == {4, 6}
    assert ask(alone, alone.name, AAAA) == (0, ["fd00:6::2"])


def test_an_ipv6_address_is_as_good_as_any(lab: Any) -> None:
    lab.network("six", subnet="fd00:66::/64")
    lab.network("both", subnet=["fd00:67::/64", "10.67.0.0/24"])
    one, two = lab.run(name="one", networks=["six", "both"]), lab.run(name="two", networks=["six"])
    assert (str(two.address()), str(two.address("six", 6))) == ("fd00:66::3", "fd00:66::3")
    assert f"{one.address('both')} {one.address('both', version=6)}" == "10.67.0.2 fd00:67::2"
    assert one.addresses == {"six": "fd00:66::2", "both": "10.67.0.2"}
    assert one.all_addresses == {"six": "fd00:66::2", "both": "10.67.0.2 fd00:67::2"}
    labels = {str(element.get("label")) for element in lab.map_elements()}
    assert "10.67.0.2" in labels and "fd00:67::2" not in labels
    assert "both 10.67.0.2 fd00:67::2" in repr(one) and "both 10.67.0.2 fd00:67::2" in one._repr_html_()
    with pytest.raises(NotFound, match=r"two has no IPv4 address on any network; it has .*fd00:66::3"):
        two.address(version=4)
    frame = lab.containers.frame().set_index("name")
    assert (frame.loc["two", "ipv4"], frame.loc["two", "ipv6"]) == (None, "fd00:66::3")
    assert one.exec(f"ping -c 1 -W 5 {two.address()}").check()


def test_addresses_asked_for(lab: Any) -> None:
    lab.network("blue", subnet=["10.42.0.0/24", "fd00:42::/64"])
    container = lab.run(networks=["blue"], ip="10.42.0.77", ip6="fd00:42::77", mac_address="02:00:00:00:00:77")
    assert addresses(container, "eth0") == {"10.42.0.77/24", "fd00:42::77/64"}
    assert interfaces(container)["eth0"]["address"] == "02:00:00:00:00:77"
    for ip, message in (("10.42.0.77", "in use|taken"), ("10.43.0.1", "outside|not in"), ("10.42.0.1", "gateway")):
        with pytest.raises(AddressError, match=message):
            lab.run(networks=["blue"], ip=ip)
    assert [c.name for c in lab.containers] == [container.name]


def test_a_subnet_that_is_used_up(lab: Any) -> None:
    lab.network("tiny", subnet="10.44.0.0/30")
    only = lab.run(networks=["tiny"])
    with pytest.raises(AddressError, match=r"10\.44\.0\.0/30"):
        lab.run(networks=["tiny"])
    only.remove()
    assert lab.run(networks=["tiny"]).addresses == {"tiny": "10.44.0.2"}


def test_names_resolve_only_across_a_shared_network(lab: Any) -> None:
    for name, subnet in (("blue", "10.45.0.0/24"), ("green", "10.46.0.0/24")):
        lab.network(name, subnet=subnet)
    web = lab.run(name="web", networks=["blue"])
    both = lab.run(name="both", networks=["blue", "green"])
    client = lab.run(name="client", networks=["green"])
    assert ask(client, "both", A) == (0, [both.addresses["green"]])
    assert sorted(ask(both, "both", A)[1]) == sorted(both.addresses.values())
    assert ask(both, "web", A) == (0, [web.addresses["blue"]])
    assert ask(client, "web", A) == (NXDOMAIN, [])
    assert ask(client, "example.org", A) == (NXDOMAIN, [])
    assert ask(client, "both", AAAA) == (0, [])
    pointer = ipaddress.ip_address(both.addresses["green"]).reverse_pointer
    assert ask(client, pointer, PTR) == (0, ["both"])
    assert ask(client, ipaddress.ip_address(web.addresses["blue"]).reverse_pointer, PTR) == (NXDOMAIN, [])
    web.kill()
    assert wait_until(lambda: ask(both, "web", A) == (NXDOMAIN, []))


def test_no_container_takes_the_resolvers_port(lab: Any) -> None:
    """On the node's network it could bind the address that everyone asks, if that could be had twice."""
    blue = lab.network("blue", subnet="10.49.0.0/24")
    web, client = lab.run(name="web", networks=["blue"]), lab.run(name="client", networks=["blue"])
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for option in ('SO_REUSEADDR', 'SO_REUSEPORT'): s.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)\n"
        "s.bind((sys.argv[1], 53))"
    )
    host = lab.run(name="there", networks=["host"])
    done = host.exec(["python3", "-c", script, str(blue.gateways[0]).partition("/")[0]])
    assert done.returncode != 0 and "in use" in done.stderr
    assert ask(client, "web", A) == (0, [web.addresses["blue"]])


def test_garbage_does_not_end_the_resolver(lab: Any) -> None:
    container = lab.run(name="web")
    server = container.exec(["sed", "-n", "s/^nameserver //p", "/etc/resolv.conf"]).stdout.strip()
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for n in range(400): s.sendto(os.urandom(n), (sys.argv[1], 53))\n"
        "head = bytes.fromhex('004d01000001000000000000')\n"
        "tails = (b'', b'\\x3f', b'\\xc0\\x0c', b'\\xff' * 90, b'\\x03www' * 200, b'\\0', b'\\0\\0\\1')\n"
        "for tail in (*tails, b'\\1.\\0\\0\\1\\0\\1'):\n"
        "    s.sendto(head + tail, (sys.argv[1], 53))"
    )
    container.exec(["python3", "-c", script, server]).check()
    assert ask(container, "web", A) == (0, [container.addresses["bridge"]])


def test_connect_and_disconnect_while_it_runs(lab: Any) -> None:
    blue, green = lab.network("blue", subnet="10.47.0.0/24"), lab.network("green", subnet="10.48.0.0/24")
    container = lab.run(name="web", networks=["blue"])
    listen(lab, name="peer", networks=["green"])
    assert ask(container, "peer", A) == (NXDOMAIN, [])
    assert green.connect(container) is container
    assert set(interfaces(container)) == {"lo", "eth0", "eth1"}
    assert addresses(container, "eth1") == {container.endpoints[-1].addresses[0]}
    assert default_route(container) == ("10.47.0.1", "eth0")
    assert fetch(container, "peer").check().stdout == "peer\n"
    blue.disconnect("web")
    assert set(interfaces(container)) == {"lo", "eth1"}
    assert default_route(container) == ("10.48.0.1", "eth1")
    assert fetch(container, "peer").check().stdout == "peer\n", "names must still resolve on what is left"
    green.disconnect("web")
    assert set(interfaces(container)) == {"lo"} and container.endpoints == ()
    blue.connect("web")
    assert default_route(container) == ("10.47.0.1", "eth0")
    with pytest.raises(StateError, match="on network 'blue' already"):
        blue.connect("web")
    with pytest.raises(StateError, match="isn't on network 'green'"):
        green.disconnect("web")


def test_connect_a_stopped_container(lab: Any) -> None:
    blue, green = lab.network("blue"), lab.network("green")
    container = lab.run(["sleep", "60"], networks=["blue"])
    container.kill()
    green.connect(container)
    blue.disconnect(container)
    container.start()
    assert addresses(container, container.endpoints[0].interface) == {container.endpoints[-1].addresses[0]}


def test_connect_with_a_taken_address_changes_nothing(lab: Any) -> None:
    blue, green = lab.network("blue"), lab.network("green", subnet="10.49.0.0/24")
    container, other = lab.run(networks=["blue"]), lab.run(networks=["green"])
    with pytest.raises(AddressError):
        green.connect(container, ip=other.addresses["green"])
    assert set(interfaces(container)) == {"lo", "eth0"} and len(container.endpoints) == 1
    assert blue.containers == [container] and green.containers == [other]


def test_an_internal_network_has_no_default_route(lab: Any) -> None:
    lab.network("inner", internal=True)
    one, two = listen(lab, name="one", networks=["inner"]), lab.run(networks=["inner"])
    assert default_route(two) is None
    assert fetch(two, "one").check().stdout == one.name + "\n"


def test_two_networks_are_apart(lab: Any) -> None:
    for name in ("blue", "green"):
        lab.network(name)
    web, client = listen(lab, name="web", networks=["blue"]), lab.run(networks=["green"])
    done = fetch(client, web.addresses["blue"], timeout=0.4)
    assert done.returncode != 0 and ("timed out" in done.stderr or "unreachable" in done.stderr), done.stderr
    gateway = lab.networks["blue"].gateways[0].partition("/")[0]
    assert client.exec(["ping", "-c1", "-W1", web.addresses["blue"]]).returncode != 0
    assert lab.networks["green"].containers == [client] and gateway not in (a for a in client.addresses.values())


def test_none_host_and_anothers_network(lab: Any) -> None:
    none = lab.run(networks="none")
    assert set(interfaces(none)) == {"lo"} and none.addresses == {}
    assert none.exec(["ping", "-c1", "-W1", "127.0.0.1"]).returncode == 0
    lab.network("blue", subnet="10.50.0.0/24")
    web = listen(lab, name="web", networks=["blue"])
    joined = lab.run(networks="container:web")
    assert joined.exec(["readlink", "/proc/self/ns/net"]).stdout == web.exec(["readlink", "/proc/self/ns/net"]).stdout
    assert fetch(joined, "127.0.0.1").check().stdout == "web\n"
    host = lab.run(networks="host")
    assert {"lo", "br-blue"} <= set(interfaces(host))
    assert fetch(host, "web").check().stdout == "web\n"
    assert host.exec(["readlink", "/proc/self/ns/net"]).stdout != web.exec(["readlink", "/proc/self/ns/net"]).stdout
    with pytest.raises(NotFound, match="no container 'nobody'"):
        lab.run(networks="container:nobody")
    with pytest.raises(BadInput):
        lab.run(networks=["host", "blue"])


@pytest.mark.long_in_guest
def test_the_first_packet_of_a_program_is_not_lost(lab: Any) -> None:
    lab.network("blue", subnet="10.51.0.0/24")
    web = listen(lab, name="web", networks=["blue"])
    script = "import socket; socket.create_connection(('10.51.0.2', 8000), 0.5)"
    for n in range(20):
        command = ["ping", "-c1", "-W1", web.addresses["blue"]] if n % 2 else ["python3", "-c", script]
        container = lab.run(command, networks=["blue"])
        assert container.wait(patient(5)) == 0, (n, container.logs())
        container.remove()


@pytest.mark.long_in_guest
def test_the_first_packet_is_not_lost_where_slots_are_just_being_made(fresh_lab: Any) -> None:
    """More at once than are ready, right after the lab's start: their links have only just been made."""
    fresh_lab.network("blue", subnet="10.51.0.0/24")
    web = fresh_lab.run(name="web", networks=["blue"])
    ping = ["ping", "-c1", "-W1", web.addresses["blue"]]
    for n in range(3):
        made = fresh_lab.run(ping, networks=["blue"], count=30, name=f"p{n}-{{n}}")
        assert [container.wait(patient(10)) for container in made] == [0] * 30
        for container in made:
            container.remove()
    for n in range(20):  # one by one, the pool being used up
        assert fresh_lab.run(ping, networks=["blue"]).wait(patient(10)) == 0, n


@pytest.mark.long_in_guest
def test_a_name_is_known_to_the_first_question_about_it(lab: Any) -> None:
    lab.run(name="asker")
    for n in range(10):
        container = lab.run(["getent", "hosts", f"w{n}", "asker"], name=f"w{n}", networks=["bridge"])
        assert container.wait(patient(5)) == 0, container.logs()
        assert lab["asker"].exec(["getent", "hosts", f"w{n}"]).returncode in (0, 2)
        container.remove()


@pytest.mark.long_in_guest
def test_networks_removed_and_made_again(lab: Any) -> None:
    network = lab.network("blue", subnet="10.52.0.0/24")
    container = lab.run(networks=["blue"])
    with pytest.raises(StateError, match="has containers on it"):
        network.remove()
    container.remove()
    network.remove()
    assert "blue" not in [n.name for n in lab.networks]
    lab.network("blue", subnet="10.52.0.0/24")
    web = listen(lab, networks=["blue"])
    assert fetch(lab.run(networks=["blue"]), web.addresses["blue"]).check().stdout == web.name + "\n"


@pytest.mark.long_in_guest
def test_networks_made_in_threads_have_subnets_apart(lab: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: lab.network(f"n{n}", ipv6=True), range(16)))
    subnets = [ipaddress.ip_network(text) for network in made for text in network.subnets]
    assert len(subnets) == 32
    assert not any(a.overlaps(b) for a in subnets for b in subnets if a is not b and a.version == b.version)


def test_routes_and_neighbours_are_the_kernels(lab: Any) -> None:
    lab.network("blue", subnet="10.53.0.0/24")
    web, client = listen(lab, networks=["blue"]), lab.run(networks=["blue"])
    fetch(client, web.addresses["blue"]).check()
    assert any("10.53.0.1" in str(route) for route in client.routes())
    assert any(web.endpoints[0].mac in str(entry) for entry in client.neighbours())
