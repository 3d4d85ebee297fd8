"""Limits of containers on the real kernel: they hold, change while it runs, and are refused with the reason."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_controller, patient, run_owner, wait_until

from ctlab.errors import BadInput, CtlabError, KernelError, LimitRefused

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
        except CtlabError as error:
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
    with pytest.raises(LimitRefused, match=r"memory='16M' is below what the container uses: .*; nothing was changed"):
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


def test_processes_of_who_says_nothing(lab: Any) -> None:
    """2,048, until it is lifted: at the start, or later; and again after a restart what was said last."""
    need_controller(lab, "pids")
    made = [lab.run(["sleep", "60"]), lab.run(), lab.run(image="scratch")]
    made.append(lab.run(["sleep", "60"], cap_add="NET_ADMIN"))  # not from what is kept ready
    for container in made:
        assert setting(container, "pids", "pids.max") == "2048"
        assert (container.limits.pids_limit, container.inspect()["limits"]) == (2048, {"pids_limit": 2048})
    assert lab.status()["pids_limit"] == "2048 a container"
    first = made[0]
    first.update(memory="64M") if "memory" in lab._client.facts["controllers"] else first.update(cpu_shares=512)
    assert setting(first, "pids", "pids.max") == "2048"
    first.update(pids_limit="none")
    assert setting(first, "pids", "pids.max") == "max" and first.limits.pids_limit is None
    first.restart(0)
    assert setting(first, "pids", "pids.max") == "max" and "pids_limit" not in first.inspect()["limits"]
    first.update(pids_limit=2048)
    assert setting(first, "pids", "pids.max") == "2048"
    assert setting(lab.run(["sleep", "60"], pids_limit="none"), "pids", "pids.max") == "max"


def test_where_no_cgroup_counts_processes(lab: Any) -> None:
    """Starts go on, the lab's own namespace counts them instead, and that is said; a number that is asked for isn't."""
    facts = lab._client.facts
    if facts["pids_by"] == "cgroup":
        pytest.skip("limits can be set here")
    container = lab.run(["sleep", "60"])
    most = "2048" if facts["pids_by"] == "rlimit" else "unlimited"
    assert limits_of(container.pid)["Max processes"][1] == most
    shown = {"ulimit_nproc": 2048} if facts["pids_by"] == "rlimit" else {}
    assert container.limits.pids_limit is None and container.inspect()["limits"] == shown
    assert "no cgroup counts a container's" in lab.status()["pids_limit"]
    with pytest.raises(LimitRefused, match="pids_limit can't be set here"):
        lab.run(["true"], pids_limit=2048)
    assert int(limits_of_exec(container)["Max processes"][0]) > 2048  # something is left to who comes in later
    container.update(pids_limit="none")
    said = [note for note in lab.notes if note.startswith(f"{container.name}: --pids-limit none holds for")]
    assert len(said) == (facts["pids_by"] == "rlimit")
    assert (limits_of(container.pid)["Max processes"][1], container.inspect()["limits"]) == (most, shown)
    own = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    assert limits_of_exec(container)["Max processes"][0] == str(min(own, 1 << 20) if own >= 0 else 1 << 20)
    container.restart(0)
    free = lab.run(["sleep", "60"], pids_limit="none")
    for lifted in (container, free):
        now = limits_of(lifted.pid)["Max processes"][1]
        assert (now != most or facts["pids_by"] == "none") and lifted.inspect()["limits"] == {}


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    """The limits of a process by the kernel's names: (soft, hard)."""
    return _limits(Path(f"/proc/{pid}/limits").read_text())


def limits_of_exec(container: Any) -> dict[str, tuple[str, str]]:
    """Those of a program that is exec'ed."""
    return _limits(container.exec(["cat", "/proc/self/limits"]).stdout)


def _limits(text: str) -> dict[str, tuple[str, str]]:
    return {line[:25].strip(): (line[26:46].strip(), line[47:67].strip()) for line in text.splitlines()[1:]}


AS_PODMAN = """
import resource, sys
sys.path.insert(0, {here!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
resource.setrlimit(resource.RLIMIT_NPROC, (5000, 9000))
import ctlab
from test_container_limits import limits_of, limits_of_exec
with ctlab.Lab("bounded") as lab:
    container = lab.run(["sleep", "60"])
    below_init = lab.run(["cat", "/proc/self/limits"], init=True)
    below_init.wait(20)
    for found in (limits_of(container.pid), limits_of_exec(container)):
        print(*found["Max open files"], *found["Max processes"])
    print(*str(below_init.logs()).partition("Max open files")[2].split()[:2])
    print(*limits_of(lab._client.facts["keeper"])["Max open files"], lab._client.facts["pids_by"])
"""


def test_open_files_and_processes_are_as_in_podman(usable: None) -> None:
    """Podman 5.4, rootful and rootless, under such limits: 4,096 open files, soft and hard; 5,000, 9,000 processes.

    But for the open files that the lab itself keeps."""
    program, executed, below_init, own = run_owner(AS_PODMAN.format(here=os.path.dirname(__file__))).splitlines()
    assert own.split()[:2] == ["4096", "4096"]
    assert below_init == "3584 3584"  # the lab needs to have more, see test_flood_processes
    if own.endswith("rlimit"):  # stands in for a cgroup
        assert (program, executed) == ("3584 3584 2048 2048", "3584 3584 2304 2304")
    else:
        assert program == executed == "3584 3584 5000 9000"


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


def test_who_comes_when_no_process_is_left_is_told_what_to_do(lab: Any) -> None:
    need_controller(lab, "pids")
    container = lab.run(["sleep", "60"])
    container.update(pids_limit=1)
    said = r"no further process .*EAGAIN.*--pids-limit"
    for options in ({}, {"detach": True}, {"tty": True}, {"stdin": "x"}):
        with pytest.raises(KernelError, match=said):
            container.exec(["cat"], **options)
    with pytest.raises(KernelError, match=said):
        lab.run(["true"], name="born", init=True, pids_limit=1)
    assert [c.name for c in lab.containers] == [container.name]
    container.update(pids_limit="none")
    assert container.exec(["true"]).returncode == 0


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
