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


def test_the_map_says_who_ran_out_of_memory(lab: Any) -> None:
    need_controller(lab, "memory")
    lab.run(EAT, memory=LEAST, name="hungry").wait(patient(10))
    (hungry,) = (element for element in lab.map_elements() if element["kind"] == "container")
    assert (hungry["state"], hungry["failed"], hungry["ended"]) == ("exited", True, "OOM")
    assert "▲ hungry" in lab.topology().text


@pytest.mark.long_in_guest
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


def test_a_program_of_an_exec_says_so_and_a_container_that_is_stopped_later_does_not(lab: Any) -> None:
    need_controller(lab, "memory")
    container = lab.run(["sleep", "600"], memory=LEAST)
    if lab._client.facts["cgroup"] == "v2":
        pytest.skip("version 2 ends the whole container (memory.oom.group)")
    calm = container.exec(["sh", "-c", "kill -9 $$"])
    assert (calm.returncode, calm.oom_killed) == (137, False)
    for command in (EAT, ["sh", "-c", "tail /dev/zero; exit $?"]):
        done = container.exec(command)
        assert (done.returncode, done.oom_killed) == (137, True)
        assert "OOMKilled" in repr(done) and "reached its memory limit" in done.failure()
        assert container.inspect()["oom_killed"] is False and container.state == "running"
    calm = container.exec(["sh", "-c", "kill -9 $$"])
    assert (calm.returncode, calm.oom_killed) == (137, False)
    container.exec(["sh", "-c", "tail /dev/zero; true"]).check()  # nobody asks whether that one's was
    container.stop()
    assert (container.returncode, container.oom_killed) == (137, False)
    assert "OOMKilled" not in repr(container)


def test_a_container_that_ends_well_was_not_ended_by_it(lab: Any) -> None:
    need_controller(lab, "memory")
    container = lab.run(["sh", "-c", "tail /dev/zero; exit $(($? - 137))"], memory=LEAST)
    status = container.wait(patient(10))
    assert container.oom_killed == (status != 0)
    assert status == (0 if lab._client.facts["cgroup"] == "v1" else 137)


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
