"""Work on a thread of its own, whose waiter is interrupted at the very moment at which it ends."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

import pytest
from kernel_help import no_hang

from ctlab import apart


def test_no_interrupt_of_the_wait_fails_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the thread says that it is over: in Event.wait it would release the lock that the thread holds."""
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    notify = threading.Condition.notify_all

    def interrupt_main(*_: object) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def notify_and_interrupt(condition: threading.Condition) -> None:
        notify(condition)
        time.sleep(0.005)  # the waiter is awake, and waits for the lock, which is held here
        interrupt_main()
        time.sleep(0.005)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Condition, "notify_all", notify_and_interrupt)
    before = signal.signal(signal.SIGUSR1, interrupt)
    interrupted = 0
    try:
        with no_hang(10):
            for _ in range(30):
                try:
                    apart.apart("try", interrupt_main)
                except KeyboardInterrupt:
                    interrupted += 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert interrupted > 15 and failed == []
