"""The ends of a lab behind the channel of a VM: whoever dies, the others go, nothing stays, and one line says why."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from channel_help import below, cgroup_folders, channel_lab, gone, guest_of, started
from kernel_help import ROOT, children_of, patient, wait_until

import ctlab
from ctlab.errors import CtlabError, LabGone
from ctlab.runtime import messages
from ctlab.vm import calls, frames

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("usable")]

# A notebook that starts a lab and a program, says who they are, and waits in a call.
OWNER = """
import json, sys
from channel_help import channel_lab
with channel_lab("owned") as lab:
    container = lab.run(["sh", "-c", "sleep 600 & sleep 600"])
    facts = lab._client.facts
    print(json.dumps([lab._client.id, facts["keeper"], facts["runtime_folder"]]), flush=True)
    container.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_with_its_owner_everything_goes(number: int) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with subprocess.Popen(
        [sys.executable, "-B", "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        lab_id, keeper, folder = json.loads(owner.stdout.readline())
        processes = {keeper: started(keeper)} | below(keeper)
        assert len(processes) > 8 and os.path.isdir(folder)
        folders = cgroup_folders(lab_id)
        owner.send_signal(number)
        owner.wait(patient(20))
    assert gone(processes)
    assert wait_until(lambda: not os.path.exists(folder))
    assert wait_until(lambda: not any(os.path.exists(place) for place in folders))
    assert cgroup_folders(lab_id) == []
    base = os.path.dirname(os.path.dirname(folder))
    assert wait_until(lambda: not any(lab_id in name for name in os.listdir(base)))


def under_way(lab: Any) -> tuple[list[threading.Thread], dict[str, object]]:
    """Threads that wait in calls of all kinds; what each got."""
    container = lab.run(["sleep", "600"], name="waits")
    background = container.exec(["sleep", "600"], detach=True)
    got: dict[str, object] = {}

    def called(name: str, call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                got[name] = call()
            except BaseException as error:
                got[name] = error

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [
        called("wait", container.wait),
        called("exec", lambda: container.exec(["sleep", "600"])),
        called("writing", lambda: container.exec(["yes"], sink=lambda *_: None)),
        called("stdin", lambda: container.exec(["sleep", "600"], stdin=bytes(3 << 20))),
        called("follow", lambda: container.follow(lambda *_: None)),
        called("detached", lambda: background.wait(None)),
    ]
    assert wait_until(lambda: len(container.top()) == 5, 10)
    return threads, got


def ends(lab: Any, why: str) -> None:
    """The next call says that it is over and why; nothing is left of it."""
    with pytest.raises(LabGone, match=why):
        lab._call(messages.Costs(), messages.Used)
    with pytest.raises(LabGone, match=why):
        lab.run()
    assert wait_until(lambda: lab.gone)
    assert wait_until(lambda: any(re.search(why, note) for note in lab.notes)), lab.notes


def test_a_guest_that_dies_ends_every_call() -> None:
    with channel_lab("guest") as lab:
        threads, got = under_way(lab)
        guest, lab_id = guest_of(lab), lab._client.id
        processes = {guest: started(guest)} | below(guest)
        os.kill(guest, signal.SIGKILL)
        for thread in threads:
            thread.join(patient(10))
        assert not any(thread.is_alive() for thread in threads)
        why = "died: the guest's first process ended: SIGKILL"
        for name in ("wait", "exec", "writing", "stdin"):
            assert isinstance(got[name], LabGone) and why in str(got[name]), (name, got[name])
        assert got["follow"] is None or isinstance(got["follow"], LabGone)
        assert isinstance(got["detached"], LabGone)
        ends(lab, why)
        assert gone(processes) and wait_until(lambda: cgroup_folders(lab_id) == [])
        assert lab.containers["waits"].state == "lost"


def test_a_supervisor_that_dies_ends_the_lab() -> None:
    with channel_lab("supervisor") as lab:
        threads, got = under_way(lab)
        guest = guest_of(lab)
        processes = {guest: started(guest)} | below(guest)
        os.kill(lab._client.facts["supervisor"], signal.SIGKILL)
        for thread in threads:
            thread.join(patient(10))
        assert not any(thread.is_alive() for thread in threads)
        assert all(isinstance(got[name], LabGone) for name in ("wait", "exec", "writing", "stdin", "detached")), got
        ends(lab, "died: the guest's first process ended")
        assert gone(processes)


def test_a_keeper_of_the_guest_that_dies_ends_the_lab() -> None:
    with channel_lab("inner") as lab:
        guest = guest_of(lab)
        keeper = next(pid for pid in children_of(guest))
        processes = {guest: started(guest)} | below(guest)
        lab_id = lab._client.id
        os.kill(keeper, signal.SIGKILL)
        assert wait_until(lambda: lab.gone)
        ends(lab, "the lab's keeper ended with status -9")
        assert gone(processes) and wait_until(lambda: cgroup_folders(lab_id) == [])


def test_a_keeper_that_is_killed_ends_the_lab() -> None:
    with channel_lab("outer") as lab:
        threads, got = under_way(lab)
        keeper, folder, lab_id = (lab._client.facts["keeper"], lab._client.facts["runtime_folder"], lab._client.id)
        processes = {keeper: started(keeper)} | below(keeper)
        os.kill(keeper, signal.SIGKILL)
        for thread in threads:
            thread.join(patient(10))
        assert not any(thread.is_alive() for thread in threads)
        assert all(isinstance(got[name], LabGone) for name in ("wait", "exec", "writing", "stdin", "detached")), got
        with pytest.raises(LabGone, match="died"):
            lab.run()
        assert gone(processes)
        assert wait_until(lambda: cgroup_folders(lab_id) == [])
        assert wait_until(lambda: not os.path.exists(folder))


def test_a_keeper_that_fails_says_at_what() -> None:
    """What it can't take ends it with a traceback: whose last line the owner gets, with the place."""
    from ctlab.runtime import protocol

    with channel_lab("fails") as lab:
        processes = below(lab._client.facts["keeper"])
        protocol.send(lab._client._control, {"no": "order"})
        ends(lab, r"died: its keeper failed: KeyError: 'do' \(keeper.py:\d+\)")
        assert gone(processes)


START_FAILS = """
def start(self, prepared):
    raise ValueError("on purpose")
loopback_keeper.Loopback.start = start
"""


def test_a_keeper_that_fails_at_the_start_says_at_what() -> None:
    with (
        pytest.raises(CtlabError, match=r"can't start: its keeper failed: ValueError: on purpose \(<string>:\d+\)"),
        channel_lab("never", fault=START_FAILS),
    ):
        pass
    assert not any(lab.name.startswith("never") for lab in ctlab.labs.running())


KEEPER_FAILS = """
import os, time
from ctlab.runtime import keeper
def watch(self):
    while not os.path.exists(%r):
        time.sleep(0.01)
    raise ValueError("on purpose")
keeper.Keeper.watch = watch
"""
SUPERVISOR_FAILS = """
import os
from ctlab.runtime import supervisor
dispatch = supervisor.Supervisor.dispatch
def failing(self, call):
    if type(call.message).__name__ == "Costs":
        raise SystemExit("on purpose")  # what is caught for each call is an Exception
    dispatch(self, call)
supervisor.Supervisor.dispatch = failing
"""


def test_a_keeper_of_the_guest_that_fails_has_said_at_what(tmp_path: Path) -> None:
    with channel_lab("inner-fails", fault=KEEPER_FAILS % str(tmp_path / "now")) as lab:
        processes = below(lab._client.facts["keeper"])
        (tmp_path / "now").touch()
        assert wait_until(lambda: lab.gone)
        ends(lab, "the keeper ended: ValueError: on purpose")
        assert gone(processes)


def test_a_supervisor_that_fails_has_said_at_what() -> None:
    with channel_lab("supervisor-fails", fault=SUPERVISOR_FAILS) as lab:
        processes = below(lab._client.facts["keeper"])
        ends(lab, "supervisor: SystemExit: on purpose")
        assert gone(processes)


def beside(value: object) -> bytes:
    """An answer with this where descriptors are described."""
    text = json.dumps(value).encode()
    return len(text).to_bytes(4, "little") + text + b'["Ok"]'


# What somebody else sends -> what is said of it: by the keeper of what passes there, by the owner of messages.
NONSENSE = {
    "kind": (frames.pack(99, 1, b"?"), "the VM sent a frame of unknown kind 99"),
    "answer": (frames.pack(frames.ANSWER, 1, b"?"), "the VM sent a call or an answer that is cut off"),
    "unasked": (frames.pack(frames.ANSWER, 1, calls.pack(b'["Ok"]', [])), "an answer that nobody waits for"),
    "beside": (frames.pack(frames.ANSWER, 1, beside({"r": 1})), "with nonsense beside it"),
    "described": (frames.pack(frames.ANSWER, 1, beside([["f", 1]])), "descriptors that nobody asked for"),
    "many": (frames.pack(frames.ANSWER, 1, beside([["r", n] for n in range(1, 7, 2)])), "that nobody asked for"),
    "ring": (frames.pack(frames.ROWS, 2, b""), "rows for ring 2 of 2"),
    "rows": (frames.pack(frames.ROWS, 0, bytes(8) + (1 << 60).to_bytes(8, "little") + bytes(400)), "with 11529215"),
    "log": (frames.pack(frames.LOG, 5, bytes(range(48))), "changes of a log ring from"),
    "short log": (frames.pack(frames.LOG, 5, b"?"), "changes of a log ring in 1 bytes"),
    "credit": (frames.pack(frames.CREDIT, 2, bytes(70_000)), "a credit in 70000 bytes"),
    "taken": (frames.pack(frames.TAKEN, 0, b"") * 3, "taken calls which weren't sent"),
    "fatal": (frames.pack(frames.FATAL, 0, b"[]"), "a message that is no object but a list"),
    "large event": (frames.pack(frames.EVENT, 0, calls.pack(bytes(200_000), [])), "an event of 200004 bytes"),
    "event": (
        frames.pack(frames.EVENT, 0, calls.pack(b"[1]", [])),
        "its inside sent as an event a message without a kind",
    ),
    "deep": (frames.pack(frames.EVENT, 0, calls.pack(b"[" * 50000, [])), "it is nested too deeply"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_guest_that_makes_no_sense_ends_the_lab(what: str) -> None:
    """The supervisor's port, written to by somebody else: frames that its own code never sends."""
    frame, said = NONSENSE[what]
    with channel_lab("nonsense") as lab:
        supervisor = lab._client.facts["supervisor"]
        pidfd = os.pidfd_open(supervisor)
        port = _getfd(pidfd, _port_of(supervisor))
        while frame:
            frame = frame[os.write(port, frame) :]
        os.close(port)
        os.close(pidfd)
        assert wait_until(lambda: lab.gone)  # of an event: heard of beside the calls
        ends(lab, f"died: .*{said}")


def _port_of(pid: int) -> int:
    """The descriptor of its stream socket: all others of a supervisor are of packets."""
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    kinds = {words[6]: words[4] for words in table}
    for name in os.listdir(f"/proc/{pid}/fd"):
        inode = os.readlink(f"/proc/{pid}/fd/{name}").removeprefix("socket:[").rstrip("]")
        if kinds.get(inode) == "0001":
            return int(name)
    raise AssertionError("the supervisor has no port")


def _getfd(pidfd: int, number: int) -> int:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(438, pidfd, number, 0))  # pidfd_getfd
    if found < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
        pytest.skip(f"needs pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    assert found >= 0, os.strerror(ctypes.get_errno())
    return found


def test_two_labs_behind_channels_do_not_meet() -> None:
    with channel_lab("one") as one, channel_lab("two") as two:
        mine, theirs = one.run(name="web"), two.run(name="web")
        mine.write("/tmp/mine", "1")
        assert theirs.exec(["test", "-e", "/tmp/mine"]).returncode == 1
        os.kill(guest_of(one), signal.SIGKILL)
        assert wait_until(lambda: one.gone)
        assert theirs.exec(["echo", "still here"]).stdout == "still here\n"
    assert not {lab.name for lab in ctlab.labs.running()} & {one.name, two.name}
