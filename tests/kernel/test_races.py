"""Threads that do different things to one lab at the same time: each is told what is so, of the run that it meant."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kernel_help import patient, wait_until

from ctlab import changing, connecting, creating, ending, whole
from ctlab.errors import CtlabError, StateError
from ctlab.executing import _settings
from ctlab.execution import Execution
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel
ROUNDS = 25


def together(*works: Callable[[], None], seconds: float = 60.0) -> list[BaseException]:
    """Run them in threads, the first to its end and the others again and again until then; what they raised."""
    over, raised = threading.Event(), list[BaseException]()

    def guard(work: Callable[[], None], again: bool) -> None:
        try:
            while True:
                work()
                if not again or over.is_set():
                    break
        except BaseException as error:
            raised.append(error)
        finally:
            if not again:
                over.set()

    threads = [threading.Thread(target=guard, args=(work, bool(at)), daemon=True) for at, work in enumerate(works)]
    until = time.monotonic() + patient(seconds)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "somebody waits for what doesn't come"
    return raised


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Callable[[], object]], None]:
    """Let somebody else do something when a change in that module is about to take the lab's lock."""

    def set_up(module: Any, other: Callable[[], object]) -> None:
        @contextlib.contextmanager
        def late(lab: Any) -> Iterator[Any]:
            monkeypatch.undo()
            other()
            with whole.whole(lab) as deferred:
                yield deferred

        monkeypatch.setattr(module, "whole", late)

    return set_up


def test_what_is_removed_beside_a_disconnect_takes_nobody_s_address(lab: Any, beside: Any) -> None:
    blue = lab.network("blue")
    first = lab.run(["sleep", "1000"], name="first", networks=blue)
    address = first.address("blue")

    def remove() -> None:
        first.remove()
        assert lab.run(["sleep", "1000"], name="second", networks=blue).address("blue") == address

    beside(connecting, remove)
    with pytest.raises(StateError, match="first: it was removed"):
        blue.disconnect(first)
    assert blue.pools[0].owners == {address: "second"}
    assert lab.run(["sleep", "1000"], networks=blue).address("blue") != address


def test_what_is_removed_beside_a_change_is_not_changed(lab: Any, beside: Any) -> None:
    def refused(module: Any, change: Callable[[Any], object]) -> None:
        container = lab.run(["sleep", "1000"], name="c", networks=blue)
        beside(module, container.remove)
        with pytest.raises(StateError, match="c: it was removed"):
            change(container)
        assert "c" not in lab and "d" not in lab

    blue, red = lab.network("blue"), lab.network("red")
    refused(connecting, blue.disconnect)
    refused(connecting, red.connect)
    refused(changing, lambda container: container.rename("d"))
    refused(changing, lambda container: container.update(cpu_shares=100))
    refused(ending, lambda container: container.pause())
    assert not blue.pools[0].owners and not red.pools[0].owners


def test_a_network_made_anew_beside_a_change_is_another(lab: Any, beside: Any) -> None:
    def refused(change: Callable[[Any], object]) -> None:
        blue = lab.network("blue", exists="replace")
        beside(connecting, lambda: lab.network("blue", exists="replace"))
        with pytest.raises(StateError, match=r"'blue' was removed: take lab.networks\['blue'\]"):
            change(blue)
        assert lab.networks["blue"] is not blue and not lab.networks["blue"].pools[0].owners

    container = lab.run(["sleep", "1000"])
    refused(lambda blue: blue.connect(container))
    refused(lambda blue: blue.disconnect(container))
    refused(lambda blue: blue.remove())


def test_what_is_removed_at_its_end_is_not_started_beside_it(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c", rm=True)
    with lab._lock:  # who hears of its removal waits for it
        container.kill()
        assert wait_until(lambda: container.state == "exited")
        with pytest.raises(StateError, match="c: it was removed"):
            container.start()
    assert wait_until(lambda: "c" not in lab)


def test_what_ended_while_it_was_paused_is_stopped(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    container.kill()
    container._state = "paused"  # as it was a moment before its end was heard of
    assert container.restart().state == "running"


def test_a_kill_waits_for_the_run_that_it_has_killed(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    killed = []

    def kill() -> None:
        for _ in range(ROUNDS):
            wait_until(lambda: container.state == "running", patient(5))
            try:
                container.kill()
            except StateError:
                continue  # not running just now
            killed.append(container.name)

    def start() -> None:
        try:
            container.start()
        except StateError as error:
            assert "running already" in str(error)

    assert together(kill, start, seconds=30) == []
    assert len(killed) > ROUNDS // 4


def test_a_wait_beside_starts_gives_a_status(lab: Any) -> None:
    container = lab.run(["sh", "-c", "exit 7"], name="c")
    seen = set()

    def start() -> None:
        for _ in range(ROUNDS):
            container.wait(patient(10))
            container.start()

    def wait() -> None:
        try:
            seen.add(container.wait(patient(10)))
        except StateError as error:
            assert "started again since" in str(error)

    assert together(start, wait, seconds=30) == []
    assert seen == {7}


def test_what_means_an_earlier_run_doesn_t_reach_the_next(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    first = container._start
    container.kill()
    container.start()
    with pytest.raises(StateError, match="has ended, and was started again"):
        lab._call(messages.Signal(container.id, 9, only_if_seen=False, start=first), messages.Seen)
    told = lab._call(messages.Wait(container.id, first), messages.Exit).message
    assert (told.returncode, told.start) == (137, first)
    container.kill()
    container.start()
    assert lab._call(messages.Wait(container.id, first), messages.Exit).message.returncode is None  # nobody knows now
    assert container.state == "running" and container.returncode is None


def test_nothing_is_run_in_a_container_whose_root_is_still_being_made(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    container.kill()
    image = creating.find_image(lab, container.image, container.command)
    settings = _settings(container) | {"script_descriptor": None}
    execution = Execution(container, ["true"], settings)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    starting, running = lab._client.connection(), lab._client.connection()
    supervisor = lab._client.facts["supervisor"]
    try:
        os.kill(supervisor, signal.SIGSTOP)  # so that it finds both there
        try:
            starting.send(creating.order(lab, container, image))
            running.send(execution._message(tty=False, detached=False), [null] * 3)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        with pytest.raises(StateError, match="isn't running"):
            running.receive(messages.Ended)
        starting.receive(messages.Running)
    finally:
        os.close(null)
        starting.close()
        running.close()


def test_programs_beside_restarts(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    ran = []

    def restart() -> None:
        for _ in range(ROUNDS):
            container.kill()
            container.start()
            ran.append(container.exec(["true"]).returncode)

    def run() -> None:
        try:
            assert container.exec(["echo", "x"]).returncode in (0, 137)
        except StateError as error:
            expected = ("isn't running", "ended before", "killed with it", "was killed")
            assert any(words in str(error) for words in expected), error
            time.sleep(0.001)

    assert together(restart, run, run) == []
    assert ran == [0] * ROUNDS


@pytest.fixture
def quick_turns() -> Iterator[None]:
    """Threads take turns in the middle of what usually is over before."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_listings_beside_changes(lab: Any, quick_turns: None) -> None:
    lab.run(count=20, name="kept{n}")

    def change() -> None:
        for number in range(ROUNDS // 2):
            blue = lab.network(f"n{number % 3}")
            made = lab.run(["sleep", "100"], networks=blue)
            lab.run(["sleep", "100"], name="other")
            lab["other"].rename("another")
            red = lab.network("red")
            red.connect(made)
            red.disconnect(made)
            made.remove()
            lab["another"].remove()
            blue.remove()
            red.remove()

    def look() -> None:
        lab.map_elements()
        repr(lab.containers), repr(lab.networks), lab._repr_html_()
        for network in lab.networks:
            network.containers  # noqa: B018 - it is what is tried
        for container in lab.containers:
            container.endpoints, container.all_addresses  # noqa: B018
        with pytest.raises(CtlabError, match="no container 'nobody'"):
            lab["nobody"]

    def endpoints() -> None:
        for _ in range(100):
            lab.endpoints()
            lab.status()

    assert together(change, look, endpoints) == []


def test_two_maps_at_once(lab: Any) -> None:
    lab.run(name="web")
    maps = []

    def make() -> None:
        maps.append(lab.topology())

    def several() -> None:
        for _ in range(ROUNDS):
            make()

    assert together(several, make, make) == []
    live = [view for view in lab.views if view in maps]
    assert 1 <= len(live) <= 3
    lab.topology()
    assert not [view for view in live if view in lab.views]


def test_a_network_joined_at_once_is_counted(lab: Any) -> None:
    blue = lab.network("blue")
    for _ in range(20):
        container = lab.run(["sleep", "100"])
        blue.connect(container)
        container.remove()
    last = lab.run(["sleep", "100"], name="last")
    blue.connect(last)
    assert wait_until(lambda: set(lab.stats("last", by="endpoint")["network"]) == {"bridge", "blue"}, patient(5))
    assert [note for note in lab.notes if "sampler" in note] == []
