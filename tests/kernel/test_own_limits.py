"""What an owner's own process may have is used up: each call says so in one line, and the lab goes on."""

from __future__ import annotations

import pytest
from kernel_help import run_owner

import ctlab

pytestmark = pytest.mark.kernel

USED_UP = r"""
import gc, os, resource, tempfile, time
from pathlib import Path
import ctlab
from ctlab.errors import CtlabError, KernelError
MOST = 256
resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
folder = tempfile.mkdtemp()
Path(folder, "file").write_text("body")
with ctlab.Lab("used-up") as lab:
    web = lab.run(["sh", "-c", "echo line; exec sleep 1000"], name="web")
    CALLS = {
        "exec": lambda: web.exec(["true"]),
        "exec with input": lambda: web.exec(["cat"], stdin="x"),
        "exec in a terminal": lambda: web.exec(["true"], tty=True),
        "script": lambda: web.script("true"),
        "logs": web.logs,
        "network": lambda: lab.network("red").remove(),
        "run": lambda: lab.run(["cat"], stdin="x").remove(),
        "batch": lambda: [one.remove() for one in lab.run(["true"], count=2)],
        "stats": lab.stats,
        "copy in": lambda: web.copy_in(f"{folder}/file", "/srv/file"),
        "copy out": lambda: web.copy_out("/etc/hostname", folder),
        "write": lambda: web.write("/srv/other", "x"),
        "inspect": web.inspect,
        "routes": web.routes,
        "status": lab.status,
        "top": web.top,
        "lab": lambda: ctlab.Lab("other").stop(),
    }
    for call in CALLS.values():  # what is imported, and the connections of threads
        call()

    def open_files():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def settled():
        "What a thread closes for us is closed."
        until = time.monotonic() + 5
        while (found := open_files()) > before and time.monotonic() < until:
            time.sleep(0.005)
        return found

    before, refused = open_files(), {}
    for spare in range(9):
        held = []
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(spare):
            os.close(held.pop())
        for name, call in CALLS.items():
            try:
                call()
            except KernelError as error:
                text = str(error)
                assert f"EMFILE (Too many open files); this process may have {MOST} open (ulimit -n)" in text, text
                assert text.endswith(": close some or raise it") and "\n" not in text, text
                refused[name] = spare
            for one in lab.containers:
                if one is not web:
                    one.remove()
            for net in lab.networks:
                if net.name == "red":
                    net.remove()
        for one in held:
            os.close(one)
        assert settled() <= before, (spare, before, os.listdir("/proc/self/fd"))
    assert set(refused) >= {"exec", "exec in a terminal", "script", "run", "copy in", "lab"}, refused
    for call in CALLS.values():
        call()
    assert web.state == "running" and str(web.logs()) == "line\n" and not lab.notes, lab.notes
"""


def test_with_all_descriptors_in_use_each_call_says_so(usable: None) -> None:
    run_owner(USED_UP)


LOW = r"""
import os, resource, sys
import ctlab
from ctlab.errors import KernelError
kind, low, words = getattr(resource, sys.argv[1]), int(sys.argv[2]), sys.argv[3]
hard = resource.getrlimit(kind)[1]
resource.setrlimit(kind, (low, low if kind == resource.RLIMIT_FSIZE else hard))
try:
    ctlab.Lab("low")
except KernelError as error:
    assert words in str(error) and "\n" not in str(error) and "EINVAL" not in str(error), error
else:
    raise AssertionError("it starts")
"""


@pytest.mark.parametrize("most", [14, 16, 20, 22])
def test_few_descriptors_are_named_as_what_they_are(usable: None, most: int) -> None:
    run_owner(LOW, "RLIMIT_NOFILE", str(most), f"EMFILE (Too many open files); this process may have {most} open")


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_files_that_may_not_be_large_enough_are_named(usable: None, most: int) -> None:
    run_owner(LOW, "RLIMIT_FSIZE", str(most), f"may have {most} bytes (its hard limit, ulimit -Hf)")


NO_THREAD = r"""
import resource, tempfile, threading
import ctlab
from ctlab.errors import KernelError
with ctlab.Lab("threads") as lab:
    web = lab.run(name="web")
    folder = tempfile.mkdtemp()
    calls = {
        "cp": lambda: web.copy_out("/etc/hostname", folder),
        "lab": lambda: ctlab.Lab("other").stop(),
    }
    for call in calls.values():
        call()
    threading.stack_size(512 << 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    for call in calls.values():
        try:
            call()
        except KernelError as error:
            assert " thread" in str(error) and "ulimit -u" in str(error) and "\n" not in str(error), error
        else:
            raise AssertionError("there was a thread")
    resource.setrlimit(resource.RLIMIT_AS, before)
    threading.stack_size(0)
    for call in calls.values():
        call()
    assert [one.name for one in ctlab.labs.running()] == ["threads"]
"""


def test_where_no_thread_can_be_started_that_is_said(usable: None) -> None:
    run_owner(NO_THREAD)


def test_no_duration_is_negative(lab: ctlab.Lab) -> None:
    """A program may have ended before the answer to its start is read."""
    for _ in range(60):
        one = lab.run(["true"])
        one.wait()
        assert one.failure().duration_seconds >= 0
        one.remove()
