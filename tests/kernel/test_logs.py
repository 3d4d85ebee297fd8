"""What containers write: kept apart, in order, bounded, and never in anybody's way."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from kernel_help import helpers, need_freezer, patient, wait_until

from ctlab.errors import StateError
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel
MEGABYTE = 1 << 20


def test_apart_and_in_order(lab: Any) -> None:
    script = "import os\nfor n in range(200): os.write(1 + n % 2, b'%d\\n' % n)"
    container = lab.run(["python3", "-c", script])
    container.wait(patient(5))
    logs = container.logs()
    assert logs.stdout.split() == [str(n) for n in range(0, 200, 2)]
    assert logs.stderr.split() == [str(n) for n in range(1, 200, 2)]
    assert sorted(map(int, logs.split())) == list(range(200)) and logs.dropped_bytes == 0


def test_lines_that_alternate_slowly_are_in_order(lab: Any) -> None:
    script = "for n in 1 2 3 4; do echo o$n; sleep 0.15; echo e$n >&2; sleep 0.15; done"
    container = lab.run(["sh", "-c", script])
    container.wait(patient(5))
    assert container.logs().split() == [f"{kind}{n}" for n in range(1, 5) for kind in "oe"]


def test_everything_written_before_the_end_is_there(lab: Any) -> None:
    for n in range(20):
        container = lab.run(["sh", "-c", f"head -c 60000 /dev/zero | tr '\\0' x; echo end{n}"])
        container.wait(patient(5))
        assert container.logs().endswith(f"end{n}\n") and len(container.logs()) == 60000 + len(f"end{n}\n")
        container.remove()


def test_a_flood_is_bounded_and_what_was_dropped_is_counted(lab: Any) -> None:
    size = 20 * MEGABYTE
    script = f"import os\nfor n in range({size // 4096}): os.write(1, (b'%015d\\n' % n) * 256)\nos.write(2, b'done')"
    container = lab.run(["python3", "-c", script])
    assert container.wait(patient(20)) == 0
    logs = container.logs()
    assert len(logs.stdout) + len(logs.stderr) + logs.dropped_bytes == size + 4
    assert MEGABYTE // 2 < len(logs.stdout) <= MEGABYTE
    assert logs.stderr == "done" and logs.stdout.endswith(f"{size // 4096 - 1:015d}\n")
    assert container.failure().dropped_bytes == logs.dropped_bytes


def test_a_flood_without_end_blocks_nobody(lab: Any) -> None:
    flood = lab.run(["sh", "-c", "yes; echo never"], name="flood")
    assert wait_until(lambda: flood.logs().dropped_bytes > 0, 10)
    begun = time.monotonic()
    for _ in range(5):
        flood.logs()
        assert lab.run(["echo", "here"], rm=False).wait(patient(5)) == 0
    assert flood.exec(["echo", "inside"]).stdout == "inside\n"
    assert time.monotonic() - begun < patient(5)
    assert flood.logs().startswith(("y", "\n"))
    flood.kill()


def test_a_notebook_that_holds_everything_up_does_not_block_a_container(lab: Any) -> None:
    """What writes goes on while nobody here reads: the program ends although 5 MB were never asked for."""
    container = lab.run(["sh", "-c", "head -c 5000000 /dev/zero"])
    until = time.monotonic() + patient(10)
    pid = container.pid
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        sum(range(100_000))  # the interpreter is busy, as in a cell that computes
    assert not os.path.exists(f"/proc/{pid}")


def test_follow_gives_it_as_it_comes(lab: Any) -> None:
    script = "trap 'echo b >&2; exit 3' USR1; echo a; while :; do sleep 0.01; done"
    container = lab.run(["sh", "-c", script])
    seen: list[tuple[int, str]] = []

    def sink(stream: int, text: str) -> None:
        seen.append((stream, text))
        if text == "a\n":
            container.kill("USR1")

    container.follow(sink)
    assert seen == [(1, "a\n"), (2, "b\n")]
    assert container.wait(patient(5)) == 3


def test_stream_until_end_gives_the_status(lab: Any) -> None:
    seen: list[str] = []
    container = lab.run(["sh", "-c", "echo x; exit 6"])
    assert container.stream_until_end(lambda _, text: seen.append(text)).returncode == 6
    assert "".join(seen) == "x\n"


def test_tail_and_time_stamps(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo one; echo two; echo three"])
    container.wait(patient(5))
    assert container.logs(tail=2) == "two\nthree\n" and container.logs(tail=0) == ""
    stamped = container.logs(timestamps=True).splitlines()
    assert [line[10] + line[29:] for line in stamped] == ["TZ one", "TZ two", "TZ three"]
    assert container.logs(since="1h") == container.logs() and container.logs(since=1e-9) == ""


def test_output_of_several_runs_is_kept(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo x >> /tmp/n; wc -l < /tmp/n"])
    container.wait(patient(5))
    for _ in range(2):
        container.start().wait(patient(5))
    assert container.logs() == "1\n2\n3\n"


def test_bytes_that_are_not_text(lab: Any) -> None:
    container = lab.run(["printf", r"a\377\303\274b"])
    container.wait(patient(5))
    assert container.logs() == "a\N{REPLACEMENT CHARACTER}üb"


def test_a_character_written_in_two_pieces_is_one(lab: Any) -> None:
    container = lab.run(["sh", "-c", r"printf '\303'; sleep 0.05; printf '\274'"])
    container.wait(patient(5))
    assert container.logs() == "ü" == container.logs().stdout


def test_closed_streams(lab: Any) -> None:
    container = lab.run(["sh", "-c", "echo before; exec >&- 2>&-; exec sleep 60"])
    assert wait_until(lambda: container.logs() == "before\n")
    assert container.state == "running"


def test_a_terminal_of_its_own(lab: Any) -> None:
    script = "import sys; print(sys.stdout.isatty(), end='.'); sys.stdin.read()"
    container = lab.run(["python3", "-c", script], tty=True)
    container.wait(patient(5))
    assert container.logs() == "True."


def test_logs_of_a_removed_container_say_so(lab: Any) -> None:
    container = lab.run(["echo", "x"])
    container.wait(patient(5))
    container.remove()
    with pytest.raises(StateError, match="it was removed"):
        container.logs()


def test_logs_of_a_paused_container(lab: Any) -> None:
    need_freezer(lab)
    container = lab.run(["sh", "-c", "echo x; exec sleep 60"])
    assert wait_until(lambda: container.logs() == "x\n")
    container.pause()
    assert container.logs() == "x\n"


def test_many_followers_and_readers_at_once(lab: Any) -> None:
    container = lab.run(["sh", "-c", "for n in $(seq 200); do echo $n; sleep 0.002; done"])
    found: list[str] = []

    def follow() -> None:
        pieces: list[str] = []
        container.follow(lambda _, text: pieces.append(text))
        found.append("".join(pieces))

    threads = [threading.Thread(target=follow) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        container.logs(tail=1)
    assert found == ["".join(f"{n}\n" for n in range(1, 201))] * 8


def test_following_leaves_nothing_in_the_collector(lab: Any) -> None:
    container = lab.run(["sleep", "60"])
    (collector,) = helpers(lab, "collector")
    from ctlab.output import Follower

    def once() -> None:
        with Follower(container) as follower:
            follower.read(lambda *_: None)

    once()
    count = len(os.listdir(f"/proc/{collector}/fd"))
    for _ in range(30):
        once()
    container.logs()
    assert len(os.listdir(f"/proc/{collector}/fd")) <= count + 2


def test_nobody_can_cut_off_what_an_owner_maps(lab: Any) -> None:
    """What is read of a mapping behind the end of its file is SIGBUS, for the notebook."""
    container = lab.run(["echo", "x"])
    found = lab._call(messages.Logs(container.id), messages.Output).descriptors
    found += lab._call(messages.Rings(), messages.Counters).descriptors
    assert len(found) == 3
    for descriptor in found:
        for size in (0, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        os.close(descriptor)
    container.remove()
