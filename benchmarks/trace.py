"""Every system call of a lab with its time, by the kernel's own tracepoints: a tenth of what strace costs.

A worker in a mount namespace of its own (tracefs is mounted there), with a trace instance of its own, so
that it meets no other user of tracing. Only the processes named, and what they fork, are recorded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmarks.peers.private import check_private, mount
from benchmarks.peers.worker import Missing, serve

TRACING = Path("/sys/kernel/tracing")
EVENTS = ("syscalls", "sched/sched_process_fork", "sched/sched_process_exec", "sched/sched_process_exit")
LINE = re.compile(r"^\s*(?P<name>.+)-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+(?P<time>\d+\.\d+): (?P<what>.*)$")
BUFFER_KIB_PER_CPU = 16384

Event = tuple[float, int, str, str]
"""(CLOCK_MONOTONIC seconds, pid, name of the process, what)."""


class Trace:
    """`begin(pids)`, then what is to be traced, then `end()`."""

    def __init__(self) -> None:
        check_private()
        mount("-t", "tracefs", "tracefs", str(TRACING))
        if not (TRACING / "events" / "syscalls").is_dir():
            raise Missing("this kernel has no system call tracepoints (CONFIG_FTRACE_SYSCALLS)")
        self._instance = TRACING / "instances" / f"ctlab-bench-{os.getpid()}"
        self._instance.mkdir()
        self._write("trace_clock", "mono")
        self._write("buffer_size_kb", str(BUFFER_KIB_PER_CPU))
        self._write("options/event-fork", "1")

    def about(self) -> dict[str, str]:
        return {"version": "system calls by tracepoints"}

    def _write(self, name: str, text: str) -> None:
        (self._instance / name).write_text(text)

    def begin(self, pids: list[int]) -> None:
        """Records from now on."""
        self._write("set_event_pid", " ".join(map(str, pids)))
        self._write("trace", "")
        for event in EVENTS:
            self._write(f"events/{event}/enable", "1")

    def end(self) -> list[Event]:
        """Stops recording; everything recorded, in order."""
        for event in EVENTS:
            self._write(f"events/{event}/enable", "0")
        found: list[Event] = []
        for line in (self._instance / "trace").read_text(errors="replace").splitlines():
            match = LINE.match(line)
            if match:
                found.append((float(match["time"]), int(match["pid"]), match["name"].strip(), match["what"]))
        return found

    def close(self) -> None:
        """Removes the trace instance."""
        for event in EVENTS:
            self._write(f"events/{event}/enable", "0")
        self._instance.rmdir()


if __name__ == "__main__":
    serve(Trace)
