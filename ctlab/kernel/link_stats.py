"""Counters of all interfaces of a network namespace by one netlink dump.

Hand-packed, because it runs many times a second in a process that has only the standard library.
RTM_GETSTATS (Linux 4.7) carries nothing but the counters; where the kernel refuses it, RTM_GETLINK is asked,
whose answer is several times longer. Both end in ``struct rtnl_link_stats64`` (linux/if_link.h).

The socket says which namespace is meant: a netlink socket belongs to the one it was opened in.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

NETLINK_ROUTE = 0
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x010
RTM_NEWLINK = 16
RTM_GETLINK = 18
RTM_NEWSTATS = 92
RTM_GETSTATS = 94
IFLA_STATS64 = 23
IFLA_STATS_LINK_64 = 1

Counters = tuple[int, int, int, int, int, int, int, int]

FIELDS = (
    "rx_bytes_total", "rx_packets_total", "rx_errors_total", "rx_dropped_total",
    "tx_bytes_total", "tx_packets_total", "tx_errors_total", "tx_dropped_total",
)  # fmt: skip

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_STATS = struct.Struct("=8Q")  # rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped
_STATS_BODY = struct.Struct("=BBHII")  # if_stats_msg: family, pad, pad, ifindex, filter_mask
_LINK_BODY = struct.Struct("=BBHiII")  # ifinfomsg: family, pad, type, index, flags, change
_INDEX = struct.Struct("=i")  # at offset 4 of either body


def open_socket() -> socket.socket:
    """A route netlink socket in the calling thread's network namespace."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)


class LinkCounters:
    """Reads the counters of every interface of the namespace in which its socket was opened."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over `sock` (AF_NETLINK, NETLINK_ROUTE)."""
        self._sock = sock
        self._sequence = 0
        self._buffer = bytearray(1 << 16)  # the kernel fills at most 32 KiB a message
        self.request = RTM_GETSTATS

    def read(self) -> dict[int, Counters]:
        """{interface index: counters in the order of `FIELDS`}, as the interface itself counts them.

        Interfaces that come or go meanwhile may be missing. Raises OSError.
        """
        try:
            found, interrupted = self._dump()
        except OSError as error:
            if self.request != RTM_GETSTATS or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self.request = RTM_GETLINK
            found, interrupted = self._dump()
        if interrupted:  # an interface came or went during the dump and others may have been skipped: ask once more
            again, _ = self._dump()
            found.update(again)
        return found

    def _dump(self) -> tuple[dict[int, Counters], bool]:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        if self.request == RTM_GETSTATS:
            body = _STATS_BODY.pack(0, 0, 0, 0, 1 << (IFLA_STATS_LINK_64 - 1))
            answer, skip, wanted = RTM_NEWSTATS, 16 + _STATS_BODY.size, IFLA_STATS_LINK_64
        else:
            body = _LINK_BODY.pack(0, 0, 0, 0, 0, 0)
            answer, skip, wanted = RTM_NEWLINK, 16 + _LINK_BODY.size, IFLA_STATS64
        flags = NLM_F_REQUEST | NLM_F_DUMP
        self._sock.send(_HEADER.pack(16 + len(body), self.request, flags, self._sequence, 0) + body)
        found: dict[int, Counters] = {}
        interrupted = False
        buffer = self._buffer
        while True:
            received = self._sock.recv_into(buffer)
            position = 0
            while position + 16 <= received:
                length, kind, message_flags, sequence, _ = _HEADER.unpack_from(buffer, position)
                if sequence == self._sequence:
                    interrupted = interrupted or bool(message_flags & NLM_F_DUMP_INTR)
                    if kind == answer:
                        counters = _find(buffer, position + skip, position + length, wanted)
                        if counters is not None:
                            found[_INDEX.unpack_from(buffer, position + 20)[0]] = counters
                    elif kind in (NLMSG_DONE, NLMSG_ERROR):
                        number = -_INDEX.unpack_from(buffer, position + 16)[0] if length >= 20 else 0
                        if number > 0:
                            raise OSError(number, f"dump of link counters: {os.strerror(number)}")
                        return found, interrupted
                position += (length + 3) & ~3

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _find(buffer: bytearray, position: int, end: int, wanted: int) -> Counters | None:
    """The counters in attribute `wanted` among the attributes from `position` to `end`."""
    while position + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(buffer, position)
        if kind & 0x3FFF == wanted and length >= 4 + _STATS.size:
            rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = (
                _STATS.unpack_from(buffer, position + 4)
            )
            return (rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped)
        if length < 4:
            return None
        position += (length + 3) & ~3
    return None


def swapped(counters: Counters) -> Counters:
    """The same as seen from the other end of a veth pair: what one end sends, the other receives."""
    return counters[4:] + counters[:4]
