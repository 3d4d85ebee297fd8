"""A container that takes all memory is what the kernel ends, and nothing else; see `floods_help`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from bounded import run_bounded
from kernel_help import seen

pytestmark = pytest.mark.kernel

FLOOD_OF_MEMORY = """
import ctlab
from kernel_help import patient
held = bytearray(b"x") * (120 << 20)  # more than a container can take: by size alone the notebook would be chosen
with ctlab.Lab("flooded", storage="16M") as lab:
    calm = lab.run(["sleep", "60"], name="calm")
    flood = lab.run(["python3", "-c", "b = bytearray(b'x') * (400 << 20)"], name="flood")
    assert flood.wait(patient(20)) == 137, flood.returncode
    assert calm.exec(["cat", "/etc/hostname"]).stdout == "calm\\n"
    assert lab.run(["true"]).wait(patient(5)) == 0
    print(calm.state, len(held) >> 20, not lab.gone)
"""


def test_memory_takes_the_container_and_not_the_notebook(usable: None) -> None:
    """Below a parent that has 300 MB for all: the kernel kills what floods, though the notebook is as large."""
    assert run_bounded(FLOOD_OF_MEMORY, memory_bytes=300 << 20, pids=2000).split() == ["running", "120", "True"]


def test_who_is_killed_first(lab: Any) -> None:
    """Whatever is in a container stands before its owner; what is the lab's own stands where its owner does."""
    own = int(Path("/proc/self/oom_score_adj").read_text())
    container = lab.run(["sleep", "60"])
    inside = container.exec(["cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj"]).stdout.split()
    assert [int(word) for word in inside] == [min(1000, own + 500)] * 2

    def helpers() -> dict[int, int]:
        """The lab's own processes, and where each stands."""
        found = {}
        for name in ("keeper", "supervisor"):
            found[lab._client.facts[name]] = int(Path(f"/proc/{lab._client.facts[name]}/oom_score_adj").read_text())
        for process in [Path(f"/proc/{pid}") for pid in os.listdir("/proc") if pid.isdigit()]:
            try:
                title = (process / "cmdline").read_bytes()
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if title.startswith(b"ctlab ") and b"runner" not in title and int(parent) in found:
                    found[int(process.name)] = int((process / "oom_score_adj").read_text())
            except OSError:
                continue
        return found

    # What has just been borne for a container is called as a helper still, and stands where containers do already.
    found = seen(helpers, lambda found: set(found.values()) == {own})
    assert len(found) > 4  # resolver, sampler, collector, nursery
