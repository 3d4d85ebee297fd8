"""When is a network namespace really gone? The kernel frees them in a worker, long after the last process.

`Watch` runs as a worker in mount and network namespaces of its own. It watches the kernel's own work item
(`cleanup_net`, by the tracepoints workqueue_execute_start and _end, in a trace instance of its own), and gives
every namespace of interest an id (RTM_NEWNSID): an id that is still there afterwards is a namespace that
something pins. Both are passive: nothing is created that has to be cleaned up with the lab.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

from benchmarks.peers.private import check_private, mount
from benchmarks.peers.worker import SideFailed, serve

TRACING = Path("/sys/kernel/tracing")
EVENTS = ("workqueue_execute_start", "workqueue_execute_end")
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE, RTM_NEWNSID, RTM_GETNSID = 2, 3, 88, 90
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
            body = struct.pack("=B3x", socket.AF_UNSPEC)
            body += struct.pack("=HHi", 8, NETNSA_NSID, len(self._inodes)) + struct.pack("=HHI", 8, NETNSA_PID, pid)
            flags = NLM_F_REQUEST | NLM_F_ACK
            self._netlink.send(HEADER.pack(HEADER.size + len(body), RTM_NEWNSID, flags, 1, 0) + body)
            answer = self._netlink.recv(4096)
            (number,) = struct.unpack_from("=i", answer, HEADER.size)
            if number:
                raise SideFailed(f"RTM_NEWNSID for pid {pid}: errno {-number}")
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

    def end(self, since: float, quiet: float = 0.25, patience: float = 5.0) -> dict[str, float]:
        """Waits until all marked namespaces and every clean-up are done and `quiet` seconds have passed since.

        Returns `gone`: when the last clean-up after `since` ended (`since` itself if there was none), and
        `pinned`: how many marked namespaces are still there after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        last, pinned = since, 0
        while time.monotonic() < deadline:
            time.sleep(0.05)
            events = self._events()
            busy = bool(events) and events[-1][1] == "start"
            last = max([since, *(at for at, kind in events if kind == "end")])
            pinned = self._ids()
            if not busy and not pinned and time.monotonic() > last + quiet:
                break
        for event in EVENTS:
            self._write(f"events/workqueue/{event}/enable", "0")
        return {"gone": last, "pinned": float(pinned)}

    def close(self) -> None:
        """Removes the trace instance."""
        for event in EVENTS:
            self._write(f"events/workqueue/{event}/enable", "0")
        self._netlink.close()
        self._instance.rmdir()


if __name__ == "__main__":
    serve(Watch)
