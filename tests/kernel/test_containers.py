"""Containers on the real kernel: namespaces, first process, life, names, batches."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_freezer, need_ids, wait_until

from ctlab.errors import BadInput, KernelError, NameInUse, NotFound, ProgramNotFound, StateError

pytestmark = pytest.mark.kernel

NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user")
CATCHES_TERM = ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done"]


def said(container: Any, text: str) -> None:
    """Wait until the container has written `text`."""
    assert wait_until(lambda: text in container.logs()), container.logs()


def namespaces(container: Any) -> dict[str, str]:
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in NAMESPACES)
    words = container.exec(["sh", "-c", script]).check().stdout.split()
    return dict(zip(NAMESPACES, words, strict=True))


def test_each_container_has_namespaces_of_its_own_and_the_labs_user_namespace(lab: Any) -> None:
    one, two = (namespaces(lab.run()) for _ in range(2))
    ours = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    for name in NAMESPACES[:-1]:
        assert len({one[name], two[name], ours[name]}) == 3, name
    assert one["user"] == two["user"] != ours["user"]


def test_the_program_is_process_1_and_alone(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo $$; echo /proc/[0-9]*"])
    assert container.wait(5) == 0
    assert container.logs().split() == ["1", "/proc/1"]


def test_the_pid_of_a_handle_is_numbered_as_here(lab: Any) -> None:
    container = lab.run(["sleep", "61.25"])
    assert Path(f"/proc/{container.pid}/cmdline").read_bytes() == b"sleep\x0061.25\0"
    (process,) = container.top()
    assert (process["pid"], process["command"], process["user"]) == (1, "sleep 61.25", 0)


def test_init_reaps_what_its_parent_left(lab: Any) -> None:
    container = lab.run(["sleep", "60"], init=True)
    container.exec(["sh", "-c", "sleep 0.05 & sleep 0.05 & exit 0"]).check()
    assert wait_until(lambda: sorted(p["state"] for p in container.top()) == ["S", "S"]), container.top()


@pytest.mark.parametrize("command", [None, ["sleep", "60"]])
def test_an_idle_container_reaps_too(lab: Any, command: list[str] | None) -> None:
    container = lab.run(command, init=True)
    alone = len(container.top())
    container.exec(["sh", "-c", "(sleep 0.02 &) ; exit 0"]).check()
    assert wait_until(lambda: len(container.top()) == alone), container.top()


def test_init_passes_status_and_signals_on(lab: Any) -> None:
    container = lab.run(CATCHES_TERM, init=True)
    said(container, "up")
    assert container.stop().returncode == 7
    killed = lab.run(["sh", "-c", "kill -SEGV $$"], init=True)
    assert (killed.wait(5), repr(killed.failure())[-30:].count("SIGSEGV")) == (139, 1)


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_exit_status(lab: Any, status: int) -> None:
    container = lab.run(["sh", "-c", f"exit {status}"])
    assert container.wait(5) == status == container.returncode
    assert (container.state, container.pid) == ("exited", None)


def test_the_environment_holds_four_names_and_what_was_asked_for(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the notebook")
    plain = lab.run(["env"], name="web")
    asked = lab.run(["env"], env={"A": "1 2", "B": "ü"}, hostname="other")
    for container in (plain, asked):
        container.wait(5)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    found = dict(line.split("=", 1) for line in plain.logs().splitlines())
    assert found == {"TERM": "xterm", "HOME": "/root", "PATH": path, "HOSTNAME": "web"}
    found = dict(line.split("=", 1) for line in asked.logs().splitlines())
    assert found == {"TERM": "xterm", "HOME": "/root", "PATH": path, "HOSTNAME": "other", "A": "1 2", "B": "ü"}


def test_a_variable_without_value_is_the_notebooks(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANTED", "yes")
    container = lab.run(["sh", "-c", "echo $WANTED"], env=["WANTED"])
    container.wait(5)
    assert container.logs() == "yes\n"


def test_host_name_and_working_directory(lab: Any) -> None:
    container = lab.run(["sh", "-c", "hostname; pwd; cat /etc/hostname"], name="my_web.1", workdir="/usr/bin")
    assert container.wait(5) == 0
    assert container.logs().split() == ["my-web-1", "/usr/bin", "my-web-1"]
    plain = lab.run(["sh", "-c", "pwd -P; python3 -c 'import os; print(os.getcwd())'"])
    plain.wait(5)
    assert plain.logs().split() == ["/", "/"]


def test_a_user_by_name_and_by_number(lab: Any) -> None:
    need_ids(lab)
    for user, expected in (("nobody", "65534 65534"), ("1234:567", "1234 567"), ("1234", "1234 0"), ("0:0", "0 0")):
        container = lab.run(["sh", "-c", "echo $(id -u) $(id -g)"], user=user)
        container.wait(5)
        assert container.logs().strip() == expected, user


def test_a_user_that_is_not_there(lab: Any) -> None:
    with pytest.raises(NotFound, match="no user 'nobodyatall'"):
        lab.run(["true"], user="nobodyatall")
    assert len(lab.containers) == 0


def test_wait_times_out_and_the_container_goes_on(lab: Any) -> None:
    container = lab.run(["sleep", "60"])
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        container.wait(0.1)
    assert 0.1 <= time.monotonic() - begun < 1
    assert container.state == "running" and container.pid is not None


def test_stop_of_a_program_that_catches_the_signal(lab: Any) -> None:
    container = lab.run(CATCHES_TERM)
    said(container, "up")
    assert container.stop() is container
    assert (container.state, container.returncode) == ("exited", 7)


def test_stop_of_a_first_process_that_cannot_see_the_signal_kills_at_once_and_says_so(lab: Any) -> None:
    container = lab.run(["sleep", "60"], name="sleeper")
    begun = time.monotonic()
    container.stop()
    assert time.monotonic() - begun < 2
    assert container.returncode == 137
    assert lab.notes[-1].startswith("sleeper: its first process doesn't catch SIGTERM")


def test_stop_kills_after_the_grace_time(lab: Any) -> None:
    container = lab.run(["sh", "-c", "trap 'echo no' TERM; echo up; while :; do sleep 0.02; done"])
    said(container, "up")
    begun = time.monotonic()
    assert container.stop(timeout=0.2).returncode == 137
    assert 0.2 <= time.monotonic() - begun < 2


def test_another_stop_signal(lab: Any) -> None:
    script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.02; done"
    container = lab.run(["sh", "-c", script], stop_signal="SIGUSR1")
    said(container, "up")
    assert container.stop().returncode == 3


def test_kill_with_a_signal(lab: Any) -> None:
    container = lab.run(["sh", "-c", "trap 'echo got; exit 5' HUP; echo up; while :; do sleep 0.02; done"])
    said(container, "up")
    container.kill("HUP")
    assert container.wait(5) == 5
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


def test_a_program_that_ends_at_once_can_be_started_again_and_again(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo x >> /tmp/runs; exit $(wc -l < /tmp/runs)"])
    statuses = [container.wait(5)]
    for _ in range(20):
        container.start()
        statuses.append(container.wait(5))
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


def test_rename(lab: Any) -> None:
    container, other = lab.run(name="old"), lab.run(name="other")
    address = container.addresses["bridge"]
    assert container.rename("new") is container
    assert (container.name, lab["new"] is container, "old" in lab) == ("new", True, False)
    assert container.addresses["bridge"] == address
    assert other.exec(["getent", "hosts", "new"]).check().stdout.split()[0] == address
    assert other.exec(["getent", "hosts", "old"]).returncode == 2
    with pytest.raises(NameInUse, match="'OTHER' exists"):
        container.rename("OTHER")
    with pytest.raises(BadInput):
        container.rename("-x")
    container.rename("NEW")
    assert lab["new"].name == "NEW"
    assert lab.run(name="old").name == "old"


def test_a_stopped_container_is_renamed_and_starts_under_its_new_name(lab: Any) -> None:
    container, other = lab.run(["sleep", "60"], name="old"), lab.run()
    container.kill()
    container.rename("new").start()
    assert other.exec(["getent", "hosts", "new"]).returncode == 0


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
    assert time.monotonic() - begun < 2
    assert container.state == ("removed" if how == "remove" else "exited")


def test_without_a_cgroup_pause_is_refused_with_the_reason(lab: Any) -> None:
    if lab._client.facts["cgroup_paths"]:
        pytest.skip("this lab has cgroup folders")
    container = lab.run(["sleep", "60"])
    with pytest.raises(Exception, match="pause needs a cgroup"):
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
    assert container.wait(5) == 0
    assert wait_until(lambda: len(lab.containers) == 0)
    assert container.state == "removed"


def test_names_are_unique_without_case_and_ids_find_containers(lab: Any) -> None:
    container = lab.run(name="Web")
    assert lab["wEb"] is container and lab[container.id[:6]] is container
    with pytest.raises(NameInUse, match=r"container 'web' exists \(running\)"):
        lab.run(name="web")
    assert [c.name for c in lab.containers] == ["Web"]


def test_generated_names(lab: Any) -> None:
    assert [lab.run().name, lab.run(name="c3").name, lab.run().name, lab.run().name] == ["c1", "c3", "c2", "c4"]


def test_a_replaced_handle_says_so_and_the_new_one_has_the_address(lab: Any) -> None:
    old = lab.run(["sleep", "60"], name="web")
    lab.run(name="between")
    new = lab.run(["sleep", "61"], name="web", exists="replace")
    assert new is not old and lab["web"] is new
    assert (new.addresses, new.endpoints[0].mac) == (dict(old.addresses), old.endpoints[0].mac)
    with pytest.raises(StateError, match=r"replaced in .*: take lab\['web'\]"):
        old.exec(["true"])
    assert lab.run(["false"], name="web", exists="keep") is new


def test_a_batch(lab: Any) -> None:
    made = lab.run(["sleep", "60"], count=12, name="w{n:02}")
    assert [c.name for c in made] == [f"w{n:02}" for n in range(1, 13)]
    assert {c.state for c in lab.containers} == {"running"}
    assert len({c.addresses["bridge"] for c in made}) == 12
    assert len({namespaces(c)["net"] for c in made[:3]}) == 3
    assert made["w07"].exec(["getent", "hosts", "w12"]).stdout.split()[0] == made["w12"].addresses["bridge"]
    assert all(isinstance(c.pid, int) for c in made)


@pytest.mark.parametrize("options", [{"ip": "10.30.0.9"}, {}])
def test_a_failing_batch_leaves_none(lab: Any, options: dict[str, str]) -> None:
    network = lab.network("blue", subnet="10.30.0.0/24")
    command = ["sleep", "60"] if options else ["/no/such/program"]
    with pytest.raises((ProgramNotFound, Exception), match="10.30.0.9" if options else "no program '/no/such/program'"):
        lab.run(command, count=6, name="w{n}", networks=["blue"], **options)
    assert len(lab.containers) == 0 and network.containers == []
    assert lab.run(networks=["blue"]).addresses["blue"] == "10.30.0.2"


def test_a_batch_over_an_existing_name_makes_none(lab: Any) -> None:
    lab.run(name="w3")
    with pytest.raises(NameInUse, match="w3"):
        lab.run(count=4, name="w{n}")
    assert [c.name for c in lab.containers] == ["w3"]


def test_many_quick_ends_are_all_heard(lab: Any) -> None:
    """Six hundred events while the thread that hears them is held up: none is lost, and nobody waits for it."""
    go_on = threading.Event()

    def slow() -> None:
        if threading.current_thread().name.startswith("ctlab-events"):
            go_on.wait(50)

    forget = lab.on_change(slow)
    lab.network("wide", subnet="10.80.0.0/20")
    made = [c for batch in range(3) for c in lab.run(["true"], count=100, name=f"q{batch}-{{n}}", networks="wide")]
    assert lab.run(name="last").exec(["echo", "x"]).stdout == "x\n"
    assert [c.state for c in made].count("running") > 250
    go_on.set()
    assert wait_until(lambda: {c.state for c in made} == {"exited"}, 20)
    forget()


def test_a_program_that_cannot_run_leaves_nothing(lab: Any) -> None:
    for command, message in (
        (["nosuchprogram"], "no program 'nosuchprogram' in /usr/local/sbin"),
        (["/etc/passwd"], "isn't executable"),
        (["/usr"], "is a folder"),
    ):
        with pytest.raises(ProgramNotFound, match=message):
            lab.run(command)
    assert len(lab.containers) == 0
    assert lab.run(["true"]).addresses["bridge"].endswith(".2")


def test_a_script_whose_interpreter_is_missing(lab: Any, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/interpreter\n")
    script.chmod(0o755)
    tmp_path.chmod(0o755)
    with pytest.raises(ProgramNotFound, match="interpreter"):
        lab.run(["/script"], mounts=[f"{script}:/script:ro"])
    assert len(lab.containers) == 0


def test_inspect_and_repr(lab: Any) -> None:
    container = lab.run(["sleep", "60"], name="web", env={"A": "b"}, labels={"x": "y"})
    found = container.inspect()
    assert re.search(r"web", str(found)) and container.addresses["bridge"] in str(found)
    assert repr(container) == f"<Container web: running, bridge {container.addresses['bridge']}>"
    container.kill()
    assert repr(container).startswith("<Container web: exited (SIGKILL)")


def test_kernel_errors_carry_a_number() -> None:
    assert KernelError("x", 28).number == 28


def test_a_program_is_found_from_its_working_directory(lab: Any) -> None:
    base = lab.run(name="base")
    base.write("/srv/hello", "#!/bin/sh\necho hello from $PWD\n", mode=0o755)
    assert base.exec(["./hello"], workdir="/srv").stdout == "hello from /srv\n"
    assert lab.run(["./true"], workdir="/bin", name="first").wait() == 0
    with pytest.raises(ProgramNotFound, match=r"no program './nothing' in the container \(ENOENT\)"):
        lab.run(["./nothing"], workdir="/bin")
