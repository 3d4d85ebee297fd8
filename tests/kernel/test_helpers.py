"""The lab's helpers die (SIGKILL), and nothing else does: each is started anew, and a line says so and what is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from container_help import said
from kernel_help import SETTLE_SECONDS, helpers, no_hang, patient, seen, titles, tries, wait_until

from ctlab.errors import StateError
from ctlab.runtime import helper, protocol

pytestmark = pytest.mark.kernel
HELPERS = ("collector", "sampler", "resolver", "nursery")
WRITES = ["sh", "-c", "n=0; while :; do n=$((n+1)); echo line$n; sleep 0.01; done"]


def kill(lab: Any, name: str) -> None:
    """Kill a helper, and wait until a note says so."""
    before = len(died(lab, name))
    for _ in range(10):
        assert wait_until(lambda: helpers(lab, name) != [])
        # The oldest: what a nursery has just borne, a slot, is still called as it is, and may be the only one.
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(min(helpers(lab, name)), signal.SIGKILL)
        if wait_until(lambda: len(died(lab, name)) > before, 0.5 if name == "nursery" else SETTLE_SECONDS):
            return
    pytest.fail(f"the {name} doesn't die")


def died(lab: Any, name: str) -> list[str]:
    """The notes on the deaths of a helper."""
    return [note for note in lab.notes if note.startswith(f"the lab's {name} died")]


@pytest.mark.parametrize("name", HELPERS)
def test_a_dead_helper_is_started_anew(fresh_lab: Any, name: str) -> None:
    lab = fresh_lab
    web, other = lab.run(WRITES, name="web"), lab.run(name="other")
    said(web, "line3\n")
    pids = web.pid, other.pid
    kill(lab, name)
    late = lab.run(["sh", "-c", "echo here; sleep 1000"], name="late")
    said(late, "here\n")
    assert wait_until(lambda: helpers(lab, name) != [])
    assert web.exec(["echo", "inside"]).stdout == "inside\n"
    for one, another in itertools.permutations((web, other, late), 2):
        assert one.exec(["getent", "hosts", another.name]).stdout.split()[:1] == list(another.addresses.values())
    lab.network("red").connect(web)
    begun = time.time_ns()

    def newer() -> bool:
        frame = lab.stats()
        return {"web", "other", "late"} <= set(frame["container"][frame.index.astype("int64") > begun])

    with pytest.warns(RuntimeWarning, match="sampler died") if name == "sampler" else contextlib.nullcontext():
        assert wait_until(newer, 10)
    before = len(web.logs().split())
    assert wait_until(lambda: len(web.logs().split()) > before)
    lines = web.logs().split()
    assert lines == [f"line{n}" for n in range(1, len(lines) + 1)]
    assert (web.pid, other.pid) == pids and {one.state for one in (web, other, late)} == {"running"}
    (note,) = died(lab, name)
    assert re.fullmatch(rf"the lab's {name} died \(SIGKILL\) and was started anew: [^\n]+", note)
    assert len(lab.notes) == 1, lab.notes


def test_nothing_that_is_written_is_lost_with_the_collector(fresh_lab: Any) -> None:
    """Killed while it has its hands full: each byte is kept or counted, and no writer hears of it."""
    lab, size = fresh_lab, 24 << 20
    part = size // 4 // 4096
    script = (
        "import os, time\n"
        f"for n in range({size // 4096}):\n"
        f"    while n % {part} == 0 and not os.path.exists(f'/srv/{{n // {part}}}'): time.sleep(0.001)\n"
        "    os.write(1, (b'%015d\\n' % n) * 256)\n"
        "os.write(2, b'done')"
    )
    flood = lab.run(["python3", "-c", script])
    for quarter in range(4):  # it waits for each, so that it isn't over before the collector was killed
        flood.write(f"/srv/{quarter}", "")
        if quarter:
            kill(lab, "collector")
    assert flood.wait(patient(30)) == 0
    logs = flood.logs()
    assert len(logs.stdout) + len(logs.stderr) + logs.dropped_bytes == size + 4
    assert logs.stderr == "done" and logs.stdout.endswith(f"{size // 4096 - 1:015d}\n")
    lines = [int(line) for line in logs.stdout.splitlines()[1:]]
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(lines))
    assert len(died(lab, "collector")) == 3


def test_what_ends_while_there_is_no_collector_is_collected(fresh_lab: Any) -> None:
    lab = fresh_lab
    for n in range(3):
        one = lab.run(["sh", "-c", "read x; echo all of it; echo error >&2"], name=f"c{n}", stdin="")
        kill(lab, "collector")
        assert one.wait(patient(10)) == 0
        assert (one.logs().stdout, one.logs().stderr) == ("all of it\n", "error\n")
        one.start()
        assert one.wait(patient(10)) == 0 and one.logs().stdout == "all of it\n" * 2


def test_who_follows_goes_on(fresh_lab: Any) -> None:
    web, heard = fresh_lab.run(WRITES, name="web"), []
    thread = threading.Thread(target=lambda: web.follow(lambda _, text: heard.append(text)))
    thread.start()
    try:
        assert wait_until(lambda: "line5\n" in "".join(heard))
        kill(fresh_lab, "collector")
        now = len("".join(heard).split())
        assert wait_until(lambda: len("".join(heard).split()) > now + 5)
    finally:
        web.kill()
        thread.join(patient(10))
    assert not thread.is_alive()
    words = "".join(heard).split()
    assert words == [f"line{n}" for n in range(1, len(words) + 1)]


def test_counters_go_on_in_the_same_rings(fresh_lab: Any) -> None:
    """Rows of before stay; sums don't fall; the interval that was set is kept."""
    lab = fresh_lab
    web = lab.run(["sh", "-c", "while :; do :; done"], name="web")
    assert wait_until(lambda: len(lab.stats(last=None)) > 5, 10)
    before = lab.stats(last=None)
    kill(lab, "sampler")
    with pytest.warns(RuntimeWarning, match=r"sampler died \(SIGKILL\) and was started anew: the counters"):
        assert wait_until(lambda: len(lab.stats(last=None)) > len(before) + 5, 10)
    frame = lab.stats(last=None)
    assert frame.index.is_monotonic_increasing and set(before.index) <= set(frame.index)
    assert frame["cpu_seconds_total"].is_monotonic_increasing and set(frame["container"]) == {"web"}
    web.remove()


@pytest.mark.parametrize("name", HELPERS)
def test_the_fourth_death_in_a_minute_is_the_last(fresh_lab: Any, name: str) -> None:
    lab = fresh_lab
    web = lab.run(WRITES, name="web")
    for _ in range(4):
        kill(lab, name)
    pid = web.pid
    off = f"the lab's {name} died 4 times in a minute and stays off, and [^\n]+: start another lab"
    assert wait_until(lambda: len(died(lab, name)) == 4)
    assert re.fullmatch(off, died(lab, name)[-1])
    assert wait_until(lambda: helpers(lab, name) == [])
    assert web.state == "running" and web.exec(["echo", "inside"]).stdout == "inside\n"
    starts: list[Any] = [web.restart, lambda: lab.run(WRITES, name="web", exists="replace"), lambda: lab.run(["true"])]
    if name == "collector":
        for verb in (*starts, web.logs, lambda: web.follow(lambda *_: None)):
            with pytest.raises(StateError, match=f"^(container (c1|web): )?{off}$"):
                verb()
    elif name == "resolver":
        for verb in (*starts, lambda: lab.network("red")):
            with pytest.raises(StateError, match=f"{off}$"):
                verb()
        assert lab.run(["true"], networks=["none"]).wait(patient(10)) == 0
    else:
        assert lab.run(["true"]).wait(patient(10)) == 0
    if name == "sampler":
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            lab.stats()
        assert any(re.fullmatch(off, str(warning.message)) for warning in warned)
    assert lab["web"] is web and (web.state, web.pid) == ("running", pid)  # nothing was ended for what can't be started
    web.remove()
    assert wait_until(lambda: helpers(lab, name) == [])


def test_a_nursery_leaves_nothing_half_made(fresh_lab: Any) -> None:
    """Killed while it makes slots: those go, with their cgroup folders, and the next one makes others."""
    lab, rng = fresh_lab, random.Random(8)
    paths = lab._client.facts["cgroup_paths"]

    def counts() -> tuple[int, int, int]:
        kinds = list(titles(lab).values())
        folders = max((len(list(Path(path).glob("c[0-9]*"))) for path in paths), default=-1)
        return kinds.count("ctlab-init"), kinds.count("ctlab runner"), folders

    def settled() -> tuple[int, int, int]:
        seen = [counts()]
        while len(seen) < 8 or len(set(seen[-8:])) > 1:
            time.sleep(0.05)
            seen.append(counts())
            assert len(seen) < 20 * patient(10)
        return seen[-1]

    def whole() -> bool:
        """As many runners as are kept; each folder's first process, and who shares its memory."""
        inits, runners, folders = settled()
        return runners == kept and inits % 2 == 0 and folders in (-1, inits // 2) and inits >= 12

    kept = settled()[1]
    for _ in range(3):
        lab.run(["true"], count=4, rm=True)  # so that it has something to make
        time.sleep(rng.random() * 0.03)
        kill(lab, "nursery")
    assert wait_until(whole, 20), (settled(), titles(lab))
    assert wait_until(lambda: "dead" not in titles(lab).values()), titles(lab)
    assert len(died(lab, "nursery")) == 3


def test_deaths_in_a_loop_while_everything_is_used(usable: None) -> None:
    """No verb fails, whenever one dies; nothing is left in the end."""
    import ctlab

    rng = random.Random(88)
    for _ in range(tries(2, 20)):
        with ctlab.Lab("loop") as lab:
            web = lab.run(WRITES, name="web")
            over = threading.Event()
            failures: list[BaseException] = []
            done: list[int] = []

            def work(number: int, lab: Any = lab, web: Any = web, over: Any = over, failures: Any = failures,
                     done: Any = done) -> None:  # fmt: skip
                try:
                    while not over.is_set():
                        one = lab.run(["sh", "-c", f"echo mine{number}"])
                        assert one.wait(patient(20)) == 0 and one.logs().stdout == f"mine{number}\n"
                        one.remove()
                        lab.network(f"net{number}")
                        assert web.exec(["echo", "x"]).stdout == "x\n"
                        lab.networks[f"net{number}"].remove()
                        done.append(number)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
            for thread in threads:
                thread.start()
            victims = list(HELPERS) * 3
            rng.shuffle(victims)
            for name in victims:
                time.sleep(rng.random() * 0.15)
                kill(lab, name)
            had = len(done)
            assert wait_until(lambda had=had, done=done, failures=failures: len(done) > had + 2 or failures, 20)  # type: ignore[misc]
            over.set()
            for thread in threads:
                thread.join(patient(30))
            assert not failures, failures
            words = web.logs().split()
            assert words == [f"line{n}" for n in range(1, len(words) + 1)] and web.state == "running"
            assert {name: len(died(lab, name)) for name in HELPERS} == dict.fromkeys(HELPERS, 3)


def test_a_helper_that_is_stopped_is_as_a_dead_one(fresh_lab: Any) -> None:
    """It holds what needs it up for some seconds; without that all of the lab waited until somebody let it go on."""
    lab = fresh_lab
    web = lab.run(WRITES, name="web")
    for pid in helpers(lab, "resolver"):
        os.kill(pid, signal.SIGSTOP)
    with no_hang(20):
        red = lab.network("red")
        other = lab.run(name="other", networks=red)
    assert seen(lambda: len(died(lab, "resolver")), bool) == 1  # the answer may come before the note
    red.connect(web)
    assert web.exec(["getent", "hosts", "other"]).stdout.split()[:1] == list(other.addresses.values())


def test_who_takes_nothing_for_some_seconds_is_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_PATIENCE_MS", 200)
    ours, theirs = protocol.pair()
    with ours, theirs, no_hang(10), pytest.raises(BrokenPipeError):
        for _ in range(10_000):
            helper.Helper._send(ours, b"{}", [])
