"""Calls beside the end or the removal of their container are told so, not what the kernel answers then.

Each side is stopped at the right moment: who would reap the last process, the collector, a copy whose pipe is full.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kernel_help import children_of, helpers, patient, seen, wait_until

from ctlab.errors import CtlabError, StateError
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel


@pytest.fixture
def dying(lab: Any) -> Iterator[Any]:
    """A container in the middle of its end: who would reap the last of its processes has been stopped."""
    container = lab.run(["sleep", "1000"], name="c")
    container.exec(["sleep", "1000"], detach=True)
    found: list[int] = []

    def at_work() -> bool:
        found[:] = [pid for pid in children_of(lab._client.facts["supervisor"]) if "sleep" in commands_below(pid)]
        return len(found) == 1

    assert wait_until(at_work)  # a spare one that has just gone, or is just coming, is no runner of this
    (runner,) = found
    os.kill(runner, signal.SIGSTOP)
    try:
        lab._call(messages.Signal(container.id, 9, only_if_seen=False, start=0), messages.Seen)
        first = Path(f"/proc/{container.pid}/stat")
        assert wait_until(lambda: int(first.read_text().rpartition(")")[2].split()[6]) & 4 == 4)  # PF_EXITING
        yield container
        assert container.state == "running"  # nobody has heard of its end yet
    finally:
        os.kill(runner, signal.SIGCONT)
    assert container.wait(patient(5)) == 137


def commands_below(pid: int) -> list[str]:
    try:
        return [Path(f"/proc/{child}/comm").read_text().strip() for child in children_of(pid)]
    except OSError:  # it has just gone
        return []


def test_calls_beside_an_end_say_that_it_has_ended(dying: Any, tmp_path: Path) -> None:
    for call in (
        dying.routes,
        dying.neighbours,
        lambda: dying.write("/tmp/x", "x"),
        lambda: dying.copy_in("/etc/hosts", "/tmp/"),
        lambda: dying.copy_out("/etc/hosts", tmp_path / "hosts"),
    ):
        with pytest.raises(StateError, match=r"^container c isn't running: its first process has ended$"):
            call()
    with pytest.raises(StateError, match=r"^container c ended before the program ran$"):
        dying.exec(["true"])
    assert dying.logs() == "" and dying.inspect()["state"] == "running"


def test_networks_beside_an_end_are_those_of_the_next_start(lab: Any, dying: Any) -> None:
    blue = lab.network("blue")
    blue.connect(dying)
    lab.networks["bridge"].disconnect(dying)
    assert list(dying.addresses) == ["blue"]


def test_a_copy_is_told_what_ended_it(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    container.script("head -c 3000000 /dev/zero > /tmp/large")

    def copy(then: Callable[[], object]) -> str:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with lab._client.borrow() as connection:
            connection.send(messages.CopyOut(container.id, "/tmp/large"), [writing])
            os.close(writing)
            os.read(reading, 1)  # it is at work, and will wait for room
            then()
            with pytest.raises(CtlabError) as raised:
                connection.receive(messages.Copied)
        os.close(reading)
        return f"{type(raised.value).__name__}: {raised.value}"

    def kill_the_copy() -> None:
        # A clone of it, which is called as it is; so is whoever is just being born.
        (pid,) = seen(lambda: helpers(lab, f"supervisor {lab.name}"), lambda found: len(found) == 1)
        os.kill(pid, signal.SIGKILL)

    assert copy(kill_the_copy) == "CtlabError: container c: the process that was to copy ended (SIGKILL)"
    ended = "StateError: container c isn't running: its first process has ended"
    assert copy(container.kill) == ended
    container.start()
    assert copy(container.remove) == ended


def test_calls_beside_a_removal_say_that_it_was_removed(lab: Any) -> None:
    container = lab.run(["sleep", "1000"], name="c")
    (collector,) = helpers(lab, "collector")
    os.kill(collector, signal.SIGSTOP)
    try:
        with lab._client.borrow() as connection:
            connection.send(messages.Logs(container.id))
            lab._call(messages.Remove(container.id), messages.Ok)  # and its handle doesn't know it yet
            os.kill(collector, signal.SIGCONT)
            with pytest.raises(StateError, match=r"^container c: it was removed$"):
                connection.receive(messages.Output)
    finally:
        os.kill(collector, signal.SIGCONT)
    for call in (
        container.logs,
        container.routes,
        container.top,
        container.kill,
        container.stop,
        container.pause,
        container.wait,
        lambda: container.exec(["true"]),
        lambda: container.write("/tmp/x", "x"),
        lambda: container.rename("d"),
        lambda: lab.network("blue").connect(container),
        lambda: lab.networks["bridge"].disconnect(container),
    ):
        with pytest.raises(StateError, match=r"^container c: it was removed$"):
            call()
    assert container.address()  # taken still, until the handle knows
    container.remove()
    assert not lab.networks["bridge"].pools[0].owners


# -- a runner that is killed ------------------------------------------------------------------------------------------
def runner_of(container: Any, program: str) -> int:
    """The pid of the process that runs this program in it."""
    found: list[int] = []

    def at_work() -> bool:
        found[:] = [pid for pid in helpers(container.lab, "runner") if program in commands_below(pid)]
        return len(found) == 1

    assert wait_until(at_work)
    return found[0]


def running(container: Any) -> list[str]:
    """What runs in it beside its first process."""
    return [process["command"] for process in container.top() if process["state"] != "Z" and process["pid"] != 1]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_program_ends_with_the_process_that_waits_for_it(lab: Any, stubborn: bool) -> None:
    """Its caller is told that it has ended, so it has: with its group, whatever it ignores."""
    web = lab.run(["sleep", "1000"], name="web")
    script = ("trap '' HUP TERM INT; " if stubborn else "") + "sleep 1234 & sleep 1235; echo no"
    done = ThreadPoolExecutor(1).submit(web.exec, ["sh", "-c", script])
    assert wait_until(lambda: {"sleep 1234", "sleep 1235"} <= set(running(web)))
    os.kill(runner_of(web, "sh"), signal.SIGKILL)
    with pytest.raises(StateError, match=r"^container web: .*was killed"):
        done.result(patient(10))
    assert wait_until(lambda: running(web) == [])
    detached = web.exec(["sleep", "1236"], detach=True)
    os.kill(runner_of(web, "sleep"), signal.SIGKILL)
    assert detached.wait(patient(10)) == 137
    assert wait_until(lambda: running(web) == [])
    assert web.exec(["echo", "still"]).stdout == "still\n" and web.state == "running"
