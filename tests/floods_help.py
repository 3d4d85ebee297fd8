"""What the tests of floods share: whether the others go on, and a flood of threads.

Each flood is bounded in number and time. Those of memory and of processes run below a cgroup that also holds the
notebook (see `bounded`): what stops them is the subject, and must not be the machine's end if it fails.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from kernel_help import patient, wait_until

import ctlab

STORAGE = "32M"
CALM_SECONDS = 2.0  # for each thing that somebody else asks for while the flood goes on


def at_work(lab: ctlab.Lab, *, starts: bool = True) -> None:
    """Others go on: the container that works, programs in it, its logs, copies, the lab's answers; new starts."""
    calm = lab["calm"]
    lines = len(str(calm.logs()).splitlines())

    def within(what: str, done: Any) -> None:
        begun = time.monotonic()
        assert done(), what
        assert time.monotonic() - begun < patient(CALM_SECONDS), what

    within("exec", lambda: calm.exec(["cat", "/etc/hostname"]).stdout == "calm\n")
    within("script", lambda: calm.script("echo a | cat").stdout == "a\n")
    with tempfile.TemporaryDirectory() as folder:
        within("copy", lambda: calm.copy_out("/etc/hostname", folder).exists())
    within("status", lambda: lab.status()["running"] >= 1)
    within("top", lambda: calm.top()[0]["pid"] == 1)
    within("its own work", lambda: wait_until(lambda: len(str(calm.logs()).splitlines()) > lines))
    if starts:
        within("start", lambda: lab.run(["true"], rm=False, name="late").wait(patient(CALM_SECONDS)) == 0)
        within("remove", lambda: lab["late"].remove() is None)


# A container's work without a fork: a shell that can't fork ends, and by RLIMIT_NPROC a flood keeps all from forking.
CALM = """
import itertools, time
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.05)
"""
# Threads count as processes do, and 2,048 of them cost next to nothing.
THREADS = """
import _thread, sys, time
_thread.stack_size(32768)
hold = _thread.allocate_lock()
hold.acquire()
made = 1
try:
    while made < int(sys.argv[1]):
        _thread.start_new_thread(hold.acquire, ())
        made += 1
except RuntimeError:
    pass
print(made, flush=True)
time.sleep(60)
"""
