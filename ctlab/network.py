"""Networks: what containers attach to, and who has which address there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import ticks
from .errors import AddressError, BadInput, StateError, Unsupported
from .ipam import (
    IPV6_MTU,
    Interface,
    Pool,
    check_overlap,
    choose_ipv4,
    choose_ipv6,
    mac_from_id,
    mac_from_ipv4,
    overlap,
    parse_mac,
    parse_subnet,
)
from .ipam import Network as Subnet
from .keywords import checked
from .names import check_name, key
from .plan import network as network_plan
from .request import several, whole_number
from .runtime import own_limits
from .spec import EndpointSpec, NetworkSpec
from .spelling import in_a_magic, option

if TYPE_CHECKING:
    from .container import Container
    from .lab import Lab

PREDEFINED = ("host", "none")
_LATER = {"overlay", "macvlan", "ipvlan"}


@own_limits.told
@checked
class Network:
    """A network of a lab. Make it with `Lab.network`."""

    def __init__(self, lab: Lab, spec: NetworkSpec, pools: list[Pool]) -> None:
        self.lab = lab
        self.spec = spec
        self.pools = pools
        self.tick = ticks.now()
        self.cell = ticks.cell()
        self.cell_id = ticks.cell_id()

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def driver(self) -> str:
        """``bridge``, ``host`` or ``none``."""
        return self.spec.driver

    @property
    def subnets(self) -> tuple[str, ...]:
        """Its subnets as CIDRs."""
        return self.spec.subnets

    @property
    def gateways(self) -> tuple[str, ...]:
        """The bridge's own addresses."""
        return self.spec.gateways

    @property
    def containers(self) -> list[Container]:
        """The containers that have an endpoint here."""
        return [c for c in list(self.lab._containers.values()) if any(e.network == self.name for e in c.endpoints)]

    def _there(self) -> None:
        """Raises LabGone, StateError for one that was removed."""
        self.lab._alive()
        if self.lab._networks.get(key(self.name)) is not self:
            raise StateError(f"network '{self.name}' was removed{self._instead()}")

    def _instead(self) -> str:
        other = self.lab._networks.get(key(self.name))
        return f": take lab.networks['{other.name}']" if other is not None else ""

    def connect(self, container: str | Container, *, ip: str | None = None, ip6: str | None = None,
                mac_address: str | None = None) -> Container:  # fmt: skip
        """Give a container an endpoint here, running or not."""
        from . import connecting

        return connecting.connect(self.lab, self, self.lab._container(container), ip, ip6, mac_address)

    def disconnect(self, container: str | Container) -> Container:
        """Take a container's endpoint here away."""
        from . import connecting

        return connecting.disconnect(self.lab, self, self.lab._container(container))

    def remove(self) -> None:
        """Remove it; StateError names who is still attached."""
        from . import connecting

        connecting.remove_network(self.lab, self)

    def explain(self) -> str:
        """The commands that make this network."""
        from .explaining import in_vm
        from .plan.render import Commands, network_commands

        return Commands([*in_vm(self.lab), *network_commands(self.spec)])

    def inspect(self) -> dict[str, Any]:
        """Everything known of it, as plain values."""
        self._there()
        return {
            "name": self.name, "driver": self.driver, "node": self.spec.node, "subnets": list(self.subnets),
            "gateways": list(self.gateways), "mtu": self.spec.mtu, "internal": self.spec.internal,
            "bridge": network_plan.bridge_name(self.name) if self.driver == "bridge" else None,
            "containers": {
                c.name: [a for e in c.endpoints if e.network == self.name for a in e.addresses] for c in self.containers
            },
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<Network {self.name}: {self.driver} {' '.join(self.subnets)}>"

    def _repr_html_(self) -> str:
        from .cards import network_card

        return network_card(self)


def plan_network(
    name: str,
    existing: Iterable[Network],
    *,
    driver: str = "bridge",
    subnet: str | Iterable[str] | None = None,
    gateway: str | Iterable[str] | None = None,
    ipv6: bool = False,
    mtu: int | None = None,
    internal: bool = False,
    lab_id: str = "",
) -> tuple[NetworkSpec, list[Pool]]:
    """A checked spec and its address pools. Raises BadInput, AddressError, Unsupported."""
    check_name("network", name)
    if name in PREDEFINED:
        raise BadInput(f"network '{name}' is predefined: use it with {option('network', name)}")
    if driver in _LATER:
        raise Unsupported(f"driver '{driver}' isn't in this version; there is: bridge (and the networks host and none)")
    if driver != "bridge":
        from .names import did_you_mean

        raise BadInput(f"no network driver '{driver}'{did_you_mean(driver, ['bridge', *_LATER])}; there is: bridge")
    existing = list(existing)
    mtu_bytes = 1500 if mtu is None else whole_number("mtu", mtu)
    if not 68 <= mtu_bytes <= 65535:
        raise BadInput(f"{option('mtu', mtu)}: from 68 to 65535")
    taken = [(network.name, parse_subnet(text)) for network in existing for text in network.subnets]
    chosen = [parse_subnet(text) for text in several(subnet)]
    for number, one in enumerate(chosen):
        try:
            check_overlap(one, [*taken, *((name, other) for other in chosen[:number])])
        except AddressError as error:
            raise AddressError(f"{error}{_what_is_idle(one, existing)}") from None
    if not any(one.version == 4 for one in chosen) and not chosen:
        chosen.append(choose_ipv4([other for _, other in taken]))
    if ipv6 and not any(one.version == 6 for one in chosen):
        chosen.append(choose_ipv6(name, [other for _, other in taken]))
    for version in (4, 6):
        if sum(one.version == version for one in chosen) > 1:
            raise AddressError(f"network '{name}': one IPv{version} subnet at most")
    if mtu_bytes < IPV6_MTU and any(one.version == 6 for one in chosen):
        raise BadInput(f"{option('mtu', mtu)} is too small for IPv6, which needs {IPV6_MTU}")
    wanted: dict[int, str] = {}
    for text in several(gateway):
        version = ipaddress.ip_address(_address(text)).version
        if version in wanted:
            raise BadInput(f"a network has one IPv{version} gateway, {wanted[version]} and {text} are given")
        wanted[version] = text
    for version, text in wanted.items():
        if not any(one.version == version for one in chosen):
            raise AddressError(f"gateway {text}: network '{name}' has no IPv{version} subnet")
    pools = [Pool(one, gateway=wanted.get(one.version, "auto")) for one in chosen]
    spec = NetworkSpec(
        name=name,
        driver=driver,
        subnets=tuple(str(pool.subnet) for pool in pools),
        gateways=tuple(str(pool.gateway_interface) for pool in pools),
        mtu=mtu_bytes,
        internal=internal,
    )
    return spec, pools


def _what_is_idle(subnet: Subnet, existing: Iterable[Network]) -> str:
    """The end of a message: what to do where only networks that nothing hangs on are in the way."""
    there = [net for net in existing if any(overlap(subnet, parse_subnet(text)) for text in net.subnets)]
    if not there or any(net.containers for net in there):
        return ""
    how = "%network prune removes" if in_a_magic() else "its remove() takes away"
    return f", on which nothing hangs: {how} it"


def _address(text: str) -> str:
    from .ipam import parse_address

    return str(parse_address(text))


class Attachment:
    """Addresses taken for one endpoint, to be given back if the rest fails."""

    def __init__(self, network: Network, owner: str) -> None:
        self.network = network
        self.owner = owner
        self.addresses: list[Interface] = []

    def take(self, ip: str | None, ip6: str | None) -> None:
        """Addresses from each pool: the requested ones, or the lowest free."""
        try:
            for version, text in ((4, ip), (6, ip6)):
                if text is not None and not any(pool.subnet.version == version for pool in self.network.pools):
                    raise AddressError(f"{text}: network '{self.network.name}' has no IPv{version} subnet")
            for pool in self.network.pools:
                requested = ip if pool.subnet.version == 4 else ip6
                self.addresses.append(pool.allocate(requested, self.owner))
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Release what was taken."""
        for address in self.addresses:
            for pool in self.network.pools:
                if address.version == pool.subnet.version:
                    pool.release(address)
        self.addresses = []

    def take_again(self, endpoint: EndpointSpec) -> None:
        """The addresses that an endpoint has, which were just given back."""
        texts = [text.partition("/")[0] for text in endpoint.addresses]
        self.take(next((t for t in texts if ":" not in t), None), next((t for t in texts if ":" in t), None))

    def endpoint(self, number: int, identity: str, mac: str | None, default: bool) -> EndpointSpec:
        """The endpoint with these addresses. The MAC follows from the IPv4 address, else from the identity."""
        first = next((address for address in self.addresses if address.version == 4), None)
        if mac is not None:
            hardware = parse_mac(mac)
        elif first is not None:
            hardware = mac_from_ipv4(first)
        else:
            hardware = mac_from_id(identity)
        resolvers = tuple(str(ipaddress.ip_interface(text).ip) for text in self.network.gateways)
        gateways = () if self.network.spec.internal else resolvers
        return EndpointSpec(
            network=self.network.name,
            number=number,
            interface=f"eth{number}",
            mac=hardware,
            addresses=tuple(str(address) for address in self.addresses),
            default_gateways=gateways if default else (),
            mtu=self.network.spec.mtu,
            gateways=gateways,
            resolvers=resolvers,
        )


def release(network: Network, endpoint: EndpointSpec) -> None:
    """Give an endpoint's addresses back."""
    for text in endpoint.addresses:
        address = ipaddress.ip_interface(text)
        for pool in network.pools:
            if address.version == pool.subnet.version:
                pool.release(address)
