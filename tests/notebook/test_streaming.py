"""Programs in the foreground, in a real kernel: shown while they run, interrupted, never in each other's way."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

# Buffers on a pipe as every Python program does, so its lines come one by one only to a terminal.
TICKER = "import time\nfor n in range(3):\n    print('line', n)\n    time.sleep(1)\n"


@pytest.mark.parametrize("verb", ["run", "exec idle"])
def test_lines_come_while_the_program_runs(kernel: Any, verb: str) -> None:
    kernel.good("%container run -d --name idle")
    cell = kernel.good(f"%%container {verb} -- python3 -\n{TICKER}")
    first, last = cell.when("line 0"), cell.when("line 2")
    assert last - first > 0.6  # they didn't come all at once
    assert cell.stream() == "line 0\nline 1\nline 2\n"
    assert cell.value is None  # it was streamed; the result isn't shown as well
    result = kernel.good("_")
    assert result.value is not None and "<Completed" in result.value


def test_pipes_instead_of_terminals(kernel: Any) -> None:
    kernel.good("%container run -d --name idle")
    test = "import sys; print(sys.stdout.isatty(), sys.stderr.isatty())"
    assert kernel.good(f'%container exec idle -- python3 -c "{test}"').stream() == "True True\n"
    assert kernel.good(f'%container exec -T idle -- python3 -c "{test}"').stream() == "False False\n"
    assert kernel.good(f'%container run -- python3 -c "{test}"').stream() == "True True\n"
    assert kernel.good(f'%container run -T -- python3 -c "{test}"').stream() == "False False\n"


def test_stderr_goes_to_stderr(kernel: Any) -> None:
    cell = kernel.good("%container run -- sh -c 'echo out; echo err >&2'")
    assert cell.stream("stderr") == "err\n"
    assert cell.stream() == "lab 'lab' started\nout\n"


def shown(cell: Any) -> list[tuple[str, str]]:
    """The pieces that a cell was sent, in order: (stdout or stderr, text)."""
    streams = [message["content"] for message in cell.messages if message["msg_type"] == "stream"]
    return [(content["name"], content["text"]) for content in streams]


def test_the_order_of_print_and_both_streams_is_kept(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    script = "echo SECOND >&2; sleep 0.1; echo THIRD; sleep 0.1; echo FOURTH >&2"
    cell = kernel.good(f"print('FIRST')\n%container exec web -- sh -c '{script}'\nprint('FIFTH')")
    assert "".join(text for _, text in shown(cell)) == "FIRST\nSECOND\nTHIRD\nFOURTH\nFIFTH\n"
    assert [name for name, _ in shown(cell)] == ["stdout", "stderr", "stdout", "stderr", "stdout"]


@pytest.mark.parametrize("verb", ["run", "exec web"])
def test_lines_that_come_in_pieces_are_shown_whole(kernel: Any, verb: str) -> None:
    """As `ip -br` and `curl` write them: a word, or a letter, at a time."""
    kernel.good("%container run -d --name web")
    pieces = "for piece in ('a ', 'b ', f'{n}\\n'): time.sleep(0.002); os.write(2, piece.encode())"
    program = f"import os, time\nfor n in range(40):\n {pieces}\n"
    cell = kernel.good(f"%%container {verb} -- python3 -\n{program}")
    assert cell.stream("stderr") == "".join(f"a b {n}\n" for n in range(40))
    assert all(text.endswith("\n") for _, text in shown(cell))


def test_what_has_no_end_of_line_is_shown_while_the_program_waits(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    kernel.start("%container exec web -- sh -c 'printf \"name? \"; sleep 60'")
    kernel.until("name? ")
    kernel.interrupt()
    assert kernel.finish().stream() == "name? "
    assert kernel.good("%container exec web -- printf end").stream() == "end"


@pytest.mark.parametrize("named", ["", "--name job "])
def test_interrupting_run_stops_the_program_and_not_the_lab(kernel: Any, named: str) -> None:
    kernel.good("%container run -d --name other")
    kernel.start(
        f"%%container run {named}-- python3 -\nimport os, time, signal\n"
        # os.write, since the interrupt may come while print('ready') hasn't returned yet, and print isn't reentrant
        "signal.signal(signal.SIGINT, lambda *_: (os.write(1, b'got it'), exit(7)))\nprint('ready')\ntime.sleep(60)"
    )
    kernel.until("ready")
    kernel.interrupt()
    cell = kernel.finish()
    assert "got it" in cell.stream()
    assert cell.error is not None and cell.error["ename"] == "Interrupted"
    assert cell.error["traceback"][0].endswith("interrupted; the program was sent SIGINT")
    assert len(cell.error["traceback"]) == 2
    names = kernel.good("names = %container ps -a -q\nprint(names)")
    assert names.stream().strip() == ("['other', 'job']" if named else "['other']")


def test_interrupting_exec_stops_the_program_and_not_the_container(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    kernel.start("%container exec web -- sh -c 'echo ready; exec sleep 60'")
    kernel.until("ready")
    began = time.monotonic()
    kernel.interrupt()
    cell = kernel.finish()
    assert time.monotonic() - began < 3  # sleep dies of SIGINT
    assert cell.error is not None and cell.error["ename"] == "Interrupted"
    assert kernel.good("%container exec web -- echo still here").stream() == "still here\n"


def test_a_program_that_ignores_interrupts_is_ended_all_the_same(kernel: Any) -> None:
    kernel.good("%container run -d --name web")
    kernel.start("%container exec web -- sh -c \"trap '' INT TERM; echo ready; while :; do sleep 0.1; done\"")
    kernel.until("ready")
    began = time.monotonic()
    kernel.interrupt()
    cell = kernel.finish()
    assert 3.5 < time.monotonic() - began < 8  # SIGINT, 2 s, SIGTERM, 2 s, SIGKILL
    assert cell.error is not None and "SIGKILL" in cell.error["traceback"][0]


def test_interrupting_logs_ends_the_following_only(kernel: Any) -> None:
    kernel.good("%container run -d --name web -- sh -c 'n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.1; done'")
    kernel.start("%container logs -f web")
    kernel.until("tick 3")
    kernel.interrupt()
    cell = kernel.finish()
    assert cell.error is None and "it goes on" in cell.stream()
    assert "running" in str(kernel.good("_c = %container inspect web\n_c['state']").value)


def test_a_busy_cell_never_blocks_a_program_that_writes(kernel: Any) -> None:
    """The interpreter is held all the time; 4 MB would fill any pipe that only the notebook empties."""
    kernel.good(
        "%%container run -d --name web -- python3 -\nimport time\ntime.sleep(0.5)\n"
        "for n in range(64): print('x' * 65535)\nprint('written', time.time(), flush=True)\ntime.sleep(60)"
    )
    cell = kernel.good("import time\nend = time.time() + 10\nwhile time.time() < end:\n    pass\nprint(time.time())")
    assert cell.error is None
    last = kernel.good("log = %container logs web\nprint(log.splitlines()[-1])").stream().split()
    assert last[0] == "written" and float(last[1]) < float(cell.stream())


def test_a_cell_shows_one_megabyte_at_most(kernel: Any) -> None:
    cell = kernel.good("big = %container run -- sh -c 'head -c 3000000 /dev/zero | tr \"\\\\0\" x; echo; echo the end'")
    shown = cell.stream()
    assert 1_000_000 < len(shown) < 1_000_300
    assert "more isn't shown here" in shown[-200:]
    kept, dropped = map(int, kernel.good("print(len(big.stdout), big.dropped_bytes)").stream().split())
    assert kept > 1_000_000 and 3_000_009 <= kept + dropped <= 3_000_009 + 16 * 1000
    assert ("came too fast to be kept" in shown) == (dropped > 0)  # nothing is lost in silence


def test_quiet_shows_nothing_and_keeps_all(kernel: Any) -> None:
    cell = kernel.good("x = %container run -q -- echo hello\n")
    assert cell.stream() == "lab 'lab' started\n"
    assert kernel.good("print(x.stdout)").stream() == "hello\n\n"


def test_a_bar_of_progress_is_a_few_messages_and_ends_as_it_looks(kernel: Any) -> None:
    """As `apt-get update` and `curl` draw them: it was a message for each fifth of a second, with every look in it."""
    kernel.good("%container run -d --name web")
    bar = "for n in range(200):\n    print(end=f'\\r{n // 2}% [Working]', flush=True)\n    time.sleep(0.01)\n"
    cell = kernel.good(f"%%container exec web -- python3 -\nimport time\n{bar}print('\\rDone           ')\n")
    texts = [text for _, text in shown(cell)]
    assert len(texts) <= 8 and sum(map(len, texts)) < 200, texts
    assert texts[-1].endswith("\rDone           \n")
