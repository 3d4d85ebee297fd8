"""Subnets, pools and MAC addresses."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ctlab.errors import AddressError, BadInput, CtlabError
from ctlab.ipam import (
    Interface,
    Network,
    Pool,
    check_overlap,
    choose_ipv4,
    choose_ipv6,
    mac_from_id,
    mac_from_ipv4,
    parse_address,
    parse_mac,
    parse_subnet,
)

pytestmark = pytest.mark.usefixtures("in_a_magic")  # for how options are spelled


@pytest.mark.parametrize("text", ["10.10.0.0/24", "fd00:1::/64", "10.0.0.0/8", "10.0.0.4/31", "10.0.0.5/32"])
def test_subnets(text: str) -> None:
    assert str(parse_subnet(text)) == str(parse_subnet(f" {text} ")) == text


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "10.10.0.5/24",
            AddressError,
            "10.10.0.5/24 has host bits set: the subnet that 10.10.0.5 is in is 10.10.0.0/24",
        ),
        ("fd00::1/64", AddressError, "is fd00::/64"),
        ("10.10.0.0", BadInput, "needs a prefix length, for example 10.10.0.0/24"),
        ("fd00::9", BadInput, "for example fd00::/64"),
        ("10.10.0.0/33", BadInput, "goes from 0 to 32"),
        ("10.10.0.0/-1", BadInput, "goes from 0 to 32"),
        ("10.10.0.0/255.255.255.0", BadInput, "goes from 0 to 32"),
        ("10.10.0.0/", BadInput, "goes from 0 to 32"),
        ("10.10.0/24", BadInput, "isn't a subnet"),
        ("10.10.0.256/24", BadInput, "isn't a subnet"),
        ("blue", BadInput, "isn't a subnet"),
        ("", BadInput, "isn't a subnet"),
        ("fd00::%eth0/64", BadInput, "no zone"),
        ("127.0.0.0/24", AddressError, "loopback"),
        ("0.0.0.0/0", AddressError, "can't be a subnet"),
        ("::/0", AddressError, "can't be a subnet"),
        ("239.0.0.0/8", AddressError, "multicast"),
        ("fe80::/64", AddressError, "link-local"),
        (7, BadInput, "an address is text, not int"),
        (None, BadInput, "an address is text, not NoneType"),
    ],
)
def test_no_subnet(text: str, kind: type[CtlabError], message: str) -> None:
    with pytest.raises(kind) as caught:
        parse_subnet(text)
    assert message in str(caught.value)


def test_overlaps_name_both() -> None:
    others: list[tuple[str, Network]] = [("red", parse_subnet("fd00::/64")), ("blue", parse_subnet("10.10.0.0/16"))]
    with pytest.raises(AddressError, match=r"10\.10\.5\.0/24 overlaps 10\.10\.0\.0/16, the subnet of network 'blue'"):
        check_overlap(parse_subnet("10.10.5.0/24"), others)
    with pytest.raises(AddressError, match=r"fd00::/64 is the subnet of network 'red'"):
        check_overlap(parse_subnet("fd00::/64"), others)
    check_overlap(parse_subnet("10.11.0.0/24"), others)


def test_chosen_subnets() -> None:
    assert choose_ipv4() == IPv4Network("10.88.0.0/24")
    assert choose_ipv4([ip_network("10.88.0.128/25"), ip_network("10.88.1.7/32")]) == IPv4Network("10.88.2.0/24")
    assert choose_ipv4([ip_network("10.0.0.0/8")]) == IPv4Network("172.16.0.0/24")
    assert choose_ipv4([ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12")]) == IPv4Network("192.168.0.0/24")
    with pytest.raises(AddressError, match="no free IPv4 /24 is left"):
        choose_ipv4([ip_network("0.0.0.0/0")])
    first = choose_ipv6("lab/blue")
    assert first == choose_ipv6("lab/blue") != choose_ipv6("lab/red")
    assert first.subnet_of(IPv6Network("fd00::/8"))
    assert choose_ipv6("lab/blue", [first]) != first


networks4 = st.builds(
    lambda number, length: ip_network((number, length), strict=False),
    st.integers(int(IPv4Address("10.86.0.0")), int(IPv4Address("10.90.0.0"))),
    st.integers(14, 32),
)


@given(st.lists(networks4, max_size=20), st.integers(20, 30))
def test_chosen_subnets_are_free_and_lowest(taken: list[IPv4Network], length: int) -> None:
    chosen = choose_ipv4(taken, length)
    assert chosen.prefixlen == length
    assert not any(chosen.overlaps(other) for other in taken)
    candidate = IPv4Network(f"10.88.0.0/{length}")
    for _ in range(64):  # no free one below it, as far as a plain search looks
        if candidate == chosen:
            break
        assert any(candidate.overlaps(other) for other in taken)
        candidate = IPv4Network((int(candidate.network_address) + candidate.num_addresses, length))


def test_a_pool_in_order() -> None:
    pool = Pool("10.10.0.0/29", reserved={"10.10.0.3": "the resolver"})
    assert str(pool.gateway) == "10.10.0.1"
    assert str(pool.gateway_interface) == "10.10.0.1/29"
    assert (pool.capacity, pool.free) == (4, 4)
    assert [str(pool.allocate(owner=name)) for name in ("web", "db")] == ["10.10.0.2/29", "10.10.0.4/29"]
    assert (pool.owner("10.10.0.4"), pool.owner("10.10.0.6")) == ("db", None)
    assert {str(address): owner for address, owner in pool.owners.items()} == {"10.10.0.2": "web", "10.10.0.4": "db"}
    assert pool.free == 2


def test_the_same_automatic_address_again() -> None:
    pool = Pool("10.10.0.0/24")
    address, other = pool.allocate(owner="web"), pool.allocate(owner="db")
    pool.release(address)
    assert pool.allocate(requested=address, owner="web") == address
    pool.release(other)
    assert pool.allocate(owner="new") == other


@pytest.mark.parametrize(
    ("requested", "kind", "message"),
    [
        ("10.10.0.1", AddressError, "10.10.0.1 is the gateway of 10.10.0.0/24"),
        ("10.10.0.0", AddressError, "10.10.0.0 is the network address of 10.10.0.0/24"),
        ("10.10.0.255", AddressError, "10.10.0.255 is the broadcast address of 10.10.0.0/24"),
        ("10.10.0.2", AddressError, "10.10.0.2 is taken by 'web'"),
        ("10.10.0.9", AddressError, "10.10.0.9 is reserved for the resolver"),
        ("10.10.1.2", AddressError, "10.10.1.2 is outside the subnet 10.10.0.0/24"),
        ("fd00::2", AddressError, "fd00::2 is IPv6, the subnet 10.10.0.0/24 IPv4"),
        ("10.10.0", BadInput, "'10.10.0' isn't an address: write 10.10.0.5 or fd00:1::5"),
        ("10.10.0.5/24", BadInput, "an address is written without its prefix length: 10.10.0.5"),
        (5, BadInput, "an address is text, not int"),
    ],
)
def test_not_to_be_had(requested: str, kind: type[CtlabError], message: str) -> None:
    pool = Pool("10.10.0.0/24", reserved={"10.10.0.9": "the resolver"})
    pool.allocate(owner="web")
    before = dict(pool.owners)
    with pytest.raises(kind) as caught:
        pool.allocate(requested)
    assert message in str(caught.value)
    assert dict(pool.owners) == before


@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        ("10.20.0.1", "gateway 10.20.0.1 is outside the subnet 10.10.0.0/24"),
        ("10.10.0.0", "gateway 10.10.0.0 is the network address"),
        ("10.10.0.255", "gateway 10.10.0.255 is the broadcast address"),
        ("fd00::1", "gateway fd00::1 is IPv6"),
        ("10.10.0.9", "gateway 10.10.0.9 is reserved for the resolver"),
    ],
)
def test_no_gateway(gateway: str, message: str) -> None:
    with pytest.raises(AddressError) as caught:
        Pool("10.10.0.0/24", gateway, {"10.10.0.9": "the resolver"})
    assert message in str(caught.value)


def test_gateways_that_were_chosen() -> None:
    assert str(Pool("10.10.0.0/24", "10.10.0.254").allocate()) == "10.10.0.1/24"
    assert str(Pool("10.10.0.0/24", None).allocate()) == "10.10.0.1/24"
    assert str(Pool("10.10.0.0/24", reserved={"10.10.0.1": "x"}).gateway) == "10.10.0.2"


@pytest.mark.parametrize(
    ("subnet", "gateway", "addresses"),
    [
        ("10.0.0.4/31", "auto", ["10.0.0.5/31"]),
        ("10.0.0.4/31", None, ["10.0.0.4/31", "10.0.0.5/31"]),
        ("10.0.0.5/32", "auto", []),
        ("10.0.0.5/32", None, ["10.0.0.5/32"]),
        ("10.0.0.4/30", "auto", ["10.0.0.6/30"]),
        ("fd00::/127", None, ["fd00::/127", "fd00::1/127"]),
        ("fd00::/126", "auto", ["fd00::2/126", "fd00::3/126"]),
    ],
)
def test_tiny_subnets_to_the_last_address(subnet: str, gateway: str | None, addresses: list[str]) -> None:
    pool = Pool(subnet, gateway)
    assert pool.capacity == len(addresses)
    assert [str(pool.allocate(owner="web")) for _ in addresses] == addresses
    with pytest.raises(AddressError, match=r"is exhausted \(\d usable.*a larger one: --subnet ") as caught:
        pool.allocate()
    assert ("'web'" in str(caught.value) or "web" in str(caught.value)) == bool(addresses)


def test_exhaustion_names_a_few_holders() -> None:
    pool = Pool("10.10.0.0/29")
    for number in range(5):
        pool.allocate(owner=f"c{number}")
    with pytest.raises(AddressError) as caught:
        pool.allocate()
    assert str(caught.value) == (
        "10.10.0.0/29 is exhausted (6 usable: the gateway has 10.10.0.1; c0, c1, c2 and 2 more have the rest); "
        "a larger one: --subnet 10.10.0.0/28"
    )


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "fd00::/64", "fc00::/7"])
def test_huge_subnets_cost_nothing(subnet: str) -> None:
    start = time.process_time()
    pool = Pool(subnet)
    handed = [pool.allocate() for _ in range(2000)]
    for interface in handed:
        pool.release(interface)
    assert pool.allocate() == handed[0]
    assert pool.capacity == parse_subnet(subnet).num_addresses - (3 if pool.subnet.version == 4 else 2)
    # Listing a /8 takes seconds and a /64 for ever; this is far from both, on a slow machine too.
    assert time.process_time() - start < 2


def test_release_of_what_is_not_handed_out() -> None:
    pool = Pool("10.10.0.0/24")
    for address in ("10.10.0.1", "10.10.0.2", "10.20.0.1", "fd00::1"):
        with pytest.raises(AddressError, match="isn't handed out"):
            pool.release(address)


def test_a_copy_is_independent() -> None:
    pool = Pool("10.10.0.0/24")
    pool.release(pool.allocate())
    twin = pool.copy()
    assert twin.allocate() == pool.allocate()
    twin.allocate()
    assert (twin.free, pool.free) == (251, 252)


subnets = st.sampled_from(["10.0.0.0/28", "10.0.0.0/30", "10.0.0.4/31", "fd00::/124", "10.0.0.0/8", "fd00::/64"])


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of allocate and release against a plain set."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool("10.0.0.0/28")
        self.model: set[Interface] = set()

    @rule(subnet=subnets)
    def another_subnet(self, subnet: str) -> None:
        if not self.model:
            self.pool = Pool(subnet)

    def accept(self, interface: Interface) -> Interface:
        assert interface not in self.model, "handed out twice"
        assert interface.ip in self.pool.subnet
        assert interface.network == self.pool.subnet
        assert interface.ip != self.pool.gateway
        self.model.add(interface)
        return interface

    @rule(target=held)
    def allocate(self) -> Interface | None:
        try:
            interface = self.pool.allocate()
        except AddressError:
            assert self.pool.free == 0
            return None
        below = range(int(self.pool.subnet.network_address) + 1, int(interface.ip))
        taken = {int(other.ip) for other in self.model} | {int(self.pool.gateway or 0)}
        if self.pool.subnet.prefixlen not in (31, 127):
            assert all(number in taken for number in below), "not the lowest free one"
        return self.accept(interface)

    @rule(target=held, offset=st.integers(-1, 17))
    def request(self, offset: int) -> Interface | None:
        network = self.pool.subnet.network_address
        if int(network) + offset >= 1 << network.max_prefixlen:
            return None
        try:
            interface = self.pool.allocate(requested=network + offset)
        except AddressError:
            return None
        assert interface.ip == network + offset
        return self.accept(interface)

    @rule(interface=consumes(held))
    def release(self, interface: Interface | None) -> None:
        if interface in self.model and interface is not None:
            self.pool.release(interface)
            self.model.discard(interface)
            copy = self.pool.copy()
            assert copy.allocate(requested=interface) == interface

    @invariant()
    def counts(self) -> None:
        assert set(self.pool.owners) == {interface.ip for interface in self.model}
        assert self.pool.free == self.pool.capacity - len(self.model) >= 0


TestPoolMachine = PoolMachine.TestCase


def test_macs() -> None:
    assert mac_from_ipv4(IPv4Address("10.10.0.2")) == "02:42:0a:0a:00:02"
    assert mac_from_ipv4(IPv4Interface("10.10.0.2/24")) == "02:42:0a:0a:00:02"
    assert mac_from_id("web") == mac_from_id("web") != mac_from_id("db")
    assert parse_mac("02-42-0A-0a-00-02") == "02:42:0a:0a:00:02"


@given(st.text(), st.ip_addresses(v=4))
def test_derived_macs_are_ones_an_interface_can_have(identity: str, address: IPv4Address) -> None:
    for mac in (mac_from_id(identity), mac_from_ipv4(address)):
        assert parse_mac(mac) == mac
        assert int(mac[:2], 16) & 0b11 == 0b10, "locally administered, unicast"
    assert mac_from_id(identity) != mac_from_ipv4(address)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("02:42", "isn't a MAC address"),
        ("02:42:0a:0a:00:0g", "isn't a MAC address"),
        ("01:00:5e:00:00:01", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "no interface's"),
    ],
)
def test_no_mac(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_mac(text)


def test_addresses() -> None:
    assert parse_address(IPv4Interface("10.0.0.1/8")) == parse_address(" 10.0.0.1") == IPv4Address("10.0.0.1")
    with pytest.raises(BadInput, match="isn't an address"):
        parse_address("10.0.0.01")
