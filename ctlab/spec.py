"""What was asked for, frozen: the input of every plan and what `inspect` shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from .plan.limits import Limits

SCRIPT_DESCRIPTOR = 9  # from it a shell reads what was given as a script; `kernel.launcher` leaves it open
SCRIPT = ("/bin/sh", f"/dev/fd/{SCRIPT_DESCRIPTOR}")


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network. `gateways` are the bridge's own addresses, each with its prefix length."""

    name: str
    driver: str = "bridge"
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    mtu: int = 1500
    internal: bool = False
    node: str = "host"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One attachment of a container to a network; `addresses` carry prefix lengths.

    `gateways`: by which its network leads out, if it does; `default_gateways`: those that it has a default route by;
    `resolvers`: where names are answered on it.
    """

    network: str
    number: int
    interface: str
    mac: str
    addresses: tuple[str, ...]
    default_gateways: tuple[str, ...] = ()
    mtu: int = 1500
    gateways: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()

    @property
    def bare(self) -> tuple[str, ...]:
        """Its addresses without prefix lengths, IPv4 first."""
        return tuple(sorted((text.partition("/")[0] for text in self.addresses), key=lambda text: ":" in text))


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A path of this machine shown inside a container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container. `command` is empty for one that idles; `network_mode` is bridge, host, none or container:ID."""

    name: str
    image: str = "system"
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str = "0"
    hostname: str = ""
    init: bool = False
    tty: bool = False
    rm: bool = False
    read_only: bool = False
    mounts: tuple[MountSpec, ...] = ()
    limits: Limits = field(default_factory=lambda: Limits())
    capabilities: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()  # as typed
    seccomp: str = "default"  # or "unconfined", or the text of a profile in Docker's format
    seccomp_source: str = "default"  # where that text is from
    stop_signal: str = "SIGTERM"
    stop_timeout_seconds: float = 10.0
    network_mode: str = "bridge"
    networks: tuple[str, ...] = ()
    node: str = "host"
    labels: tuple[tuple[str, str], ...] = ()
