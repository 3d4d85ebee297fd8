"""The sampler and what it reads with, against this kernel: netlink counters, cgroups, /proc, the process itself."""

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

from ctlab.kernel import cgroup_stats, proc_stats
from ctlab.metrics.columns import CONTAINERS_SCHEMA, ENDPOINTS_SCHEMA, NETWORK, SOURCE_CODES
from ctlab.metrics.ring import Ring

pytestmark = pytest.mark.kernel

CGROUP = Path("/sys/fs/cgroup")
V1 = ("cpu", "cpuacct", "memory", "pids", "blkio")


def python(code: str, *arguments: str, fds: tuple[int, ...] = ()) -> str:
    """Run a script in a process of its own (which may change its namespaces); its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, pass_fds=fds, check=False
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


NEW_NETWORK = """
import json, os, socket, sys
from ctlab.kernel import link_stats, syscalls
try:
    if os.getuid():
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    syscalls.unshare(syscalls.CLONE_NEWNET)
except OSError as error:
    print("no network namespace:", error)
    sys.exit(77)
from pyroute2 import IPRoute
ip = IPRoute()
"""

COMPARE = (
    NEW_NETWORK
    + """
ip.link("set", index=1, state="up")
for n in range(60):
    ip.link("add", ifname=f"v{n}", kind="veth", peer=f"w{n}")
for name in ("v0", "w0", "v1", "w1"):
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
import time
until = time.monotonic() + 5  # a link that has just come up drops what is sent before the kernel's link watch ran
while time.monotonic() < until and ip.get_links(ifname="v0")[0].get_attr("IFLA_OPERSTATE") != "UP":
    time.sleep(0.005)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("v0", 0x88B5))
for n in range(7):
    raw.send(b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5" + bytes(100 + n))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(bytes(1000), ("127.0.0.1", 9))
time.sleep(0.1)
counters = link_stats.LinkCounters(link_stats.open_socket())
for attempt in range(5):  # a background packet (IPv6) may fall between two dumps
    judge = {}
    for link in ip.get_links():
        s = link.get_attr("IFLA_STATS64")
        judge[link["index"]] = [s[f"{d}_{w}"] for d in ("rx", "tx") for w in ("bytes", "packets", "errors", "dropped")]
    by_stats = counters.read()
    first = counters.request
    counters.request = link_stats.RTM_GETLINK
    by_link = counters.read()
    counters.request = link_stats.RTM_GETSTATS
    as_lists = [{i: list(c) for i, c in found.items()} for found in (by_stats, by_link)]
    if as_lists == [judge, judge]:
        break
print(json.dumps({
    "judge": judge, "stats": by_stats, "link": by_link, "v0": ip.link_lookup(ifname="v0")[0],
    "w0": ip.link_lookup(ifname="w0")[0], "swapped": link_stats.swapped((1, 2, 3, 4, 5, 6, 7, 8)),
}))
"""
)


def test_link_counters_are_those_that_pyroute2_reads() -> None:
    answer = json.loads(python(COMPARE))
    assert len(answer["judge"]) == 121
    assert answer["stats"] == answer["judge"]
    assert answer["link"] == answer["judge"]
    sent, received = answer["stats"][str(answer["v0"])], answer["stats"][str(answer["w0"])]
    assert sent[4] >= sum(114 + n for n in range(7)) and sent[5] >= 7  # tx bytes, packets
    assert received[0] >= sum(114 + n for n in range(7)) and received[1] >= 7
    assert answer["stats"]["1"][0] >= 1028
    assert answer["swapped"] == [5, 6, 7, 8, 1, 2, 3, 4]


# ---- cgroups


@pytest.fixture
def group() -> Iterator[dict[str, Path]]:
    """A fresh v1 group, one folder for each controller, and a v2 folder as `unified` where there is one."""
    name = f"ctlab-test-{os.getpid()}-{time.monotonic_ns()}"
    made: dict[str, Path] = {}
    try:
        for controller in (*V1, "unified"):
            folder = CGROUP / controller / name
            try:
                folder.mkdir()
            except OSError as error:
                if controller != "unified":
                    pytest.skip(f"no cgroup v1 {controller} that can be written: {error}")
            else:
                made[controller] = folder
        yield made
    finally:
        for folder in made.values():
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)


def folders(group: dict[str, Path], *names: str) -> dict[str, int]:
    return {name: os.open(group[name], os.O_RDONLY | os.O_DIRECTORY) for name in names if name in group}


def counters(reader: cgroup_stats.CgroupReader, slow: bool = True) -> dict[str, float]:
    values = reader.read(slow=slow)
    assert values is not None
    return dict(zip(cgroup_stats.FIELDS, values, strict=True))


BUSY = """
import os, sys, time
for path in sys.argv[1:]:
    with open(path + "/tasks" if "unified" not in path else path + "/cgroup.procs", "w") as file:
        file.write("0")
ballast = bytearray(24 << 20)
for n in range(0, len(ballast), 4096):
    ballast[n] = 1
end = time.process_time() + 0.4
while time.process_time() < end:
    pass
print("done", flush=True)
sys.stdin.read()
"""


def start_busy(group: dict[str, Path]) -> subprocess.Popen[str]:
    """A process of the group that has used 0.4 s of CPU and 24 MiB, and now waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, *map(str, group.values())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "done\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize("with_unified", [False, True])
def test_v1_counters(group: dict[str, Path], with_unified: bool) -> None:
    if with_unified and "unified" not in group:
        pytest.skip("no v2 folder beside v1 here")
    (group["memory"] / "memory.limit_in_bytes").write_text(str(64 << 20))
    given = folders(group, *V1, *(["unified"] if with_unified else []))
    reader = cgroup_stats.CgroupReader("v1", given)
    for descriptor in given.values():
        os.close(descriptor)
    before = counters(reader)
    assert before["cpu_seconds_total"] == before["pids"] == before["memory_bytes"] == 0
    process = start_busy(group)
    after = counters(reader)
    assert 0.4 <= after["cpu_seconds_total"] < 2
    parts = after["cpu_user_seconds_total"] + after["cpu_system_seconds_total"]
    assert parts == pytest.approx(after["cpu_seconds_total"], abs=0.05)
    assert 24 << 20 <= after["memory_bytes"] <= after["memory_peak_bytes"] <= after["memory_limit_bytes"] == 64 << 20
    assert 24 << 20 <= after["memory_working_set_bytes"] <= after["memory_bytes"]
    assert after["pids"] == 1 and after["oom_kills_total"] == after["cpu_throttled_seconds_total"] == 0
    assert after["io_read_bytes_total"] >= 0
    assert math.isnan(after["cpu_pressure_seconds_total"]) is not with_unified
    quick = counters(reader, slow=False)
    assert math.isnan(quick["memory_working_set_bytes"]) and quick["memory_bytes"] > 24 << 20
    assert quick["memory_limit_bytes"] == 64 << 20  # a setting: held between
    end(process)
    for folder in group.values():
        folder.rmdir()
    assert reader.read() is None and reader.errors == 0
    reader.close()


THROTTLED = """
import sys, time
open(sys.argv[1] + "/tasks", "w").write("0")
end = time.monotonic() + 0.6
while time.monotonic() < end:
    pass
"""


def test_throttling_and_a_missing_controller(group: dict[str, Path]) -> None:
    (group["cpu"] / "cpu.cfs_quota_us").write_text("10000")  # a tenth of a CPU
    reader = cgroup_stats.CgroupReader("v1", given := folders(group, "cpu", "cpuacct"))
    for descriptor in given.values():
        os.close(descriptor)
    python(THROTTLED, str(group["cpu"]))
    now = counters(reader)
    assert now["cpu_throttled_periods_total"] >= 2 and now["cpu_periods_total"] >= now["cpu_throttled_periods_total"]
    assert now["cpu_throttled_seconds_total"] > 0.1
    assert math.isnan(now["memory_bytes"]) and math.isnan(now["pids"])
    reader.close()


def test_an_oom_kill_is_counted(group: dict[str, Path]) -> None:
    (group["memory"] / "memory.limit_in_bytes").write_text(str(16 << 20))
    reader = cgroup_stats.CgroupReader("v1", given := folders(group, "memory"))
    for descriptor in given.values():
        os.close(descriptor)
    code = "import sys;open(sys.argv[1]+'/tasks','w').write('0');b=bytearray(64<<20);b[::4096]=b'x'*len(b[::4096])"
    done = subprocess.run([sys.executable, "-c", code, str(group["memory"])], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    assert counters(reader)["oom_kills_total"] >= 1
    reader.close()


def test_v2_counters_of_a_real_group(group: dict[str, Path]) -> None:
    if "unified" not in group:
        pytest.skip("no cgroup v2 tree that can be written")
    reader = cgroup_stats.CgroupReader("v2", given := folders(group, "unified"))
    os.close(given["unified"])
    process = start_busy({"unified": group["unified"]})
    now = counters(reader)
    assert 0.4 <= now["cpu_seconds_total"] < 2 and now["cpu_pressure_seconds_total"] >= 0
    parts = now["cpu_user_seconds_total"] + now["cpu_system_seconds_total"]
    assert parts == pytest.approx(now["cpu_seconds_total"], abs=0.001)
    end(process)
    reader.close()


# What a kernel with v2 controllers wrote (Linux 6.12): the formats of files that this machine may not have.
V2_FILES = {
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnice_usec 0\ncore_sched.force_idle_usec 0\n"
    "nr_periods 10\nnr_throttled 4\nthrottled_usec 250000\nnr_bursts 0\nburst_usec 0\n",
    "memory.current": "1000000\n",
    "memory.peak": "3000000\n",
    "memory.max": "max\n",
    "memory.stat": "anon 600000\nfile 400000\nkernel 9\nworkingset_inactive_file 5\ninactive_anon 4096\n"
    "active_anon 0\ninactive_file 300000\nactive_file 0\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n",
    "pids.current": "5\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=100 wbytes=0 rios=1 wios=0\n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=123456\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
}


def test_v2_formats(tmp_path: Path) -> None:
    for name, text in V2_FILES.items():
        (tmp_path / name).write_text(text)
    folder = os.open(tmp_path, os.O_RDONLY)
    reader = cgroup_stats.CgroupReader("v2", {"": folder})
    os.close(folder)
    now = counters(reader)
    assert (now["cpu_seconds_total"], now["cpu_user_seconds_total"], now["cpu_system_seconds_total"]) == (1.5, 1.0, 0.5)
    assert (now["cpu_periods_total"], now["cpu_throttled_periods_total"]) == (10, 4)
    assert now["cpu_throttled_seconds_total"] == 0.25
    assert (now["memory_bytes"], now["memory_peak_bytes"], now["memory_limit_bytes"]) == (1e6, 3e6, math.inf)
    assert now["memory_working_set_bytes"] == 700000 and now["oom_kills_total"] == 2 and now["pids"] == 5
    assert (now["io_read_bytes_total"], now["io_written_bytes_total"]) == (4196, 8192)
    assert now["io_pressure_seconds_total"] == 0.123456 and math.isnan(now["cpu_pressure_seconds_total"])
    (tmp_path / "memory.max").write_text("65536\n")
    (tmp_path / "memory.current").write_text("rubbish\n")
    now = counters(reader)
    assert now["memory_limit_bytes"] == 65536 and math.isnan(now["memory_bytes"]) and reader.errors == 1
    reader.close()


# ---- without cgroups

# A first process in a PID namespace of its own: it starts two children that work and end or work and stay, and says
# when they have. `quit` on its input ends it.
CONTAINER = """
import os, subprocess, sys
from ctlab.kernel import syscalls
try:
    syscalls.unshare((syscalls.CLONE_NEWUSER if os.getuid() else 0) | syscalls.CLONE_NEWPID)
except OSError as error:
    print("no PID namespace:", error)
    sys.exit(77)
work = "import time\\nwhile time.process_time() < 0.3: pass\\n"
pid = os.fork()
if pid == 0:
    subprocess.run([sys.executable, "-c", work])
    stays = subprocess.Popen([sys.executable, "-c", work + "print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stays.stdout.readline()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "child\\n":
            stays.communicate(b"\\n")
            print("ended", flush=True)
        if line == "quit\\n":
            break
    os._exit(0)
print(pid, flush=True)
os.waitpid(pid, 0)
"""


@pytest.fixture
def container() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CONTAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if process.poll() == 77:
        pytest.skip(first)
    assert process.stdout.readline() == "ready\n"
    yield int(first), process
    if process.poll() is None:
        process.communicate("quit\n", timeout=10)


def tell(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_counters_from_proc(container: tuple[int, subprocess.Popen[str]]) -> None:
    pid, process = container
    table = proc_stats.ProcessTable(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY))
    table.refresh()  # before the container is known: its processes are then nobody's
    group = table.watch(pid)
    table.refresh()

    def now() -> dict[str, float]:
        table.refresh()
        values = table.read(group)
        assert values is not None
        return dict(zip(proc_stats.FIELDS, values, strict=True))

    two = now()
    assert two["pids"] == 2
    # the ended child's 0.3 s, the staying one's, the first process's own start; in steps of 10 ms
    assert 0.56 <= two["cpu_seconds_total"] < 3
    assert two["cpu_user_seconds_total"] + two["cpu_system_seconds_total"] == pytest.approx(two["cpu_seconds_total"])
    assert two["memory_rss_bytes"] > 4 << 20 and two["io_read_bytes_total"] >= 0
    assert tell(process, "child") == "ended\n"
    one = now()
    assert one["pids"] == 1 and one["memory_rss_bytes"] < two["memory_rss_bytes"]
    assert two["cpu_seconds_total"] <= one["cpu_seconds_total"] <= two["cpu_seconds_total"] + 0.2
    process.communicate("quit\n", timeout=10)
    table.refresh()
    assert table.read(group) is None
    table.forget(group)
    kept = len(os.listdir("/proc/self/fd"))
    table.close()
    assert len(os.listdir("/proc/self/fd")) == kept - 1 and table.errors == 0


def test_a_process_name_may_hold_anything() -> None:
    line = b"7 (a) R 1) S 3 7 7 0 -1 4194560 1 2 0 0 11 12 13 14 20 0 1 0 5 6 99 18446744073709551615 1"
    assert proc_stats.parse_stat(line) == (3, 24, 26, 99)


# ---- the process

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
        self.control.settimeout(10)
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

    def rows(self, ring: Ring) -> list[dict[str, float]]:
        copied = ring.snapshot().columns
        return [dict(zip(copied, row, strict=True)) for row in zip(*copied.values(), strict=True)]

    def close(self) -> None:
        self.control.close()
        output, _ = self.process.communicate(timeout=10)
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
    given = folders(group, *V1, "unified")
    assert (
        running.tell({"do": "add", "key": 5, "source": "cgroup-v1", "controllers": list(given)}, [*given.values()])
        == {}
    )
    process = start_busy(group)
    time.sleep(0.4)
    before = running.containers.head
    assert running.tell({"do": "remove", "key": 5}) == {}  # takes a last sample
    rows = running.rows(running.containers)
    assert len(rows) > before >= 10
    assert {row["container_key"] for row in rows} == {5} and {row["source"] for row in rows} == {1}
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
    assert (state["ticks"] + state["missed_ticks"]) * 0.02 == pytest.approx(took, abs=0.2)
    assert 0 < state["cpu_seconds"] < took and 0 < state["tick_seconds"] <= state["tick_seconds_max"]
    assert state["read_errors"] == 0
    end(process)


def test_pause_resume_interval_and_mistakes(running: Running, group: dict[str, Path]) -> None:
    given = folders(group, "pids")
    running.tell({"do": "add", "key": 1, "source": "cgroup-v1", "controllers": ["pids"]}, [given["pids"]])
    running.tell({"do": "pause"})
    assert running.containers.state()["paused"] == 1
    head = running.containers.head
    time.sleep(0.1)
    assert running.containers.head == head
    running.tell({"do": "interval", "seconds": 0.005})
    running.tell({"do": "resume"})
    time.sleep(0.3)
    assert running.containers.head - head > 20
    assert "between" in running.tell({"do": "interval", "seconds": 0})["error"]
    assert "no such message" in running.tell({"do": "dance"})["error"]
    assert "error" not in running.tell({"do": "remove", "key": 99})  # it ended before it was ever read
    assert "KeyError" in running.tell({"do": "endpoints", "key": 99, "links": [], "node": "host"})["error"]
    assert "KeyError" in running.tell({"do": "add", "key": 2, "source": "cgroup-v3", "controllers": []})["error"]
    wrong = os.open("/", os.O_RDONLY)
    answer = running.tell({"do": "add", "key": 2, "source": "cgroup-v1", "controllers": ["cpu", "memory"]}, [wrong])
    assert "ValueError" in answer["error"]
    socket.send_fds(running.control, [b"{"], [os.open("/", os.O_RDONLY)])
    assert "JSON" in json.loads(running.control.recv(1 << 16))["error"]
    running.tell({"do": "resume"})
    # whatever was sent along with a mistake has been closed
    held = os.listdir(f"/proc/{running.process.pid}/fd")
    assert [fd for fd in held if os.readlink(f"/proc/{running.process.pid}/fd/{fd}") == "/"] == []
    running.tell({"do": "stop"})
    running.process.wait(10)


def test_a_container_counted_by_proc(running: Running, container: tuple[int, subprocess.Popen[str]]) -> None:
    pid, _ = container
    message = {"do": "add", "key": 9, "source": "proc", "controllers": ["proc"], "pid": pid}
    assert "bring a /proc" in running.tell(message)["error"]
    assert running.tell(message, [os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)]) == {}
    assert running.tell({"do": "endpoints", "key": 9, "links": [], "node": "host"}) == {}
    time.sleep(0.15)
    last = running.rows(running.containers)[-1]
    assert last["source"] == SOURCE_CODES["proc"] and last["pids"] == 2 and last["cpu_seconds_total"] > 0.5
    assert math.isnan(last["memory_bytes"]) and last["memory_rss_bytes"] > 0
    assert last["rx_bytes_total"] == 0  # it has no endpoint: nothing was received, and that is known
    assert running.tell({"do": "remove", "key": 9}) == {}


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
        pytest.skip(node.communicate()[0])
    first, second = json.loads(body)

    def send(which: int, count: int, size: int) -> None:
        ours.send(json.dumps([which, count, size]).encode())
        assert ours.recv(100) == b"sent"

    given = folders(group, "pids")
    running.tell({"do": "add", "key": 1, "source": "cgroup-v1", "controllers": ["pids"]}, [given["pids"]])
    running.tell({"do": "node", "name": "host"}, fds)
    running.tell({"do": "endpoints", "key": 1, "links": [[70, first], [71, second]], "node": "host"})
    send(0, 50, 1000)  # node0 -> the container's first interface
    send(1, 20, 500)  # the container's first interface -> node0
    send(2, 5, 200)  # node1 -> the container's second interface
    time.sleep(0.1)
    rows = running.rows(running.endpoints)
    newest = {row["endpoint_key"]: row for row in rows}
    assert set(newest) == {70, 71} and {row["container_key"] for row in rows} == {1}
    assert 50_000 <= newest[70]["rx_bytes_total"] < 52_000 and 50 <= newest[70]["rx_packets_total"] < 70
    assert 10_000 <= newest[70]["tx_bytes_total"] < 12_000 and 20 <= newest[70]["tx_packets_total"] < 40
    assert 1_000 <= newest[71]["rx_bytes_total"] < 3_000
    total = running.rows(running.containers)[-1]
    for column in NETWORK:
        assert total[column.name] == newest[70][column.name] + newest[71][column.name]
    # an endpoint that is taken away takes nothing out of the container's sums
    running.tell({"do": "endpoints", "key": 1, "links": [[71, second]], "node": "host"})
    time.sleep(0.06)
    assert running.rows(running.containers)[-1]["rx_bytes_total"] >= total["rx_bytes_total"]
    assert running.rows(running.endpoints)[-1]["endpoint_key"] == 71
    # a node that is gone: its numbers are unknown, not zero
    running.tell({"do": "node", "name": "host"})
    time.sleep(0.06)
    assert math.isnan(running.rows(running.containers)[-1]["rx_bytes_total"])
    ours.close()
    node.communicate(timeout=10)


def test_the_end_of_the_socket_is_the_end(running: Running) -> None:
    running.control.close()
    assert running.process.wait(5) == 0


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
    time.sleep(0.2)
    assert running.containers.state()["ticks"] > ticks
