"""The machine's quotas used up: the next container is refused with one line, and those that run go on.

In a user namespace of the test's own, whose quotas anyone may lower.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
user, group = os.geteuid(), os.getegid()
os.unshare(os.CLONE_NEWUSER)
for name, text in (("uid_map", f"54321 {user} 1"), ("setgroups", "deny"), ("gid_map", f"54321 {group} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
with open(f"/proc/sys/user/max_{sys.argv[1]}_namespaces", "w") as file:
    file.write(sys.argv[2])
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
def run(cell):
    return shell.run_cell(cell, store_history=True)
run("%load_ext ctlab\\n%lab start quota;")
made = 0
while made < 60 and run(f"%container run -d --name x{made};").success:
    made += 1
print("made", 0 < made < 60)
names = run("%container ps -q").result
print("kept", names == [f"x{n}" for n in range(made)])
print("runs", run("%container exec -q x0 -- true").result.returncode)
owners = run("[len(pool.owners) for pool in __import__('ctlab').current().networks[0].pools]").result
print("addresses", owners == [made])
run("%lab stop")
"""


@pytest.mark.parametrize("kind", ["net", "mnt", "pid", "uts"])
def test_a_namespace_quota(kind: str, usable: None, runtime_base: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, "24"],
        capture_output=True, text=True, env=environment, timeout=60, check=True,
    )  # fmt: skip
    for line in ("made True", "kept True", "runs 0", "addresses True"):
        assert line in done.stdout, done.stdout + done.stderr
    said = next(line for line in done.stdout.splitlines() if "no room" in line)
    name = said.partition("container ")[2].partition(":")[0]
    call = said.partition("container: ")[2].partition(" gave ")[0]
    assert call.split()[0] in ("clone3", "unshare", "read", "mask")
    assert said == (
        f"KernelError: container {name}: the kernel has no room for another container: {call} gave ENOSPC; a quota is "
        "used up: /proc/sys/user/max_*_namespaces, a cgroup's pids.max or cgroup.max.descendants"
    )
