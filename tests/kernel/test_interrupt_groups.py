"""An interrupt of what runs in the foreground is as Ctrl-C in a terminal: for the whole process group, and at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kernel_help import no_hang, patient, wait_until

from ctlab.interrupts import Interrupted, Interrupts
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel
# As PID 1 it would go on with its next line: it doesn't catch SIGINT, which the kernel keeps from it.
DEAF = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.spawnvp(os.P_WAIT, "ping", ["ping", "web"])
print("never")
"""
# Said by what the shell has started: an interrupt just before that, dash heeds once its program has ended.
# Until it is what it is to be the shell may not have made it deaf to interrupts.
BACKGROUND = "sleep 1234 & until grep -q sleep /proc/$!/comm; do :; done"
SLEEP = "sh -c 'echo up; exec sleep 1234'; echo never"


class Seen:
    """A sink: what was written; and an interrupt as soon as a text is there, and again as often as is said."""

    def __init__(self, text: str, *more: str) -> None:
        self.text, self._wanted = "", [text, *more]

    def __call__(self, stream: int, piece: str) -> None:
        self.text += piece
        if self._wanted and self._wanted[0] in self.text:
            del self._wanted[0]
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(sink: Seen, run: Callable[[Seen], object]) -> str:
    """Run it, interrupted by its sink: what the interrupt says."""
    with no_hang(15), pytest.raises(Interrupted) as caught:
        run(sink)
    return str(caught.value)


def ways(lab: Any, tty: bool) -> dict[str, Callable[..., object]]:
    """Each way to run a script in the foreground."""

    def run(script: str, sink: Seen, init: bool = False) -> None:
        container = lab.run(script=script, tty=tty, init=init, name="job", rm=False)
        try:
            container.stream_until_end(sink)
        finally:
            assert container.state == "exited"
            container.remove()

    return {
        "exec": lambda script, sink: lab["web"].script(script, tty=tty, sink=sink),
        "run": run, "run --init": lambda script, sink: run(script, sink, init=True),
    }  # fmt: skip


@pytest.fixture
def web(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A container to run things in; the steps after the first come too late for any test."""
    monkeypatch.setattr(Interrupts, "STEP_SECONDS", patient(60))
    return lab.run(name="web")


@pytest.mark.parametrize("tty", [True, False], ids=["terminal", "pipes"])
@pytest.mark.parametrize("way", ["exec", "run", "run --init"])
def test_a_shells_program_is_interrupted_with_it(lab: Any, web: Any, way: str, tty: bool) -> None:
    run = ways(lab, tty)[way]
    sent = "interrupted; the program was sent SIGINT"
    for script, first, last in (
        ("ping web", "icmp_seq=1", "packets transmitted"), ("ping web | cat", "icmp_seq=1", "icmp_seq=1"),
        (SLEEP, "up", "up"), (f"{BACKGROUND}; ping web", "icmp_seq=1", "packets transmitted"),

        (f"trap 'echo trapped; exit 5' INT; {SLEEP}", "up", "trapped"),
        (f"exec python3 -c '{DEAF}'", "icmp_seq=1", "packets transmitted"),
    ):  # fmt: skip
        if DEAF in script and way != "run":
            continue  # no PID 1: it ends at once, and what it has left running isn't waited for
        seen = Seen(first)
        assert interrupted(seen, lambda seen, script=script: run(script, seen)).endswith(sent), script  # type: ignore[misc]
        assert last in seen.text and "never" not in seen.text, (script, seen.text)

    def left() -> list[str]:
        return [
            one["command"] for one in web.top() if one["parent"] != 0 or one["command"] in ("ping web", "sleep 1234")
        ]

    # What a shell put in the background ignores interrupts, and goes on.
    assert wait_until(lambda: left() == (["sleep 1234"] if way == "exec" else [])), left()


@pytest.mark.parametrize("way", ["exec", "run", "run --init"])
def test_a_second_interrupt_is_a_stronger_one(lab: Any, web: Any, way: str) -> None:
    handlers = "signal.signal(2, lambda *_: os.write(1, b'once ')); "
    handlers += "signal.signal(15, lambda *_: os._exit(os.write(1, b'twice')))"
    program = f"import os, signal, time; {handlers}; os.write(1, b'up ')\nwhile True: time.sleep(0.02)"
    script = f'exec python3 -c "{program}"'
    seen = Seen("up", "once")
    sent = interrupted(seen, lambda seen: ways(lab, False)[way](script, seen))
    assert "the program was sent SIGTERM" in sent, (sent, seen.text)
    assert seen.text.split() == ["up", "once", "twice"]


@pytest.mark.parametrize("way", ["exec", "run", "run --init"])
def test_who_ignores_interrupts_is_sent_more_with_all_it_has_started(
    lab: Any, web: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interrupts, "STEP_SECONDS", 0.2)
    seen = Seen("up")
    said = interrupted(seen, lambda seen: ways(lab, True)[way]("trap '' INT TERM; echo up; sleep 1234; echo no", seen))
    assert said.endswith("sent SIGKILL") and "no" not in seen.text.split()
    assert wait_until(lambda: not any("1234" in process["command"] for process in web.top()))


def test_what_is_abandoned_ends_with_all_it_has_started(web: Any) -> None:
    def refuse(stream: int, text: str) -> None:
        raise BrokenPipeError("the sink's own")

    with pytest.raises(BrokenPipeError):
        web.exec(["sh", "-c", "echo up; sleep 1234; echo never"], sink=refuse)
    assert wait_until(lambda: not any("1234" in process["command"] for process in web.top()))


# Its children end at the third interrupt; as PID 1 it would go on.
MANY = """
import os, signal, time
def again(*_):
    if left.pop() == 0: os._exit(0)
    os.write(1, b"i")
left = [0, 1, 2]
signal.signal(signal.SIGINT, again)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
for _ in range(60):
    if not os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.write(1, b"u")
        while True: time.sleep(0.02)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
os.write(1, b"u")
while True: time.sleep(0.02)
"""


def test_who_goes_on_after_an_interrupt_takes_one_descriptor_of_the_lab(lab: Any) -> None:
    job, supervisor = lab.run(["python3", "-c", MANY]), lab._client.facts["supervisor"]

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{supervisor}/fd"))

    def said() -> tuple[int, int]:
        return str(job.logs()).count("u"), str(job.logs()).count("i")

    def settled() -> int:
        """The count, once it has not changed for a moment: a slot in the place of this one is made meanwhile."""
        while True:
            found = descriptors()
            if not wait_until(lambda: descriptors() != found, 0.5):  # noqa: B023 - called before the next turn
                return found

    assert wait_until(lambda: said() == (61, 0), 20)
    before = settled()
    for count in (60, 120):
        job.lab._client.order(messages.Interrupt(job.id, signal.SIGINT, 0))
        assert wait_until(lambda count=count: said() == (61, count), 10), said()  # type: ignore[misc]
        assert wait_until(lambda: descriptors() <= before + 3), (before, descriptors())
        assert job.state == "running"
    job.lab._client.order(messages.Interrupt(job.id, signal.SIGINT, 0))
    assert job.wait(patient(10)) == 137


def test_a_container_may_end_before_what_was_interrupted_in_it(lab: Any, web: Any) -> None:
    """Its first process is stopped, until all the others have ended; one takes its time, and somebody kills it all."""
    slow = "import signal, time\nsignal.signal(signal.SIGINT, lambda *_: print('slow', flush=True))\n"
    slow += "print('up', flush=True)\nwhile True: time.sleep(0.02)\n"
    deaf = "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    deaf += f"os.spawnvp(os.P_WAIT, 'python3', ['python3', '-c', {slow!r}])"
    job = lab.run(["python3", "-c", deaf], name="job")
    seen = Seen("up")
    killer = threading.Thread(target=lambda: wait_until(lambda: "slow" in seen.text, 20) and job.kill())
    killer.start()
    assert interrupted(seen, job.stream_until_end) == "job: interrupted; the program was sent SIGINT"
    killer.join()
    assert "slow" in seen.text and job.returncode == 137
    assert lab.run(["true"]).wait(patient(5)) == 0
