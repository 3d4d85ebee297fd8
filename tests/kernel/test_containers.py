"""Containers on the real kernel: namespaces, first process, what it is given, programs that can't run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from container_help import CATCHES_TERM, NAMESPACES, namespaces, said
from kernel_help import need_ids, patient, seen, wait_until

from ctlab.errors import KernelError, NotFound, ProgramNotFound

pytestmark = pytest.mark.kernel


def test_each_container_has_namespaces_of_its_own_and_the_labs_user_namespace(lab: Any) -> None:
    one, two = (namespaces(lab.run()) for _ in range(2))
    ours = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    for name in NAMESPACES[:-1]:
        assert len({one[name], two[name], ours[name]}) == 3, name
    assert one["user"] == two["user"] != ours["user"]


def test_the_program_is_process_1_and_alone(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo $$; echo /proc/[0-9]*"])
    assert container.wait(patient(5)) == 0
    assert container.logs().split() == ["1", "/proc/1"]


def test_the_pid_of_a_handle_is_numbered_as_here(lab: Any) -> None:
    container = lab.run(["sleep", "61.25"])
    # A start is over as soon as the program is executed, and it has its command line a moment later.
    assert seen(Path(f"/proc/{container.pid}/cmdline").read_bytes, bool) == b"sleep\x0061.25\0"
    (process,) = container.top()
    assert (process["pid"], process["command"], process["user"]) == (1, "sleep 61.25", 0)


def sleeping(container: Any) -> int:
    """How many processes named sleep there are, also dead ones that nobody has reaped: a cgroup doesn't list those."""
    names = container.exec(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout
    return int(names.split().count("sleep"))


@pytest.mark.parametrize("left", ["sleep 0.05 & sleep 0.05 & exit 0", "(sleep 0.02 &) ; exit 0"])
@pytest.mark.parametrize("command", [None, ["sleep", "60"]])
def test_an_init_reaps_what_its_parent_left(lab: Any, command: list[str] | None, left: str) -> None:
    container = lab.run(command, init=True)
    alone = int(command is not None)
    assert wait_until(lambda: sleeping(container) == alone)  # a program has its name a moment after its start
    container.exec(["sh", "-c", left]).check()
    assert wait_until(lambda: sleeping(container) == alone), container.exec(["sh", "-c", "cat /proc/[0-9]*/stat"])


def test_init_passes_status_and_signals_on(lab: Any) -> None:
    container = lab.run(CATCHES_TERM, init=True)
    said(container, "up")
    assert container.stop().returncode == 7
    killed = lab.run(["sh", "-c", "kill -SEGV $$"], init=True)
    assert (killed.wait(patient(5)), repr(killed.failure())[-30:].count("SIGSEGV")) == (139, 1)


def test_a_program_that_makes_init_its_tracer_goes_on(lab: Any) -> None:
    """What it stops for is told to init as an end would be; and it would wait for init's word for ever."""
    script = """
import ctypes, os, signal, subprocess, sys
signal.signal(signal.SIGUSR1, lambda *_: print("got it", flush=True))
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0
os.kill(os.getpid(), signal.SIGUSR1)
print("went on", flush=True)
os.execv("/bin/sh", ["sh", "-c", "exit 5"])
"""
    container = lab.run(["python3", "-c", script], init=True)
    assert container.wait(patient(10)) == 5
    assert str(container.logs()) == "got it\nwent on\n"


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_exit_status(lab: Any, status: int) -> None:
    container = lab.run(["sh", "-c", f"exit {status}"])
    assert container.wait(patient(5)) == status == container.returncode
    assert (container.state, container.pid) == ("exited", None)


def test_the_environment_holds_four_names_and_what_was_asked_for(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the notebook")
    plain = lab.run(["env"], name="web")
    asked = lab.run(["env"], env={"A": "1 2", "B": "ü"}, hostname="other")
    for container in (plain, asked):
        container.wait(patient(5))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    found = dict(line.split("=", 1) for line in plain.logs().splitlines())
    assert found == {"TERM": "xterm", "HOME": "/root", "PATH": path, "HOSTNAME": "web"}
    found = dict(line.split("=", 1) for line in asked.logs().splitlines())
    assert found == {"TERM": "xterm", "HOME": "/root", "PATH": path, "HOSTNAME": "other", "A": "1 2", "B": "ü"}


def test_a_variable_without_value_is_the_notebooks(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANTED", "yes")
    container = lab.run(["sh", "-c", "echo $WANTED"], env=["WANTED"])
    container.wait(patient(5))
    assert container.logs() == "yes\n"


def test_host_name_and_working_directory(lab: Any) -> None:
    container = lab.run(["sh", "-c", "hostname; pwd; cat /etc/hostname"], name="my_web.1", workdir="/usr/bin")
    assert container.wait(patient(5)) == 0
    assert container.logs().split() == ["my-web-1", "/usr/bin", "my-web-1"]
    plain = lab.run(["sh", "-c", "pwd -P; python3 -c 'import os; print(os.getcwd())'"])
    plain.wait(patient(5))
    assert plain.logs().split() == ["/", "/"]


def test_a_user_by_name_and_by_number(lab: Any) -> None:
    need_ids(lab)
    for user, expected in (("nobody", "65534 65534"), ("1234:567", "1234 567"), ("1234", "1234 0"), ("0:0", "0 0")):
        container = lab.run(["sh", "-c", "echo $(id -u) $(id -g)"], user=user)
        container.wait(patient(5))
        assert container.logs().strip() == expected, user


def test_a_user_that_is_not_there(lab: Any) -> None:
    with pytest.raises(NotFound, match="no user 'nobodyatall'"):
        lab.run(["true"], user="nobodyatall")
    assert len(lab.containers) == 0


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
