"""`python -m ctlab shell`: a program in a container, in the terminal of a person, who types and reads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_root, open_descriptors, patient, wait_until
from terminal_help import CTRL_C, CTRL_D, Person, environment, shell_words

from ctlab import shells
from ctlab.notebook.shell_line import shell_line
from ctlab.runtime import runtime_folder

pytestmark = pytest.mark.kernel


@pytest.fixture
def web(lab: Any) -> Any:
    made = lab.run(["sleep", "600"], name="web", hostname="inner")
    shells.open_door(lab)
    return made


def person(web: Any, *command: str, **options: Any) -> Person:
    return Person(shell_words(web.lab.name, web.name, *command), **options)


def socket_of(lab: Any) -> Path:
    return Path(lab._client.facts["runtime_folder"], runtime_folder.DOOR)


# -- what a person sees -----------------------------------------------------------------------------------------------
def test_a_prompt_an_echo_and_the_end_of_input(web: Any) -> None:
    with person(web) as one:
        one.until("# ")
        assert one.is_raw  # keys are the container's terminal's affair
        one.type("echo $(hostname)-$(id -u)-$TERM\n")
        assert "echo $(hostname)" in one.until("inner-0-xterm\n")
        one.until("# ")
        one.type(CTRL_D)
        assert one.ended() == 0
        assert one.now() == one.modes
    assert web.state == "running"


def test_ctrl_c_reaches_what_runs_in_front(web: Any) -> None:
    with person(web, "bash") as one:
        one.until("# ")
        one.type("sh -c 'echo fr''ont; exec sleep 600'\n")
        one.until("front\n")
        one.type(CTRL_C)
        one.until("# ")
        one.type("echo st''atus $?\n")
        assert one.until("status 130\n") is not None
        one.type("exit 9\n")
        assert one.ended() == 9


def test_the_size_of_the_window_arrives_and_changes(web: Any) -> None:
    script = "trap 'stty size' WINCH; stty size; echo ready; while :; do sleep 0.05; done"
    with person(web, "sh", "-c", script, rows=33, columns=77) as one:
        assert one.until("ready\n").endswith("33 77\n")
        one.resize(20, 101)
        one.until("20 101\n")
        one.type(CTRL_C)
        assert one.ended() == 130


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)])
def test_the_status_is_the_programs(web: Any, script: str, status: int) -> None:
    with person(web, "sh", "-c", f"echo begun; {script}") as one:
        assert one.ended() == status
        assert one.now() == one.modes
        assert one.rest() == "begun\n"


def test_what_was_printed_last_is_shown_whole(web: Any) -> None:
    with person(web, "seq", "20000") as one:
        one.until("\n20000\n", 30)
        assert one.ended() == 0
        assert one.all.split() == [str(number) for number in range(1, 20001)]


def test_much_is_pasted_while_much_is_printed(web: Any) -> None:
    line = "x" * 99 + "\n"
    with person(web, "sh", "-c", "stty -echo; echo ready; head -n 2000 | wc -c; seq 30000 | tail -n 1") as one:
        one.until("ready\n")
        for _ in range(20):
            one.type(line * 100)
        one.until("200000\n", 30)
        one.until("30000\n")
        assert one.ended() == 0


def test_a_second_terminal_beside_the_first(web: Any) -> None:
    with person(web, "sh") as one, person(web, "sh") as other:
        for each, said in ((one, "a"), (other, "b")):
            each.until("# ")
            each.type(f"t''ty; echo {said}{said}''{said}\n")
        ttys = [each.until(f"{said * 3}\n").split()[-1] for each, said in ((one, "a"), (other, "b"))]
        assert ttys[0] != ttys[1] and all(tty.startswith("/dev/pts/") for tty in ttys)
        one.type(CTRL_D)
        assert one.ended() == 0
        other.type("echo st''ill\n")
        other.until("still\n")


def test_without_a_terminal_it_is_a_pipe(web: Any) -> None:
    words = shell_words(web.lab.name, web.name, "sh", "-c", "tr a-z A-Z; echo err >&2; tty; exit 5")
    data = "line\n" * 100_000
    done = subprocess.run(words, input=data, capture_output=True, text=True, env=environment(), timeout=patient(30))
    assert (done.returncode, done.stdout, done.stderr) == (5, data.upper() + "not a tty\n", "err\n")


def test_a_pipe_passes_signals_on(web: Any) -> None:
    script = "trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        shell_words(web.lab.name, web.name, "sh", "-c", script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "asked\n"
        assert process.wait(patient(10)) == 4


# -- ends -------------------------------------------------------------------------------------------------------------
def test_the_container_is_killed(web: Any) -> None:
    with person(web) as one:
        one.until("# ")
        web.kill()
        assert one.ended() == 137
        assert one.now() == one.modes
        assert one.rest().split("\n")[-2:] == ["ctlab: container web has ended", ""]


def test_the_lab_is_stopped(usable: None) -> None:
    import ctlab

    with ctlab.Lab(f"stopped-{os.getpid()}") as lab:
        web = lab.run(["sleep", "60"], name="web")
        shells.open_door(lab)
        door = socket_of(lab)
        assert door.is_socket()
        one = person(web)
        one.until("# ")
    with one:
        assert one.ended() == 125
        assert one.now() == one.modes
        assert one.rest() == f"\nctlab: lab '{lab.name}' is gone, and container web with it\n"
    assert not door.exists()


OWNER = """
import sys, time, ctlab
from ctlab import shells
lab = ctlab.Lab(sys.argv[1])
web = lab.run(["sleep", "60"], name="web")
shells.open_door(lab)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(usable: None) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", OWNER, f"owned-{os.getpid()}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_the_owner_is_killed(owner: subprocess.Popen[str]) -> None:
    with Person(shell_words(f"owned-{os.getpid()}", "web")) as one:
        one.until("# ")
        owner.kill()
        assert one.ended() == 125
        assert one.now() == one.modes
        assert one.rest() == f"\nctlab: lab 'owned-{os.getpid()}' is gone, and container web with it\n"


def test_a_busy_notebook_holds_nobody_up(owner: subprocess.Popen[str]) -> None:
    """One that is stopped does nothing at all: what is typed, the size and the end all pass beside it."""
    script = "trap 'stty size' WINCH; echo ready; read said; echo \"$said works\"; while :; do sleep 0.05; done"
    with Person(shell_words(f"owned-{os.getpid()}", "web", "sh", "-c", script)) as one:
        one.until("ready\n")
        owner.send_signal(signal.SIGSTOP)
        try:
            one.type("it\n")
            one.until("it works\n")
            one.resize(11, 22)
            one.until("11 22\n")
            one.type(CTRL_C)
            assert one.ended() == 130
            with Person(shell_words(f"owned-{os.getpid()}", "web", "sh")) as other:
                other.until("ctlab: the lab's notebook is busy; waiting for it (Ctrl-C gives up)\n")
                owner.send_signal(signal.SIGCONT)
                other.until("# ")
        finally:
            owner.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_hangs_up_inside(web: Any, number: signal.Signals) -> None:
    with person(web, "bash") as one:
        one.until("# ")
        one.type("sleep 500\n")
        assert wait_until(lambda: "sleep 500" in commands(web))
        one.process.send_signal(number)
        assert one.ended() == 128 + number
        assert one.now() == one.modes
    assert wait_until(lambda: commands(web) == ["sleep 600"])


def test_one_that_was_stopped_goes_on_as_before(web: Any) -> None:
    with person(web, "sh") as one:
        one.until("# ")
        one.process.send_signal(signal.SIGSTOP)
        termios.tcsetattr(one.slave, termios.TCSANOW, one.modes)  # as a shell does that runs in front then
        one.process.send_signal(signal.SIGCONT)
        assert wait_until(lambda: one.is_raw)
        one.type("echo ag''ain\n")
        one.until("again\n")
        one.type(CTRL_D)
        assert one.ended() == 0 and one.now() == one.modes


def test_a_window_that_is_closed_hangs_up_inside(web: Any) -> None:
    with person(web, "bash") as one:
        one.until("# ")
        one.hang_up()
        assert one.ended() == 128 + signal.SIGHUP
    assert wait_until(lambda: commands(web) == ["sleep 600"])


def test_a_window_of_one_that_was_stopped_is_closed(web: Any) -> None:
    """With SIGHUP comes SIGCONT, and may be heard of first."""
    with person(web, "bash") as one:
        one.until("# ")
        one.process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: runtime_folder.is_stopped(one.process.pid))
        one.hang_up()
        assert one.ended() == 128 + signal.SIGHUP
    assert wait_until(lambda: commands(web) == ["sleep 600"])


def test_one_that_is_killed_hangs_up_inside(web: Any) -> None:
    with person(web, "bash") as one:
        one.until("# ")
        one.process.kill()
    assert wait_until(lambda: commands(web) == ["sleep 600"])


def commands(web: Any) -> list[str]:
    """What runs in it; its first process reaps nobody."""
    return [process["command"] for process in web.top() if process["state"] != "Z"]


# -- the wall ---------------------------------------------------------------------------------------------------------
def test_it_has_what_exec_has_and_no_more(web: Any) -> None:
    script = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; cat /proc/self/cgroup; ulimit -a"
    script += "; for kind in mnt pid net uts ipc cgroup user; do readlink /proc/self/ns/$kind; done"
    in_exec = web.exec(["bash", "-c", script]).check().stdout
    with person(web, "bash", "-c", script, columns=200) as one:
        assert one.ended() == 0
        assert one.rest() == in_exec
    assert "NoNewPrivs:\t1\n" in in_exec


INSIDE = """
import fcntl, json, os, sys, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"!")
    pushed = "own"
except OSError as error:
    pushed = "refused"
with open("/dev/tty") as own:
    session = os.ttyname(own.fileno())
devpts = os.stat("/dev/pts").st_dev
print(json.dumps({
    "pushed": pushed, "tty": os.ttyname(0), "session": session,
    "open": sorted(name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
    "own": [os.fstat(number).st_dev == devpts for number in range(3)], "devpts": devpts,
    "environment": sorted(os.environ), "tracked": open("/proc/self/stat").read().split()[6] != "0",
}))
"""


def test_nothing_of_the_persons_terminal_is_inside(web: Any) -> None:
    with person(web, "python3", "-c", INSIDE, columns=400, env={"SECRET_OF_MINE": "1"}) as one:
        assert one.ended() == 0
        told = json.loads(one.rest().lstrip("!"))  # what it pushed is echoed, if it could
        assert told["open"] == ["0", "1", "2"] and told["own"] == [True] * 3 and told["tracked"]
        assert told["devpts"] != os.fstat(one.slave).st_dev
        assert told["tty"] == "/dev/pts/0" and told["session"] == "/dev/tty"
        assert set(told["environment"]) <= {"PATH", "TERM", "HOSTNAME", "HOME", "LC_CTYPE"}
        # Nothing is in the input of ours.
        os.set_blocking(one.slave, False)
        with pytest.raises(BlockingIOError):
            os.read(one.slave, 100)


def test_no_path_of_the_container_is_taken_for_the_terminal(web: Any) -> None:
    """What lies at /dev/pts can't be replaced, and a link through /proc isn't followed."""
    done = web.exec(["sh", "-c", "mv /dev/pts /dev/away; rm -rf /dev/pts 2>&1; ls -d /dev/pts/ptmx"])
    assert done.stdout.splitlines()[-1] == "/dev/pts/ptmx"
    with person(web, "tty") as one:
        assert one.ended() == 0 and one.rest() == "/dev/pts/0\n"


# -- the door ---------------------------------------------------------------------------------------------------------
def test_there_is_none_until_it_is_asked_for(usable: None) -> None:
    import ctlab

    with ctlab.Lab(f"door-{os.getpid()}") as lab:
        lab.run(["sleep", "60"], name="web")
        assert lab._door is None and not socket_of(lab).exists()
        done = once(lab.name, "web")
        assert (done.returncode, done.stderr) == (
            125,
            f"ctlab: lab '{lab.name}' lets no terminal in (yet, or any more): "
            "%container shell NAME in its notebook opens it\n",
        )
        assert shell_line(lab["web"]) == shell_line(lab["web"])
        assert socket_of(lab).is_socket() and socket_of(lab).stat().st_mode & 0o777 == 0o600
        assert once(lab.name, "web", "true").returncode == 0


def once(lab: str, container: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shell_words(lab, container, *(command or ("true",))), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment(), timeout=patient(30),
    )  # fmt: skip


def test_what_there_is_not_is_one_line(web: Any) -> None:
    lab = web.lab
    lab.run(["true"], name="over").wait()
    cases = {
        (lab.name, "wbe"): (125, "ctlab: no container 'wbe'; did you mean 'web'?\n"),
        (lab.name, "over"): (125, "ctlab: container over isn't running, it is exited\n"),
        (lab.name, "web", "nonesuch"): (127, "ctlab: container web: no program 'nonesuch' in "),
        ("nonesuch", "web"): (125, "ctlab: no lab 'nonesuch' of this user; there are: "),
    }
    for words, (status, text) in cases.items():
        done = once(*words)
        assert (done.returncode, done.stderr[: len(text)], done.stderr.count("\n")) == (status, text, 1)


STRANGER = """
import contextlib, os, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
connection.connect(sys.argv[1])
with contextlib.suppress(BrokenPipeError):  # nobody wants to hear it
    connection.send(b'{"container":"web","argv":["id"],"window":null}')
try:
    print(connection.recvmsg(65536, 4096)[:2])
except ConnectionResetError:  # what was sent is left unread; what was answered is there all the same
    print(connection.recvmsg(65536, 4096)[:2])
"""


def test_a_stranger_is_refused(web: Any) -> None:
    need_root("to be another user")
    door = socket_of(web.lab)
    words = [sys.executable, "-c", STRANGER, str(door)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr  # the folder is closed
    folders = [door.parent, door.parent.parent, door.parent.parent.parent]
    modes = [folder.stat().st_mode & 0o777 for folder in folders]
    try:
        for folder in folders:
            folder.chmod(0o711)
        door.chmod(0o666)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)
        door.chmod(0o600)
    assert "belongs to user 0, not to you (65534)" in done.stdout
    assert done.stdout.endswith(", [])\n")  # and no descriptor came along


def test_whatever_is_said_at_the_door_it_serves_the_next(web: Any) -> None:
    def say(body: bytes, descriptors: list[int]) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(patient(10))
            connection.connect(str(socket_of(web.lab)))
            if body:
                socket.send_fds(connection, [body], descriptors)
            else:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)

    before = open_descriptors()
    good = {"container": "web", "argv": ["true"], "window": None}
    bad = (
        b"", b"\xff", b"[]", b"{}", b"[" * 5000, b'{"container":"web","argv":"true","window":null}',
        *(json.dumps(good | change).encode() for change in (
            {"container": 1}, {"argv": [1]}, {"argv": ["a\0b"]}, {"window": [1]}, {"window": [1, -1]},
            {"window": [1, 1 << 16]}, {"window": [True, 1]}, {"argv": ["x" * (70 << 10)]},
        )),
    )  # fmt: skip
    null = os.open(os.devnull, os.O_RDONLY)
    for body in bad:
        answer = say(body, [null] * 3)
        assert (answer == b"") == (body == b"")
        assert not body or json.loads(answer)["error"] == "BadInput"
    os.close(null)
    assert wait_until(lambda: open_descriptors() <= before)
    assert once(web.lab.name, "web", "true").returncode == 0


def test_the_line_is_for_any_folder_and_any_environment(web: Any, tmp_path: Path) -> None:
    line = shell_line(web)
    done = subprocess.run(
        ["sh", "-c", f"{line} -- hostname"], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=patient(30), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "inner\n", "")
