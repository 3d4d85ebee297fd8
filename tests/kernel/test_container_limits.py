"""Limits of containers on the real kernel: they hold, change while it runs, and are refused with the reason."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_controller, patient, wait_until

from ctlab.errors import BadInput, LimitRefused

pytestmark = pytest.mark.kernel
EAT = "b = bytearray(%d << 20); print('ate', flush=True); import time; time.sleep(60)"


def setting(container: Any, controller: str, file: str) -> str:
    """What the kernel has in a control file of the container, read from outside (`file`: its name on version 1)."""
    names = {
        "memory.limit_in_bytes": "memory.max", "cpu.cfs_quota_us": "cpu.max", "cpu.shares": "cpu.weight",
        "pids.max": "pids.max", "cpuset.cpus": "cpuset.cpus",
    }  # fmt: skip
    version = container.lab._client.facts["cgroup"]
    pid = str(container.pid)
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if version == "v1" and controller in controllers.split(","):
            return (Path(f"/sys/fs/cgroup/{controller}{path}") / file).read_text().strip()
        if version == "v2" and not controllers:
            return (Path(f"/sys/fs/cgroup{path}") / names[file]).read_text().split()[0]
    raise AssertionError(f"no {controller} in /proc/{pid}/cgroup")


def test_a_container_killed_for_memory_says_so(lab: Any) -> None:
    need_controller(lab, "memory")
    container = lab.run(["python3", "-c", EAT % 200], memory="64M")
    assert container.wait(patient(20)) == 137
    assert container.oom_killed and "OOMKilled" in repr(container)
    assert "OOMKilled" in container.failure().failure()
    calm = lab.run(["sh", "-c", "exit 9"], memory="64M")
    assert (calm.wait(patient(5)), calm.oom_killed) == (9, False)


def test_a_program_exec_ed_counts_and_its_death_does_not_hang_anything(lab: Any) -> None:
    need_controller(lab, "memory")
    container = lab.run(["sleep", "60"], memory="48M")
    for _ in range(3):
        try:
            done = container.exec(["python3", "-c", EAT % 200])
        except Exception as error:
            assert "killed" in str(error) or wait_until(lambda: container.state == "exited"), error
        else:
            assert done.returncode == 137
        if wait_until(lambda: container.state != "running", 0.2):
            break  # version 2 ends the whole container
    container.remove()
    assert lab.run(["true"]).wait(patient(5)) == 0


def test_memory_changed_while_it_runs_and_refused_below_the_usage(lab: Any) -> None:
    need_controller(lab, "memory")
    container = lab.run(["python3", "-c", EAT % 60], memory="128M")
    assert wait_until(lambda: "ate" in container.logs())
    assert setting(container, "memory", "memory.limit_in_bytes") == str(128 << 20)
    assert container.update(memory="256M") is container
    assert setting(container, "memory", "memory.limit_in_bytes") == str(256 << 20)
    with pytest.raises(LimitRefused, match=r"--memory 16M is below what the container uses: .*; nothing was changed"):
        container.update(memory="16M")
    assert setting(container, "memory", "memory.limit_in_bytes") == str(256 << 20)
    assert container.limits.memory_bytes == 256 << 20 and container.state == "running"


def test_a_refused_update_takes_back_the_writes_before_it(lab: Any) -> None:
    for controller in ("memory", "pids", "cpu"):
        need_controller(lab, controller)
    container = lab.run(["python3", "-c", EAT % 40], memory="128M", pids_limit=50, cpus=0.5)
    assert wait_until(lambda: "ate" in container.logs())
    before = [setting(container, *which) for which in (("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max"))]
    with pytest.raises(LimitRefused):
        container.update(cpus=0.7, pids_limit=60, memory="8M")
    assert [setting(container, *which) for which in (("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max"))] == before
    assert (container.limits.cpus, container.limits.pids_limit) == (0.5, 50)


def test_pids_limit(lab: Any) -> None:
    need_controller(lab, "pids")
    container = lab.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"], pids_limit=4)
    assert wait_until(lambda: "ork" in container.logs().stderr or container.state == "exited"), container.logs()
    assert setting(lab.run(["sleep", "60"], pids_limit=4), "pids", "pids.max") == "4"


def test_cpus_throttle(lab: Any) -> None:
    need_controller(lab, "cpu")
    script = (
        "import time\nused, end = time.process_time(), time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\n"
        "print(time.process_time() - used)"
    )
    container = lab.run(["python3", "-c", script], cpus=0.2)
    container.wait(patient(20))
    assert 0.01 < float(container.logs()) < 0.6


def test_cpu_shares_and_cpuset(lab: Any) -> None:
    need_controller(lab, "cpu")
    container = lab.run(["sleep", "60"], cpu_shares=512)
    assert setting(container, "cpu", "cpu.shares") in ("512", "59")
    need_controller(lab, "cpuset")
    container = lab.run(["sh", "-c", "nproc; exec sleep 60"], cpuset_cpus="0")
    assert wait_until(lambda: container.logs() == "1\n")
    container.update(cpuset_cpus="none")
    assert container.exec(["nproc"]).stdout == f"{len(os.sched_getaffinity(0))}\n"
    with pytest.raises(BadInput, match="no CPU"):
        lab.run(["true"], cpuset_cpus="4000")


def test_limits_hold_again_after_a_restart(lab: Any) -> None:
    need_controller(lab, "pids")
    container = lab.run(["sleep", "60"], pids_limit=9)
    container.update(pids_limit=11)
    container.restart()
    assert setting(container, "pids", "pids.max") == "11"
    container.kill()
    container.update(pids_limit=12)
    container.start()
    assert setting(container, "pids", "pids.max") == "12"


def test_more_cpus_than_there_are_is_allowed_and_said(lab: Any) -> None:
    need_controller(lab, "cpu")
    count = os.cpu_count() or 1
    lab.run(["true"], cpus=count + 2).wait(patient(5))
    assert any(f"{count + 2}" in note and "cpu" in note.lower() for note in lab.notes), lab.notes


def test_where_a_limit_cannot_be_set_nothing_runs_and_the_reason_is_said(lab: Any) -> None:
    facts = lab._client.facts
    if facts["cgroup"] != "none":
        pytest.skip("limits can be set here")
    for option in ({"memory": "64M"}, {"cpus": 0.5}, {"pids_limit": 10}):
        with pytest.raises(LimitRefused, match=r"can't be set here: no cgroup controller .*ask root"):
            lab.run(["true"], **option)
    assert len(lab.containers) == 0
    container = lab.run(["sleep", "60"])
    with pytest.raises(LimitRefused, match="can't be set here"):
        container.update(memory="64M")
    assert container.state == "running" and container.limits.memory_bytes is None


@pytest.mark.parametrize("when", ["start", "many"])
def test_a_lab_with_limits_cleans_its_folders(lab: Any, when: str) -> None:
    need_controller(lab, "memory")
    options = {"count": 5, "name": "m{n}"} if when == "many" else {"name": "m"}
    begun = time.monotonic()
    lab.run(["sleep", "60"], memory="32M", **options)
    assert time.monotonic() - begun < patient(5)
    # The `lab` fixture looks whether their folders go.
