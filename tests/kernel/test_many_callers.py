"""Many callers at once, some of whom leave in the middle: each gets its own answer, and one."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kernel_help import patient, wait_until

from ctlab.errors import CtlabError
from ctlab.runtime import messages
from ctlab.runtime.waiting import readable

pytestmark = pytest.mark.kernel
EXECUTIONS, THREADS = 300, 8
_numbers = itertools.count(1_000_000)


def leave(container: Any, order: random.Random) -> None:
    """Ask for something and close the connection before the answer comes, or while it comes."""
    client = container.lab._client
    asked: list[Any] = [
        messages.Wait(container.id, 0),
        messages.Kind(container.id, "/etc"),
        messages.Names(container.id, "/usr/bin"),
        messages.Logs(container.id),
        messages.CopyOut(container.id, "/etc"),
        messages.Exec(
            container.id, next(_numbers), ["sh", "-c", "echo nobody; exit 99"], tty=False, detached=False, user="0",
            environment=["PATH=/usr/bin:/bin", "HOME="], workdir="/", capabilities=["CHOWN"], processes=0,
            script_descriptor=None, window=None,
        ),
    ]  # fmt: skip
    message = order.choice(asked)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    connection = client.connection()
    try:
        with contextlib.suppress(OSError):
            connection.send(message, [writing] * {messages.Exec: 3, messages.CopyOut: 1}.get(type(message), 0))
            if order.random() < 0.5:
                readable(order.random() * 0.002, connection.socket.fileno())
    finally:
        connection.close()
        os.close(reading)
        os.close(writing)


def in_the_background(work: Callable[[random.Random], None], over: threading.Event, failed: list[Exception]) -> Any:
    """A thread that does something again and again until it is over."""

    def again() -> None:
        order = random.Random(7)
        try:
            while not over.is_set():
                work(order)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=again)
    thread.start()
    return thread


def left_over(lab: Any) -> list[int]:
    """The connections on which an answer lies that nobody asked for."""
    client = lab._client
    found = []
    taken = [client.connection() for _ in range(client._idle.qsize())]
    for connection in taken:
        if readable(0, connection.socket.fileno()):
            found.append(connection.socket.fileno())
        client.give_back(connection)
    return found


def test_every_caller_gets_its_own_answer_and_one(lab: Any) -> None:
    containers = [lab.run(["sleep", "600"]), lab.run(), lab.run(["sleep", "600"]), lab.run()]
    over, failed = threading.Event(), []  # type: threading.Event, list[Exception]

    def come_and_go(order: random.Random) -> None:
        number = order.randrange(100)
        container = lab.run(["sh", "-c", f"echo {number}; exit {number}"])
        if order.random() < 0.3:
            leave(container, order)
        if order.random() < 0.7:
            assert (container.wait(patient(10)), container.logs()) == (number, f"{number}\n")
        container.remove()

    def one(number: int) -> tuple[int, str, str]:
        container = containers[number % len(containers)]
        code = number % 256
        done = container.exec(["sh", "-c", f"echo {number} {'x' * (number * 7 + 1)}; echo e{number} >&2; exit {code}"])
        return done.returncode, done.stdout, done.stderr

    rude = [lambda order: leave(order.choice(containers), order)] * 2
    threads = [in_the_background(work, over, failed) for work in (*rude, come_and_go)]
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(one, range(EXECUTIONS)))
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []
    for number, answer in enumerate(answers):
        assert answer == (number % 256, f"{number} {'x' * (number * 7 + 1)}\n", f"e{number}\n")
    assert wait_until(lambda: left_over(lab) == [])
    assert [note for note in lab.notes if note.startswith("supervisor:")] == []
    assert all(container.state == "running" and container.exec(["true"]).returncode == 0 for container in containers)


def test_callers_of_containers_that_are_taken_away(lab: Any) -> None:
    """A call on a container that another thread removes ends with its answer or one error, and never with another's."""

    def one(number: int) -> None:
        container = lab.run(["sleep", "600"])
        outcome: list[str] = []

        def call() -> None:
            try:
                outcome.append(container.exec(["sh", "-c", f"sleep 0.00{number % 9}; echo {number}"]).stdout)
            except CtlabError as error:
                outcome.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=call)
        thread.start()
        container.remove()
        thread.join(10)
        assert len(outcome) == 1
        errors = ("StateError: ", "NotFound: ")
        assert outcome[0] in (f"{number}\n", "") or outcome[0].startswith(errors), outcome

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(60)))
    assert wait_until(lambda: left_over(lab) == [])
    assert [note for note in lab.notes if note.startswith("supervisor:")] == []
