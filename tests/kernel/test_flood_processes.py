"""A container that makes as many processes and threads as it can leaves the others at work; see `floods_help`."""

from __future__ import annotations

import os
import resource

import pytest
from bounded import run_bounded
from floods_help import at_work
from kernel_help import need_controller, patient, run_owner, wait_until

import ctlab

pytestmark = pytest.mark.kernel

FLOOD_OF_PROCESSES = """
import ctlab
from floods_help import CALM, THREADS, at_work
from kernel_help import wait_until, patient
with ctlab.Lab("flooded", storage="32M") as lab:
    lab.run(["python3", "-c", CALM], name="calm")
    by = lab._client.facts["pids_by"]
    flood = lab.run(["python3", "-c", THREADS, "2600"], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip(), patient(10)), flood.logs()
    reached = int(str(flood.logs()))
    if by == "cgroup":
        at_work(lab)
        assert reached == 2048, reached
    elif by == "rlimit":  # it counts all that the lab's root has
        assert 1900 < reached <= 2048, reached
        assert flood.exec(["cat", "/etc/hostname"]).stdout == "flood\\n"
        assert lab["calm"].exec(["cat", "/etc/hostname"]).stdout == "calm\\n"
        flood.kill()
        at_work(lab)
    lifted = lab.run(["python3", "-c", THREADS, "2200"], name="lifted", pids_limit="none")
    flood.remove()
    assert wait_until(lambda: str(lifted.logs()).strip(), patient(10))
    assert int(str(lifted.logs())) == 2200
    print(by, reached)
"""


def test_processes_by_default(usable: None) -> None:
    """It stops at 2,048. `--pids-limit none` lifts that."""
    if ctlab_pids_by() == "cgroup":
        assert run_bounded(FLOOD_OF_PROCESSES, memory_bytes=1 << 30, pids=4500).split() == ["cgroup", "2048"]
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        if hard != resource.RLIM_INFINITY and hard < 6000:
            pytest.skip("this user may not have 6,000 processes")
        bound = f"import resource\nresource.setrlimit(resource.RLIMIT_NPROC, ({hard}, {hard}))\n"
        assert run_owner(bound + FLOOD_OF_PROCESSES).split()[0] == ctlab_pids_by()


FLOOD_OF_A_USER_WITH_FEW = """
import resource, subprocess
resource.setrlimit(resource.RLIMIT_NPROC, (1200, 1200))
import ctlab
from floods_help import THREADS
from kernel_help import wait_until, patient
with ctlab.Lab("flooded", storage="32M") as lab:
    lab.run(["sleep", "60"], name="calm")
    flood = lab.run(["python3", "-c", THREADS, "2600"], name="flood")
    assert wait_until(lambda: str(flood.logs()).strip(), patient(10)), flood.logs()
    assert 500 < int(str(flood.logs())) <= 900, flood.logs()
    assert lab["calm"].exec(["cat", "/etc/hostname"]).stdout == "calm\\n"
    assert lab.run(["true"]).wait(patient(5)) == 0
    assert flood.exec(["cat", "/etc/hostname"]).stdout == "flood\\n"
    assert subprocess.run(["true"]).returncode == 0
"""


def test_processes_of_an_owner_who_may_have_few(usable: None) -> None:
    """A quarter is left to the notebook, the lab and what is exec'ed."""
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: the kernel lets root have as many processes as it wants")
    run_owner(FLOOD_OF_A_USER_WITH_FEW)


def ctlab_pids_by() -> str:
    """What bounds the processes of a container here."""
    with ctlab.Lab("asked") as lab:
        by: str = lab._client.facts["pids_by"]
    return by


BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        os.write(2, b"refused\\n")
        time.sleep(0.02)
"""


def test_processes_of_children(flooded: ctlab.Lab) -> None:
    """A fork bomb, with a small limit: who forks in the others isn't hindered."""
    need_controller(flooded, "pids")
    flood = flooded.run(["python3", "-c", BOMB], pids_limit=40)
    assert wait_until(lambda: "refused" in flood.logs().stderr, patient(5))
    at_work(flooded)
    assert flood.state == "running"
