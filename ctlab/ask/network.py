"""The verbs of %network."""

from __future__ import annotations

from .. import ipam, names
from ..errors import AddressError, BadInput, Unsupported
from . import common, docker
from .model import Absent, Noun, Option, Parsed, Subject, Verb

DRIVERS = ("bridge",)
LATER_DRIVERS = ("overlay", "macvlan", "ipvlan")
PREDEFINED = ("host", "none")
SEVERAL = (Subject("NETWORK", "network", repeated=True),)
ENDPOINT = (Subject("NETWORK", "network"), Subject("CONTAINER", "container"))


def check_create(parsed: Parsed, cell: bool) -> None:
    """The name, and what the options say of each other: subnets apart, the gateway inside, nothing without a bridge."""
    options = parsed.options
    [name] = parsed.subjects
    names.check_name("network", name)
    driver = str(options.get("driver", "bridge"))
    if driver in PREDEFINED:
        raise BadInput(f"driver '{driver}' has one network, which is there already: --network {driver}")
    if driver in LATER_DRIVERS:
        raise Unsupported(f"driver '{driver}' isn't in this version; there is: bridge (and the networks host and none)")
    if driver not in DRIVERS:
        near = names.did_you_mean(driver, (*DRIVERS, *LATER_DRIVERS))
        raise BadInput(f"no network driver {names.shorten(driver)}{near}; there is: bridge")
    given = options.get("subnet")
    subnets = [ipam.parse_subnet(text) for text in given] if isinstance(given, list) else []
    for index, subnet in enumerate(subnets):
        ipam.check_overlap(subnet, ((name, other) for other in subnets[:index]))
    for version in (4, 6):
        if len([subnet for subnet in subnets if subnet.version == version]) > 1:
            raise BadInput(f"a network has one IPv{version} subnet, {' and '.join(map(str, subnets))} are given")
    gateways = options.get("gateway")
    addresses = [ipam.parse_address(text) for text in gateways] if isinstance(gateways, list) else []
    for address in addresses:
        inside = [subnet for subnet in subnets if subnet.version == address.version]
        if not inside:
            raise AddressError(f"--gateway {address} needs the --subnet it is in")
        ipam.Pool(inside[0], address)
    for version in (4, 6):
        if len([address for address in addresses if address.version == version]) > 1:
            raise BadInput(f"a network has one IPv{version} gateway, {' and '.join(map(str, addresses))} are given")
    mtu = options.get("mtu")
    ipv6 = "ipv6" in options or any(subnet.version == 6 for subnet in subnets)
    if isinstance(mtu, int) and ipv6 and mtu < ipam.IPV6_MTU:
        raise BadInput(f"--mtu {mtu} is too small for IPv6, which needs {ipam.IPV6_MTU}")


CREATE_OPTIONS = (
    Option("driver", "d", "DRIVER", "text", help="bridge, the one there is"),
    Option("subnet", "", "CIDR", "subnet", True, help="its addresses, for IPv4 and IPv6; else chosen free"),
    Option("gateway", "", "ADDRESS", "address", True, help="the bridge's own address (the subnet's first)"),
    Option("ipv6", kind="flag", help="also an IPv6 subnet, chosen free"),
    Option("internal", kind="flag", help="no way out of it"),
    Option("mtu", "", "BYTES", "mtu", help="largest packet (1500)"),
    common.EXISTS_OPTION, common.EXPLAIN, common.LAB,
)  # fmt: skip

VERBS = (
    Verb(
        "network", "create", "make a network",
        CREATE_OPTIONS,
        (Subject("NAME", "new"),),
        absent=(*docker.NETWORK_CREATE, Absent("nat", "--nat isn't in this version: networks stay inside the lab"),
                Absent("no-nat", "--no-nat isn't in this version: networks stay inside the lab, there is no NAT")),
        check=check_create,
    ),
    Verb(
        "network", "ls", "list networks", (common.QUIET_LIST, common.LAB), aliases=("list", "ps"),
        absent=docker.NETWORK_LISTING,
    ),
    Verb(
        "network", "rm", "remove networks that nothing hangs on", (common.FORCE, common.EXPLAIN, common.LAB), SEVERAL,
        aliases=("remove",),
    ),
    Verb(
        "network", "inspect", "everything known about networks", (common.LAB,), SEVERAL,
        absent=docker.NETWORK_INSPECTING,
    ),
    Verb(
        "network", "connect", "give a container one more interface",
        (
            Option("ip", "", "ADDRESS", "ipv4", help="its IPv4 address there"),
            Option("ip6", "", "ADDRESS", "ipv6", help="its IPv6 address there"),
            Option("mac-address", "", "MAC", "mac", help="its MAC address there"),
            common.EXPLAIN, common.LAB,
        ),
        ENDPOINT, absent=docker.NETWORK_CONNECT,
    ),
    Verb(
        "network", "disconnect", "take a container's interface away",
        (Option("force", "f", kind="flag", help="no error if it isn't connected"), common.EXPLAIN, common.LAB),
        ENDPOINT,
    ),
    Verb(
        "network", "prune", "remove networks that nothing hangs on", (common.FORCE_PRUNE, common.EXPLAIN, common.LAB),
        absent=docker.PRUNING,
    ),
)  # fmt: skip

NETWORK = Noun("network", "networks that containers attach to", VERBS, "ls")
