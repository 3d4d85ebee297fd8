"""Sockets: which kinds can be had, what of the machine answers, what of the network can be changed."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from attempt import able

_FAMILIES = range(46)
_TYPES = {"stream": 1, "datagram": 2, "raw": 3, "rdm": 4, "seqpacket": 5, "packet": 10}
_NETLINK = range(23)
_ALL_FRAMES, _NETFILTER = 3, 12
_IFREQ = struct.Struct("16sH22x")
_SIOCSIFFLAGS, _SIOCBRADDBR = 0x8914, 0x89A0


def reach(order: dict[str, Any]) -> set[str]:
    tries: list[tuple[str, Callable[[], object]]] = []
    for family in _FAMILIES:
        for name, kind in _TYPES.items():
            if family != socket.AF_NETLINK:
                tries.append((f"socket of family {family}, {name}", functools.partial(socket.socket, family, kind)))
    for protocol in _NETLINK:
        make = functools.partial(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        tries.append((f"netlink socket, protocol {protocol}", make))
    tries += [
        ("socket of ICMP, unprivileged", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)),
        ("socket of raw IP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)),
        ("socket of SCTP", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)),
        ("socket of MPTCP", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)),
        ("socket of frames", lambda: socket.socket(17, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))),
        ("port below 1024", lambda: socket.socket().bind(("127.0.0.1", 79))),
        ("connects to the machine's loopback", lambda: _tcp(order["loopback_port"])),
        ("connects to the machine's abstract socket", lambda: _unix("\0" + order["abstract"])),
        ("connects to the machine's socket by its path", lambda: _unix(order["socket_path"])),
        ("talks to the host of a virtual machine", _vsock),
        ("takes its interface down", lambda: _interface(_SIOCSIFFLAGS, b"lo", 0)),
        ("makes a bridge", lambda: _interface(_SIOCBRADDBR, b"wall0", 0)),
        ("makes an interface by netlink", lambda: _netlink(socket.NETLINK_ROUTE, _NEW_LINK)),
        ("changes the packet filter", lambda: _netlink(_NETFILTER, _NEW_TABLE)),
        ("sets a mark on packets", lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1)),
        ("forces the size of buffers", lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 33, 1 << 20)),
        ("binds to an address that isn't its own", _transparent),
        ("sends credentials of another process", _other_credentials),
    ]
    return able(tries)


def _tcp(port: int) -> None:
    with socket.socket() as one:
        one.settimeout(1)
        one.connect(("127.0.0.1", port))


def _unix(name: str) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as one:
            try:
                one.connect(name)
                return
            except (ConnectionRefusedError, FileNotFoundError):
                raise
            except OSError:
                if kind == socket.SOCK_DGRAM:
                    raise


def _vsock() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as one:
        one.settimeout(1)
        one.connect((2, 1))


def _interface(request: int, name: bytes, flags: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, request, _IFREQ.pack(name, flags))


_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400 | 0x200
_HEADER = struct.Struct("=IHHII")


def _message(kind: int, body: bytes, flags: int = _REQUEST_ACK_CREATE) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


# RTM_NEWLINK: a bridge called wall1 (IFLA_IFNAME 3; IFLA_LINKINFO 18 with IFLA_INFO_KIND 1)
_NEW_LINK = _message(
    16, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(3, b"wall1\0") + _attribute(18, _attribute(1, b"bridge\0"))
)
# One batch of nf_tables: begin, NFT_MSG_NEWTABLE (inet, called wall), end
_NEW_TABLE = (
    _message(0x10, struct.pack("!BBH", 0, 0, 10), 0x1)
    + _message(0xA00, struct.pack("!BBH", 1, 0, 0) + _attribute(1, b"wall\0"), 0x1 | 0x4 | 0x400)
    + _message(0x11, struct.pack("!BBH", 0, 0, 10), 0x1)
)  # fmt: skip


def _netlink(protocol: int, message: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as one:
        one.settimeout(4)
        one.send(message)
        answer = one.recv(4096)
        code = struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code:
            raise OSError(-code, "")


def _transparent() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_IP, 19, 1)


def _other_credentials() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    credentials = struct.pack("iII", os.getppid() or 2, 0, 0)
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, credentials)])
    other.close()
