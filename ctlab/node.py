"""`Node`: a machine of the lab. This version has one, called host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lab import Lab


class Node:
    """A network namespace of the lab with its own bridges and routes."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    @property
    def networks(self) -> list[str]:
        """The names of its networks."""
        return [network.name for network in self.lab.networks if network.spec.node == self.name]

    def links(self) -> list[dict[str, Any]]:
        """Its interfaces, without the spare ones kept for the next starts: index, name, mac, mtu, state."""
        from . import asking
        from .runtime.birth import SPARE_PREFIX

        return [
            {
                "index": entry["index"],
                "name": entry["attributes"].get("IFLA_IFNAME"),
                "alias": entry["attributes"].get("IFLA_IFALIAS"),
                "mac": entry["attributes"].get("IFLA_ADDRESS"),
                "mtu": entry["attributes"].get("IFLA_MTU"),
                "state": entry["attributes"].get("IFLA_OPERSTATE"),
            }
            for entry in asking.ask(self.lab, None, "links")
            if not str(entry["attributes"].get("IFLA_IFNAME", "")).startswith(SPARE_PREFIX)
        ]

    def routes(self) -> list[dict[str, Any]]:
        """Its routing table."""
        from . import asking

        return asking.routes(self.lab, None, asking.link_names(self.lab, None))

    def __repr__(self) -> str:
        return f"<Node {self.name}: networks {', '.join(self.networks) or 'none'}>"
