"""A lab of the same user that must come through all faults of the others unharmed."""

from __future__ import annotations

import os
import sys
import time

import ctlab

with ctlab.Lab("bystander") as lab:
    web = lab.run(["sleep", "100000"], name="web")
    seen: set[str] = set()
    since = time.monotonic()
    while time.monotonic() - since < 0.5:  # until the spare slots are there: nothing else comes and goes in this world
        now = {name for name in os.listdir("/proc") if name.isdigit()}
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.01)
    print("up", flush=True)
    sys.stdin.readline()
    print(web.exec(["echo", "still here"]).stdout.strip(), flush=True)
    sys.stdin.read()
