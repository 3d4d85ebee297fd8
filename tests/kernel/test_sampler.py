"""The sampler as a process of its own: its grid, its messages, its rings."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kernel_help import helpers, no_hang, patient, seen, wait_until
from sampler_world import NEW_NETWORK, V1, end, given, start_busy

from ctlab.metrics.columns import CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA, NETWORK, SOURCE_CODES
from ctlab.metrics.ring import Ring

pytestmark = pytest.mark.kernel


SAMPLER = """
import socket, sys
from ctlab.metrics import sampler
before = set(sys.modules)
sampler.main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
print(sorted(set(sys.modules) - before))
"""


class Running:
    """A sampler in a process of its own, and the rings it writes."""

    def __init__(self, interval: float, capacity: int = 1000) -> None:
        self.containers = Ring.create(CONTAINERS_SCHEMA, capacity)
        self.endpoints = Ring.create(ENDPOINTS_SCHEMA, capacity)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(patient(10))
        fds = (theirs.fileno(), self.containers.fd, self.endpoints.fd)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SAMPLER, *map(str, fds), str(interval)],
            pass_fds=fds,
            stdout=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        self.count = 0

    def tell(self, message: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any]:
        """Send a message, give its descriptors away, return the answer (an error's or the reply to it)."""
        self.count += 1
        socket.send_fds(self.control, [json.dumps({**message, "reply": self.count}).encode()], fds or [])
        for descriptor in fds or []:
            os.close(descriptor)
        answers: dict[str, Any] = {}
        while "reply" not in answers:
            answers.update(json.loads(self.control.recv(1 << 16)))
        assert answers.pop("reply") == self.count
        return answers

    def folders(self, source: str, fds: dict[str, int]) -> None:
        assert self.tell({"do": "folders", "source": source, "controllers": list(fds)}, [*fds.values()]) == {}

    def rows(self, ring: Ring) -> list[dict[str, float]]:
        copied = ring.snapshot().columns
        return [dict(zip(copied, row, strict=True)) for row in zip(*copied.values(), strict=True)]

    def close(self) -> None:
        self.control.close()
        output, _ = self.process.communicate(timeout=patient(10))
        assert self.process.returncode == 0
        assert output == "[]\n"  # nothing was imported once it ran
        self.containers.close()
        self.endpoints.close()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running(0.02)
    yield one
    one.close()


def test_a_container_is_sampled_on_a_grid(running: Running, group: dict[str, Path]) -> None:
    source, fds = given(group, *V1, "unified")
    running.folders(source, fds)
    assert running.tell({"do": "add", "key": 5, "group": "."}) == {}
    process = start_busy(group)
    before = seen(lambda: running.containers.head, lambda head: head >= 20)
    assert running.tell({"do": "remove", "key": 5}) == {}  # takes a last sample
    rows = running.rows(running.containers)
    assert len(rows) > before
    assert {row["container_key"] for row in rows} == {5} and {row["source"] for row in rows} == {SOURCE_CODES[source]}
    assert rows[-1]["cpu_seconds_total"] >= 0.4 and rows[-1]["memory_bytes"] > 24 << 20
    assert all(a["time_ns"] < b["time_ns"] and a["read_ns"] < b["read_ns"] for a, b in pairwise(rows))
    assert all(a["cpu_seconds_total"] <= b["cpu_seconds_total"] for a, b in pairwise(rows))
    slow = [row for row in rows if not math.isnan(row["memory_working_set_bytes"])]
    assert 1 <= len(slow) < len(rows) / 3  # the expensive file about once a second
    assert math.isnan(rows[-1]["rx_bytes_total"])  # nobody said which endpoints it has
    state = running.containers.state()
    assert state["interval_seconds"] == 0.02 and state["writer_pid"] == running.process.pid
    # every deadline was either kept or counted as missed
    took = (time.time_ns() - state["started_ns"]) / 1e9

    def late() -> float:
        now = running.containers.state()
        return float((time.time_ns() - now["started_ns"]) / 1e9 - (now["ticks"] + now["missed_ticks"]) * 0.02)

    assert wait_until(lambda: abs(late()) <= 0.2), late()
    assert 0 < state["cpu_seconds"] < took and 0 < state["tick_seconds"] <= state["tick_seconds_max"]
    assert state["read_errors"] == 0
    end(process)


def test_pause_resume_interval_and_mistakes(running: Running, group: dict[str, Path]) -> None:
    source, fds = given(group, "pids")
    running.folders(source, fds)
    running.tell({"do": "add", "key": 1, "group": "."})
    running.tell({"do": "pause"})
    assert running.containers.state()["paused"] == 1
    head = running.containers.head
    time.sleep(0.1)
    assert running.containers.head == head

    def passed() -> int:
        now = running.containers.state()
        return int(now["ticks"] + now["missed_ticks"])

    began = passed()
    running.tell({"do": "interval", "seconds": 0.005})
    running.tell({"do": "resume"})
    time.sleep(0.3)
    assert passed() - began > 20 and wait_until(lambda: running.containers.head > head)
    assert "between" in running.tell({"do": "interval", "seconds": 0})["error"]
    assert "no such message" in running.tell({"do": "dance"})["error"]
    assert "error" not in running.tell({"do": "remove", "key": 99})  # it ended before it was ever read
    assert "KeyError" in running.tell({"do": "endpoints", "key": 99, "links": [], "node": "host"})["error"]
    assert "KeyError" in running.tell({"do": "add", "key": 2})["error"]
    wrong = os.open("/", os.O_RDONLY)
    answer = running.tell({"do": "folders", "source": "cgroup-v1", "controllers": ["cpu", "memory"]}, [wrong])
    assert "ValueError" in answer["error"]
    running.folders("cgroup-v3", {})
    assert "KeyError" in running.tell({"do": "add", "key": 2, "group": "."})["error"]
    socket.send_fds(running.control, [b"{"], [os.open("/", os.O_RDONLY)])
    assert "JSON" in json.loads(running.control.recv(1 << 16))["error"]
    running.tell({"do": "resume"})
    # whatever was sent along with a mistake has been closed
    held = os.listdir(f"/proc/{running.process.pid}/fd")
    assert [fd for fd in held if os.readlink(f"/proc/{running.process.pid}/fd/{fd}") == "/"] == []
    running.tell({"do": "stop"})
    running.process.wait(patient(10))


def test_a_container_counted_by_proc(running: Running, pid_namespace: tuple[int, subprocess.Popen[str]]) -> None:
    pid, _ = pid_namespace
    message = {"do": "add", "key": 9, "pid": pid}
    assert "bring a /proc" in running.tell(message)["error"]
    assert running.tell(message, [os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)]) == {}
    assert running.tell({"do": "endpoints", "key": 9, "links": [], "node": "host"}) == {}
    # It has no endpoint: nothing was received, and that is known from the next row on.
    assert wait_until(lambda: [row["rx_bytes_total"] for row in running.rows(running.containers)][-1:] == [0])
    last = running.rows(running.containers)[-1]
    assert last["source"] == SOURCE_CODES["proc"] and last["pids"] == 2 and last["cpu_seconds_total"] > 0.5
    assert math.isnan(last["memory_bytes"]) and last["memory_rss_bytes"] > 0
    assert running.tell({"do": "remove", "key": 9}) == {}
    # One that ends before it is added is no failure to who knows its namespace, and has no row.
    with subprocess.Popen(["true"]) as ended:
        pass
    gone = {"do": "add", "key": 10, "pid": ended.pid}
    assert "No such file" in running.tell(gone)["error"]
    assert running.tell(gone | {"namespace": 1}) == {}
    assert running.tell({"do": "remove", "key": 10}) == {}


# Runs in a network namespace of its own: makes veth pairs, hands a netlink socket to the sampler and sends.
NODE = (
    NEW_NETWORK
    + """
for n in (0, 1):
    ip.link("add", ifname=f"node{n}", kind="veth", peer=f"cont{n}")
    for name in (f"node{n}", f"cont{n}"):
        ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
out = socket.socket(fileno=int(sys.argv[1]))
sock = link_stats.open_socket()
socket.send_fds(out, [json.dumps([ip.link_lookup(ifname=f"node{n}")[0] for n in (0, 1)]).encode()], [sock.fileno()])
sock.close()
raw = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW) for _ in range(3)]
for one, name in zip(raw, ("node0", "cont0", "node1")):
    one.bind((name, 0x88B5))
def frames(one, count, size):
    for _ in range(count):
        one.send(b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5" + bytes(size - 14))
while True:
    order = out.recv(100)
    if order == b"":
        break
    which, count, size = json.loads(order)
    frames(raw[which], count, size)
    out.send(b"sent")
"""
)


def test_what_the_node_sends_the_container_receives(running: Running, group: dict[str, Path]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    body, fds, _, _ = socket.recv_fds(ours, 1000, 4)
    if not body:
        said = node.communicate()[0].strip()
        assert node.returncode == 77, f"the node failed (status {node.returncode}): {said}"
        pytest.skip(said)
    first, second = json.loads(body)

    def send(which: int, count: int, size: int) -> None:
        ours.send(json.dumps([which, count, size]).encode())
        assert ours.recv(100) == b"sent"

    source, folder = given(group, "pids")
    running.folders(source, folder)
    running.tell({"do": "add", "key": 1, "group": "."})
    running.tell({"do": "node", "name": "host"}, fds)
    running.tell({"do": "endpoints", "key": 1, "links": [[70, first], [71, second]], "node": "host"})
    send(0, 50, 1000)  # node0 -> the container's first interface
    send(1, 20, 500)  # the container's first interface -> node0
    send(2, 5, 200)  # node1 -> the container's second interface

    def newest_rows() -> dict[int, dict[str, Any]]:
        return {row["endpoint_key"]: row for row in running.rows(running.endpoints)}

    def counted() -> bool:
        found = newest_rows()
        return (
            set(found) == {70, 71}
            and found[70]["rx_packets_total"] >= 50
            and found[70]["tx_packets_total"] >= 20
            and found[71]["rx_bytes_total"] >= 1_000
        )

    assert wait_until(counted), newest_rows()
    rows = running.rows(running.endpoints)
    newest = {row["endpoint_key"]: row for row in rows}
    assert set(newest) == {70, 71} and {row["container_key"] for row in rows} == {1}
    assert 50_000 <= newest[70]["rx_bytes_total"] < 52_000 and 50 <= newest[70]["rx_packets_total"] < 70
    assert 10_000 <= newest[70]["tx_bytes_total"] < 12_000 and 20 <= newest[70]["tx_packets_total"] < 40
    assert 1_000 <= newest[71]["rx_bytes_total"] < 3_000
    total = next(row for row in running.rows(running.containers) if row["time_ns"] == newest[70]["time_ns"])
    for column in NETWORK:
        assert total[column.name] == newest[70][column.name] + newest[71][column.name]
    # an endpoint that is taken away takes nothing out of the container's sums
    running.tell({"do": "endpoints", "key": 1, "links": [[71, second]], "node": "host"})
    latest = running.containers.head
    assert wait_until(lambda: running.containers.head > latest + 1)
    assert running.rows(running.containers)[-1]["rx_bytes_total"] >= total["rx_bytes_total"]
    assert running.rows(running.endpoints)[-1]["endpoint_key"] == 71
    # a node that is gone: its numbers are unknown, not zero
    running.tell({"do": "node", "name": "host"})
    assert wait_until(lambda: math.isnan(running.rows(running.containers)[-1]["rx_bytes_total"]))
    ours.close()
    node.communicate(timeout=patient(10))


def test_the_end_of_the_socket_is_the_end(running: Running) -> None:
    running.control.close()
    assert running.process.wait(patient(5)) == 0


def test_a_full_answer_queue_does_not_stop_it(running: Running) -> None:
    running.control.setblocking(False)
    sent = 0
    for _ in range(2000):  # mistakes are answered, nobody reads the answers
        try:
            running.control.send(b'{"do": "nothing"}')
            sent += 1
        except BlockingIOError:
            time.sleep(0.002)
    assert sent > 300
    ticks = running.containers.state()["ticks"]
    assert wait_until(lambda: running.containers.state()["ticks"] > ticks)


@pytest.mark.long_in_guest
def test_stats_has_what_an_exec_has_just_done(runtime_base: Path) -> None:
    """The newest row was as old as the sampler's interval: a busy loop that had just ended was not in it."""
    from ctlab import Lab

    with Lab("now", interval=30) as lab:
        if lab._client.facts["cgroup"] == "none":
            pytest.skip("no cgroup to read when its processes have gone")
        web = lab.run(name="web")
        for number in range(1, 4):
            web.exec(["python3", "-c", "import time\nwhile time.process_time() < 0.1: pass"])
            assert web.stats(rates=False)["cpu_seconds_total"].iloc[-1] >= 0.1 * number
        assert web.stats()["memory_working_set_bytes"].notna().all()  # an asked row has everything


def test_what_is_read_beside_the_grid_leaves_the_grid(running: Running, group: dict[str, Path]) -> None:
    source, fds = given(group, *V1, "unified")
    running.folders(source, fds)
    running.tell({"do": "add", "key": 1, "group": "."})
    running.tell({"do": "interval", "seconds": 3600})
    before, head = running.containers.state(), running.containers.head
    for number in range(1, 4):
        assert running.tell({"do": "now"}) == {}
        assert running.containers.head == head + number
    after = running.containers.state()
    assert [after[name] for name in ("ticks", "missed_ticks")] == [before[name] for name in ("ticks", "missed_ticks")]
    running.tell({"do": "pause"})
    assert running.tell({"do": "now"}) == {} and running.containers.head == head + 3


@pytest.mark.long_in_guest
def test_a_sampler_that_is_stopped_holds_neither_a_frame_nor_a_removal_up(runtime_base: Path) -> None:
    from ctlab import Lab

    with Lab("stopped") as lab:
        web = lab.run(name="web")
        (pid,) = seen(lambda: helpers(lab, "sampler"), bool)
        os.kill(pid, signal.SIGSTOP)
        paths = [Path(path) for path in lab._client.facts["cgroup_paths"]]
        folders = {path for base in paths for path in base.glob("c[0-9]*")}
        with no_hang(10):
            lab.stats()
            web.remove()
            assert paths == [] or wait_until(lambda: not all(path.exists() for path in folders))
        os.kill(pid, signal.SIGCONT)


def test_the_folder_of_what_has_ended_stays_until_it_has_been_read(runtime_base: Path) -> None:
    """It went after 20 ms, and with it what a sampler that came later would have read."""
    from ctlab import Lab

    busy = ["python3", "-c", "import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(100)"]
    with Lab("unread", interval=30) as lab:
        if lab._client.facts["cgroup"] == "none":
            pytest.skip("no cgroup to read when its processes have gone")
        web = lab.run(busy, name="web")

        def used() -> float:
            return float(lab.stats(last=None, rates=False)["cpu_seconds_total"].max())

        assert wait_until(lambda: used() >= 0.2, 20)
        lines = Path(f"/proc/{web.pid}/cgroup").read_text().splitlines()  # version 1 has several, version 2 one
        paths = [Path(path) for path in lab._client.facts["cgroup_paths"]]
        names = {line.rpartition("/")[2] for line in lines} - {""}
        folders = [path / name for path in paths for name in names if (path / name).exists()]
        web.exec([*busy[:2], busy[2].partition("time.sleep")[0]])
        (pid,) = helpers(lab, "sampler")
        os.kill(pid, signal.SIGSTOP)
        web.kill()
        until = time.monotonic() + 0.2  # a fifth of what the sampler is waited for, however slow this machine is
        while (stayed := all(path.exists() for path in folders)) and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(pid, signal.SIGCONT)
        assert stayed and folders
        assert wait_until(lambda: used() >= 0.4) and wait_until(lambda: not any(path.exists() for path in folders))


@pytest.mark.long_in_guest
def test_a_restart_leaves_the_last_row_of_what_it_ends(runtime_base: Path) -> None:
    from ctlab import Lab

    with Lab("restarted", interval=30) as lab:
        if lab._client.facts["cgroup"] == "none":
            pytest.skip("no cgroup to read when its processes have gone")
        web = lab.run(name="web")
        lab.stats()
        web.exec(["python3", "-c", "import time\nwhile time.process_time() < 0.2: pass"])
        web.restart(timeout=0)
        frame = lab.stats(last=None, rates=False)
        assert frame["cpu_seconds_total"].max() >= 0.2 > frame["cpu_seconds_total"].iloc[-1]


def test_what_has_ended_has_a_last_row_with_its_totals(runtime_base: Path) -> None:
    """Between two samples, and also where the program was too short for any."""
    from ctlab import Lab

    with Lab("last", interval=30) as lab:
        if lab._client.facts["cgroup"] == "none":
            pytest.skip("no cgroup to read when its processes have gone")
        names = ["short", "busy", "killed"]
        lab.run(["true"], name="short").wait(patient(10))
        busy = "import time\nwhile time.process_time() < 0.2: pass\n"
        lab.run(["python3", "-c", busy], name="busy").wait(patient(30))
        lab.run(["sleep", "100"], name="killed").kill()

        def rows() -> Any:
            return lab.stats(last=None, metrics="cpu_seconds_total", rates=False)

        frame = seen(rows, lambda frame: set(frame["container"]) == set(names))
        found = dict(zip(frame["container"], frame["cpu_seconds_total"], strict=True))
        assert list(found) == names and found["busy"] >= 0.2 and all(0 < value < 30 for value in found.values())
