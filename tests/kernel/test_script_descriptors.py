"""Scripts, which /bin/sh reads from descriptor 9: whatever number anything else had on the way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient

pytestmark = pytest.mark.kernel

SCRIPT = """\
echo out
echo err >&2
readlink /proc/self/fd/0
echo $(ls /proc/self/fd)
cat
exit 7
"""
SHOWN = "out\n/dev/null\n0 1 2 3 9\n"  # 3 is what ls reads


@pytest.mark.parametrize("init", [False, True])
def test_the_script_of_a_container(lab: Any, tmp_path: Path, init: bool) -> None:
    """The descriptors of its mounts, which come with the same order, shift that of its script across 9."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    for count in range(12):
        mounts = [f"{tmp_path}:/data/{number}" for number in range(count)]
        for options in ({}, {"networks": []}) if count < 8 else ({},):
            container = lab.run(script=SCRIPT, mounts=mounts, init=init, **options)
            assert container.wait(patient(10)) == 7, (count, container.logs())
            logs = container.logs()
            assert (logs.stdout, logs.stderr) == (SHOWN, "err\n"), count


def test_the_script_of_a_container_with_a_terminal(lab: Any, tmp_path: Path) -> None:
    for count in range(6):
        mounts = [f"{tmp_path}:/data/{number}" for number in range(count)]
        container = lab.run(script="echo out; echo err >&2; cat; exit 7", tty=True, mounts=mounts)
        assert container.wait(patient(10)) == 7
        assert (container.logs().stdout, container.logs().stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("command", [None, ["sleep", "60"]], ids=["init", "plain"])
def test_scripts_run_in_a_container(lab: Any, command: list[str] | None) -> None:
    """By a runner that has just entered, by the same one again, as another user, detached."""
    container = lab.run(command)
    for _ in range(3):
        done = container.script(SCRIPT)
        assert (done.returncode, done.stdout, done.stderr) == (7, SHOWN, "err\n")
    done = container.script("echo out; echo err >&2; cat; exit 7", tty=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    if not lab._client.facts["single_id"]:
        done = container.script(SCRIPT, user="1234")
        assert (done.returncode, done.stdout, done.stderr) == (7, SHOWN, "err\n")
    assert container.script("exec > /tmp/said; " + SCRIPT, detach=True).wait(patient(5)) == 7
    assert container.exec(["cat", "/tmp/said"]).check().stdout == SHOWN


def test_a_script_may_use_its_own_descriptors(lab: Any) -> None:
    """9 is the script itself; a program that it starts may have any other there, and does not disturb it."""
    container = lab.run()
    script = (
        "exec 8>/tmp/eight 7<&0\necho to eight >&8\nsh -c 'exec 9>/tmp/nine; echo to nine >&9'\ncat <&7\necho end\n"
    )
    done = container.script(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert container.exec(["cat", "/tmp/eight", "/tmp/nine"]).check().stdout == "to eight\nto nine\n"
    for number in (3, 5, 8):
        assert container.script(f"exec {number}</dev/null 9<&{number}\necho not read\n").returncode == 0
