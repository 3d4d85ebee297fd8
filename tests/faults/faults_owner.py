"""Faults of the owner: forks, interrupts, no descriptors, stop in every way, and what runs or is frozen at the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from faults_processes import parts_of
from faults_script import LAB, Script, clean, running_lab, script
from faults_world import World


def fork_outlives_owner(world: World) -> None:
    """A fork of the owner keeps the lab's sockets open; the lab goes with the owner all the same."""
    before = world.snapshot()
    text = """
import multiprocessing
p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(30,))
p.start(); say(p.pid); hear()
"""
    owner = running_lab(world, text)
    forked = int(owner.expect_line())
    owner.process.kill()
    owner.process.wait()
    clean(world, before, forked)
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
    owner = running_lab(world, text, before="import ctlab.errors")
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
def count():
    for t in threading.enumerate():
        if t.name.startswith('ctlab-events'): t.join(10)  # it closes what it has heard from
    gc.collect()
    return len(os.listdir('/proc/self/fd'))
say('open', count())
ctlab.Lab('full').stop()
say('open', count())
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
    running = Script(world, "-c", "import ctlab.lab, ctlab.labs\n" + LAB + text, start_new_session=True)
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
    owner = running_lab(world, text)
    for _ in range(5):
        assert owner.expect("left") == "False"
    assert owner.end() == 0


def stop_interrupted(world: World) -> None:
    """An interrupt of stop() itself: the lab ends all the same."""
    before = world.snapshot()
    text = """
def interrupt():
    while not lab._client._stopping: time.sleep(0.0005)
    signal.raise_signal(2)
threading.Thread(target=interrupt, daemon=True).start()
try: lab.stop(); say('in time')
except KeyboardInterrupt: say('interrupted')
hear()
"""
    owner = running_lab(world, text)
    owner.expect("interrupted")
    clean(world, before, owner.pid)
    owner.end()


def dropped_without_stop(world: World) -> None:
    """A lab that nobody holds goes on (garbage collection decides nothing) and ends with the process."""
    before = world.snapshot()
    text = """
del lab, c
import gc, ctlab.labs
gc.collect(); say(len(ctlab.labs.running()), ctlab.labs.current()['c'].state)
"""
    owner = running_lab(world, text)
    owner.expect("1")
    assert owner.end() == 0
    clean(world, before)


def exit_with_labs(world: World) -> None:
    """Python's exit with several labs running, one with a paused container where that can be had."""
    pause = "" if world.who == "user-none" else "labs[1].run('sleep 99', name='p').pause(); "
    text = f"labs = [ctlab.Lab(f'l{{n}}') for n in range(3)]; {pause}say('up')"
    with script(world, text) as owner:
        owner.expect("up")
        assert owner.end() == 0


def paused_then_killed(world: World) -> None:
    """Each part killed while a container is paused, which under version 1 can't die before it is thawed."""
    if world.who == "user-none":
        return  # no freezer of any kind
    before = world.snapshot()
    for victim in ("owner", "keeper", "supervisor", "container"):
        # The keeper is to notice it: the owner's own way to end a lab whose supervisor is dead comes much later.
        later = "import ctlab.runtime.client\nctlab.runtime.client._WHY_SECONDS = 60\n"
        owner = running_lab(world, "c.pause(); say(c.state); hear()", later)
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
    owner = running_lab(world, text)
    owner.expect("removed")
    owner.expect("stopped")
    owner.end()


SCENARIOS: list[Callable[[World], None]] = [
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
]
