"""What the owner's process has, its keys and its limits, does not get into containers and does not end the lab."""

from __future__ import annotations

import ast

import pytest
from kernel_help import run_owner

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("usable")]

KEYS = r"""
import ctypes, errno, platform, sys
import ctlab

ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
SESSION_KEYRING, JOIN = -3, 1
LOOK = '''
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
SEARCH, READ, SESSION_KEYRING = 10, 11, -3
text = ctypes.create_string_buffer(64)
found = libc.syscall(%d, SEARCH, SESSION_KEYRING, b"user", b"ctlab-test", 0)
said = errno.errorcode[ctypes.get_errno()] if found < 0 else ""
named = [libc.syscall(%d, READ, number, text, 64) for number in (%d, %d)]
print([said or "found", named, text.value])
'''
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(KEYCTL, JOIN, None)
key = libc.syscall(ADD_KEY, b"user", b"ctlab-test", b"of the owner", 12, SESSION_KEYRING)
if key < 0:
    print("skip" if ctypes.get_errno() in (errno.ENOSYS, errno.EPERM) else errno.errorcode[ctypes.get_errno()])
    sys.exit()
look = ["python3", "-c", LOOK % (KEYCTL, KEYCTL, ring, key)]
exec(look[2])  # here it is found
with ctlab.Lab("keys") as lab:
    for options in ({}, {"init": True}, {"networks": []}):
        container = lab.run(look, **options)
        container.wait(10)
        print(container.logs(), end="")
    for command in (["sleep", "60"], None):
        container = lab.run(command)
        print(container.exec(look).check().stdout, end="")
        print(container.exec(look, tty=True).check().stdout, end="")
"""


def test_no_program_in_a_container_has_the_owners_keys() -> None:
    """Neither by searching what it possesses nor by the number of the key."""
    said = run_owner(KEYS)
    if said == "skip\n":
        pytest.skip("this kernel has no keys (CONFIG_KEYS), or a filter forbids them here")
    here, *inside = [ast.literal_eval(line) for line in said.splitlines()]
    assert (here[0], here[2]) == ("found", b"of the owner"), "or this proves nothing"
    assert len(inside) == 7
    for what, (ring, key), text in inside:
        assert (what, ring, key, text) == ("EPERM", -1, -1, b"")  # by the filter; tests/kernel/test_keyring.py goes on


LIMITS = r"""
import os, resource, sys
import ctlab

SIGXFSZ, MEBIBYTE = 25, 1 << 20
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def limit(size, hard=False):
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size if hard else most))

SHOW = ["sh", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status"]

def ways(lab):
    "Every way to run a program, each with the signals that it is born with."
    for options in ({}, {"init": True}, {"tty": True}):
        container = lab.run(SHOW, **options)
        assert container.wait(10) == 0
        yield container.logs()
    for command in (None, ["sleep", "60"]):
        container = lab.run(command)
        yield container.exec(SHOW).check().stdout
        yield container.script(SHOW[2]).check().stdout
        yield container.exec(SHOW, tty=True).check().stdout

with ctlab.Lab("before") as lab:
    for text in ways(lab):
        print(*text.split()[1::2])
    limit(4096)  # of the owner alone: its lab goes on without it
    container = lab.run()
    assert len(container.exec(["head", "-c", "3000000", "/dev/zero"]).check().stdout) == 3000000
    assert container.exec(["sh", "-c", "cat > /tmp/in; wc -c < /tmp/in"], stdin="x" * 3000000).stdout == "3000000\n"
    container.write("/tmp/written", "x" * 3000000)
    talker = lab.run(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; head -c 9000000 /dev/zero > /tmp/x"])
    assert talker.wait(10) == 0 and len(talker.logs()) == 300000
    assert not any("supervisor" in note or "collector" in note for note in lab.notes), lab.notes
limit(MEBIBYTE)  # too little for the rings, but only the soft limit
with ctlab.Lab("raised") as lab:
    assert lab.run(["truncate", "-s", "65M", "/tmp/grown"]).wait(10) == 0
limit(64 * MEBIBYTE, hard=True)  # of the lab and of its containers, too
with ctlab.Lab("after") as lab:
    for container in (lab.run(), lab.run(["sleep", "60"])):
        done = container.exec(["truncate", "-s", "65M", "/tmp/grown"])
        assert done.returncode == 128 + SIGXFSZ, done
    big = lab.run(["truncate", "-s", "65M", "/tmp/grown"], init=True)  # PID 1 itself gets no such signal
    assert big.wait(10) == 128 + SIGXFSZ, big
    assert container.exec(["true"]).returncode == 0 and lab.run(["true"]).wait(10) == 0
"""


def test_limits_of_the_owners_files_and_the_signal_for_it() -> None:
    """Python ignores SIGXFSZ, and an ignored signal would be handed down through exec to every program."""
    lines = run_owner(LIMITS).splitlines()
    assert lines == [f"{'0' * 16} {'0' * 16}"] * 9


SIGNALS = r"""
import os, signal
import ctlab

MOST = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGINT}
for number in MOST:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, MOST)
SHOW = ["sh", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status"]
with ctlab.Lab("ignores") as lab:
    web = lab.run(name="web")
    for text in (lab.run(SHOW, rm=False, name="first"), lab.run(SHOW, init=True, name="second")):
        assert text.wait(20) == 0
        print(*text.logs().split()[1::2])
    print(*web.exec(SHOW).check().stdout.split()[1::2])
    print(lab.run(["sh", "-c", "exit 3"]).wait(20), web.exec(["sh", "-c", "exit 4"]).returncode)
    os.kill(lab._client.facts["supervisor"], signal.SIGKILL)
    try:
        web.exec(["true"])
    except ctlab.LabGone as error:
        print("lab 'ignores' died: its supervisor ended (SIGKILL)" in str(error))
report = ctlab.doctor()
print(report.usable, [item.name for item in report if item.detail.startswith("ECHILD")])
"""


def test_what_the_owner_ignores_or_blocks_is_its_own() -> None:
    """Who ignores SIGCHLD can't wait for children, and gives that on to what it starts."""
    assert run_owner(SIGNALS).splitlines() == [
        *[f"{'0' * 16} {'0' * 16}"] * 3, "3 4", "True", "True []",
    ]  # fmt: skip
