"""Programs run in a running container: streams, ends, identities, states."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kernel_help import need_freezer, need_ids, no_hang, open_descriptors, patient, wait_until

from ctlab.errors import BadInput, NotFound, ProgramFailed, ProgramNotFound, StateError, Unsupported

pytestmark = pytest.mark.kernel


def test_output_and_status(lab: Any) -> None:
    done = lab.run().exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr, done.signal) == (3, "out\n", "err\n", None)
    with pytest.raises(ProgramFailed, match="ended with status 3: err"):
        done.check()


def test_the_signal_that_ended_it(lab: Any) -> None:
    done = lab.run().exec(["sh", "-c", "kill -9 $$"])
    assert (done.returncode, done.signal) == (137, "SIGKILL")


def test_it_is_in_the_containers_namespaces(lab: Any) -> None:
    container = lab.run(["sleep", "60"])
    kinds = ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user")
    script = "; ".join(f"readlink /proc/{{}}/ns/{kind}" for kind in kinds)
    own, first = (container.exec(["sh", "-c", script.replace("{}", who)]).stdout.split() for who in ("self", "1"))
    assert len(own) == 7 and own == first


def test_standard_input_of_ten_megabytes(lab: Any) -> None:
    data = os.urandom(1 << 20) * 10
    done = lab.run().exec(["sha256sum"], stdin=data)
    assert done.check().stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_and_output_at_once_do_not_lock_up(lab: Any) -> None:
    text = "0123456789abcde\n" * 200_000
    assert lab.run().exec(["cat"], stdin=text).check().stdout == text


def test_a_program_that_does_not_read_its_input(lab: Any) -> None:
    assert lab.run().exec(["true"], stdin=b"x" * 5_000_000).returncode == 0


def test_without_input_it_reads_nothing(lab: Any) -> None:
    assert lab.run().exec(["wc", "-c"]).check().stdout.strip() == "0"


def test_environment_folder_and_home(lab: Any) -> None:
    container = lab.run(env={"A": "container", "B": "container"}, workdir="/usr")
    done = container.exec(["sh", "-c", "echo $A $B $HOME; pwd"], env={"B": "exec"})
    assert done.check().stdout == "container exec /root\n/usr\n"
    assert container.exec(["pwd"], workdir="/etc").check().stdout == "/etc\n"
    with pytest.raises(NotFound, match="working directory /nowhere"):
        container.exec(["pwd"], workdir="/nowhere")


def test_another_user(lab: Any) -> None:
    need_ids(lab)
    container = lab.run(["sleep", "60"])
    done = container.exec(["sh", "-c", "echo $(id -u):$(id -g) $HOME"], user="1000:100")
    assert done.check().stdout.split()[0] == "1000:100"
    assert container.exec(["sh", "-c", "kill -9 1"], user="1000").returncode != 0
    assert container.state == "running"
    with pytest.raises(NotFound, match="no user 'who'"):
        container.exec(["id"], user="who")
    with pytest.raises(BadInput, match="aren't mapped"):
        container.exec(["id"], user="4000000000")


def test_a_single_id_says_what_to_do(lab: Any) -> None:
    if not lab._client.facts["single_id"]:
        pytest.skip("this lab has a range of ids")
    container = lab.run()
    with pytest.raises(Unsupported, match=r"maps only your own id, as user 0; .*id-range in %lab doctor"):
        container.exec(["id"], user="1000")


def test_the_users_of_a_container_apply_to_exec(lab: Any) -> None:
    need_ids(lab)
    assert lab.run(["sleep", "60"], user="1234").exec(["id", "-u"]).check().stdout == "1234\n"


def test_programs_that_cannot_run(lab: Any) -> None:
    container = lab.run()
    for command, message in (
        (["nosuchprogram"], "no program 'nosuchprogram'"),
        (["/etc/passwd"], "isn't executable"),
        (["/etc"], "is a folder"),
    ):
        with pytest.raises(ProgramNotFound, match=message):
            container.exec(command)
    with pytest.raises(BadInput):
        container.exec([])
    assert container.exec(["true"]).returncode == 0


HOLDS = """
import os, time
held, last = [], os.getpid()
print("ready", flush=True)
while True:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) > last:
            try:
                held.append(os.open(f"/proc/{entry}/fd/3", os.O_WRONLY))
            except OSError:
                pass
"""


@pytest.mark.long_in_guest
def test_who_holds_the_report_of_a_launcher_holds_nobody_up(lab: Any) -> None:
    """Any process of the container can open it in the moment before the program runs."""
    web = lab.run(["sleep", "600"], name="web")
    web.exec(["python3", "-c", HOLDS], detach=True)
    for _ in range(20):
        with no_hang(20):
            process = web.exec(["true"], detach=True)
        assert process.wait(patient(10)) == 0


@pytest.mark.long_in_guest
def test_who_ran_a_program_before_a_restart_runs_none_after_it(lab: Any) -> None:
    """It is in the namespaces of the earlier start, and tells of its program's end when the next one runs already."""
    container = lab.run(["sleep", "60"])
    for _ in range(20):
        for _ in range(8):
            container.exec(["sleep", "60"], detach=True)
        container.restart(0)
        assert container.exec(["cat", "/proc/1/comm"]).check().stdout == "sleep\n"


def test_in_a_stopped_and_in_a_paused_container(lab: Any) -> None:
    container = lab.run(["sleep", "60"], name="web")
    if lab._client.facts["cgroup_paths"]:
        container.pause()
        with pytest.raises(StateError, match="container web is paused: unpause it before you exec"):
            container.exec(["true"])
        container.unpause()
    container.kill()
    with pytest.raises(StateError, match="container web isn't running: start it first"):
        container.exec(["true"])
    assert container.start().exec(["true"]).returncode == 0


def test_it_is_frozen_with_the_container(lab: Any) -> None:
    need_freezer(lab)
    container = lab.run(["sleep", "60"])
    container.exec(["sh", "-c", "while :; do date +%N > /tmp/new; mv /tmp/new /tmp/now; done"], detach=True)
    assert wait_until(lambda: container.exec(["test", "-e", "/tmp/now"]).returncode == 0)
    container.pause()
    container.unpause()
    before = container.exec(["cat", "/tmp/now"]).stdout
    assert wait_until(lambda: container.exec(["cat", "/tmp/now"]).stdout != before)


def test_it_ends_with_the_container(lab: Any) -> None:
    container = lab.run(["sleep", "60"])
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(container.exec(["sh", "-c", "echo started; exec sleep 60"]))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert wait_until(lambda: [one["command"] for one in container.top()].count("sleep 60") == 2)  # behind the echo
    container.kill()
    thread.join(5)
    assert not thread.is_alive()
    assert (outcome[0].returncode, outcome[0].stdout) == (137, "started\n")


def test_detached(lab: Any) -> None:
    container = lab.run()
    process = container.exec(["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; exit 4"], detach=True)
    assert process.poll() is None
    container.write("/tmp/go", "")
    assert process.wait(patient(5)) == 4 == process.poll()
    sleeper = container.exec(["sleep", "60"], detach=True)
    with pytest.raises(TimeoutError):
        sleeper.wait(0.05)
    sleeper.kill("TERM")
    assert sleeper.wait(patient(5)) == 128 + signal.SIGTERM
    with pytest.raises(ProgramNotFound):
        container.exec(["nosuchprogram"], detach=True)


def test_detached_that_ends_at_once(lab: Any) -> None:
    container = lab.run()
    limit = patient(5)
    assert [container.exec(["sh", "-c", f"exit {n}"], detach=True).wait(limit) for n in range(10)] == list(range(10))


def test_what_a_program_leaves_running_does_not_hold_the_call(lab: Any) -> None:
    container = lab.run()
    begun = time.monotonic()
    done = container.exec(["sh", "-c", "sleep 60 & echo done"])
    assert done.stdout == "done\n" and time.monotonic() - begun < patient(2)


def test_a_script_leaves_standard_input_alone(lab: Any) -> None:
    done = lab.run().script("cat\necho after $0\nexit 6\n")
    assert (done.returncode, done.stdout) == (6, "after /dev/fd/9\n")


def test_two_terminals_line_by_line(lab: Any) -> None:
    pieces: list[tuple[int, str]] = []
    script = "import sys; print('out', sys.stdout.isatty()); print('err', sys.stderr.isatty(), file=sys.stderr)"
    done = lab.run().exec(["python3", "-c", script], tty=True, sink=lambda stream, text: pieces.append((stream, text)))
    assert (done.stdout, done.stderr) == ("out True\n", "err True\n")
    assert sorted(pieces) == [(1, "out True\n"), (2, "err True\n")]


def test_output_comes_while_it_runs(lab: Any) -> None:
    container = lab.run()
    seen: list[tuple[float, str]] = []
    begun = time.monotonic()
    container.exec(
        ["sh", "-c", "echo a; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo b"],
        sink=lambda _, text: (
            (seen.append((time.monotonic() - begun, text)), container.write("/tmp/go", ""))
            if text == "a\n"
            else seen.append((0, text))
        ),
    )
    assert [text for _, text in seen] == ["a\n", "b\n"]


def test_what_is_not_utf8_is_replaced(lab: Any) -> None:
    assert lab.run().exec(["printf", r"\377ab"]).stdout == "\N{REPLACEMENT CHARACTER}ab"


def test_an_interrupt_goes_to_the_program(lab: Any) -> None:
    container = lab.run()
    here = threading.main_thread().ident
    assert here is not None

    def sink(_: int, text: str) -> None:
        if "up" in text:
            signal.pthread_kill(here, signal.SIGINT)

    seen: list[str] = []
    script = "trap 'echo interrupted > /tmp/said; exit 9' INT; echo up; while :; do sleep 0.02; done"
    with pytest.raises(KeyboardInterrupt):
        container.exec(["sh", "-c", script], sink=lambda n, text: (seen.append(text), sink(n, text)))
    assert container.exec(["cat", "/tmp/said"]).stdout == "interrupted\n"
    assert container.state == "running"


@pytest.mark.long_in_guest
def test_twenty_threads_at_once(lab: Any) -> None:
    container = lab.run()
    with ThreadPoolExecutor(20) as threads:
        outs = list(threads.map(lambda n: container.exec(["echo", str(n)]).stdout, range(100)))
    assert outs == [f"{n}\n" for n in range(100)]


@pytest.mark.long_in_guest
def test_twenty_threads_run_containers(lab: Any) -> None:
    def one(n: int) -> tuple[int, str]:
        container = lab.run(["sh", "-c", f"echo {n}; exit {n}"], name=f"t{n}")
        return container.wait(patient(10)), container.logs()

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(one, range(40))) == [(n, f"{n}\n") for n in range(40)]
    assert len({c.addresses["bridge"] for c in lab.containers}) == 40


@pytest.mark.long_in_guest
def test_descriptors_do_not_leak(lab: Any) -> None:
    container = lab.run()

    def once() -> None:
        container.exec(["true"], stdin=b"x")
        short = lab.run(["true"])
        short.wait(patient(5))
        short.logs()
        short.remove()
        with pytest.raises(ProgramNotFound):
            lab.run(["nosuchprogram"])

    def ours_and_the_supervisors() -> tuple[int, int]:
        supervisor = lab._client.facts["supervisor"]
        return open_descriptors(), len(os.listdir(f"/proc/{supervisor}/fd"))

    def settled() -> tuple[int, int]:
        """The counts, once they have not changed for a moment: slots are made while nobody waits."""
        while True:
            found = ours_and_the_supervisors()
            if not wait_until(lambda: ours_and_the_supervisors() != found, 0.5):  # noqa: B023 - called before the next turn
                return found

    once()
    for _ in range(2):  # bursts make the pool of slots as large as it ever is
        for short in lab.run(["true"], count=30, name="b{n}"):
            short.remove()
        settled()
    before = settled()
    for _ in range(80):
        once()
    after = settled()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 60, "a slot more has six; a leak would be 80 and more"
