"""rtnetlink for the start path: messages packed by hand, sent in one batch, acknowledged one by one.

Only what the start of a container needs is here (links, addresses, routes). Formats: rtnetlink(7),
linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h. The tests decode every message with pyroute2.

A builder returns one complete message whose sequence number is filled in by `Netlink.run`.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
NLM_F_ACK = 4
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
IFF_UP = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_PROTINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC = 12, 19, 20, 26
IFLA_BRPORT_STATE, BR_STATE_DISABLED = 1, 0
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTN_UNICAST = 254, 3, 0, 253, 1
NLA_F_NESTED = 0x8000
SIOCGIFNAME, SIOCGIFINDEX = 0x8910, 0x8933

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def mac_bytes(mac: str) -> bytes:
    """``02:42:0a:0a:00:02`` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0) + body


def new_bridge(name: str, *, mac: str | None = None, mtu: int | None = None) -> bytes:
    """RTM_NEWLINK of a bridge, down. (An alias would be ignored by the kernel here: that is for `set_link`.)"""
    body = _IFINFO.pack(_socket.AF_UNSPEC, 0, 0, 0, 0) + _text(IFLA_IFNAME, name)
    if mac:
        body += _attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += _number(IFLA_MTU, mtu)
    body += _attribute(IFLA_LINKINFO | NLA_F_NESTED, _text(IFLA_INFO_KIND, "bridge"))
    return _message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_veth(
    name: str,
    peer_name: str,
    *,
    peer_pid: int | None = None,
    peer_mac: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
    up: bool = False,
) -> bytes:
    """RTM_NEWLINK of a veth pair with its peer made in place, in the network namespace of `peer_pid`."""
    flags = IFF_UP if up else 0
    body = _IFINFO.pack(_socket.AF_UNSPEC, 0, 0, flags, flags) + _text(IFLA_IFNAME, name)
    peer = _IFINFO.pack(_socket.AF_UNSPEC, 0, 0, 0, 0) + _text(IFLA_IFNAME, peer_name)
    if peer_pid is not None:
        peer += _number(IFLA_NET_NS_PID, peer_pid)
    if peer_mac:
        peer += _attribute(IFLA_ADDRESS, mac_bytes(peer_mac))
    if mtu:
        body += _number(IFLA_MTU, mtu)
        peer += _number(IFLA_MTU, mtu)
    if master is not None:
        body += _number(IFLA_MASTER, master)
    data = _attribute(IFLA_INFO_DATA | NLA_F_NESTED, _attribute(VETH_INFO_PEER | NLA_F_NESTED, peer))
    body += _attribute(IFLA_LINKINFO | NLA_F_NESTED, _text(IFLA_INFO_KIND, "veth") + data)
    return _message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(
    index: int,
    *,
    find: str | None = None,
    name: str | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
    alias: str | None = None,
    up: bool | None = None,
    no_link_local: bool = False,
) -> bytes:
    """RTM_SETLINK: rename, address, MTU, master (0 = none), alias, up or down.

    The interface is named by `index`, or with index 0 by `find` (a link made earlier in the same batch).
    `no_link_local` sets the IPv6 address generation mode to none, which link creation itself refuses
    (EAFNOSUPPORT) and a SETLINK in the same batch accepts.
    """
    change = 0 if up is None else IFF_UP
    body = _IFINFO.pack(_socket.AF_UNSPEC, 0, index, IFF_UP if up else 0, change)
    if name or find:
        body += _text(IFLA_IFNAME, name or find or "")
    if mac:
        body += _attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += _number(IFLA_MTU, mtu)
    if master is not None:
        body += _number(IFLA_MASTER, master)
    if alias is not None:
        body += _attribute(IFLA_IFALIAS, alias.encode())
    if no_link_local:
        mode = _attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        family = _attribute(_socket.AF_INET6 | NLA_F_NESTED, mode)
        body += _attribute(IFLA_AF_SPEC | NLA_F_NESTED, family)
    return _message(RTM_SETLINK, 0, body)


def delete_link(name: str, index: int = 0) -> bytes:
    """RTM_DELLINK, by index where it is given, else by name."""
    body = _IFINFO.pack(_socket.AF_UNSPEC, 0, index, 0, 0)
    return _message(RTM_DELLINK, 0, body if index else body + _text(IFLA_IFNAME, name))


def close_port(index: int) -> bytes:
    """RTM_SETLINK of a bridge's port: it forwards nothing any more (EOPNOTSUPP for a link in no bridge)."""
    body = _IFINFO.pack(_socket.AF_BRIDGE, 0, index, 0, 0)
    state = _attribute(IFLA_BRPORT_STATE, bytes([BR_STATE_DISABLED]))
    return _message(RTM_SETLINK, 0, body + _attribute(IFLA_PROTINFO | NLA_F_NESTED, state))


def new_address(index: int, address: str) -> bytes:
    """RTM_NEWADDR of ``10.0.0.2/24`` or ``fd00::2/64`` (without duplicate address detection)."""
    host, _, prefix = address.partition("/")
    if ":" in host:
        raw = _socket.inet_pton(_socket.AF_INET6, host)
        body = _IFADDR.pack(_socket.AF_INET6, int(prefix), 0, RT_SCOPE_UNIVERSE, index)
        body += _attribute(IFA_ADDRESS, raw) + _number(IFA_FLAGS, IFA_F_NODAD)
    else:
        raw = _socket.inet_pton(_socket.AF_INET, host)
        body = _IFADDR.pack(_socket.AF_INET, int(prefix), 0, RT_SCOPE_UNIVERSE, index)
        body += _attribute(IFA_LOCAL, raw) + _attribute(IFA_ADDRESS, raw)
        if int(prefix) < 31:
            mask = (1 << 32 - int(prefix)) - 1
            body += _attribute(IFA_BROADCAST, struct.pack("!I", struct.unpack("!I", raw)[0] | mask))
    return _message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def new_route(index: int, destination: str, gateway: str | None) -> bytes:
    """RTM_NEWROUTE; `destination` is a CIDR or ``default``/``::/0``; without a gateway it is on the link."""
    family = _socket.AF_INET6 if ":" in (gateway or destination) else _socket.AF_INET
    host, _, prefix = destination.partition("/")
    length = 0 if host == "default" else int(prefix)
    scope = RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK
    body = _RTMSG.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    if length:
        body += _attribute(RTA_DST, _socket.inet_pton(family, host))
    if gateway:
        body += _attribute(RTA_GATEWAY, _socket.inet_pton(family, gateway))
    return _message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body + _number(RTA_OIF, index))


class Netlink:
    """One rtnetlink socket, bound to the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._sequence = 0

    def fileno(self) -> int:
        """The descriptor, for passing on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket (an open one pins its network namespace)."""
        self._socket.close()

    def index(self, name: str) -> int:
        """The interface index of `name` in this namespace; ENODEV where there is none."""
        request = struct.pack("16sI12x", name.encode(), 0)
        try:
            answer = fcntl.ioctl(self._socket.fileno(), SIOCGIFINDEX, request)
        except OSError as error:
            raise OSError(error.errno, f"interface {name}: {os.strerror(error.errno or 0)}") from None
        return int(struct.unpack_from("I", answer, 16)[0])

    def is_there(self, index: int) -> bool:
        """Whether an interface is still there; asks without the lock that a namespace's end holds for long."""
        try:
            fcntl.ioctl(self._socket.fileno(), SIOCGIFNAME, struct.pack("16xi12x", index))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True

    def run(self, messages: Sequence[bytes]) -> None:
        """Send the messages in one batch; `NetlinkError` names the first that the kernel refused.

        The kernel processes all of a batch even after an error, so the caller undoes by object.
        """
        if not messages:
            return
        first = self._sequence + 1
        batch = bytearray()
        for message in messages:
            self._sequence += 1
            batch += message[:8]
            batch += struct.pack("=I", self._sequence)
            batch += message[12:]
        self._socket.send(batch)
        waiting = len(messages)
        failed: NetlinkError | None = None
        while waiting:
            data = self._socket.recv(65536)
            offset = 0
            while offset + 16 <= len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
                if kind == NLMSG_ERROR and sequence >= first:
                    number = -struct.unpack_from("=i", data, offset + 16)[0]
                    waiting -= 1
                    if number and failed is None:
                        failed = NetlinkError(number, sequence - first)
                offset += (length + 3) & ~3
        if failed:
            raise failed

    def delete_if_there(self, name: str, index: int = 0) -> None:
        """Delete a link; that it is gone already is no error."""
        try:
            self.run([delete_link(name, index)])
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise


class NetlinkError(OSError):
    """The kernel refused message number `position` of a batch."""

    def __init__(self, number: int, position: int) -> None:
        super().__init__(number, os.strerror(number))
        self.position = position
