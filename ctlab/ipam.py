"""Address management: free subnets, one pool of addresses per subnet, MAC addresses. Pure: nothing asks the kernel.

Malformed text is `BadInput`; an address or subnet that is understood but can't be had is `AddressError`.
No function lists the addresses of a subnet, so a /8 or an IPv6 /64 costs no more than a /30.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from types import MappingProxyType

from .errors import AddressError, BadInput
from .names import shorten
from .spelling import option

IPV6_MTU = 1280  # bytes; the least that IPv6 works on (RFC 8200)
Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

# Where subnets are chosen, in this order; the first starts where container engines' users expect a bridge.
IPV4_RANGES = (
    (IPv4Address("10.88.0.0"), IPv4Address("10.255.255.255")),
    (IPv4Address("172.16.0.0"), IPv4Address("172.31.255.255")),
    (IPv4Address("192.168.0.0"), IPv4Address("192.168.255.255")),
)
_UNUSABLE = {
    "0.0.0.0/8": "addresses that mean 'this host'",
    "127.0.0.0/8": "the loopback range",
    "224.0.0.0/4": "the multicast range",
    "240.0.0.0/4": "a reserved range",
    "::/127": "the unspecified and the loopback address",
    "::ffff:0:0/96": "the range of IPv4 addresses written as IPv6",
    "fe80::/10": "the link-local range, which every interface has already",
    "ff00::/8": "the multicast range",
}
_UNUSABLE_NETWORKS = [(ip_network(text), why) for text, why in _UNUSABLE.items()]


def parse_subnet(text: str | Network) -> Network:
    """`10.10.0.0/24` or `fd00:1::/64`.

    BadInput if it isn't a CIDR; AddressError if host bits are set (the message has the right one) or if it lies
    in a range that no network can use (loopback, multicast, link-local, …).
    """
    if isinstance(text, (IPv4Network, IPv6Network)):
        network = text
    else:
        shown = _shown(text)
        base, slash, length = text.strip().partition("/")
        address = _parse_address(base, f"{shown} isn't a subnet: write 10.10.0.0/24 or fd00:1::/64")
        if not slash:
            usual = _network_of(address, 24 if address.version == 4 else 64)
            raise BadInput(f"{shown} needs a prefix length, for example {usual}")
        if not re.fullmatch(r"\d{1,3}", length, re.ASCII) or int(length) > address.max_prefixlen:
            raise BadInput(f"{shown}: the prefix length goes from 0 to {address.max_prefixlen}")
        network = _network_of(address, int(length))
        if network.network_address != address:
            raise AddressError(f"{text.strip()} has host bits set: the subnet that {address} is in is {network}")
    for unusable, why in _UNUSABLE_NETWORKS:
        if overlap(network, unusable):
            raise AddressError(f"{network} can't be a subnet: it overlaps {unusable}, {why}")
    return network


def _network_of(address: Address, length: int) -> Network:
    """The subnet of that length that the address is in: 10.10.0.9, 24 → 10.10.0.0/24."""
    return ip_network((address, length), strict=False)


def _shown(text: object) -> str:
    """How a message quotes `text`; BadInput if it isn't text at all (an int would pass for an address)."""
    if not isinstance(text, str):
        raise BadInput(f"an address is text, not {type(text).__name__} ({text!r})")
    return shorten(text)


def parse_address(text: str | Address | Interface) -> Address:
    """An address without a prefix length; BadInput if it isn't one."""
    if isinstance(text, (IPv4Interface, IPv6Interface)):
        return text.ip
    if isinstance(text, (IPv4Address, IPv6Address)):
        return text
    shown = _shown(text)
    if "/" in text:
        raise BadInput(f"{shown}: an address is written without its prefix length: {text.partition('/')[0].strip()}")
    return _parse_address(text.strip(), f"{shown} isn't an address: write 10.10.0.5 or fd00:1::5")


def _parse_address(text: str, otherwise: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise BadInput(otherwise) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise BadInput(f"{shorten(text)}: no zone ('%{address.scope_id}') can be given here")
    return address


def overlap(one: Network, other: Network) -> bool:
    """Whether two subnets share an address; those of different families never do."""
    return one.version == other.version and one.overlaps(other)


def check_overlap(subnet: Network, others: Iterable[tuple[str, Network]]) -> None:
    """AddressError that names both, if `subnet` overlaps one of (network name, subnet)."""
    for name, other in others:
        if overlap(subnet, other):
            same = f"{subnet} is the subnet" if subnet == other else f"{subnet} overlaps {other}, the subnet"
            raise AddressError(f"{same} of network '{name}'")


def choose_ipv4(taken: Iterable[Network] = (), length: int = 24) -> IPv4Network:
    """The lowest free subnet of that prefix length, from 10.88.0.0 upward; AddressError if none is left."""
    blocks = sorted((int(n.network_address), int(n.broadcast_address)) for n in taken if n.version == 4)
    size = 1 << (32 - length)
    for first, last in IPV4_RANGES:
        start = -(-int(first) // size) * size
        # Each step jumps over a whole block, so the cost is the number of blocks, not of subnets between them.
        for low, high in blocks:
            if high >= start and low < start + size:
                start = (high // size + 1) * size
        if start + size - 1 <= int(last):
            return IPv4Network((start, length))
    raise AddressError(f"no free IPv4 /{length} is left from 10.88.0.0 on, in 172.16.0.0/12 and in 192.168.0.0/16")


def choose_ipv6(seed: str, taken: Iterable[Network] = ()) -> IPv6Network:
    """A /64 of the unique local range (fd00::/8) derived from `seed`, so the same seed gives the same subnet.

    Where that one overlaps `taken`, the next of an endless series from the same seed.
    """
    blocks = [n for n in taken if n.version == 6]
    for attempt in range(10_000):
        digest = hashlib.sha256(f"ctlab subnet {attempt} {seed}".encode()).digest()
        subnet = IPv6Network((int.from_bytes(b"\xfd" + digest[:7]) << 64, 64))
        if not any(overlap(subnet, other) for other in blocks):
            return subnet
    raise AddressError("no free IPv6 /64 is left in fd00::/8")


def mac_from_ipv4(address: IPv4Address | IPv4Interface) -> str:
    """`02:42:0a:0a:00:02` for 10.10.0.2: readable at sight, unique in a subnet, the same when made again."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed[:4])


def mac_from_id(identity: str) -> str:
    """A locally administered unicast MAC derived from any id; never one that `mac_from_ipv4` could give."""
    digest = bytearray(hashlib.sha256(f"ctlab mac {identity}".encode()).digest()[:6])
    digest[0] = 0x06
    return ":".join(f"{byte:02x}" for byte in digest)


def parse_mac(text: str) -> str:
    """A unicast MAC as `02:42:0a:0a:00:02` (also written with `-`, in capitals); BadInput otherwise."""
    mac = text.strip().lower().replace("-", ":")
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac, re.ASCII):
        raise BadInput(f"{shorten(text)} isn't a MAC address: write 02:42:0a:0a:00:05")
    if int(mac[:2], 16) & 1:
        raise BadInput(f"{shorten(text)} is a multicast MAC: the first byte must be even, for example 02")
    if mac == "00:00:00:00:00:00":
        raise BadInput(f"{shorten(text)} is no interface's MAC")
    return mac


class Pool:
    """The addresses of one subnet and who has them. Not thread-safe: its owner holds a lock.

    `gateway`: "auto" takes the first usable address, None has none. `reserved`: address → what for; never handed
    out. Automatic addresses are the lowest free ones, so a world made again in the same order has the same
    addresses. A /31, /127, /32 and /128 have no network address to keep free (RFC 3021, RFC 6164).
    """

    def __init__(
        self,
        subnet: str | Network,
        gateway: str | Address | None = "auto",
        reserved: Mapping[str, str] | None = None,
    ) -> None:
        self.subnet: Network = parse_subnet(subnet)
        self._base = int(self.subnet.network_address)
        size = self.subnet.num_addresses
        tiny = size <= 2
        self._first = 0 if tiny else 1
        self._last = size - 1 if tiny or self.subnet.version == 6 else size - 2
        self._owners: dict[int, str] = {}
        self._frontier = self._first  # no offset from here on was ever handed out automatically
        self._released: list[int] = []  # a heap of offsets below the frontier; some may be taken again
        self._queued: set[int] = set()  # what the heap holds, so that it never holds one twice
        self._reserved: dict[Address, str] = {}
        for text, why in (reserved or {}).items():
            self._reserved[self._inside(parse_address(text), "reserved address ")] = why
        self._kept = {int(address) - self._base for address in self._reserved}
        self.gateway: Address | None = None
        if gateway == "auto":
            self.gateway = self._address(self._lowest())
        elif gateway is not None:
            self.gateway = self._inside(parse_address(gateway), "gateway ")
            if self.gateway in self._reserved:
                raise AddressError(f"gateway {self.gateway} is reserved for {self._reserved[self.gateway]}")
        if self.gateway is not None:
            self._kept.add(int(self.gateway) - self._base)

    def _address(self, offset: int) -> Address:
        number = self._base + offset
        return IPv4Address(number) if self.subnet.version == 4 else IPv6Address(number)

    def _interface(self, address: Address) -> Interface:
        return ip_interface((address, self.subnet.prefixlen))

    def _inside(self, address: Address, what: str = "") -> Address:
        """`address` if an interface of this subnet can have it; AddressError otherwise."""
        if address.version != self.subnet.version:
            versions = f"IPv{address.version}, the subnet {self.subnet} IPv{self.subnet.version}"
            raise AddressError(f"{what}{address} is {versions}")
        if address not in self.subnet:
            raise AddressError(f"{what}{address} is outside the subnet {self.subnet}")
        offset = int(address) - self._base
        if offset < self._first:
            kind = "network" if self.subnet.version == 4 else "router anycast"
            raise AddressError(f"{what}{address} is the {kind} address of {self.subnet}")
        if offset > self._last:
            raise AddressError(f"{what}{address} is the broadcast address of {self.subnet}")
        return address

    @property
    def gateway_interface(self) -> Interface | None:
        """The gateway with the subnet's prefix length: what the bridge carries."""
        return self._interface(self.gateway) if self.gateway is not None else None

    @property
    def owners(self) -> Mapping[Address, str]:
        """Address → owner of all that is handed out, a read-only copy in ascending order."""
        return MappingProxyType({self._address(offset): self._owners[offset] for offset in sorted(self._owners)})

    @property
    def capacity(self) -> int:
        """How many addresses there are for containers: all usable ones without gateway and reserved."""
        return self._last - self._first + 1 - len(self._kept)

    @property
    def free(self) -> int:
        """How many addresses are still to be had."""
        return self.capacity - len(self._owners)

    def owner(self, address: str | Address | Interface) -> str | None:
        """Who has the address; None if nobody."""
        return self._owners.get(int(parse_address(address)) - self._base)

    def allocate(self, requested: str | Address | Interface | None = None, owner: str = "?") -> Interface:
        """An address with the subnet's prefix length: the lowest free one, or the one requested.

        AddressError if it is outside, the network, broadcast or gateway address, reserved or taken (says by
        whom), or if none is left.
        """
        offset = self._lowest() if requested is None else self._requested(parse_address(requested))
        self._owners[offset] = owner
        return self._interface(self._address(offset))

    def _requested(self, address: Address) -> int:
        offset = int(self._inside(address)) - self._base
        if address == self.gateway:
            raise AddressError(f"{address} is the gateway of {self.subnet}")
        if address in self._reserved:
            raise AddressError(f"{address} is reserved for {self._reserved[address]}")
        if offset in self._owners:
            raise AddressError(f"{address} is taken by '{self._owners[offset]}'")
        return offset

    def _lowest(self) -> int:
        while self._released:
            offset = heapq.heappop(self._released)
            self._queued.discard(offset)
            if offset not in self._owners:
                return offset
        while self._frontier <= self._last:
            offset = self._frontier
            self._frontier += 1
            if offset not in self._owners and offset not in self._kept:
                return offset
        raise AddressError(self._exhausted())

    def _exhausted(self) -> str:
        usable = self._last - self._first + 1
        kept = [f"the gateway has {self.gateway}"] if self.gateway is not None else []
        kept += [f"{address} is reserved for {why}" for address, why in self._reserved.items()]
        holders = list(self.owners.values())
        if holders:
            more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
            kept.append(f"{', '.join(holders[:3])}{more} {'have' if len(holders) > 1 else 'has'} the rest")
        larger = (
            f"a larger one: {option('subnet', str(self.subnet.supernet()))}"
            if self.subnet.prefixlen
            else "nothing is larger"
        )
        return f"{self.subnet} is exhausted ({usable} usable: {'; '.join(kept)}); {larger}"

    def release(self, address: str | Address | Interface) -> None:
        """Give an address back; AddressError if it isn't handed out."""
        offset = int(parse_address(address)) - self._base
        if offset not in self._owners:
            raise AddressError(f"{parse_address(address)} isn't handed out in {self.subnet}")
        del self._owners[offset]
        if offset < self._frontier and offset not in self._queued:
            self._queued.add(offset)
            heapq.heappush(self._released, offset)

    def copy(self) -> Pool:
        """An independent pool with the same state: try a plan on it, keep it or throw it away."""
        twin = Pool.__new__(Pool)
        twin.__dict__.update(self.__dict__)
        twin._owners = dict(self._owners)
        twin._released, twin._queued = list(self._released), set(self._queued)
        return twin
