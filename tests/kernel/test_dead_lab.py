"""A lab that dies says so: to every handle, from any thread, at once, and with the reason."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kernel_help import patient, run_owner, wait_until

import ctlab
from ctlab.errors import LabGone

pytestmark = pytest.mark.kernel
SOON_SECONDS = 1.0


class Caller(threading.Thread):
    """Calls something, again and again or once, until an error ends it."""

    def __init__(self, call: Callable[[], object], *, again: bool = False) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self.ended_at = 0.0
        self._call, self._again = call, again
        self.start()

    def run(self) -> None:
        try:
            self._call()
            while self._again:
                self._call()
        except BaseException as error:
            self.error = error
        self.ended_at = time.monotonic()


def die(lab: Any, who: str) -> float:
    """SIGKILL to one of its processes; when that was."""
    at = time.monotonic()
    os.kill(lab._client.facts[who], signal.SIGKILL)
    return at


@pytest.mark.parametrize("who", ["supervisor", "keeper"])
def test_whoever_holds_the_lock_hears_of_a_death_at_once(fresh_lab: Any, who: str) -> None:
    """The ends of containers that go with `rm` are heard on a thread that waits for the callers' lock."""
    callers = [Caller(lambda: fresh_lab.run(["true"], rm=True), again=True) for _ in range(2)]
    assert wait_until(lambda: next(fresh_lab._numbers) > 20)
    at = die(fresh_lab, who)
    for caller in callers:
        caller.join(patient(20))
        assert isinstance(caller.error, LabGone), caller.error
        assert f"died: its {who} ended (SIGKILL)" in str(caller.error)
        assert caller.ended_at - at < patient(SOON_SECONDS)


@pytest.mark.parametrize("who", ["supervisor", "keeper"])
def test_all_that_waits_ends_with_its_lab(fresh_lab: Any, who: str) -> None:
    web = fresh_lab.run(["sh", "-c", "echo up; sleep 600"], name="web")
    process = web.exec(["sleep", "600"], detach=True)
    seen = threading.Event()

    def saw(stream: int, text: str) -> None:
        seen.set()

    waits: dict[str, Callable[[], object]] = {
        "wait": web.wait, "wait_for": lambda: fresh_lab.wait_for(web, 81, 600),
        "follow": lambda: web.follow(saw), "exec": lambda: web.exec(["sleep", "600"]),
        "terminal": lambda: web.exec(["sleep", "600"], tty=True), "process": process.wait,
        "foreground": lambda: web.stream_until_end(saw),
    }  # fmt: skip
    callers = {name: Caller(call) for name, call in waits.items()}
    assert seen.wait(patient(5))
    assert wait_until(lambda: sum("sleep 600" in process["command"] for process in web.top()) >= 4)
    at = die(fresh_lab, who)
    for name, caller in callers.items():
        caller.join(patient(20))
        assert isinstance(caller.error, LabGone), (name, caller.error)
        assert f"died: its {who} ended (SIGKILL)" in str(caller.error), (name, caller.error)
        assert caller.ended_at - at < patient(SOON_SECONDS), name


@pytest.mark.parametrize("who", ["supervisor", "keeper"])
def test_every_handle_of_a_dead_lab_says_why(fresh_lab: Any, who: str) -> None:
    """Also before anything else has noticed, and in whichever way the end of the sockets is met."""
    blue, empty = fresh_lab.network("blue"), fresh_lab.network("empty")
    web, ended = fresh_lab.run(name="web", networks=["blue"]), fresh_lab.run(["true"], name="ended")
    process, done = web.exec(["sleep", "600"], detach=True), web.exec(["true"], detach=True)
    assert ended.wait(patient(5)) == done.wait(patient(5)) == 0 and process.poll() is None
    actions: list[Callable[[], object]] = [
        lambda: web.exec(["true"]), lambda: web.exec(["true"], detach=True), lambda: web.exec(["cat"], stdin="x"),
        lambda: web.script("true"), web.logs, web.stop, web.kill, web.restart, web.pause, web.remove, web.wait,
        web.top, web.inspect, web.routes, web.neighbours, web.stats, ended.start, lambda: web.update(memory="1g"),
        lambda: web.copy_in("/etc/hosts", "/srv"), lambda: web.copy_out("/etc/hosts", "/tmp"),
        lambda: web.write("/srv/x", "y"), lambda: web.rename("www"), lambda: web.follow(print),
        lambda: web.stream_until_end(lambda stream, text: None), lambda: fresh_lab.run(["true"]),
        lambda: fresh_lab.run(["true"], count=3), lambda: fresh_lab.network("green"), lambda: blue.connect("ended"),
        lambda: blue.disconnect("web"), empty.remove, fresh_lab.status, fresh_lab.stats,
        lambda: fresh_lab.wait_for("web", 80), process.kill, process.wait,
    ]  # fmt: skip
    at = die(fresh_lab, who)
    supervisor = f"/proc/{fresh_lab._client.facts['supervisor']}/root"  # what is not yet dead may still answer
    assert wait_until(lambda: not os.path.exists(supervisor))
    callers = [Caller(action) for action in actions]
    for number, caller in enumerate(callers):
        caller.join(patient(20))
        assert isinstance(caller.error, LabGone), (number, caller.error)
        assert f"died: its {who} ended (SIGKILL)" in str(caller.error), (number, caller.error)
        assert caller.ended_at - at < patient(3 * SOON_SECONDS), number  # many threads on few processors
    assert ended.wait() == done.poll() == 0 and web.state == "lost"
    with pytest.raises(LabGone, match=rf"sleep 600 in web has ended with its lab: .* died: its {who} ended"):
        process.poll()
    assert (repr(process), repr(done)) == ("<Process sleep 600: lost>", "<Process true: status 0>")
    with ctlab.Lab(fresh_lab.name) as another:  # of its name
        assert another.run(["true"]).wait(patient(5)) == 0


def test_a_process_of_a_stopped_lab_runs_no_more(fresh_lab: Any) -> None:
    process = fresh_lab.run().exec(["sleep", "600"], detach=True)
    assert process.poll() is None and repr(process) == "<Process sleep 600: running>"
    fresh_lab.stop()
    with pytest.raises(LabGone, match=r"sleep 600 in c1 has ended with its lab: lab '.*' was stopped"):
        process.poll()
    assert repr(process) == "<Process sleep 600: lost>"


def test_a_program_that_nobody_waits_for_any_more_ends(lab: Any) -> None:
    """Whatever is raised in the middle: by a sink, by somebody's handler of a signal."""

    class Alarm(Exception):
        pass

    def alarm(*_: object) -> None:
        raise Alarm

    def refuse(stream: int, text: str) -> None:
        raise BrokenPipeError("the sink's own")

    web = lab.run(name="web")
    seen = threading.Event()
    earlier = signal.signal(signal.SIGALRM, alarm)
    try:
        for tty in (False, True):
            seen.clear()
            ring = threading.Thread(target=lambda: seen.wait() and os.kill(os.getpid(), signal.SIGALRM))
            ring.start()
            with pytest.raises(Alarm):
                web.exec(["sh", "-c", "echo up; exec sleep 1234"], tty=tty, sink=lambda stream, text: seen.set())
            ring.join()
            assert seen.is_set()
            with pytest.raises(BrokenPipeError, match="the sink's own"):
                web.exec(["sh", "-c", "echo up; exec sleep 1234"], tty=tty, sink=refuse)
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert wait_until(lambda: not any("1234" in process["command"] for process in web.top()))
    assert web.exec(["echo", "on"]).stdout == "on\n"


def test_a_fork_is_told_whose_the_lab_is_whatever_was_held(usable: None) -> None:
    said = run_owner("""
import os, signal, sys, threading, warnings
import ctlab
warnings.simplefilter("ignore")  # a fork of a process with threads
lab = ctlab.Lab("owner")
web = lab.run(name="web")
limit = (lambda: web.update(memory="1g")) if "memory" in lab._client.facts["controllers"] else web.restart
held, over = threading.Event(), threading.Event()
def hold():
    with lab._lock, ctlab.labs.lock:
        held.set()
        over.wait()
holder = threading.Thread(target=hold, daemon=True)
holder.start()
held.wait()
for action in (lambda: lab.run(["true"]), lambda: lab.network("x"), web.remove, limit,
               web.pause, lambda: print(len(lab.containers), ctlab.current() is lab), lab.stop):
    sys.stdout.flush()
    if not (child := os.fork()):
        signal.alarm(20)
        try:
            action()
        except ctlab.LabGone as error:
            print("of which this is a fork" in str(error))
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
over.set()
holder.join()
assert web.exec(["true"]).returncode == 0
lab.stop()
""")
    assert said.split("\n") == ["True"] * 5 + ["1 True", ""]


STUCK = """
import os, signal, sys, threading, time
import ctlab

lab = ctlab.Lab("stuck")
web = lab.run()
supervisor = lab._client.facts["supervisor"]
os.kill(supervisor, signal.SIGSTOP)
told, begun = [], threading.Event()

def change():
    with lab._lock:  # also while it hears of the end
        begun.set()
        try:
            lab.network("blue")
        except ctlab.CtlabError as error:
            told.append((type(error).__name__, str(error), lab.died, lab.why_gone, repr(lab)))

changing = threading.Thread(target=change)
changing.start()
begun.wait()
time.sleep(0.3)
if "interrupt" in sys.argv:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    lab.stop()
except KeyboardInterrupt as error:
    print(error)
changing.join(10)
print(told, lab.gone, os.path.exists(f"/proc/{supervisor}"), ctlab.labs.running(), web.state)
"""


@pytest.mark.parametrize("words", [(), ("interrupt",)])
def test_a_stop_ends_a_lab_that_does_not_answer_another_threads_change(words: tuple[str, ...]) -> None:
    """Also a stop that is interrupted while it waits for that change. Nobody sees a lab that has died."""
    told = [("LabGone", "lab 'stuck' was stopped", False, "stopped", "<Lab stuck: stopped>")]
    line = "the stop of lab 'stuck', which ends all the same\n" if words else ""
    assert run_owner(STUCK, *words, timeout=20) == f"{line}{told} True False [] lost\n"


HELD = """
import os, threading
import ctlab

lab = ctlab.Lab("held")
supervisor, map_ = lab._client.facts["supervisor"], lab.topology()
held, over = threading.Event(), threading.Event()

def hold():
    with lab._lock:
        held.set()
        over.wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
lab.stop()
print(lab.gone, lab.why_gone, os.path.exists(f"/proc/{supervisor}"), ctlab.labs.running())
"""


def test_a_stop_waits_for_no_lock_that_is_never_given_back() -> None:
    assert run_owner(HELD, timeout=30) == "True stopped False []\n"


CROWD = """
import os, signal, threading
import ctlab

lab = ctlab.Lab("crowd")
os.kill(lab._client.facts["supervisor"], signal.SIGSTOP)
told = []

def ask():
    try:
        lab.status()
    except ctlab.LabGone as error:
        told.append(str(error))

asking = [threading.Thread(target=ask, daemon=True) for _ in range(400)]
for thread in asking:
    thread.start()
asking[-1].join(1)
lab.stop()
for thread in asking:
    thread.join(10)
print(set(told), len(told))
"""


def test_a_stop_waits_for_no_caller_who_finds_no_room_for_his_call() -> None:
    """The supervisor takes nothing more, and what goes to it is full: the stop is the keeper's affair."""
    assert run_owner(CROWD, timeout=30) == "{\"lab 'crowd' was stopped\"} 400\n"


def test_a_stop_that_is_interrupted_anywhere_ends_the_lab_and_leaves_no_lock_taken(usable: None) -> None:
    """The interrupt is raised where Python does it, behind a call that is done: each of them in turn."""
    done = raised = 0
    while not done:
        lab, calls = ctlab.Lab("cut"), itertools.count()

        def cut(frame: Any, event: str, function: Any, calls: Any = calls, turn: int = raised) -> None:
            if event == "c_return" and frame.f_code.co_name in ("stop", "_take_lock") and next(calls) == turn:
                raise KeyboardInterrupt

        sys.setprofile(cut)
        try:
            lab.stop()
            done = 1
        except KeyboardInterrupt:
            raised += 1
        finally:
            sys.setprofile(None)
        free: list[bool] = []
        threading.Thread(target=lambda free=free, lab=lab: free.append(lab._lock.acquire(timeout=5))).start()
        assert wait_until(lambda free=free: free != []) and free == [True], raised
        assert lab.gone and lab._client.gone and not lab.died and lab not in ctlab.labs.running(), raised
        assert wait_until(lambda lab=lab: not os.path.exists(f"/proc/{lab._client.facts['supervisor']}")), raised
    assert raised > 3
