"""A lab of the same user that must come through all faults of the others unharmed."""

from __future__ import annotations

import sys
import time

import ctlab

with ctlab.Lab("bystander") as lab:
    web = lab.run(["sleep", "100000"], name="web")
    time.sleep(0.5)  # until the spare slots are there
    print("up", flush=True)
    sys.stdin.readline()
    print(web.exec(["echo", "still here"]).stdout.strip(), flush=True)
    sys.stdin.read()
