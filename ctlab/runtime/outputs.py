"""What containers write, on the supervisor's side: it keeps each stream open, and tells the collector what to read.

The collector may die. A pipe that nobody can read kills its writer (SIGPIPE), so the supervisor has a duplicate of each
stream until the collector has met its end; a new collector gets them all again, and goes on in the same rings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import collector, protocol
from .calls import Refused
from .helper import Helper
from .log_ring import LogRing
from .record import Record
from .staging import Staging

if TYPE_CHECKING:
    from .supervisor import Supervisor


class Outputs:
    """The streams of one lab's containers and their collector."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._runs: dict[int, Record] = {}  # those whose streams may still bring something, by number
        self._run_number = 0
        self._followers: dict[tuple[int, int], int] = {}  # (key, number of a follower) -> its eventfd
        self._syncing: dict[int, tuple[Record, Callable[[str], None]]] = {}
        self._sync_number = 0
        staging = Staging.create()
        self.collector = Helper(
            supervisor, "collector", lambda control: collector.main(control, staging),
            lost="what containers write is all kept, but what it had just read of a terminal",
            without="nothing that containers write is kept any more, and who writes much has to wait",
            renew=self._renew, hear=self._says, keep=lambda: {staging},
        )  # fmt: skip
        self.collector.start()

    def collect(self, record: Record, out: int, err: int) -> None:
        """Keep what a container writes from now on; takes over the descriptors. Raises Refused, then it doesn't."""
        self.collector.needed()
        self._run_number += 1
        run = self._run_number
        self._runs[run], record.streams[run] = record, (out, err)
        try:
            self._add(run)
        except BaseException:
            del self._runs[run], record.streams[run]
            raise

    def _add(self, run: int) -> None:
        record = self._runs[run]
        message = {"do": "add", "key": record.key, "run": run}
        self.collector.send(message, [*record.streams[run], record.ring])

    def sync(self, record: Record, then: Callable[[str], None]) -> None:
        """Call `then` once all that was written by now has been collected; with why, if that can't be."""
        self.collector.needed()
        self._sync_number += 1
        number = self._sync_number
        self._syncing[number] = record, then
        try:
            self._ask(number)
        except Refused:
            pass  # `then` knows
        except BaseException:
            self._syncing.pop(number, None)
            raise

    def _ask(self, number: int) -> None:
        self.collector.send({"do": "sync", "key": self._syncing[number][0].key, "sync": number})

    def follow(self, record: Record, follower: int, eventfd: int) -> None:
        """Tell `eventfd` whenever there is more."""
        self.collector.needed()
        self._followers[record.key, follower] = os.dup(eventfd)
        self._follow(record.key, follower)

    def _follow(self, key: int, follower: int) -> None:
        message = {"do": "follow", "key": key, "follower": follower}
        self.collector.send(message, [self._followers[key, follower]])

    def unfollow(self, record: Record, follower: int) -> None:
        """Tell it no more."""
        self._forget_follower(record.key, follower)
        self._say({"do": "unfollow", "key": record.key, "follower": follower})

    def forget(self, record: Record) -> None:
        """The container is removed."""
        for run in list(record.streams):
            self._close(run)
        for key, follower in [who for who in self._followers if who[0] == record.key]:
            self._forget_follower(key, follower)
        self._say({"do": "drop", "key": record.key})

    def _say(self, message: protocol.Message) -> None:
        """What is of no use to nobody there."""
        if self.collector.control is not None:
            try:
                self.collector.send(message)
            except Refused:
                pass

    def _forget_follower(self, key: int, follower: int) -> None:
        eventfd = self._followers.pop((key, follower), -1)
        if eventfd >= 0:
            os.close(eventfd)

    def _close(self, run: int) -> None:
        """Nothing more comes of a run."""
        record = self._runs.pop(run, None)
        if record is not None:
            for descriptor in set(record.streams.pop(run)):
                os.close(descriptor)

    def _says(self, message: protocol.Message) -> None:
        if "synced" in message:
            _, then = self._syncing.pop(message["synced"], (None, _nobody))
            then("")
        for run in message.get("ended", ()):
            self._close(run)

    def _renew(self) -> None:
        """A new collector goes on where the dead one was; where there is none, nobody waits for it."""
        if self.collector.control is not None:
            for run in self._runs:
                self._add(run)
            for who in self._followers:
                self._follow(*who)
            for number in self._syncing:
                self._ask(number)
            return
        waiting, self._syncing = self._syncing, {}
        for _, then in waiting.values():
            then(self.collector.why)
        for record in {record.key: record for record in self._runs.values()}.values():
            ring = LogRing(record.ring, writable=True)
            ring.ended = True
            ring.close()
        for eventfd in self._followers.values():
            os.eventfd_write(eventfd, 1)


def _nobody(_: str) -> None:
    """Who has waited was answered already."""
