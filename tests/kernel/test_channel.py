"""A lab behind the channel of a VM: all that passes through it, on this machine's kernel and without a VM."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from channel_help import Program, channel_lab, drained
from container_help import said
from kernel_help import patient, seen, wait_until
from terminal_help import CTRL_C, Person, environment, shell_words

import ctlab
from ctlab import shells
from ctlab.errors import CtlabError, KernelError, NotFound, ProgramNotFound
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel
MIB = 1 << 20


@pytest.fixture(scope="module")
def vm_lab(usable: None) -> Iterator[Any]:
    with channel_lab("channel") as made:
        yield made


@pytest.fixture
def container(vm_lab: Any) -> Iterator[Any]:
    made = vm_lab.run()
    yield made
    if not made._gone:
        made.remove()


# -- a person's terminal ----------------------------------------------------------------------------------------------
def test_a_person_at_a_terminal(vm_lab: Any, container: Any) -> None:
    shells.open_door(vm_lab)
    with Person(shell_words(vm_lab.name, container.name, "bash"), rows=31, columns=79) as one:
        one.until("# ")
        one.type("stty size; tty\n")
        one.until("31 79\n/dev/pts/0\n")
        one.type("sh -c 'trap \"stty size\" WINCH; echo rea''dy; while :; do sleep 0.05; done'\n")
        one.until("ready\n")
        one.resize(12, 34)
        one.until("12 34\n")
        one.type(CTRL_C)
        one.type("seq 9''9999; exit 6\n")
        one.until("\n99999\n", 30)
        assert one.ended() == 6 and one.now() == one.modes


@pytest.mark.parametrize("how", ["killed", "hung up"])
def test_a_terminal_that_goes_is_hung_up_inside(vm_lab: Any, container: Any, how: str) -> None:
    shells.open_door(vm_lab)
    before = set(running(container))
    with Person(shell_words(vm_lab.name, container.name)) as one:
        one.until("# ")
        one.process.kill() if how == "killed" else one.hang_up()

    def left() -> dict[int, str]:
        """What wasn't there before."""
        return {pid: command for pid, command in running(container).items() if pid not in before}

    assert seen(left, lambda found: not found) == {}


def running(container: Any) -> dict[int, str]:
    """What runs in it, by its number in there; no dead ones that wait for their parent."""
    return {process["pid"]: process["command"] for process in container.top() if process["state"] != "Z"}


def test_a_terminals_pipes_and_its_containers_end(vm_lab: Any, container: Any) -> None:
    shells.open_door(vm_lab)
    words = shell_words(vm_lab.name, container.name, "sh", "-c", "tr a-z A-Z; exit 5")
    done = subprocess.run(words, input=b"line\n" * 100_000, capture_output=True, env=environment(), timeout=patient(30))
    assert (done.returncode, done.stdout, done.stderr) == (5, b"LINE\n" * 100_000, b"")
    with Person(shell_words(vm_lab.name, container.name)) as one:
        one.until("# ")
        container.remove()
        assert one.ended() == 137
        assert one.rest().endswith(f"ctlab: container {container.name} has ended\n")


# -- programs ---------------------------------------------------------------------------------------------------------
def test_a_program_its_output_and_its_end(vm_lab: Any) -> None:
    container = vm_lab.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert container.wait(patient(10)) == 3
    logs = container.logs()
    assert (logs.stdout, logs.stderr, container.returncode) == ("out\n", "err\n", 3)
    container.start()
    assert container.wait(patient(10)) == 3 and container.logs().stdout == "out\nout\n"
    container.remove()


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 41", 41), ("kill -9 $$", 137), ("kill $$", 143)])
def test_how_a_program_ended_is_said(container: Any, script: str, status: int) -> None:
    assert container.exec(["sh", "-c", script]).returncode == status


def test_megabytes_in_and_out_are_kept_apart(container: Any) -> None:
    data = random.Random(1).randbytes(5 * MIB)
    script = (
        "sha256sum | cut -c1-64;"
        "i=0; while [ $i -lt 60 ]; do head -c 100000 /dev/zero | tr '\\0' o; head -c 70000 /dev/zero | tr '\\0' e >&2;"
        "i=$((i+1)); done; exit 3"
    )
    done = container.exec(["sh", "-c", script], stdin=data)
    assert done.returncode == 3 and done.dropped_bytes == 0
    assert done.stdout == hashlib.sha256(data).hexdigest() + "\n" + "o" * 6_000_000
    assert done.stderr == "e" * 4_200_000


def test_what_is_written_last_is_there_with_the_answer(container: Any) -> None:
    for number in range(60):
        size = number * number * 40
        done = container.exec(["sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x; echo {number}; echo e{number} >&2"])
        assert (done.stdout, done.stderr) == ("x" * size + f"{number}\n", f"e{number}\n")


def test_a_dialogue_and_a_half_closed_program(container: Any) -> None:
    script = "while read line; do echo got $line; done; echo end; sleep 0.05; echo later >&2; exit 9"
    program = Program(container, "sh", "-c", script)
    for number in range(30):
        os.write(program.stdin, f"{number}\n".encode())
        assert program.line() == f"got {number}\n"
    program.close("stdin")
    assert program.line() == "end\n"
    assert drained(program.stderr) == b"later\n" and drained(program.stdout) == b""
    assert program.returncode() == 9
    program.close()


def test_a_program_that_reads_no_more_is_told_to_who_writes(container: Any) -> None:
    program = Program(container, "sh", "-c", "read line; exec <&-; echo $line; read <&2 never")
    os.write(program.stdin, b"one\n")
    assert program.line() == "one\n"
    os.set_blocking(program.stdin, False)

    def refused() -> bool:
        try:
            os.write(program.stdin, b"two\n")
        except BrokenPipeError:
            return True
        return False

    assert wait_until(refused)
    program.close()
    assert program.returncode() in (0, 1, 2)


def test_a_program_ends_when_nobody_reads_what_it_writes(container: Any) -> None:
    program = Program(container, "yes")
    assert program.line() == "y\n"
    program.close("stdout")
    assert program.returncode() == 128 + signal.SIGPIPE
    program.close()


def test_a_terminal(container: Any) -> None:
    done = container.exec(["sh", "-c", "test -t 1 && echo terminal; stty size <&1 >&2 && echo works; exit 4"], tty=True)
    assert done.returncode == 4 and done.stdout.replace("\r", "") == "terminal\nworks\n"


def test_an_interrupt_is_for_the_program(container: Any) -> None:
    seen: list[str] = []

    def interrupt(_: int, text: str) -> None:
        seen.append(text)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="the program was sent SIGINT"):
        container.exec(["sh", "-c", "echo ready; exec sleep 60"], sink=interrupt)
    assert seen == ["ready\n"]
    assert wait_until(lambda: not any("sleep 60" in process["command"] for process in container.top()))
    assert container.exec(["echo", "goes on"]).stdout == "goes on\n"


def test_what_cannot_run_is_said(container: Any) -> None:
    with pytest.raises(ProgramNotFound, match="nowhere"):
        container.exec(["nowhere"])
    with pytest.raises(NotFound, match="/nowhere"):
        container.exec(["true"], workdir="/nowhere")
    assert container.exec(["true"]).returncode == 0


# -- output that is kept ----------------------------------------------------------------------------------------------
def test_logs_are_followed_as_they_come(vm_lab: Any) -> None:
    script = "trap 'echo b >&2; exit 3' USR1; echo a; while :; do sleep 0.01; done"
    container = vm_lab.run(["sh", "-c", script])
    seen: list[tuple[int, str]] = []

    def sink(stream: int, text: str) -> None:
        seen.append((stream, text))
        if text == "a\n":
            container.kill("SIGUSR1")

    container.follow(sink)
    assert seen == [(1, "a\n"), (2, "b\n")] and container.wait(patient(5)) == 3
    container.remove()


def test_a_flood_is_bounded_counted_and_in_order(vm_lab: Any) -> None:
    """More than a ring holds, read at the end and followed meanwhile."""
    script = "seq 400000; echo end >&2"
    container = vm_lab.run(["sh", "-c", script])
    pieces: list[str] = []
    container.follow(lambda stream, text: pieces.append(text) if stream == 1 else None)
    assert container.wait(patient(20)) == 0
    whole = "".join(f"{n}\n" for n in range(1, 400_001))
    logs = container.logs()
    assert whole.endswith(logs.stdout) and len(logs.stdout) > MIB // 2 and logs.stderr == "end\n"
    assert logs.dropped_bytes == len(whole) - len(logs.stdout)
    at = 0
    for piece in pieces:  # there may be gaps, but nothing comes twice, and nothing out of order
        at = whole.find(piece, at) + len(piece)
        assert at >= len(piece), piece[:60]
    assert at == len(whole)
    container.remove()


# -- files ------------------------------------------------------------------------------------------------------------
def test_files_both_ways(container: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    data = random.Random(2).randbytes(3 * MIB + 17)
    (tree / "below" / "large").write_bytes(data)
    (tree / "link").symlink_to("below/large")
    container.copy_in(tree, "/tmp/")
    digest = hashlib.sha256(data).hexdigest()
    assert container.exec(["sha256sum", "/tmp/tree/link"]).stdout.split()[0] == digest
    container.copy_out("/tmp/tree", tmp_path / "back")
    assert (tmp_path / "back" / "below" / "large").read_bytes() == data
    assert os.readlink(tmp_path / "back" / "link") == "below/large"
    with pytest.raises(NotFound, match="does not exist"):
        container.copy_out("/tmp/nothing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_script_and_the_standard_input_of_a_container_come_as_files(vm_lab: Any, container: Any) -> None:
    long = "echo begins\n" + "# a comment that is here to be long\n" * 20_000 + 'echo "and ends $1"\n'
    assert container.script(long).stdout.startswith("begins\nand ends")
    data = "x" * (2 * MIB)
    fed = vm_lab.run(["wc", "-c"], stdin=data)
    assert fed.wait(patient(10)) == 0 and fed.logs().stdout == f"{len(data)}\n"
    fed.remove()


# -- counters and events ----------------------------------------------------------------------------------------------
def test_counters_arrive(vm_lab: Any) -> None:
    container = vm_lab.run(["sh", "-c", "while :; do :; done"], name="busy")
    assert wait_until(lambda: len(vm_lab.stats("busy", last="2s")) > 5, 10, 0.1)
    before = vm_lab.stats("busy", last="5s")
    assert wait_until(
        lambda: vm_lab.stats("busy", last="5s")["cpu_seconds_total"].iloc[-1]
        > before["cpu_seconds_total"].iloc[-1] + 0.05,
        10, 0.1,
    )  # fmt: skip
    container.remove()


def test_starts_and_ends_are_told(vm_lab: Any) -> None:
    heard: list[Any] = []
    vm_lab._client.listen(heard.append)
    container = vm_lab.run(["sh", "-c", "trap 'exit 5' USR1; echo up; while :; do sleep 0.01; done"])
    said(container, "up")
    assert container.state == "running"
    background = container.exec(["sh", "-c", "touch /tmp/seen; exit 6"], detach=True)
    assert background.wait(patient(10)) == 6
    container.kill("SIGUSR1")

    def exited() -> list[int]:
        return [event.returncode for event in heard if isinstance(event, messages.Exited) and event.id == container.id]

    # The lab's own listener hears of it before this one does.
    assert seen(exited, bool) == [5] and (container.state, container.returncode) == ("exited", 5)
    assert [event.returncode for event in heard if isinstance(event, messages.ExecutionEnded)] == [6]
    vm_lab._client._listeners.remove(heard.append)
    removed = vm_lab.run(["true"], rm=True)
    assert wait_until(lambda: removed._gone)
    container.remove()


def test_events_keep_their_order_in_a_burst(vm_lab: Any) -> None:
    heard: list[str] = []

    def listener(event: object) -> None:
        if isinstance(event, messages.Exited):
            heard.append(event.id)

    vm_lab._client.listen(listener)
    made = vm_lab.run(["sleep", "600"], count=12, name="burst{n}")
    for container in made:
        container.kill()
    assert wait_until(lambda: len(heard) == 12)
    assert sorted(heard) == sorted(container.id for container in made)
    vm_lab._client._listeners.remove(listener)
    for container in made:
        container.remove()


# -- several at once --------------------------------------------------------------------------------------------------
def test_twenty_callers_at_once_get_each_its_own(vm_lab: Any, tmp_path: Path) -> None:
    containers = [vm_lab.run(), vm_lab.run()]

    def one(number: int) -> None:
        container = containers[number % 2]
        for turn in range(4):
            size = (number * 7919 + turn * 104_729) % 300_000
            done = container.exec(
                ["sh", "-c", f"cat; head -c {size} /dev/zero | tr '\\0' e >&2; exit {number}"], stdin=f"{number} {turn}"
            )
            assert (done.returncode, done.stdout, len(done.stderr)) == (number, f"{number} {turn}", size)
            container.write(f"/tmp/{number}", f"{turn}" * 1000)
            path = container.copy_out(f"/tmp/{number}", tmp_path / str(number))
            assert path.read_text() == f"{turn}" * 1000
            assert any(process["pid"] == 1 for process in container.top())

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))
    for container in containers:
        container.remove()


def test_a_caller_that_does_not_read_holds_up_nobody_else(container: Any) -> None:
    script = "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; i=$((i+1)); done"
    stuck = [Program(container, "sh", "-c", script) for _ in range(6)]
    try:
        for number in range(40):
            assert container.exec(["echo", str(number)]).stdout == f"{number}\n"
        big = container.exec(["sh", "-c", "head -c 3000000 /dev/zero"])
        assert len(big.stdout) == 3_000_000
        for program in stuck:
            assert drained(program.stdout) == b"x" * 4_000_000
            assert program.returncode() == 0
    finally:
        for program in stuck:
            program.close()


def test_calls_that_were_left_are_nobodys_answers(container: Any) -> None:
    for number in range(30):
        program = Program(container, "sh", "-c", f"cat; echo {number}")
        program.connection.close()
        program.close()
    assert container.exec(["echo", "mine"]).stdout == "mine\n"


# -- what is too large, and what must not stay ------------------------------------------------------------------------
def test_no_container_makes_an_answer_too_large(container: Any) -> None:
    # The command lines of forty processes of 1.9 MB each: `top` would answer with 76 MB, and 64 is the most.
    words = ["python3", "-c", "import subprocess\n" + "for _ in range(40): "
             "subprocess.Popen(['sleep', *(['0' * 120_000] * 15), '600'], stdin=-3)"]  # fmt: skip
    assert container.exec(words).returncode == 0
    commands = seen(  # a name is there before the command line is
        lambda: [process["command"] for process in container.top()],
        lambda found: sum(command.startswith("sleep 000") for command in found) == 40,
        10, 0.1,
    )  # fmt: skip
    assert all(len(command) <= 4097 for command in commands)
    container.script("for p in /proc/[0-9]*; do if grep -q sleep $p/comm; then kill ${p#/proc/}; fi; done")
    assert wait_until(lambda: _sleepers(container) == 0, 10, 0.1)
    assert wait_until(lambda: len(container.top()) == 1), container.top()


def _sleepers(container: Any) -> int:
    return int(container.exec(["sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null | grep -c sleep"]).stdout)


def test_a_call_that_is_too_large_is_one_error(vm_lab: Any) -> None:
    with pytest.raises(KernelError, match=r"too large: 66 MiB, and it may have 64 MiB at most \(EMSGSIZE\)"):
        vm_lab._call(messages.Top("x" * (66 * MIB)), messages.Table)
    with pytest.raises(CtlabError, match="no container with id"):
        vm_lab._call(messages.Top("y" * (5 * MIB)), messages.Table)


def test_what_cannot_pass_is_refused_by_name(vm_lab: Any, container: Any) -> None:
    end = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with pytest.raises(KernelError, match="only files, pipes and terminals can be passed into a virtual machine"):
        vm_lab._call(messages.Top(container.id), messages.Table, [writing, end])
    os.close(writing)
    os.close(end)
    assert wait_until(lambda: os.read(reading, 1) == b"")  # the keeper doesn't hold the one before it
    os.close(reading)


def test_half_of_a_file_is_not_taken_for_the_whole(container: Any) -> None:
    unreadable = os.open("/proc/self/mem", os.O_RDONLY)  # a file whose first byte is an input/output error
    program = Program(container, "cat", stdin=unreadable)
    with pytest.raises(KernelError, match=r"a file couldn't be passed into the VM: Input/output error \(EIO\)"):
        program.returncode()
    assert drained(program.stdout) == drained(program.stderr) == b""
    program.close()
    assert container.exec(["cat"], stdin="whole").stdout == "whole"


def test_streams_that_are_over_stay_in_neither_process(vm_lab: Any, container: Any) -> None:
    def held() -> int:
        facts = vm_lab._client.facts
        return sum(len(os.listdir(f"/proc/{facts[name]}/fd")) for name in ("keeper", "supervisor"))

    def some() -> None:
        for _ in range(10):
            assert container.exec(["true"], stdin=b"nobody reads this" * 10_000).returncode == 0
            program = Program(container, "sh", "-c", "exec 2>&-; yes")
            program.line()
            program.close("stdout")
            program.returncode()
            program.close()
            container.exec(["echo"], tty=True)
            with pytest.raises(ProgramNotFound):
                container.exec(["nowhere"], stdin=b"x")

    some()
    threading.Event().wait(0.5)
    before = held()
    for _ in range(4):
        some()
    assert wait_until(lambda: held() <= before + 5, 10, 0.1), (before, held())  # slots and runners come and go


def test_a_host_that_stands_still_makes_the_guest_wait_and_not_work(vm_lab: Any) -> None:
    """A container floods, is followed, and nothing is taken at the other end: its supervisor sleeps."""
    flood = vm_lab.run(["yes"], name="flood")
    facts = vm_lab._client.facts
    follower = ctlab.output.Follower(flood)
    said(flood, "y")
    os.kill(facts["keeper"], signal.SIGSTOP)
    try:
        threading.Event().wait(0.7)  # all that fits is under way
        before = _cpu_seconds(facts["supervisor"])
        threading.Event().wait(1.5)
        used = _cpu_seconds(facts["supervisor"]) - before
    finally:
        os.kill(facts["keeper"], signal.SIGCONT)
    assert used < 0.5
    head = follower.head
    assert wait_until(lambda: follower.head > head)
    follower.close()
    flood.remove()


def test_while_the_guest_stands_still_calls_wait_and_then_each_is_answered(vm_lab: Any, container: Any) -> None:
    supervisor = vm_lab._client.facts["supervisor"]
    answers: dict[int, str] = {}

    def one(number: int) -> None:
        answers[number] = container.exec(["cat"], stdin=f"{number}" * 5000).stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(30)]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for thread in threads:
            thread.start()
        for _ in range(5):  # and some who don't wait for theirs
            program = Program(container, "echo", "nobody hears this")
            program.connection.close()
            program.close()
        threading.Event().wait(0.5)
        assert answers == {}
    finally:
        os.kill(supervisor, signal.SIGCONT)
    for thread in threads:
        thread.join(patient(20))
    assert answers == {number: f"{number}" * 5000 for number in range(30)}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
