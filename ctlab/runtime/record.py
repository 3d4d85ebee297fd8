"""What the supervisor knows of one container."""

from __future__ import annotations

import _socket
import os
import time
from typing import TYPE_CHECKING, Any

from .context import Filter
from .made import Slot

if TYPE_CHECKING:
    from . import messages
    from .calls import Call
    from .foreground import Group


Identity = tuple[str, tuple[str, ...], int]  # of a runner: its user, capabilities and limit of processes (0: none)


class Runner:
    """A process that runs programs in a container, one after the other (see `runner`)."""

    __slots__ = ("call", "control", "identity", "pidfd", "record", "slot", "started", "used")

    def __init__(self, control: _socket.socket, pidfd: int) -> None:
        self.control = control
        self.pidfd = pidfd
        self.record: Record | None = None  # the container it is in
        self.slot: Slot | None = None  # and which of its runs: after a restart it would be in what has gone
        self.identity: Identity = ("", (), 0)
        self.call: Call | None = None  # what it is running
        self.started = False  # whether the caller of a detached program has its answer
        self.used = 0


class Record:
    """A container, from its first start to its removal. `state`: starting, running, paused, exited."""

    def __init__(self, container_id: str, key: int, name: str, ring: int) -> None:
        self.id = container_id
        self.key = key
        self.name = name
        self.ring = ring
        self.slot: Slot | None = None
        self.private = -1  # number of its private folder
        self.state = "starting"
        self.filter: Filter | None = None  # of system calls; None: the lab's
        self.path = self.workdir = ""  # of the program of the present start
        self.init_sees: tuple[int, ...] | None = None  # signals, where the first process is an init of ours
        self.lacks: list[str] = []  # capabilities that it has not, and the program's file has
        self.returncode: int | None = None
        self.oom_killed = False
        self.oom_before = 0  # how many kills for memory are accounted for
        self.start_number = 0  # which start this is: an exit that is heard of late must not end the next one
        self.ended: messages.Exit | None = None  # how the last start that has ended did
        self.restarting = False
        self.remove_at_exit = False
        self.starter: Call | None = None
        self.go_sent = False
        self.configured = False  # whether all that comes before its program is done
        self.node_undo: list[Any] = []
        self.links: list[list[Any]] = []
        self.marks: list[tuple[str, int]] = []  # where the time of the last start went (name, monotonic ns)
        self.runners: dict[Identity, Runner] = {}  # idle ones that are inside
        self.fresh_links: list[tuple[str, ...]] = []  # possible names of each pair that may not carry packets yet
        self.terminals: list[int] = []
        self.sampled: Slot | None = None  # the run of which the sampler reads the counters
        self.streams: dict[int, tuple[int, int]] = {}  # what it writes to, of each run of which something may come
        self.waiters: list[Call] = []
        self.interrupted: Group | None = None  # what is to end before its first process

    def mark(self, what: str) -> None:
        """Note the time at which a step of the start was done."""
        self.marks.append((what, time.monotonic_ns()))

    @property
    def pid(self) -> int:
        """The first process in the lab's PID namespace; 0 when there is none."""
        return self.slot.pid if self.slot else 0

    @property
    def pidfd(self) -> int:
        """Its pidfd; -1 when there is none."""
        return self.slot.pidfd if self.slot else -1


def returncode(status: os.waitid_result) -> int:
    """The exit status as a shell has it: 128 + n when signal n ended it."""
    if status.si_code == os.CLD_EXITED:
        return status.si_status
    return 128 + status.si_status
