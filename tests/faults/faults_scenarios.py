"""The judge of single faults, each a function that says by an assertion what was wrong.

Prints one line of JSON: the scenario's name and "" or what was wrong with it. After each, nothing may be left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback

import faults_keeper
import faults_owner
import faults_refusals
from faults_processes import processes
from faults_world import World

SCENARIOS = [*faults_keeper.SCENARIOS, *faults_owner.SCENARIOS, *faults_refusals.SCENARIOS]


def end_everything() -> None:
    """SIGKILL to all but the judge."""
    for pid in processes():
        if pid != 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


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
        watchdog = threading.Timer(60, end_everything)
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
            end_everything()
            world.prune()
        print(f"{time.monotonic() - began:.1f} s {name}: {wrong[name] or 'fine'}", file=sys.stderr, flush=True)
    print(json.dumps(wrong))


if __name__ == "__main__":
    os.chdir("/")
    main()
