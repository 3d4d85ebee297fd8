"""The counters of a container without cgroups, summed up from /proc."""

from __future__ import annotations

import os
import subprocess

import pytest
from kernel_help import open_descriptors, patient

from ctlab.kernel import proc_stats
from ctlab.kernel.kept_files import Room

pytestmark = pytest.mark.kernel


def tell(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline()


@pytest.mark.parametrize("most", [100, 2, 0], ids=["kept open", "one kept open", "opened each time"])
def test_counters_from_proc(pid_namespace: tuple[int, subprocess.Popen[str]], most: int) -> None:
    pid, process = pid_namespace
    room = Room(most)
    table = proc_stats.ProcessTable(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY), room)
    table.refresh()  # before the container is known: its processes are then nobody's
    group = table.watch(pid)
    table.refresh()

    def now() -> dict[str, float]:
        table.refresh()
        values = table.read(group)
        assert values is not None
        return dict(zip(proc_stats.FIELDS, values, strict=True))

    before = open_descriptors()
    two = now()
    assert two["pids"] == 2 and open_descriptors() == before and room.lacked is (most < 4)
    # the ended child's 0.3 s, the staying one's, the first process's own start; in steps of 10 ms
    assert 0.56 <= two["cpu_seconds_total"] < 3
    assert two["cpu_user_seconds_total"] + two["cpu_system_seconds_total"] == pytest.approx(two["cpu_seconds_total"])
    assert two["memory_rss_bytes"] > 4 << 20 and two["io_read_bytes_total"] >= 0
    assert tell(process, "child") == "ended\n"
    one = now()
    assert one["pids"] == 1 and one["memory_rss_bytes"] < two["memory_rss_bytes"]
    assert two["cpu_seconds_total"] <= one["cpu_seconds_total"] <= two["cpu_seconds_total"] + 0.2
    process.communicate("quit\n", timeout=patient(10))
    table.refresh()
    assert table.read(group) is None
    table.forget(group)
    kept = open_descriptors()
    table.close()
    assert open_descriptors() == kept - 1 and table.errors == 0 and room.take(most)


def test_a_process_name_may_hold_anything() -> None:
    line = b"7 (a) R 1) S 3 7 7 0 -1 4194560 1 2 0 0 11 12 13 14 20 0 1 0 5 6 99 18446744073709551615 1"
    assert proc_stats.parse_stat(line) == (3, 24, 26, 99, 5)
