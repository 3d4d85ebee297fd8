"""Every notebook as an ordinary user runs it without a browser: with cgroup folders of the user's own, and with none.

The user is made for the test and is nobody else's, so whatever still runs with one of its ids afterwards is a
left-over. Only root can make one; without root the other tests of notebooks run as whoever is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from as_user import CGROUP, account_files, delegate_v2, needed, show

pytestmark = [pytest.mark.kernel, pytest.mark.user, pytest.mark.usefixtures("usable")]

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMPARISON = "vm-vs-container"  # here where no VM can be had, since a user's would have to be prepared; see tests/vm
LONG = [(path, "delegated") for path in NOTEBOOKS if path.stem != COMPARISON]
CASES = [(path, "none") for path in NOTEBOOKS if path.stem != COMPARISON]
LONG += [(path, "none") for path in NOTEBOOKS if path.stem == COMPARISON]
CASES += [pytest.param(*case, marks=pytest.mark.long) for case in LONG]
DELEGATED = ("cpu", "cpuacct", "memory", "pids", "freezer", "blkio", "cpuset")
RUN_SECONDS = 150
GONE_SECONDS = 10.0

# What the user runs. It gets the notebook's path, and writes one line of JSON: worlds, texts.
TWICE = """
import copy, json, sys
import nbformat
from nbclient import NotebookClient

WORLD = '''
import json as _json
from ctlab import labs as _labs
print(_json.dumps([{
    "lab": lab.name,
    "containers": {c.name: [c.state, c.addresses, [[e.network, e.interface, e.mac] for e in c.endpoints],
                            list(c.command), c.limits.cpus, c.limits.memory_bytes] for c in lab.containers},
    "networks": {n.name: [n.driver, list(n.subnets), list(n.gateways), sorted(c.name for c in n.containers)]
                 for n in lab.networks},
} for lab in _labs.running()]))
'''
path = sys.argv[1]
once = nbformat.read(path, as_version=4)
ends = [index for index, cell in enumerate(once.cells) if cell.id == "end"] or [len(once.cells)]
once.cells.insert(ends[-1], nbformat.v4.new_code_cell(WORLD))
twice = copy.deepcopy(once)
twice.cells += copy.deepcopy(once.cells)
twice.cells.append(nbformat.v4.new_code_cell(WORLD))
for number, cell in enumerate(twice.cells):
    cell["id"] = f"cell-{number}"
folder = path.rpartition("/")[0]
NotebookClient(
    twice, timeout=100, kernel_name="python3", store_widget_state=False, resources={"metadata": {"path": folder}}
).execute()
text = lambda cell: "".join(output.text for output in cell.outputs if output.output_type == "stream")
html = lambda cell: "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)
print(json.dumps({
    "worlds": [json.loads(text(cell)) for cell in twice.cells if cell.source == WORLD],
    "texts": [text(cell) for cell in twice.cells if cell.cell_type == "code" and cell.source != WORLD],
    "shown": {cell.source.split("\\n")[0]: html(cell) for cell in twice.cells if cell.cell_type == "code"},
    "bytes": len(nbformat.writes(twice)),
    "widgets": "widgets" in twice.metadata,
}))
"""
# Runs the cells up to the longest program of the notebook, says the kernel's pid once that runs, and waits.
HALF = """
import sys
import nbformat
from jupyter_client.manager import start_new_kernel

cells = [cell for cell in nbformat.read(sys.argv[1], as_version=4).cells if cell.cell_type == "code"]
middle = [n for n, cell in enumerate(cells) if cell.source.startswith("%%container exec")][-1]
manager, client = start_new_kernel(kernel_name="python3", extra_arguments=[], cwd=sys.argv[1].rpartition("/")[0])
for cell in cells[:middle]:
    reply = client.execute_interactive(cell.source, output_hook=lambda message: None, timeout=60)
    assert reply["content"]["status"] == "ok", reply["content"]
sent = client.execute(cells[middle].source)
while True:
    message = client.get_iopub_msg(timeout=60)
    if message["msg_type"] == "execute_input" and message["parent_header"]["msg_id"] == sent:
        break
print(manager.provisioner.process.pid, flush=True)
sys.stdin.readline()
manager.cleanup_resources()
"""


class User:
    """An ordinary user of this machine, made for the test. `cgroups`: folders that belong to it, by hierarchy."""

    def __init__(self, folder: Path, delegated: bool) -> None:
        self.name = f"ctnote{secrets.token_hex(3)}"
        self.home = folder / "home"
        self.runtime = folder / "runtime"
        command = ["useradd", "--create-home", "--home-dir", str(self.home), self.name]
        account_files(*command)
        entry = pwd.getpwnam(self.name)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.runtime.mkdir(mode=0o700)
        os.chown(self.runtime, self.uid, self.gid)
        self.cgroups = [self._delegate(path) for path in (v1_folders(self.name) if delegated else ())]
        if delegated and not self.cgroups:
            self.cgroups = [delegate_v2(self.name, self.uid, self.gid)]

    def _delegate(self, path: Path) -> Path:
        path.mkdir()
        if (path / "cpuset.cpus").exists():  # empty in a new folder, and then nothing can run there
            for file in ("cpuset.cpus", "cpuset.mems"):
                (path / file).write_text((path.parent / file).read_text())
        for file in (path, path / "tasks", path / "cgroup.procs"):
            os.chown(file, self.uid, self.gid)
        return path

    def _become(self) -> None:
        for path in self.cgroups:
            file = "tasks" if (path / "tasks").exists() else "session/cgroup.procs"
            (path / file).write_text("0")
        show(needed())
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)

    def start(self, script: str, notebook: Path) -> subprocess.Popen[str]:
        """Run a script for a notebook as this user, in its cgroup folders."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "USER": self.name,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            **({"XDG_CACHE_HOME": "/proc/nowhere"} if notebook.stem == COMPARISON else {}),
        }
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, str(notebook)],
            env=environment, cwd=self.home, preexec_fn=self._become, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def left(self, but: int = 0) -> list[str]:
        """What of this user's is there: processes (without `but`), cgroup folders, runtime folders."""
        ranges = [(self.uid, 1)]
        for line in Path("/etc/subuid").read_text().splitlines():
            name, start, count = line.split(":")
            if name == self.name:
                ranges.append((int(start), int(count)))
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                status = Path("/proc", pid, "status").read_text()
                uid = int(status.partition("\nUid:")[2].split()[0])
                if int(pid) != but and any(low <= uid < low + count for low, count in ranges):
                    found.append(f"process {pid} {status.partition('Name:')[2].split()[0]}")
        for path in self.cgroups:  # of version 2 a lab's may lie beside `session` or in it
            own = (path, path / "session")
            found += [f"cgroup {below}" for below, _, _ in os.walk(path) if Path(below) not in own]
        found += [f"file {path}" for path in (self.runtime / "ctlab").rglob("*")]
        return found

    def remove(self) -> None:
        """The user and all that is its."""
        for line in self.left():
            if line.startswith("process "):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.split()[1]), signal.SIGKILL)
        for path in self.cgroups:
            for folder, _, _ in os.walk(path, topdown=False):
                wait_for(lambda folder=folder: removed(folder))
        account_files("userdel", self.name)


def removed(folder: str) -> bool:
    """Remove a cgroup folder; whether it is gone (a dying process may hold it for a moment)."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not os.path.isdir(folder)


def wait_for(condition: Callable[[], bool], seconds: float = GONE_SECONDS) -> bool:
    """Wait for what nothing announces; whether it came true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def v1_folders(name: str) -> list[Path]:
    """Below this process's own folder in each version 1 hierarchy: a folder of that name, not yet made."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        controllers = set(right.split()[2].split(",")) & set(DELEGATED) if right.startswith("cgroup ") else set()
        if controllers:
            point = left.split()[4]
            found[point] = Path(point, own[min(controllers)].lstrip("/"), name)
    return list(found.values())


@pytest.fixture
def make_user() -> Iterator[Callable[[str], User]]:
    """Makes users; they are gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user")
    folder = Path(tempfile.mkdtemp(prefix="ctlab-user-"))
    folder.chmod(0o755)
    made: list[User] = []

    def make(limits: str) -> User:
        if limits == "delegated" and not v1_folders("x") and not (CGROUP / "cgroup.controllers").exists():
            pytest.skip("no cgroup tree is mounted here to delegate folders of")
        made.append(User(folder, limits == "delegated"))
        return made[-1]

    yield make
    for user in made:
        user.remove()
    shutil.rmtree(folder)


@pytest.mark.parametrize(("path", "limits"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_twice_in_one_kernel_as_an_ordinary_user(path: Path, limits: str, make_user: Callable[[str], User]) -> None:
    user = make_user(limits)
    runner = user.start(TWICE, path)
    output, errors = runner.communicate(timeout=RUN_SECONDS)
    assert runner.returncode == 0, errors[-3000:]
    said: dict[str, Any] = json.loads(output.splitlines()[-1])

    first, second, after = said["worlds"]
    assert first == second
    assert first and all(lab["networks"] and lab["containers"] for lab in first)
    assert after == []  # the notebook ends its labs
    assert said["bytes"] < 4_000_000 and not said["widgets"]
    if path.stem == "01-quickstart":
        for cell in ("%topology", "%stats --live", "frame = %stats --last 5s", "%container ps"):
            assert "web" in said["shown"][cell] and "client" in said["shown"][cell], cell
        text = "\n".join(said["texts"])
        if limits == "delegated":
            assert text.count("limits can be set") == 2 and text.count("killed for memory: True") == 2
            assert "busy" in first[0]["containers"]
        else:
            assert text.count("no limits here: cgroup v") == 2 and "busy" not in first[0]["containers"]
    if path.stem == COMPARISON:
        assert "no microVM here, so it isn't measured: " in "\n".join(said["texts"])
        table = said["shown"]["def number(value):"]
        assert all(what in table for what in ("one more container", "back to back", "ping"))
    assert wait_for(lambda: not user.left()), user.left()


@pytest.mark.parametrize("limits", ["delegated", pytest.param("none", marks=pytest.mark.long)])
def test_nothing_is_left_of_a_kernel_that_was_killed(limits: str, make_user: Callable[[str], User]) -> None:
    user = make_user(limits)
    runner = user.start(HALF, ROOT / "notebooks" / "01-quickstart.ipynb")
    assert runner.stdout is not None
    said = runner.stdout.readline().strip()
    if not said.isdigit():
        pytest.fail(runner.communicate()[1][-3000:])
    before = user.left(but=runner.pid)
    assert sum(line.startswith("process ") for line in before) >= 6  # kernel, keeper, supervisor, containers …
    assert any(line.startswith("file ") for line in before)
    assert any(line.startswith("cgroup ") for line in before) == (limits == "delegated")
    os.kill(int(said), signal.SIGKILL)
    # The dead kernel itself waits for the runner, which is its parent.
    runner.communicate("\n", timeout=30)
    assert wait_for(lambda: not user.left()), user.left()


@pytest.mark.long
def test_make_demo_from_a_clean_clone(tmp_path: Path) -> None:
    """What a newcomer does. It installs packages, so it takes a minute; what isn't committed isn't in the clone."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user")
    if not (ROOT / ".git").exists():
        pytest.skip("this isn't a clone")
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "demo-as-user.sh"), str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "the quickstart ran: " in done.stdout and "nothing of it runs any more" in done.stdout
    page = (tmp_path / "01-quickstart.html").read_text()
    assert page.count('class="ctlab ctlab-map"') == 1 and "Hello from web" in page
    assert (
        re.findall(r"""(?:src|href)=["']https?:[^"']*|import\("?https?:[^)]*""", page) == []
    )  # needs no other machine
