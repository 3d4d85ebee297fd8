"""The judge of single faults, each a function that says by an assertion what was wrong.

Prints one line of JSON: the scenario's name and "" or what was wrong with it. After each, nothing may be left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faults_refusals
import faults_world
from faults_script import Script
from faults_world import World, parts_of

_LAB = """
import os, signal, sys, threading, time
import ctlab
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
"""


@contextmanager
def script(world: World, text: str) -> Iterator[Script]:
    """Run a piece of Python that may say and hear, and end it."""
    running = Script(world, "-c", _LAB + text)
    try:
        yield running
    finally:
        running.end()


def _running_lab(world: World, then: str = "hear()", before: str = "") -> Script:
    """A lab with a container in it, up."""
    made = Script(
        world,
        "-c",
        f"{_LAB}{before}\nlab = ctlab.Lab('one')\nc = lab.run(['sleep', '1000'], name='c')\nsay('up')\n{then}",
    )
    made.expect("up")
    return made


def _clean(world: World, before: dict[str, set[str]], *allow: int, ignore: tuple[str, ...] = ()) -> None:
    left = world.left_over(before, allow, ignore=ignore)
    assert not left, left[:12]


# -- the keeper -------------------------------------------------------------------------------------------------------
def keeper_stopped_then_stop(world: World) -> None:
    """A keeper that was stopped (SIGSTOP) goes on when its lab is to end."""
    owner = _running_lab(world, "hear(); t = time.monotonic(); lab.stop(); say('stopped', time.monotonic() - t)")
    os.kill(parts_of(owner.pid)["keeper"], signal.SIGSTOP)
    owner.write("")
    assert float(owner.expect("stopped")) < 5
    owner.end()


def keeper_stopped_owner_killed(world: World) -> None:
    """With the keeper stopped and the owner dead, the next prune wakes it, and it cleans up."""
    before = world.snapshot()
    owner = _running_lab(world)
    parts = parts_of(owner.pid)
    os.kill(parts["keeper"], signal.SIGSTOP)
    owner.kill()
    time.sleep(0.2)
    assert parts["keeper"] in faults_world.processes()
    text = world.prune()
    assert "its keeper was stopped and its owner is dead" in text, text
    _clean(world, before)


def keeper_stopped_owner_alive(world: World) -> None:
    """A stopped keeper whose owner lives is nobody's to wake: prune leaves it alone."""
    owner = _running_lab(world, "hear(); say(c.exec(['echo', 'alive']).stdout)")
    keeper = parts_of(owner.pid)["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    text = world.prune()
    assert text == "nothing to prune\n", text
    assert faults_world.processes()[keeper][1] == "T"
    os.kill(keeper, signal.SIGCONT)
    owner.write("")
    owner.expect("alive")
    owner.end()


def keeper_and_owner_killed_then_next_start(world: World) -> None:
    """What a dead keeper left is removed by the next lab that starts, which says so."""
    before = world.snapshot()
    owner = _running_lab(world)
    os.kill(parts_of(owner.pid)["keeper"], signal.SIGSTOP)  # so that it can't clean up before it is killed as well
    keeper = parts_of(owner.pid)["keeper"]
    owner.kill()
    os.kill(keeper, signal.SIGKILL)
    _clean(world, before, ignore=("cgroup", "file"))
    assert list(Path("/tmp").glob("ctlab-*/*/note")), "the test wants something to be left for the next start"
    with script(world, "lab = ctlab.Lab('two'); say('notes', *lab.notes); hear()") as following:
        notes = following.expect("notes")
        assert "lab one" in notes and "its keeper is dead; folders removed" in notes, notes
    _clean(world, before)


def many_keepers_at_once(world: World) -> None:
    """Labs that start, end and prune at the same time in several processes don't take each other's folders."""
    text = """
say('ready'); hear()
for _ in range(4):
    with ctlab.Lab('same') as lab: say('up', *lab.notes)
say('done')
"""
    scripts = [Script(world, "-c", _LAB + text) for _ in range(4)]
    for one in scripts:
        one.expect("ready")
    for one in scripts:
        one.write("")
    for one in scripts:
        for _ in range(4):
            notes = one.expect("up")
            assert notes == "", f"a living lab was taken for a dead one: {notes}"
        one.expect("done")
        one.end()


def same_name_twice(world: World) -> None:
    """Two labs of one name in two processes do not meet: the end of one leaves the other alone."""
    text = """
lab = ctlab.Lab('same'); c = lab.run(['sleep', '99'], name='c'); say('up')
hear(); say(c.exec('id -u').stdout)
"""
    with script(world, text) as first, script(world, text) as second:
        first.expect("up")
        second.expect("up")
        first.kill()
        second.write("")
        second.expect("0")


def prune_touches_nothing_foreign(world: World) -> None:
    """A forged note, a folder of another kind and a live lab's folders survive a prune."""
    owner = _running_lab(
        world, "say(lab._client.facts['runtime_folder'])\nhear(); say(c.exec(['echo', 'alive']).stdout)"
    )
    live = owner.expect_line()
    base = os.path.dirname(live)
    note = json.loads(Path(live, "note").read_text())
    forged = os.path.join(base, "0123456789ab")
    foreign = [os.path.join(path, "ctlab-foreign") for path in world.joined.values()]
    for path in (forged, os.path.join(base, "mine")):
        os.mkdir(path)
        Path(path, "lock").touch()
        Path(path, "note").write_text(json.dumps(note | {"id": "0123456789ab", "cgroups": note["cgroups"] + foreign}))
        for name in (".", "lock", "note"):
            os.chown(os.path.join(path, name), world.uid, world.gid)
    text = world.prune()
    assert "0123456789ab" in text and note["id"] not in text, text
    assert not os.path.exists(forged)
    assert os.path.exists(os.path.join(base, "mine", "note")), "a folder that isn't named like a lab's was removed"
    assert all(os.path.isdir(path) for path in (*foreign, *note["cgroups"]))
    owner.write("")
    owner.expect("alive")
    for name in ("lock", "note"):
        os.unlink(os.path.join(base, "mine", name))
    os.rmdir(os.path.join(base, "mine"))
    owner.end()


# -- the owner --------------------------------------------------------------------------------------------------------
def fork_outlives_owner(world: World) -> None:
    """A fork of the owner keeps the lab's sockets open; the lab goes with the owner all the same."""
    before = world.snapshot()
    text = """
import multiprocessing
p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(30,))
p.start(); say(p.pid); hear()
"""
    owner = _running_lab(world, text)
    forked = int(owner.expect_line())
    owner.process.kill()
    owner.process.wait()
    _clean(world, before, forked)
    os.kill(forked, signal.SIGKILL)
    owner.end()


def fork_ends_before_owner(world: World) -> None:
    """A fork that runs the owner's clean-up code (with, atexit, stop) does not end the owner's lab."""
    text = """
pid = os.fork()
if not pid:
    try: c.exec('true')
    except ctlab.errors.LabGone as error: say('refused', error)
    lab.stop(); sys.exit(0)
os.waitpid(pid, 0); say(c.exec(['echo', 'alive']).stdout)
"""
    owner = _running_lab(world, text, before="import ctlab.errors")
    assert "is a fork" in owner.expect("refused")
    owner.expect("alive")
    owner.end()


def descriptors_used_up(world: World) -> None:
    """With every descriptor in use the start fails with one clear line, and works again once some are closed."""
    text = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
held = []
while True:
    try: held.append(os.open('/dev/null', os.O_RDONLY))
    except OSError: break
for spare in range(0, 14):
    try:
        ctlab.Lab('full').stop(); say('worked', spare); break
    except ctlab.errors.CtlabError as error: say('refused', error)
    os.close(held.pop())
else:
    for one in held: os.close(one)
say('open', len(os.listdir('/proc/self/fd')))
ctlab.Lab('full').stop()
say('open', len(os.listdir('/proc/self/fd')))
"""
    with script(world, "import ctlab.errors\nctlab.Lab('warm').stop()" + text) as owner:
        refusals = 0
        while (line := owner.hear()) and line.startswith("refused"):
            refusals += 1
            assert "EMFILE" in line and "1024 open (ulimit -n)" in line, line
        assert refusals > 5, (refusals, line, owner.said_wrong())
        first = line if line and line.startswith("open") else owner.hear()
        assert first == owner.hear(), "descriptors are lost at each start"


def many_descriptors_in_use(world: World) -> None:
    """Numbers above 1023 work, which select() can't take."""
    text = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [os.open('/dev/null', os.O_RDONLY) for _ in range(1100)]
lab = ctlab.Lab('high'); c = lab.run(['sleep', '99'], name='c'); lab.stop(); say('fine')
"""
    with script(world, text) as owner:
        owner.expect("fine")


def interrupted_start(world: World) -> None:
    """SIGINT to the process group at moments during start: nothing is left, and the owner can start another."""
    text = """
before = {int(n) for n in os.listdir('/proc/self/fd')}
while True:
    word = hear()
    if not word: break
    try:
        say('starting'); lab = ctlab.Lab('hasty'); say('up'); time.sleep(1)
    except KeyboardInterrupt:
        say('interrupted', 'up' if ctlab.labs.running() else 'starting')
        for one in ctlab.labs.running(): one.stop()
"""
    before = world.snapshot()
    running = Script(world, "-c", "import ctlab.labs\n" + _LAB + text, start_new_session=True)
    try:
        for number in range(24):
            running.write("go")
            running.expect("starting")
            time.sleep(0.006 * number)
            os.killpg(running.pid, signal.SIGINT)
            line = running.wait_for("interrupted")
            assert line, running.said_wrong()
            left = world.left_over(before, {running.pid}, seconds=4.0)
            assert not left, f"interrupted after {6 * number} ms ({line}): {left[:6]}"
    finally:
        running.end()


def stopped_twice(world: World) -> None:
    """stop() again, and from several threads at once, is no error, and each returns when nothing is left."""
    text = """
def stop(): lab.stop(); say('left', os.path.exists(folder))
folder = lab._client.facts['runtime_folder']
threads = [threading.Thread(target=stop) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
stop()
"""
    owner = _running_lab(world, text)
    for _ in range(5):
        assert owner.expect("left") == "False"
    assert owner.end() == 0


def stop_interrupted(world: World) -> None:
    """An interrupt of stop() itself: the lab ends all the same."""
    before = world.snapshot()
    text = """
threading.Timer(0.004, signal.raise_signal, (2,)).start()
try: lab.stop(); say('in time')
except KeyboardInterrupt: say('interrupted')
hear()
"""
    owner = _running_lab(world, text)
    owner.expect("interrupted")
    _clean(world, before, owner.pid)
    owner.end()


def dropped_without_stop(world: World) -> None:
    """A lab that nobody holds goes on (garbage collection decides nothing) and ends with the process."""
    before = world.snapshot()
    text = """
del lab, c
import gc, ctlab.labs
gc.collect(); say(len(ctlab.labs.running()), ctlab.labs.current()['c'].state)
"""
    owner = _running_lab(world, text)
    owner.expect("1")
    assert owner.end() == 0
    _clean(world, before)


def exit_with_labs(world: World) -> None:
    """Python's exit with several labs running, one with a paused container where that can be had."""
    pause = "" if world.who == "user-none" else "labs[1].run('sleep 99', name='p').pause(); "
    text = f"labs = [ctlab.Lab(f'l{{n}}') for n in range(3)]; {pause}say('up')"
    with script(world, text) as owner:
        owner.expect("up")
        assert owner.end() == 0


# -- frozen -----------------------------------------------------------------------------------------------------------
def paused_then_killed(world: World) -> None:
    """Each part killed while a container is paused, which under version 1 can't die before it is thawed."""
    if world.who == "user-none":
        return  # no freezer of any kind
    before = world.snapshot()
    for victim in ("owner", "keeper", "supervisor", "container"):
        owner = _running_lab(world, "c.pause(); say(c.state); hear()")
        owner.expect("paused")
        parts = parts_of(owner.pid) | {"owner": owner.pid}
        os.kill(parts[victim], signal.SIGKILL)
        if victim == "container":
            owner.end()
        if victim == "owner":
            owner.process.wait()
        left = world.left_over(before, {owner.pid} if victim not in ("owner", "container") else ())
        assert not left, f"{victim}: {left[:12]}"
        owner.end()


def removed_while_something_runs_in_it(world: World) -> None:
    """A container's end waits for every process in its PID namespace, also for those that were started from outside."""
    text = """
for n in range(6):
    c = lab.run(['sleep', '1000'], name=f'x{n}', init=n % 2 == 0)
    for _ in range(3): c.exec(['sleep', '1000'], detach=True)
    c.exec(['sh', '-c', 'sleep 1000 & exit 0'])
    if n % 3 == 2: c.stop(timeout=0.1)
    c.remove()
say('removed'); lab.stop(); say('stopped')
"""
    owner = _running_lab(world, text)
    owner.expect("removed")
    owner.expect("stopped")
    owner.end()


SCENARIOS: list[Callable[[World], None]] = [
    keeper_stopped_then_stop,
    keeper_stopped_owner_killed,
    keeper_stopped_owner_alive,
    keeper_and_owner_killed_then_next_start,
    many_keepers_at_once,
    same_name_twice,
    prune_touches_nothing_foreign,
    fork_outlives_owner,
    fork_ends_before_owner,
    descriptors_used_up,
    many_descriptors_in_use,
    interrupted_start,
    stopped_twice,
    stop_interrupted,
    dropped_without_stop,
    exit_with_labs,
    paused_then_killed,
    removed_while_something_runs_in_it,
    *faults_refusals.SCENARIOS,
]


def main() -> None:
    """Run one order: who, and which scenarios (default: all)."""
    order = json.loads(sys.argv[1])
    world = World(order)
    before = world.snapshot()
    wrong: dict[str, str] = {}
    for scenario in SCENARIOS:
        name = scenario.__name__
        if order.get("only") and name not in order["only"]:
            continue
        watchdog = threading.Timer(60, lambda: [os.kill(pid, 9) for pid in faults_world.processes() if pid != 1])
        watchdog.start()
        began = time.monotonic()
        try:
            scenario(world)
            wrong[name] = ""
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-2)}"
        watchdog.cancel()
        watchdog.join()
        left = world.left_over(before)
        if left:
            wrong[name] += f"\nafterwards: {left[:12]}"
            for pid in faults_world.processes():
                if pid != 1:
                    os.kill(pid, signal.SIGKILL)
            world.prune()
        print(f"{time.monotonic() - began:.1f} s {name}: {wrong[name] or 'fine'}", file=sys.stderr, flush=True)
    print(json.dumps(wrong))


if __name__ == "__main__":
    os.chdir("/")
    main()
