"""When is a network namespace really gone? The kernel frees them in a worker, long after the last process.

`Watch` runs as a worker in mount and network namespaces of its own. It gives every namespace of interest an id
(RTM_NEWNSID); the kernel says when it takes one apart (RTM_DELNSID), and an id that is still there afterwards is
a namespace that something pins. The taking apart ends with the kernel's work item `cleanup_net`, which the
tracepoints of work queues show, in a trace instance of its own. So other people's namespaces don't count,
and nothing is created that would have to be cleaned up with the lab.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from pathlib import Path

from benchmarks.peers.private import check_private, mount
from benchmarks.peers.worker import SideFailed, serve

TRACING = Path("/sys/kernel/tracing")
EVENTS = ("workqueue_execute_start", "workqueue_execute_end")
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE, RTM_NEWNSID, RTM_DELNSID, RTM_GETNSID = 2, 3, 88, 89, 90
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NSID = 270, 1, 28
NETNSA_NSID, NETNSA_PID = 1, 2
HEADER = struct.Struct("=IHHII")


class Watch:
    """`begin(pids)`, then the lab goes down, then `end()`; all times are CLOCK_MONOTONIC seconds."""

    def __init__(self) -> None:
        check_private()
        mount("-t", "tracefs", "tracefs", str(TRACING))
        self._instance = TRACING / "instances" / f"ctlab-bench-{os.getpid()}"
        self._instance.mkdir()
        self._write("trace_clock", "mono")
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._netlink.bind((0, 0))
        self._inodes: set[int] = set()
        self._next_id = 0
        self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._news.bind((0, 0))
        self._news.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_NSID)
        self._deleted: list[float] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Notes when each id goes; the kernel sends one message a namespace."""
        while True:
            try:
                data = self._news.recv(1 << 16)
            except OSError:
                return
            if HEADER.unpack_from(data)[1] == RTM_DELNSID:
                self._deleted.append(time.monotonic())

    def about(self) -> dict[str, str]:
        return {"version": "cleanup_net by tracepoint, ids by RTM_NEWNSID"}

    def _write(self, name: str, text: str) -> None:
        (self._instance / name).write_text(text)

    def begin(self, pids: list[int], outside: int) -> int:
        """Marks the network namespaces of `pids` other than that of `outside`; returns how many there are."""
        self._inodes = set()
        stays = os.stat(f"/proc/{outside}/ns/net").st_ino
        for pid in pids:
            try:
                inode = os.stat(f"/proc/{pid}/ns/net").st_ino
            except OSError:
                continue
            if inode in self._inodes or inode == stays:
                continue
            self._inodes.add(inode)
            self._next_id += 1
            body = struct.pack("=B3x", socket.AF_UNSPEC)
            body += struct.pack("=HHi", 8, NETNSA_NSID, self._next_id) + struct.pack("=HHI", 8, NETNSA_PID, pid)
            flags = NLM_F_REQUEST | NLM_F_ACK
            self._netlink.send(HEADER.pack(HEADER.size + len(body), RTM_NEWNSID, flags, 1, 0) + body)
            answer = self._netlink.recv(4096)
            (number,) = struct.unpack_from("=i", answer, HEADER.size)
            if -number == errno.ESRCH:  # it ended just now
                self._inodes.discard(inode)
            elif number:
                raise SideFailed(f"RTM_NEWNSID for pid {pid}: errno {-number}")
        self._deleted.clear()
        self._write("trace", "")
        for event in EVENTS:
            self._write(f"events/workqueue/{event}/enable", "1")
        return len(self._inodes)

    def _events(self) -> list[tuple[float, str]]:
        found = []
        for line in (self._instance / "trace").read_text().splitlines():
            if line.endswith("function cleanup_net"):
                words = line.split()
                at = next(index for index, word in enumerate(words) if word.startswith("workqueue_execute_"))
                found.append((float(words[at - 1].rstrip(":")), words[at].rstrip(":").rsplit("_", 1)[1]))
        return found

    def _ids(self) -> int:
        body = struct.pack("=B3x", socket.AF_UNSPEC)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        self._netlink.send(HEADER.pack(HEADER.size + len(body), RTM_GETNSID, flags, 2, 0) + body)
        count = 0
        while True:
            data = self._netlink.recv(1 << 16)
            while data:
                length, kind, *_ = HEADER.unpack_from(data)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return count
                count += kind == RTM_NEWNSID
                data = data[(length + 3) & ~3 :]

    def end(self, since: float, patience: float = 8.0) -> dict[str, float]:
        """Waits until all marked namespaces have been taken apart.

        Returns `gone`: when the clean-up that took the last one ended (`since` itself if none was marked), and
        `pinned`: how many are still there after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        gone, pinned = since, self._ids()
        while time.monotonic() < deadline:
            time.sleep(0.02)
            pinned = self._ids()
            if pinned or len(self._deleted) < len(self._inodes):
                continue
            last = max([since, *self._deleted])
            ends = [at for at, kind in self._events() if kind == "end" and at >= last]
            if ends or not self._inodes:
                gone = min([max(since, at) for at in ends], default=since)
                break
        else:
            pinned = pinned or 1
        for event in EVENTS:
            self._write(f"events/workqueue/{event}/enable", "0")
        return {"gone": gone, "pinned": float(pinned)}

    def close(self) -> None:
        """Removes the trace instance."""
        for event in EVENTS:
            self._write(f"events/workqueue/{event}/enable", "0")
        self._netlink.close()
        self._instance.rmdir()


if __name__ == "__main__":
    serve(Watch)
