"""Stop, while something is waited for: one line says what was interrupted and what goes on, and no more."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from kernel_help import no_hang, patient, wait_until

from ctlab.interrupts import Interrupted

# An interrupt inside of the library's socketpair leaves what nobody has a name of; its end closes it.
pytestmark = [pytest.mark.kernel, pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")]
# What is waited for, in which function of ctlab, what is said of it, and what goes on.
WAITS = {
    "%container wait web": ("ending.py", "wait", "the wait for the end of web, which is running"),
    "lab['web'].wait()": ("ending.py", "wait", "the wait for the end of web, which is running"),
    "%container stop web": ("ending.py", "wait", "the stop of web, which is running"),
    "%container restart web": ("ending.py", "wait", "the stop of web, which is running"),
    "%container run -d --name job --wait port:81": (
        "measuring.py", "wait_for_port", "the wait for port 81 of job, which goes on"),
    "lab.wait_for('web', 81, 600)": ("measuring.py", "wait_for_port", "the wait for port 81 of web, which goes on"),
    "process.wait()": ("execution.py", "wait", "the wait for the end of sleep 600 in web, which goes on"),
    "%container cp web:/dev/shm/big out": (
        "apart.py", "apart", "a copy of container web; what has been copied stays"),
    "%container cp /usr web:/srv": ("apart.py", "apart", "a copy of container web; what has been copied stays"),
    "lab['web'].follow(lambda *_: None)": ("output.py", "pieces", "the following of web, which is running"),
    "%container exec web -- sleep 600": (
        "execution.py", "_communicate", "web: interrupted; the program was sent SIGINT"),
    "%container run -- sleep 600": (
        "following.py", "stream_until_end", "c1: interrupted; the program was sent SIGINT"),
    "%lab start another": ("client.py", "_start_keeper", "the start of lab 'another'; nothing of it is left"),
    "%lab stop x": ("client.py", "_end_keeper", "the stop of lab 'x', which ends all the same"),
    "%container inspect web": ("inspecting.py", "inspect_container", "%container inspect web"),
}  # fmt: skip


def interrupt_in(file: str, function: str) -> threading.Thread:
    """Send an interrupt once the main thread is in that function of ctlab.

    And another if it stays there: one that comes just before a wait begins doesn't end it, as everywhere in Python.
    """
    main = threading.main_thread().ident
    assert main is not None

    def there() -> bool:
        frame = sys._current_frames().get(main)
        while frame is not None:
            if frame.f_code.co_name == function and frame.f_code.co_filename.endswith(f"/{file}"):
                return True
            frame = frame.f_back
        return False

    def work() -> None:
        while wait_until(there, 10, 0.0005):
            os.kill(os.getpid(), signal.SIGINT)
            if wait_until(lambda: not there(), 1):
                return

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("cell", WAITS, ids=lambda cell: cell.split("\n")[0])
def test_one_line_says_what_was_interrupted(
    shell: Any, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shell.run("lab = %lab start x")
    shell.run('%container run -d --name web -- sh -c "trap : TERM; echo up; while :; do sleep 0.1; done"')
    assert wait_until(lambda: "up" in shell.lab["web"].logs())  # else a stop wouldn't wait: it doesn't catch the signal
    shell.run("process = %container exec -d web -- sleep 600")
    if "/dev/shm/big" in cell:
        shell.run("%container exec web -- sh -c 'head -c 60000000 /dev/zero > /dev/shm/big'")
    file, function, said = WAITS[cell]
    supervisor = shell.run("lab")._client.facts["supervisor"]
    if function == "inspect_container":  # else it is over in a millisecond, before the interrupt
        os.kill(supervisor, signal.SIGSTOP)
    capsys.readouterr()
    interrupter = interrupt_in(file, function)
    try:
        with no_hang(30):
            error = shell.fails(cell)
        interrupter.join()
    finally:
        if function == "inspect_container":
            os.kill(supervisor, signal.SIGCONT)
    assert isinstance(error, Interrupted) and str(error) == said
    out, err = capsys.readouterr()
    shown = [line for line in (out + err).splitlines() if line and line != "up"]
    assert shown[0] == f"Interrupted: {said}" and shown[1].startswith("at Cell In["), shown
    assert len(shown) == 2, shown
    if cell == "%lab start another":
        assert shell.run("%lab ls -q") == ["x"]
    elif cell == "%lab stop x":
        assert shell.run("%lab ls -q") == []
    else:
        assert shell.run("%container exec web -- echo on").stdout == "on\n"


@pytest.mark.parametrize("words", ["", " --no-tty"])
@pytest.mark.parametrize("verb", ["exec", "run"])
def test_the_stop_button_is_ctrl_c_for_what_a_cells_script_runs(kernel: Any, verb: str, words: str) -> None:
    """Of two replies, ping had not yet told its statistics when it was killed."""
    kernel.good("%container run -d --name web")
    head = f"%%container {verb}{words}" + (" web" if verb == "exec" else "")
    for script, first, last in (
        ("ping web", "icmp_seq=1", "packets transmitted"), ("ping web | cat", "icmp_seq=1", "icmp_seq=1"),
        ("sh -c 'echo up; exec sleep 600'; echo never", "up", "up"),
    ):  # fmt: skip
        kernel.start(f"{head}\n{script}")
        kernel.until(first, patient(10))
        kernel.interrupt()
        cell = kernel.finish(patient(10))
        assert cell.error is not None and cell.error["ename"] == "Interrupted", script
        assert cell.error["traceback"][0].endswith("interrupted; the program was sent SIGINT"), script
        assert last in cell.stream() and "never" not in cell.stream(), script
        assert cell.stream().count("icmp_seq") <= 2, script
