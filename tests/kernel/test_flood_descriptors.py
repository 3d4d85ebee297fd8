"""A container that opens, or sends to itself, all descriptors that it can leaves the others at work."""

from __future__ import annotations

import pytest
from floods_help import at_work
from kernel_help import patient, run_owner, wait_until

import ctlab

pytestmark = pytest.mark.kernel

SOCKETS = """
import errno, socket, time
held = []
try:
    while len(held) < 5000:
        for family, kind in ((1, 1), (2, 1), (2, 2), (10, 2), (16, 3)):
            held.append(socket.socket(family, kind))
except OSError as error:
    print(errno.errorcode[error.errno])
print(len(held), flush=True)
time.sleep(60)
"""


def test_sockets(flooded: ctlab.Lab) -> None:
    """As many as a process may have open files, here at most 5,000."""
    flood = flooded.run(["python3", "-c", SOCKETS], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip(), patient(10))
    at_work(flooded)


IN_FLIGHT = r"""
import errno, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
import ctlab
FLOOD = '''
import array, errno, socket, time
many = array.array("i", [open("/dev/null").fileno()] * 250)
kept, sent = [], 0
first, second = socket.socketpair()
while sent < 20_000:
    try:
        first.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)], socket.MSG_DONTWAIT)
        sent += 250
    except BlockingIOError:
        kept += [first, second]
        first, second = socket.socketpair()
    except OSError as error:
        print(errno.errorcode[error.errno], sent, flush=True)
        break
time.sleep(60)
'''
with ctlab.Lab("in-flight") as lab:
    calm, flood = lab.run(name="calm"), lab.run(["python3", "-c", FLOOD], name="flood")
    while not str(flood.logs()):
        pass
    print(str(flood.logs()).strip())
    for tty in (False, True):
        print(calm.exec(["echo", "calm"], tty=tty).stdout.strip())
    new = lab.run(["echo", "new"])
    new.wait(20)
    print(str(new.logs()).strip(), lab["flood"].state, resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_descriptors_in_flight(usable: None) -> None:
    """The kernel counts those of a user together, and stops who may have fewer open: containers before the lab."""
    stopped, *others = run_owner(IN_FLIGHT).splitlines()
    assert stopped.split()[0] == "ETOOMANYREFS" and int(stopped.split()[1]) > 3000
    assert others == ["calm", "calm", "new running (1024, 4096)"]


TERMINALS = """
import errno, os, time
held = []
try:
    while len(held) < 600:
        held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as error:
    print(errno.errorcode[error.errno], len(held), flush=True)
time.sleep(60)
"""


def test_terminals(flooded: ctlab.Lab) -> None:
    """The kernel counts those of all containers of the machine together; each has a share."""
    flood = flooded.run(["python3", "-c", TERMINALS], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip() == "ENOSPC 256"), flood.logs()
    assert flooded["calm"].exec(["echo", "there"], tty=True).stdout.strip() == "there"
    at_work(flooded)
