"""The life of a container on the real kernel: waited for, stopped, killed, restarted, paused, removed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from container_help import CATCHES_TERM, said
from kernel_help import need_freezer, need_ids, patient, wait_until

from ctlab.errors import BadInput, NotFound, StateError, Unsupported
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel


def test_wait_times_out_and_the_container_goes_on(lab: Any) -> None:
    container = lab.run(["sleep", "60"])
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        container.wait(0.1)
    assert 0.1 <= time.monotonic() - begun < patient(1)
    assert container.state == "running" and container.pid is not None


def test_the_time_that_is_left_may_be_over(lab: Any) -> None:
    """`wait(deadline - time.time())` gives a negative number in the end, which poll(2) takes as for ever."""
    container = lab.run(["sleep", "60"])
    process = container.exec(["sleep", "60"], detach=True)
    for waits in (container.wait, process.wait):
        for over in (-1, -0.001, 0):
            with pytest.raises(TimeoutError):
                waits(over)
        with pytest.raises(BadInput):
            waits(float("nan"))
    container.kill()
    assert container.wait("300000000s") == container.wait(2**33) == 137


@pytest.mark.parametrize("bad", [-1, "soon", float("nan"), float("inf"), 10**30, []])
def test_a_stop_that_is_refused_has_sent_nothing(lab: Any, bad: Any) -> None:
    container = lab.run(CATCHES_TERM)
    said(container, "up")
    for ends in (container.stop, container.restart):
        with pytest.raises(BadInput):
            ends(bad)
    assert container.exec(["true"]).returncode == 0
    assert container.stop("10s").returncode == 7


def test_stop_of_a_program_that_catches_the_signal(lab: Any) -> None:
    container = lab.run(CATCHES_TERM)
    said(container, "up")
    assert container.stop() is container
    assert (container.state, container.returncode) == ("exited", 7)


def test_stop_of_a_first_process_that_cannot_see_the_signal_kills_at_once_and_says_so(lab: Any) -> None:
    container = lab.run(["sleep", "60"], name="sleeper")
    begun = time.monotonic()
    container.stop()
    assert time.monotonic() - begun < patient(2)
    assert container.returncode == 137
    assert lab.notes[-1].startswith("sleeper: its first process doesn't catch SIGTERM")


def test_stop_kills_after_the_grace_time(lab: Any) -> None:
    container = lab.run(["sh", "-c", "trap 'echo no' TERM; echo up; while :; do sleep 0.02; done"])
    said(container, "up")
    begun = time.monotonic()
    assert container.stop(timeout=0.2).returncode == 137
    assert 0.2 <= time.monotonic() - begun < patient(2)


def test_another_stop_signal(lab: Any) -> None:
    script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.02; done"
    container = lab.run(["sh", "-c", script], stop_signal="SIGUSR1")
    said(container, "up")
    assert container.stop().returncode == 3


@pytest.mark.parametrize("name", ["SIGWINCH", "SIGALRM", "SIGRTMIN+3"])
def test_an_init_passes_every_signal_on(lab: Any, name: str) -> None:
    """Apache's graceful stop is WINCH, systemd's are real-time signals."""
    number = 37 if name == "SIGRTMIN+3" else getattr(signal, name).value
    handle = f"import os, signal, time; signal.signal({number}, lambda *_: os._exit(5)); print('up', flush=True)"
    container = lab.run(["python3", "-c", f"{handle}\nwhile True: time.sleep(0.02)"], init=True, stop_signal=name)
    said(container, "up")
    assert container.stop().returncode == 5


def test_an_init_is_its_users(lab: Any) -> None:
    need_ids(lab)
    for command in (None, ["sleep", "60"]):
        container = lab.run(command, user="1000:1000", init=True)
        status = container.exec(["grep", "-E", "^(Uid|Gid|CapEff)", "/proc/1/status"], user="0").check().stdout
        assert status.split() == ["Uid:", *["1000"] * 4, "Gid:", *["1000"] * 4, "CapEff:", "0" * 16]
        assert container.exec(["kill", "-TERM", "1"]).returncode in (0, 137)  # it may be killed with its container
        assert container.wait(patient(5)) == 143


def test_kill_with_a_signal(lab: Any) -> None:
    container = lab.run(["sh", "-c", "trap 'echo got; exit 5' HUP; echo up; while :; do sleep 0.02; done"])
    said(container, "up")
    container.kill("HUP")
    assert container.wait(patient(5)) == 5
    assert container.logs() == "up\ngot\n"
    other = lab.run(["sleep", "60"])
    assert other.kill().returncode == 137
    with pytest.raises(StateError, match="isn't running"):
        other.kill()
    with pytest.raises(BadInput, match="SIGNOPE"):
        container.kill("SIGNOPE")


def test_a_restart_keeps_files_address_and_mac(lab: Any) -> None:
    lab.network("blue", subnet="10.20.0.0/24")
    container = lab.run(["sleep", "60"], name="web", networks=["blue"])
    container.exec(["sh", "-c", "echo kept > /root/file; echo kept > /usr/file"]).check()
    before = (container.address("blue"), container.endpoints[0].mac)
    container.exec(["sh", "-c", "echo gone > /dev/shm/file"]).check()
    link = ["cat", "/sys/class/net/eth0/address"]
    mac = container.exec(link).check().stdout
    assert container.restart() is container
    assert container.exec(["cat", "/root/file", "/usr/file"]).check().stdout == "kept\nkept\n"
    assert container.exec(link).check().stdout == mac == before[1] + "\n"
    assert (container.address("blue"), container.endpoints[0].mac) == before
    assert container.exec(["ls", "/dev/shm"]).check().stdout == ""


def test_a_restart_that_cannot_be_ends_nothing(lab: Any, tmp_path: Path) -> None:
    shown, first = tmp_path / "shown", lab.run(name="first")
    shown.mkdir()
    web = lab.run(name="web", networks="container:first", mounts=[f"{shown}:/mnt/shown"])
    pid = web.pid
    shown.rmdir()
    with pytest.raises(NotFound, match=r"^mount source /.*/shown does not exist \(ENOENT\)$"):
        web.restart()
    shown.mkdir()
    first.stop(0)
    for start in (web.restart, lambda: lab.run(name="web", networks="container:first", exists="replace")):
        with pytest.raises(StateError, match=r"^container web: the container whose network is to be shared isn't run"):
            start()
    assert lab["web"] is web and (web.state, web.pid) == ("running", pid)
    first.start()
    assert web.restart().state == "running" and web.pid != pid


def test_a_program_that_ends_at_once_can_be_started_again_and_again(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo x >> /tmp/runs; exit $(wc -l < /tmp/runs)"])
    statuses = [container.wait(patient(5))]
    for _ in range(20):
        container.start()
        statuses.append(container.wait(patient(5)))
    assert statuses == list(range(1, 22))


def test_an_end_told_late_is_not_taken_for_the_next_runs(lab: Any) -> None:
    """A busy event thread hears of a container's end when it runs again already."""
    container = lab.run(["sleep", "60"])
    for _ in range(5):
        with lab._lock:
            container.kill()
            container.start()
        assert not wait_until(lambda: container.state != "running", 0.05)


def test_start_of_a_running_container_changes_nothing(lab: Any) -> None:
    container = lab.run(["sleep", "60"])
    pid = container.pid
    assert container.start() is container and container.pid == pid


def test_pause_and_unpause(lab: Any) -> None:
    need_freezer(lab)
    container = lab.run(["sh", "-c", "while :; do echo x; sleep 0.005; done"])
    said(container, "x\nx")
    assert container.pause().state == "paused"
    size = len(container.logs())
    time.sleep(0.1)  # nothing may come in this time, so there is nothing to wait for
    assert len(container.logs()) == size
    assert container.unpause().state == "running"
    assert wait_until(lambda: len(container.logs()) > size)
    with pytest.raises(StateError, match="isn't paused, it is running"):
        container.unpause()


@pytest.mark.parametrize("how", ["kill", "stop", "remove"])
def test_what_is_paused_can_be_ended(lab: Any, how: str) -> None:
    need_freezer(lab)
    container = lab.run(["sleep", "60"])
    container.pause()
    begun = time.monotonic()
    getattr(container, how)()
    assert time.monotonic() - begun < patient(2)
    assert container.state == ("removed" if how == "remove" else "exited")


def test_without_a_cgroup_pause_is_refused_with_the_reason(lab: Any) -> None:
    if lab._client.facts["cgroup_paths"]:
        pytest.skip("this lab has cgroup folders")
    container = lab.run(["sleep", "60"])
    with pytest.raises(Unsupported, match="pause needs a cgroup"):
        container.pause()
    assert container.state == "running"


def test_remove_kills_and_a_removed_handle_says_so(lab: Any) -> None:
    container = lab.run(["sleep", "60"], name="web")
    pid = container.pid
    container.remove()
    assert not os.path.exists(f"/proc/{pid}")
    assert (container.state, "web" in lab) == ("removed", False)
    with pytest.raises(StateError, match="container web: it was removed"):
        container.exec(["true"])
    with pytest.raises(NotFound, match="no container 'web'"):
        _ = lab["web"]


def test_rm_removes_it_at_its_end(lab: Any) -> None:
    container = lab.run(["true"], rm=True)
    assert container.wait(patient(5)) == 0
    assert wait_until(lambda: len(lab.containers) == 0)
    assert container.state == "removed"


def test_rm_loses_no_status(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone inside before its end is heard of here: the events are held up on purpose."""
    from ctlab import hearing

    exited = hearing._exited

    def late(lab: Any, event: dict[str, Any]) -> None:
        time.sleep(0.3)
        exited(lab, event)

    monkeypatch.setattr(hearing, "_exited", late)
    for number in range(3):
        container = lab.run(["sh", "-c", f"exit {number}"], rm=True)
        time.sleep(0.1)
        assert container.wait(patient(5)) == number


@pytest.mark.long_in_guest
def test_rm_loses_no_status_where_many_end_at_once(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor remembers the last hundred that it has removed; nothing of their ends is heard here so far."""
    from ctlab import hearing

    exited, hear = hearing._exited, threading.Event()

    def late(lab: Any, event: dict[str, Any]) -> None:
        hear.wait(patient(20))
        exited(lab, event)

    monkeypatch.setattr(hearing, "_exited", late)
    made = lab.run(["sh", "-c", "exit 3"], count=112, rm=True)
    forgotten: list[Any] = []

    def all_gone() -> bool:
        forgotten.clear()
        for container in made:
            try:
                lab._call(messages.Top(container.id), messages.Table)
            except NotFound:
                forgotten.append(container)
            except StateError as error:
                if "it was removed" not in str(error):
                    return False
            else:
                return False
        return True

    try:
        assert wait_until(all_gone)
        first, second, *_ = forgotten
        assert first.state == second.state == "running"
        with pytest.raises(StateError, match=f"container {first.name} isn't running"):
            first.kill()
        threading.Timer(0.3, hear.set).start()
        assert second.stop(patient(5)).returncode == 3
        assert [container.wait(patient(5)) for container in made] == [3] * len(made)
    finally:
        hear.set()


@pytest.mark.long_in_guest
def test_a_long_command_line_is_cut_off(lab: Any) -> None:
    """It is the container's text: the supervisor would read gigabytes of it, and commas count as a message's values."""
    commas = ["," * 125_000] * 9
    container = lab.run(["sh", "-c", "sleep 60; :", *commas])
    assert wait_until(lambda: "sleep 60" in [process["command"] for process in container.top()])
    long, short = sorted((process["command"] for process in container.top()), key=len, reverse=True)
    assert long.startswith("sh -c sleep 60; : ,,,") and long.endswith(",…") and len(long) == 4097
    assert short == "sleep 60"
    many = lab.run(["sh", "-c", 'for i in $(seq 300); do sh -c "sleep 60; :" "$0" & done; wait', "," * 100_000])
    assert wait_until(lambda: len(many.top()) > 300)
    assert sum(len(process["command"]) for process in many.top()) < 600_000


def test_top_numbers_processes_as_inside(lab: Any) -> None:
    web = lab.run(["sh", "-c", "sleep 600 & wait"], name="web")
    web.exec(["sleep", "601"], detach=True)
    wanted = ["sh -c sleep 600 & wait", "sleep 600", "sleep 601"]
    assert wait_until(lambda: sorted(process["command"] for process in web.top()) == wanted), web.top()
    found = {process["command"]: (process["pid"], process["parent"]) for process in web.top()}
    assert found["sh -c sleep 600 & wait"] == (1, 0)
    assert found["sleep 600"][1] == 1
    assert found["sleep 601"][1] == 0  # who started it is outside


def test_the_map_and_the_table_tell_who_failed_from_who_was_stopped(lab: Any) -> None:
    ends = {"done": "true", "wrong": "exit 3", "crashed": "kill -SEGV $$", "told": "kill -TERM $$"}
    for name, script in ends.items():
        lab.run(["sh", "-c", script], name=name, init=True)  # nothing signals the first process of a PID namespace
    lab.run(["sleep", "60"], name="stopped").stop(0)
    for name in ends:
        lab.containers[name].wait(patient(10))
    shown = {e["label"]: (e.get("failed"), e.get("ended")) for e in lab.map_elements() if e["kind"] == "container"}
    assert shown == {
        "done": (None, None),
        "wrong": (True, "status 3"),
        "crashed": (True, "SIGSEGV"),
        "told": (False, "SIGTERM"),
        "stopped": (False, "SIGKILL"),
    }
    assert {row["name"]: row["status"] for row in lab.containers.rows()} == {
        "done": "exited (0)",
        "wrong": "failed (3)",
        "crashed": "failed (SIGSEGV)",
        "told": "exited (SIGTERM)",
        "stopped": "exited (SIGKILL)",
    }
    text = lab.topology().text
    assert "▲ wrong" in text and "failed (status 3)" in text and "■ done" in text
    assert lab.topology().svg.count('class="container failed"') == 2
