"""Containers that are killed for their memory as soon as they run."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from kernel_help import need_controller, patient

pytestmark = pytest.mark.kernel
LEAST = "6M"  # reached within milliseconds
EAT = ["tail", "/dev/zero"]  # keeps it all, since it looks for the last lines


@pytest.mark.long_in_guest
def test_a_kill_within_milliseconds_is_counted(lab: Any) -> None:
    need_controller(lab, "memory")
    for _ in range(20):
        container = lab.run(EAT, memory=LEAST)
        assert (container.wait(patient(10)), container.oom_killed) == (137, True)
        container.remove()


def test_before_the_supervisor_has_heard_that_the_program_runs(lab: Any) -> None:
    """It is stopped at some moment of the start, until the program is dead."""
    need_controller(lab, "memory")
    supervisor = os.pidfd_open(lab._client.facts["supervisor"])

    def stop(after_seconds: float) -> None:
        time.sleep(after_seconds)
        signal.pidfd_send_signal(supervisor, signal.SIGSTOP)
        time.sleep(0.03)
        signal.pidfd_send_signal(supervisor, signal.SIGCONT)

    try:
        for step in range(40):
            stopper = threading.Thread(target=stop, args=(step * 0.0002,))
            stopper.start()
            container = lab.run(EAT, memory=LEAST)
            assert (container.wait(patient(10)), container.oom_killed) == (137, True), step
            stopper.join()
            container.remove()
    finally:
        os.close(supervisor)


def test_so_is_each_of_a_batch(lab: Any) -> None:
    need_controller(lab, "memory")
    made = list(lab.run(EAT, memory=LEAST, count=20, name="o{n}"))
    assert [(container.wait(patient(20)), container.oom_killed) for container in made] == [(137, True)] * 20


def test_each_start_counts_for_itself(lab: Any) -> None:
    need_controller(lab, "memory")
    script = "if [ -e /tmp/again ]; then exit 3; fi; touch /tmp/again; exec tail /dev/zero"
    container = lab.run(["sh", "-c", script], memory=LEAST)
    assert (container.wait(patient(10)), container.oom_killed) == (137, True)
    container.start()
    assert (container.wait(patient(10)), container.oom_killed) == (3, False)
    killed = lab.run(["sleep", "60"], memory=LEAST)
    killed.kill()
    assert (killed.wait(patient(10)), killed.oom_killed) == (137, False)
