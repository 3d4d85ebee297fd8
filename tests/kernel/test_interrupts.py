"""Interrupts of a foreground program, at moments chosen badly, and the signals of other people."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from typing import Any

import pytest
from kernel_help import no_hang, open_descriptors, patient, run_owner, wait_until

from ctlab.apart import apart
from ctlab.executing import _settings
from ctlab.execution import Execution
from ctlab.interrupts import Interrupts
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel


def test_an_interrupt_at_any_moment_reaches_the_program(lab: Any) -> None:
    """Each comes within 0.8 ms of a line of output, while other threads want the interpreter too."""
    web = lab.run(name="web")
    seen, over = threading.Event(), threading.Event()

    def interrupt() -> None:
        while seen.wait() and not over.is_set():
            seen.clear()
            time.sleep(random.random() * 0.0008)
            os.kill(os.getpid(), signal.SIGINT)

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=work) for work in (interrupt, compute)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            with pytest.raises(KeyboardInterrupt, match="the program was sent SIGINT"):
                web.exec(["sh", "-c", "echo ready; exec sleep 60"], sink=lambda stream, text: seen.set())
    finally:
        over.set()
        seen.set()
        for thread in threads:
            thread.join()
    assert web.exec(["echo", "still here"]).stdout == "still here\n"


def test_an_exec_of_a_stuck_supervisor_can_be_interrupted(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each interrupt is an order to it, which nobody answers; the cell goes on all the same."""
    monkeypatch.setattr(Interrupts, "STEP_SECONDS", 0.2)
    web = lab.run(name="web")
    supervisor, over = lab._client.facts["supervisor"], threading.Event()

    def interrupt() -> None:
        while not over.wait(patient(0.5)):
            os.kill(os.getpid(), signal.SIGINT)

    def stuck(stream: int, text: str) -> None:
        os.kill(supervisor, signal.SIGSTOP)
        again.start()

    again = threading.Thread(target=interrupt)
    woken = threading.Timer(patient(30), os.kill, (supervisor, signal.SIGCONT))  # a failure, and no hanging
    woken.start()
    try:
        try:
            with pytest.raises(KeyboardInterrupt):
                web.exec(["sh", "-c", "echo ready; exec sleep 60"], sink=stuck)
        finally:
            over.set()
            again.join()
        assert not woken.finished.is_set()
    finally:
        woken.cancel()
        os.kill(supervisor, signal.SIGCONT)
    assert web.exec(["echo", "still here"]).stdout == "still here\n"


def test_a_following_under_a_stuck_supervisor_ends_with_one_interrupt(lab: Any) -> None:
    """That nothing more is followed is an order, for whose answer nobody waits long; no descriptor stays."""
    web = lab.run(["sh", "-c", "echo ready; exec sleep 600"], name="web")
    supervisor, before = lab._client.facts["supervisor"], open_descriptors()

    def stuck(stream: int, text: str) -> None:
        os.kill(supervisor, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    try:
        with no_hang(10), pytest.raises(KeyboardInterrupt, match="the following of web, which is running"):
            web.follow(stuck)
        assert open_descriptors() <= before
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert web.exec(["echo", "still here"]).stdout == "still here\n"


def test_an_exec_that_is_interrupted_before_its_answer_leaves_no_program(lab: Any) -> None:
    """Its runner has no one left to answer to; the program is ended by its number, and reaped."""
    web = lab.run(["sh", "-c", "while [ ! -e /srv/end ]; do sleep 0.05; done"], name="web")
    begun = 0
    for number in range(20):
        connection = lab._client.connection()
        order = Execution(web, ["sleep", "1234"], {**_settings(web), "script_descriptor": None})._message(
            tty=False, detached=True
        )
        connection.send(order)
        connection.close()  # as an interrupt does
        assert wait_until(lambda: any("1234" in process["command"] for process in web.top()))
        if number % 2:
            lab._call(messages.SignalExecution(order.execution, 9, group=False), messages.Ok)
        else:
            web.exec(["pkill", "-9", "-f", "sleep 1234"]).check()
        assert wait_until(lambda: not any("1234" in process["command"] for process in web.top()))
        begun += 1
    assert begun == 20
    web.write("/srv/end", "")
    assert web.wait(patient(10)) == 0


def test_other_signals_reach_who_waits_for_them() -> None:
    """An event loop (the notebook's kernel is one) hears of its signals by the descriptor that is borrowed here."""
    theirs, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    caught: list[int] = []
    earlier = signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
    before = signal.set_wakeup_fd(wakeup)
    try:
        with Interrupts(lambda name: None) as interrupts:
            os.kill(os.getpid(), signal.SIGUSR1)
            interrupts.step()
        assert signal.set_wakeup_fd(wakeup) == wakeup
        assert caught == [signal.SIGUSR1] and os.read(theirs, 10) == bytes([signal.SIGUSR1])
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR1, earlier)
        os.close(theirs)
        os.close(wakeup)


def test_after_sigkill_the_next_interrupt_is_the_cells_own() -> None:
    sent: list[str] = []
    with pytest.raises(KeyboardInterrupt), Interrupts(sent.append) as interrupts:
        for _ in Interrupts.STEPS:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.step()
        assert sent == list(Interrupts.STEPS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_another_thread_takes_ends_a_wait(lab: Any) -> None:
    """As the kernel gives it to one, on a busy machine: Python only marks it, and the main thread's call goes on."""
    web = lab.run(["sleep", "600"], name="web")
    process = web.exec(["sleep", "600"], detach=True)
    for wait in (
        web.wait, lambda: web.wait(600), process.wait, lambda: process.wait(600), web.follow,
        lambda: lab._call(messages.Wait(web.id, web._start), messages.Exit),
        lambda: apart("a copy", lambda waiter: waiter.until(lab._client._events.fileno(), select.POLLPRI)),
    ):  # fmt: skip
        taken = threading.Timer(0.3, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
        taken.start()
        with no_hang(10), pytest.raises(KeyboardInterrupt):
            wait()
        taken.join()
    assert web.state == "running"


OWN_ALARM = """
import signal, time
from container_help import said
import ctlab

def late(*_):
    raise TimeoutError("the caller's own")

signal.signal(signal.SIGALRM, late)
with ctlab.Lab("alarmed") as lab:
    web = lab.run(name="web")
    deaf = lab.run(["sh", "-c", "trap '' TERM; trap : USR1; echo up; while :; do sleep 0.02; done"], init=True)
    said(deaf, "up")
    for call in (web.wait, lambda: lab.wait_for(web, 80, 9), lambda: deaf.stop(9), lambda: web.exec(["sleep", "9"])):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            call()
        except TimeoutError as error:
            print(error)
    print(deaf.state, web.state, web.exec(["echo", "fine"]).stdout, end="")
"""


def test_a_callers_own_alarm_is_not_taken_for_the_labs_trouble() -> None:
    """TimeoutError is an OSError, as what the kernel answers is."""
    said = run_owner(OWN_ALARM).splitlines()
    assert said == ["the caller's own"] * 4 + ["running running fine"]
