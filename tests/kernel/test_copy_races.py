"""A process of a container renames and links under a running `cp`: nothing outside the container is reached.

What copies is made of the machine's interpreter, which `/proc/self/exe` names for it. So the labs here are run by a
copy of that one, in a virtual environment, which belongs to the lab's root: whoever is led there may change it.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest
from kernel_help import ROOT, long_form, patient

pytestmark = pytest.mark.kernel
SECONDS = 60.0 if long_form() else 1.2

# In the container: names that a copy is about to write, or to read, become links and what they were, all the time.
# Each round of it is one swap; how many there were is written to /srv/swaps.
SWAPPER = r"""
import itertools, os, sys
kind = sys.argv[1]
links = ["/proc/self/exe", "/proc/self/cwd", "/proc/self/root", "/proc/self/fd", "/proc/1/root", "/proc/self/fd/3"]
links += ["/proc/self/fd/4", "../../../../..", "/srv/d/../../..", "/proc/self/fd/5/../../.."]
os.makedirs("/srv/d/sub", exist_ok=True)
out = open("/srv/swaps", "w")
for count in itertools.count(1):
    link = links[count // 7 % len(links)] if kind != "exe" else links[0]
    try:
        if kind == "folder" or count % 3 == 0:
            os.symlink(link, "/srv/link")
            os.rename("/srv/d/sub", "/srv/aside")
            os.rename("/srv/link", "/srv/d/sub")
            os.rename("/srv/d/sub", "/srv/link")
            os.rename("/srv/aside", "/srv/d/sub")
            os.unlink("/srv/link")
        else:
            os.symlink(link, "/srv/link")
            os.rename("/srv/link", "/srv/d/%s%d" % (("", "sub/")[count % 2], count % 20))
    except OSError:
        for undo in (lambda: os.unlink("/srv/link"), lambda: os.rename("/srv/aside", "/srv/d/sub"),
                     lambda: os.unlink("/srv/d/sub"), lambda: os.mkdir("/srv/d/sub")):
            try:
                undo()
            except OSError:
                pass
    if count % 100 == 0:
        out.seek(0)
        out.write(str(count))
        out.flush()
"""

# The owner of the lab: copies in, or out, until the time is over. Says what it saw in JSON.
OWNER = r"""
import hashlib, json, os, sys, tarfile, time
from pathlib import Path
import ctlab
from ctlab.errors import CtlabError
from ctlab.runtime import messages

way, kind, seconds, folder, swapper = sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
program = Path(sys.executable)
OURS = b"of the container" * 20

def state(path):
    found = path.stat()
    return [oct(found.st_mode), found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_nlink,
            hashlib.sha256(path.read_bytes()).hexdigest()]

def foreign(container):
    # Files of a copy out whose content isn't the container's: the stream itself is looked at.
    reading, writing = os.pipe2(os.O_CLOEXEC)
    connection = container.lab._client.connection()
    connection.send(messages.CopyOut(container.id, "/srv/d"), [writing])
    os.close(writing)
    found = []
    with open(reading, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isreg():
                content = archive.extractfile(member).read()
                if content.replace(OURS, b"").strip(b"\0"):
                    found.append([member.name, content[:40].decode(errors="replace")])
        stream.read()
    connection.close()
    return found

with ctlab.Lab("race") as lab:
    supervisor = lab._client.facts["supervisor"]
    assert os.path.samefile(f"/proc/{supervisor}/exe", program)
    if os.geteuid() == 0:
        root = int(Path(f"/proc/{supervisor}/uid_map").read_text().split()[1])
        os.chown(program, root, root)
    program.chmod(0o755)
    before = state(program)
    source = folder / "d"
    (source / "sub").mkdir(parents=True)
    for below in (source, source / "sub"):
        for number in range(20):
            (below / str(number)).write_bytes(OURS)
            (below / str(number)).chmod(0o600)
        os.link(below / "0", below / "hard")
        below.chmod(0o700)
    container = lab.run(["sleep", "600"], name="c")
    container.copy_in(source, "/srv/")
    container.copy_in(swapper, "/srv/swapper.py")
    lab.run(["true"], name="other").wait(5)
    swapping = container.exec(["python3", "/srv/swapper.py", kind], detach=True)
    while not container.exec(["cat", "/srv/swaps"]).stdout:  # an interpreter takes its time to start
        time.sleep(0.01)
    until, copies, refused, strange = time.monotonic() + seconds, 0, {}, []
    while time.monotonic() < until or copies < 10:
        copies += 1
        try:
            if way == "in":
                container.copy_in(source, "/srv/")
            else:
                strange += foreign(container)
        except CtlabError as error:
            refused[type(error).__name__] = str(error)
        if state(program) != before:
            break
    swaps = int(container.exec(["cat", "/srv/swaps"]).stdout or 0)
    works = container.exec(["true"]).returncode
    container.write("/tmp/after", "after")
    after = state(program)
    print(json.dumps({"before": before, "after": after, "swaps": swaps, "copies": copies, "refused": refused,
                      "strange": strange, "works": works}))
"""


def race(tmp_path: Path, way: str, kind: str) -> dict[str, object]:
    """What the owner of a lab saw that was run by an interpreter of its own."""
    made = tmp_path / "interpreter"
    venv.EnvBuilder(symlinks=False, with_pip=False).create(made)
    swapper = tmp_path / "swapper.py"
    swapper.write_text(SWAPPER)
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    words = [str(made / "bin/python"), "-B", "-c", OWNER, way, kind, str(SECONDS), str(tmp_path), str(swapper)]
    done = subprocess.run(
        words, cwd="/", env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(SECONDS + 30), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found


WAYS = [(way, kind) for way in ("in", "out") for kind in ("exe", "folder", "all")]


@pytest.mark.parametrize(("way", "kind"), WAYS if long_form() else [("in", "exe"), ("in", "folder"), ("out", "all")])
def test_swaps_under_a_copy_lead_nowhere_else(tmp_path: Path, way: str, kind: str) -> None:
    found = race(tmp_path, way, kind)
    assert found["after"] == found["before"]
    assert found["strange"] == []
    assert found["works"] == 0
    assert isinstance(found["swaps"], int) and found["swaps"] >= 500, found
    assert isinstance(found["copies"], int) and found["copies"] >= 5
    assert isinstance(found["refused"], dict) and set(found["refused"]) <= {"KernelError", "NotFound"}, found
