"""Work that no interrupt cuts in two: it is done on a thread of its own, and who waits for it can be interrupted.

An interrupt comes between any two instructions of the main thread, and of no other. What it would leave half made there
(a descriptor that nobody closes, a module of which half is imported) is whole on another thread.

What the two have in common is a bare lock: an interrupt inside `Event.wait` (`Thread.start` has one, too) may release
the lock that the other thread holds in `Event.set` at that moment, which then fails there.
"""

from __future__ import annotations

import importlib
import os
import select
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .errors import KernelError
from .runtime import own_limits
from .runtime.waiting import TURN_SECONDS

T = TypeVar("T")
_GIVING_UP_SECONDS = 2.0  # how long who was interrupted waits for the work to be given up


class GivenUp(BaseException):
    """Nobody waits for the work any more. No Exception, so that nothing on the way takes it for a failure."""


class Waiter:
    """Whether somebody still waits: what the work asks in its long waits, and between its steps."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._gone = False

    def gone(self) -> None:
        """Nobody waits any more."""
        self._gone = True
        os.eventfd_write(self._event, 1)

    def check(self) -> None:
        """Raises GivenUp if nobody waits."""
        if self._gone:
            raise GivenUp

    def until(self, descriptor: int, event: int) -> None:
        """Wait until a descriptor is ready for `event` (POLLIN, POLLOUT). Raises GivenUp."""
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        poll.register(descriptor, event)
        poll.poll()
        self.check()

    def close(self) -> None:
        """The work is over."""
        os.close(self._event)


class _Work(Generic[T]):
    def __init__(self, work: Callable[[Waiter], T]) -> None:
        self._work = work
        self._lock = threading.Lock()  # of the waiter, which is there while the work is done
        self._waiter: Waiter | None = None
        self._given_up = False
        self.begun = False
        self.over = False
        self.ends = threading.Lock()  # held until it is over
        self.ends.acquire()
        self.result: list[T] = []
        self.failed: BaseException | None = None

    def do(self) -> None:
        self.begun = True
        try:
            with self._lock:
                if self._given_up:
                    return
                self._waiter = Waiter()
            self.result.append(self._work(self._waiter))
        except BaseException as error:
            self.failed = error
        finally:
            with self._lock:
                waiter, self._waiter = self._waiter, None
            if waiter is not None:
                waiter.close()
            self.over = True
            self.ends.release()

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            if self._waiter is not None:
                self._waiter.gone()


def apart(what: str, work: Callable[[Waiter], T]) -> T:
    """Do `work` on a thread of its own, and return what it returns. Whoever is interrupted meanwhile gives it up.

    `what`: what it is for, in the error of an OSError that it raises, and where there can be no thread.
    """
    doing = _Work(work)
    try:
        try:
            start_new_thread(doing.do, ())
        except RuntimeError as error:  # a limit of processes (ulimit -u, pids.max)
            raise KernelError(f"{what}: {error}: raise the limit of processes (ulimit -u)") from None
        while not doing.ends.acquire(timeout=TURN_SECONDS):
            pass
    except BaseException:
        doing.give_up()
        if doing.begun and not doing.over:
            doing.ends.acquire(timeout=_GIVING_UP_SECONDS)
        raise
    failed = doing.failed
    doing.failed = None  # or the two would hold each other
    if isinstance(failed, OSError):
        raise KernelError(f"{what}: {own_limits.words(failed)}", failed.errno or 0) from failed
    if failed is not None:
        raise failed
    return doing.result[0]


def ready(*modules: str) -> None:
    """Import what takes long: whole, also where the wait for it is interrupted.

    Of pandas or numpy a half can't be had twice: later calls would fail until the kernel is started anew.
    """
    for name in modules:
        if not _is_whole(name):
            _import(name)


def _is_whole(name: str) -> bool:
    module: Any = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _import(name: str) -> None:
    ends = threading.Lock()
    ends.acquire()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            importlib.import_module(name)
        except BaseException as error:
            failed.append(error)
        ends.release()

    try:
        start_new_thread(work, ())
    except RuntimeError:  # no thread can be had: here, then
        importlib.import_module(name)
        return
    while not ends.acquire(timeout=TURN_SECONDS):
        pass
    if failed:
        raise failed[0]
