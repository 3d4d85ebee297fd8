"""Faults of the keeper, and of what is left when it is dead: stopped, killed, several at once, foreign things."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from faults_processes import parts_of, processes
from faults_script import LAB, Script, clean, running_lab, script
from faults_world import World


def keeper_stopped_then_stop(world: World) -> None:
    """A keeper that was stopped (SIGSTOP) goes on when its lab is to end."""
    owner = running_lab(world, "hear(); t = time.monotonic(); lab.stop(); say('stopped', time.monotonic() - t)")
    os.kill(parts_of(owner.pid)["keeper"], signal.SIGSTOP)
    owner.write("")
    assert float(owner.expect("stopped")) < 5
    owner.end()


def keeper_stopped_owner_killed(world: World) -> None:
    """With the keeper stopped and the owner dead, the next prune wakes it, and it cleans up."""
    before = world.snapshot()
    owner = running_lab(world)
    parts = parts_of(owner.pid)
    os.kill(parts["keeper"], signal.SIGSTOP)
    owner.kill()
    time.sleep(0.2)
    assert parts["keeper"] in processes()
    text = world.prune()
    assert "its keeper was stopped and its owner is dead" in text, text
    clean(world, before)


def keeper_stopped_owner_alive(world: World) -> None:
    """A stopped keeper whose owner lives is nobody's to wake: prune leaves it alone."""
    owner = running_lab(world, "hear(); say(c.exec(['echo', 'alive']).stdout)")
    keeper = parts_of(owner.pid)["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    text = world.prune()
    assert text == "nothing to prune\n", text
    assert processes()[keeper][1] == "T"
    os.kill(keeper, signal.SIGCONT)
    owner.write("")
    owner.expect("alive")
    owner.end()


def keeper_and_owner_killed_then_next_start(world: World) -> None:
    """What a dead keeper left is removed by the next lab that starts, which says so."""
    before = world.snapshot()
    owner = running_lab(world)
    os.kill(parts_of(owner.pid)["keeper"], signal.SIGSTOP)  # so that it can't clean up before it is killed as well
    keeper = parts_of(owner.pid)["keeper"]
    owner.kill()
    os.kill(keeper, signal.SIGKILL)
    clean(world, before, ignore=("cgroup", "file"))
    assert list(Path("/tmp").glob("ctlab-*/*/note")), "the test wants something to be left for the next start"
    with script(world, "lab = ctlab.Lab('two'); say('notes', *lab.notes); hear()") as following:
        notes = following.expect("notes")
        assert "lab one" in notes and "its keeper is dead; folders removed" in notes, notes
    clean(world, before)


def many_keepers_at_once(world: World) -> None:
    """Labs that start, end and prune at the same time in several processes don't take each other's folders."""
    text = """
say('ready'); hear()
for _ in range(4):
    with ctlab.Lab('same') as lab: say('up', *lab.notes)
say('done')
"""
    scripts = [Script(world, "-c", LAB + text) for _ in range(4)]
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
    owner = running_lab(
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
    for name in ("lock", "note"):
        os.unlink(os.path.join(base, "mine", name))
    os.rmdir(os.path.join(base, "mine"))  # before the lab ends: the last to go removes the base folder, if it is empty
    owner.write("")
    owner.expect("alive")
    owner.end()


SCENARIOS: list[Callable[[World], None]] = [
    keeper_stopped_then_stop,
    keeper_stopped_owner_killed,
    keeper_stopped_owner_alive,
    keeper_and_owner_killed_then_next_start,
    many_keepers_at_once,
    same_name_twice,
    prune_touches_nothing_foreign,
]
