"""DNS for a lab's names: A, AAAA and PTR of the containers that share a network with the asker.

A child of the supervisor, in the node's network namespace; UDP on each bridge's address and on 127.0.0.11
(for containers on the node's own network). Format: RFC 1035; unknown names are NXDOMAIN, a known name
without an address of the family asked for is an empty answer (RFC 2308), anything else is NOTIMP.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from typing import Any, NoReturn

from . import protocol

PORT = 53
_HEADER = struct.Struct("!HHHHHH")
_A, _PTR, _AAAA, _ANY, _IN = 1, 12, 28, 255, 1
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP = 0, 1, 3, 4
_TTL_SECONDS = 0  # names change whenever a cell is run again
_BATCH = 64


class Names:
    """Which name has which addresses on which network, and who asks."""

    def __init__(self) -> None:
        self._addresses: dict[str, dict[str, list[str]]] = {}  # name -> network -> addresses
        self._networks_of: dict[str, set[str]] = {}  # address of an asker -> the networks it is on

    def set(self, name: str, endpoints: list[tuple[str, list[str]]]) -> None:
        """Give `name` its addresses, replacing what it had; none: the name goes."""
        self.forget(name)
        if not endpoints:
            return
        key = name.lower()
        self._addresses[key] = {network: list(addresses) for network, addresses in endpoints}
        networks = {network for network, _ in endpoints}
        for _, addresses in endpoints:
            for address in addresses:
                self._networks_of[address] = networks

    def forget(self, name: str) -> None:
        """Remove a name and its addresses."""
        for addresses in self._addresses.pop(name.lower(), {}).values():
            for address in addresses:
                self._networks_of.pop(address, None)

    def look_up(self, name: str, asker: str) -> list[str] | None:
        """Addresses of `name` as `asker` may see them; None: no such name there."""
        found = self._addresses.get(name.lower())
        if found is None:
            return None
        visible = None if asker.startswith("127.") else self._networks_of.get(asker, set())
        addresses = [a for network, all_ in found.items() if visible is None or network in visible for a in all_]
        return addresses or None

    def reverse(self, address: str, asker: str) -> str | None:
        """The name that has `address`."""
        for name in self._addresses:
            addresses = self.look_up(name, asker)
            if addresses and address in addresses:
                return name
        return None


def parse_question(packet: bytes) -> tuple[int, int, str, int, int, int]:
    """(id, flags, name, type, class, end of the question); ValueError if it isn't one plain question."""
    if len(packet) < 12:
        raise ValueError("short")
    identifier, flags, questions, _, _, _ = _HEADER.unpack_from(packet)
    if flags & 0x8000 or questions != 1:
        raise ValueError("not a question")
    labels, offset = [], 12
    while True:
        if offset >= len(packet):
            raise ValueError("cut off")
        length = packet[offset]
        offset += 1
        if not length:
            break
        if length > 63 or offset + length > len(packet):
            raise ValueError("bad label")
        labels.append(packet[offset : offset + length].decode("ascii", "replace"))
        offset += length
    if offset + 4 > len(packet):
        raise ValueError("cut off")
    kind, family = struct.unpack_from("!HH", packet, offset)
    return identifier, flags, ".".join(labels), kind, family, offset + 4


def _pack_name(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def _pointer_address(name: str) -> str | None:
    labels = name.lower().split(".")
    with contextlib.suppress(ValueError):
        if name.lower().endswith(".in-addr.arpa") and len(labels) == 6:
            numbers = [int(label) for label in reversed(labels[:4])]
            return socket.inet_ntop(socket.AF_INET, bytes(numbers))
        if name.lower().endswith(".ip6.arpa") and len(labels) == 34:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex("".join(reversed(labels[:32]))))
    return None


def answer(packet: bytes, asker: str, names: Names) -> bytes | None:
    """The reply to one packet; None where none is due."""
    try:
        identifier, flags, name, kind, family, end = parse_question(packet)
    except ValueError:
        if len(packet) < 12 or packet[2] & 0x80:
            return None
        return packet[:2] + struct.pack("!HHHHH", 0x8000 | _FORMERR, 0, 0, 0, 0)
    records: list[tuple[int, bytes]] = []
    code = _NOERROR
    if flags >> 11 & 15 or family not in (_IN, _ANY):
        code = _NOTIMP
    elif kind == _PTR:
        address = _pointer_address(name)
        target = names.reverse(address, asker) if address else None
        if target is None:
            code = _NXDOMAIN
        else:
            records.append((_PTR, _pack_name(target)))
    else:
        addresses = names.look_up(name, asker)
        if addresses is None:
            code = _NXDOMAIN
        for address in addresses or ():
            if ":" in address and kind in (_AAAA, _ANY):
                records.append((_AAAA, socket.inet_pton(socket.AF_INET6, address)))
            elif ":" not in address and kind in (_A, _ANY):
                records.append((_A, socket.inet_pton(socket.AF_INET, address)))
    reply = 0x8400 | (flags & 0x0100) | 0x0080 | code
    body = _HEADER.pack(identifier, reply, 1, len(records), 0, 0) + packet[12:end]
    for record_kind, data in records:
        body += struct.pack("!HHHIH", 0xC00C, record_kind, _IN, _TTL_SECONDS, len(data)) + data
    return body


class Resolver:
    """The loop of the process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._names = Names()
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}

    def run(self) -> NoReturn:
        """Until the supervisor goes."""
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            self._obey()  # first: a name is known before the first question about it can arrive
            for descriptor in ready:
                if descriptor in self._sockets:
                    self._serve(self._sockets[descriptor])

    def _obey(self) -> None:
        while True:
            try:
                message, _, _ = protocol.receive(self._control, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if message is None:
                os._exit(0)
            self._change(message)

    def _change(self, message: dict[str, Any]) -> None:
        if "listen" in message:
            number = 0
            try:
                self._listen(message["listen"])
            except OSError as error:  # a container on `host` has taken it
                number = error.errno or 0
            protocol.send(self._control, {"listening": message["listen"], "errno": number})
        elif "stop" in message:
            for descriptor, server in list(self._sockets.items()):
                if server.getsockname()[0] == message["stop"]:
                    self._poll.unregister(descriptor)
                    self._sockets.pop(descriptor).close()
        else:
            self._names.set(message["name"], [(network, addresses) for network, addresses in message["endpoints"]])

    def _listen(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # Without SO_REUSEADDR: of datagrams whoever sets it last would get the packets, a container on `host` too.
        try:
            server.bind((address, PORT))
        except OSError:
            server.close()
            raise
        self._sockets[server.fileno()] = server
        self._poll.register(server, select.EPOLLIN)

    def _serve(self, server: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                packet, source = server.recvfrom(4096)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer
            reply = answer(packet, source[0], self._names)
            if reply is not None:
                with contextlib.suppress(OSError):
                    server.sendto(reply, source)


def main(control: socket.socket) -> NoReturn:
    """Run as a forked child in the network namespace of a node."""
    Resolver(control).run()
