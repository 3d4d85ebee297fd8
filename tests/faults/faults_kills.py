"""The judge of the kills: SIGKILL at seeded random moments of a running script, then a look at everything.

Prints its report as one line of JSON: how often each part was killed, in which phase, what was left. A kill counts if
the process lived until it and died of it (`Shot`); what comes too late is tried again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

from faults_processes import parts_of
from faults_script import PATIENCE, Script, trace
from faults_shot import Shot
from faults_world import HERE, World

PHASES = {  # what the victim says before the moment, and the seconds within which it is hit after that
    "lab": 0.25,
    "up": 0.05,
    "run": 0.02,
    "exec": 0.01,
    "pause": 0.01,
    "paused": 0.03,
    "stop": 0.03,
    "remove": 0.01,
    "connect": 0.02,
    "copy": 0.02,
    "batch": 0.04,
    "end": 0.03,
}
HELPERS = ("collector", "resolver", "sampler", "nursery")
MISSES = 10  # so many kills may come too late, of each part; of very many a twelfth


class Victim(Script):
    """The running script that is hit."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, str(HERE / "faults_victim.py"), str(seed))
        self.life = 0

    def tell(self, word: str) -> None:
        """Give it an order for this life, or (``next``) for one more."""
        self.life += word == "next"
        trace(f"{self.pid} is told {word} {self.life}")
        self.write(f"{word} {self.life}")


class Judge:
    """Kills and looks."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.rng = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self.left: list[str] = []
        self.bugs: Counter[str] = Counter()
        self.slowest = 0.0
        self.pruned = 0
        self.other_ends: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    # -- a moment ---------------------------------------------------------------------------------
    def moment(self, victim: Victim) -> str:
        """Let the victim live until a random moment of a random phase; the phase."""
        phase = self.rng.choice(list(PHASES))
        victim.tell("next")
        heard = victim.wait_for(phase, "bug", "gone", seconds=3.0)
        time.sleep(self.rng.random() * PHASES[phase])
        if heard.startswith(("bug", "gone")):
            self.bugs[f"before any kill: {heard}"] += 1
            victim.lines.insert(0, heard)
        return phase

    def target(self, victim: Victim, part: str) -> int:
        """The pid of a part of the victim's lab, once there is one; 0 if there is none for long."""
        if part == "owner":
            return victim.pid
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = parts_of(victim.pid).get(part, 0)
            if found:
                return found
            time.sleep(0.002)
        return 0

    def witness(self, victim: Victim) -> None:
        """For some: let veth pairs show whether the network namespaces go."""
        if self.rng.random() < 0.35:
            parts = parts_of(victim.pid)
            for part in ("supervisor", "container"):
                if part in parts:
                    self.world.witness(parts[part])

    def count(self, part: str, phase: str, shot: Shot) -> None:
        """Count a kill, or that it came too late."""
        if shot.hit(PATIENCE):
            self.kills[part] += 1
            self.phases[phase] += 1
        else:
            self.missed[part] += 1

    # -- what follows ------------------------------------------------------------------------------
    def look(self, what: str, before: dict[str, set[str]], allow: set[int], ignore: tuple[str, ...] = ()) -> None:
        """Look for left-overs; they are noted and, for the next round's sake, removed."""
        trace(what)
        began = time.monotonic()
        left = self.world.left_over(before, allow, ignore=ignore)
        self.slowest = max(self.slowest, time.monotonic() - began)
        if left:
            self.left += [f"{what}: {line}" for line in left[:12]]
            for line in left:
                words = line.split()
                if words[:2] == ["left:", "process"] and int(words[2]) not in allow:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(words[2]), signal.SIGKILL)
            with contextlib.suppress(Exception):
                self.world.prune()

    def note(self, line: str) -> None:
        """What a victim said that it should not have to say."""
        if line.startswith("bug"):
            self.bugs[line[4:]] += 1

    def owner(self, count: int) -> None:
        """The owner by SIGKILL, and for a few by other ends."""
        before = self.world.snapshot()
        following = Victim(self.world, self.rng.randrange(2**32))
        number = 0
        while self.kills["owner"] < count and self.missed["owner"] <= max(MISSES, count // 12):
            victim, following = following, Victim(self.world, self.rng.randrange(2**32))
            victim.wait_for("ready")
            phase = self.moment(victim)
            self.witness(victim)
            how = ("SIGTERM", "exit", "raise")[number // 8 % 3] if number % 8 == 7 else "SIGKILL"
            number += 1
            if how == "SIGKILL":
                shot = Shot(victim.pid)
                victim.end()
                self.count("owner", phase, shot)
            else:
                if how == "SIGTERM":
                    victim.process.terminate()
                else:
                    victim.tell(how)
                victim.end()
                self.other_ends[how] += 1
            self.look(f"owner by {how} at {phase}", before, {following.pid})
        following.process.kill()
        following.end()
        self.look("owner, at the end", before, set())

    def inside(self, part: str, count: int) -> None:
        """A part by SIGKILL while the owner lives on: the owner must notice, and nothing of the lab may be left."""
        before = self.world.snapshot()
        victim = self._fresh(None)
        while self.kills[part] < count and self.missed[part] <= max(MISSES, count // 12):
            number = self.kills[part]
            phase = self.moment(victim)
            pid = self.target(victim, part)
            if not pid:
                self.left.append(f"{part} at {phase}: the lab had none for {PATIENCE:g} s")
                self.missed[part] += 1
                victim.process.kill()
                victim = self._fresh(victim)
                self.look(f"{part} at {phase}", before, {victim.pid})
                continue
            self.witness(victim)
            shot = Shot(pid)
            what = f"{part} at {phase}"
            if part == "keeper" and number % 4 == 3:
                # Nobody is left to clean up but the kernel: the folders stay until the next start or prune,
                # and with them what the freezer of version 1 holds, since that can't die.
                victim.process.kill()
                victim.end()
                frozen = self.world.who == "user-v1" and self.world.frozen()
                if not frozen:
                    self.look(f"{what}, then owner", before, set(), ("cgroup", "file"))
                self.world.prune()
                self.pruned += 1
                self.count(part, phase, shot)
                self.look(f"{what}, then owner, then prune", before, set())
                victim = self._fresh(None)
                continue
            if part in HELPERS:
                time.sleep(self.rng.random() * 0.1)
            victim.tell("stop")  # heard only if the lab goes on, as it may without a helper or after a stop
            line = victim.wait_for("gone", "bug")
            self.note(line)
            if not line:
                self.left.append(f"{what}: the owner did not notice within {PATIENCE:g} s")
                victim.process.kill()
                victim = self._fresh(victim)
            self.look(what, before, {victim.pid})
            self.count(part, phase, shot)
            if victim.process.poll() is not None:
                victim = self._fresh(victim)
        victim.process.kill()
        victim.end()
        self.look(f"{part}, at the end", before, set())

    def _fresh(self, old: Victim | None) -> Victim:
        if old is not None:
            old.end()
        made = Victim(self.world, self.rng.randrange(2**32))
        made.wait_for("ready")
        return made

    def report(self) -> dict[str, Any]:
        """All of it."""
        return {
            "who": self.world.who,
            "seed": self.seed,
            "kills": dict(self.kills),
            "missed": dict(self.missed),
            "other_ends": dict(self.other_ends),
            "phases": dict(self.phases),
            "left": self.left,
            "bugs": dict(self.bugs),
            "slowest_seconds": round(self.slowest, 2),
            "witnesses": self.world.witnesses,
            "pruned": self.pruned,
        }


def main() -> None:
    """Run one order: who, seed, and how often each part is killed."""
    order = json.loads(sys.argv[1])
    world = World(order)
    empty = world.snapshot()
    live = world.spawn(str(HERE / "faults_bystander.py"))
    world.mine.add(live.pid)
    assert live.stdin is not None and live.stdout is not None
    assert live.stdout.readline() == "up\n", "the bystander's lab did not start"
    judge = Judge(world, order["seed"])
    for part, count in order["counts"].items():
        if part == "owner":
            judge.owner(count)
        else:
            judge.inside(part, count)
    live.stdin.write("say\n")
    live.stdin.flush()
    if live.stdout.readline() != "still here\n":
        judge.left.append("a live lab of the same user was harmed")
    live.stdin.close()
    live.wait(PATIENCE)
    live.stdout.close()
    world.mine.discard(live.pid)
    judge.look("all labs ended", empty, set())
    print(json.dumps(judge.report()))


if __name__ == "__main__":
    os.chdir("/")
    main()
