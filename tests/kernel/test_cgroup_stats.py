"""The counters of control groups: of real ones, and of texts that another kernel wrote."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_help import open_descriptors, uses
from sampler_world import V1, end, folders, need_v1, need_v2, python, start_busy

from ctlab.kernel import cgroup_stats
from ctlab.kernel.kept_files import Room

pytestmark = pytest.mark.kernel


def counters(reader: cgroup_stats.CgroupReader, slow: bool = True) -> dict[str, float]:
    values = reader.read(slow=slow)
    assert values is not None
    return dict(zip(cgroup_stats.FIELDS, values, strict=True))


@pytest.mark.parametrize("with_unified", [False, True])
@pytest.mark.parametrize("most", [100, 0], ids=["kept open", "opened each time"])
def test_v1_counters(group: dict[str, Path], with_unified: bool, most: int) -> None:
    need_v1(group)
    if with_unified and "unified" not in group:
        pytest.skip("no v2 folder beside v1 here")
    (group["memory"] / "memory.limit_in_bytes").write_text(str(64 << 20))
    given = folders(group, *V1, *(["unified"] if with_unified else []))
    reader = cgroup_stats.CgroupReader("v1", given, room=Room(most))
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
    for descriptor in given.values():
        os.close(descriptor)


THROTTLED = """
import sys, time
open(sys.argv[1], "w").write("0")
end = time.monotonic() + 0.6
while time.monotonic() < end:
    pass
"""


def test_throttling_and_a_missing_controller(group: dict[str, Path]) -> None:
    need_v1(group)
    (group["cpu"] / "cpu.cfs_quota_us").write_text("10000")  # a tenth of a CPU
    reader = cgroup_stats.CgroupReader("v1", given := folders(group, "cpu", "cpuacct"))
    for descriptor in given.values():
        os.close(descriptor)
    python(THROTTLED, str(group["cpu"] / "tasks"))
    now = counters(reader)
    assert now["cpu_throttled_periods_total"] >= 2 and now["cpu_periods_total"] >= now["cpu_throttled_periods_total"]
    assert now["cpu_throttled_seconds_total"] > 0.1
    assert math.isnan(now["memory_bytes"]) and math.isnan(now["pids"])
    reader.close()


def test_an_oom_kill_is_counted(group: dict[str, Path]) -> None:
    need_v1(group)
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
    uses("cgroup v2")
    process = start_busy({"unified": group["unified"]})
    now = counters(reader)
    assert 0.4 <= now["cpu_seconds_total"] < 2 and now["cpu_pressure_seconds_total"] >= 0
    parts = now["cpu_user_seconds_total"] + now["cpu_system_seconds_total"]
    assert parts == pytest.approx(now["cpu_seconds_total"], abs=0.001)
    end(process)
    reader.close()


def test_v2_counters_with_controllers(group: dict[str, Path]) -> None:
    need_v2(group)
    folder = group["unified"]
    (folder / "memory.max").write_text(str(64 << 20))
    reader = cgroup_stats.CgroupReader("v2", given := folders(group, "unified"))
    os.close(given["unified"])
    process = start_busy(group)
    now = counters(reader)
    assert 24 << 20 <= now["memory_bytes"] <= now["memory_peak_bytes"] <= now["memory_limit_bytes"] == 64 << 20
    assert 24 << 20 <= now["memory_working_set_bytes"] <= now["memory_bytes"]
    assert now["pids"] == 1 and now["oom_kills_total"] == now["cpu_throttled_seconds_total"] == 0
    assert now["io_read_bytes_total"] >= 0 and now["memory_pressure_seconds_total"] >= 0
    end(process)
    (folder / "cpu.max").write_text("10000 100000")  # a tenth of a CPU
    python(THROTTLED, str(folder / "cgroup.procs"))
    now = counters(reader)
    assert now["cpu_throttled_periods_total"] >= 2 and now["cpu_periods_total"] >= now["cpu_throttled_periods_total"]
    assert now["cpu_throttled_seconds_total"] > 0.1
    (folder / "cpu.max").write_text("max 100000")
    (folder / "memory.max").write_text(str(16 << 20))
    code = "import sys;open(sys.argv[1],'w').write('0');b=bytearray(64<<20);b[::4096]=b'x'*len(b[::4096])"
    eater = [sys.executable, "-c", code, str(folder / "cgroup.procs")]
    assert subprocess.run(eater, check=False, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert counters(reader)["oom_kills_total"] >= 1
    folder.rmdir()
    assert reader.read() is None and reader.errors == 0
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


@pytest.mark.parametrize("most", [100, 0], ids=["kept open", "opened each time"])
def test_v2_formats(tmp_path: Path, most: int) -> None:
    for name, text in V2_FILES.items():
        (tmp_path / name).write_text(text)
    folder = os.open(tmp_path, os.O_RDONLY)
    reader = cgroup_stats.CgroupReader("v2", {"": folder}, room=Room(most))
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
    os.close(folder)


def test_what_is_kept_open_is_bounded(tmp_path: Path) -> None:
    """Who finds no room opens its files each time, until another has given its own back."""
    for group in ("a", "b"):
        (tmp_path / group).mkdir()
        for name, text in V2_FILES.items():
            (tmp_path / group / name).write_text(text)
    folder, room = os.open(tmp_path, os.O_RDONLY), Room(len(V2_FILES) + 1)
    before = open_descriptors()
    first, second = (cgroup_stats.CgroupReader("v2", {"": folder}, group, room) for group in ("a", "b"))
    assert room.lacked and open_descriptors() == before + len(V2_FILES)
    assert first.read() == second.read()
    first.close()
    assert open_descriptors() == before
    assert second.read(slow=False) is not None and open_descriptors() == before
    assert second.read() is not None and open_descriptors() == before + len(V2_FILES)
    second.close()
    assert open_descriptors() == before and room.take(len(V2_FILES) + 1)
    os.close(folder)
