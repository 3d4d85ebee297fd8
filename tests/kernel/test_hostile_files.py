"""Files of /etc that a container or an image has made a trap of: pipes, endless files, wrong entries."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_ids, patient

from ctlab.errors import BadInput, CtlabError, NotFound, Unsupported

pytestmark = pytest.mark.kernel
QUICK_SECONDS = 20.0  # where a trap that works waits for ever, or reads until there is no memory left
TRAPS = {
    "pipe": "mkfifo /etc/{}",
    "device": "ln -s /dev/zero /etc/{}",
    "terminal": "ln -s /dev/ptmx /etc/{}",
    "endless": "truncate -s 100G /etc/{}",
    "folder": "mkdir /etc/{}",
    "link to itself": "ln -s {0} /etc/{0}",
    "process": "ln -s /proc/self/mem /etc/{}",
    "socket": "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/etc/{}\")'",
}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """No trap holds anybody up."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < patient(QUICK_SECONDS)


def set_trap(container: Any, kind: str, name: str) -> None:
    container.exec(["sh", "-c", f"rm -f /etc/{name} && {TRAPS[kind].format(name)}"]).check()


@pytest.mark.parametrize("kind", TRAPS)
def test_accounts_that_are_a_trap(lab: Any, kind: str) -> None:
    """Whoever is named is unknown then; who is numbered needs no file."""
    container = lab.run(["sleep", "60"], name="web")
    for name in ("passwd", "group"):
        set_trap(container, kind, name)
    for _ in range(2):
        with pytest.raises(NotFound, match=r"^container web: no user 'someone' in the container's /etc/passwd$"):
            container.exec(["id"], user="someone")
    assert container.exec(["id", "-u"]).check().stdout == "0\n"
    container.kill()
    assert container.start().exec(["id", "-u"]).check().stdout == "0\n"
    if not lab._client.facts["single_id"]:
        assert container.exec(["id", "-u"], user="1234").check().stdout == "1234\n"
        with pytest.raises(NotFound, match=r"^container web: no group 'some' in the container's /etc/group$"):
            container.exec(["id"], user="1234:some")


@pytest.mark.parametrize("kind", ["pipe", "endless", "socket"])
def test_accounts_of_a_mount_that_are_a_trap(lab: Any, tmp_path: Path, kind: str) -> None:
    """At the very start as well."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    trap = tmp_path / "trap"
    if kind == "pipe":
        os.mkfifo(trap)
    elif kind == "endless":
        trap.touch()
        os.truncate(trap, 100 << 30)
    else:
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(os.path.relpath(trap))
        bound.close()
    trap.chmod(0o644)
    mounts = [f"{trap}:/etc/passwd:ro", f"{trap}:/etc/group:ro"]
    for options in ({}, {"init": True}):
        with pytest.raises(NotFound, match="no user 'someone' in the container's /etc/passwd"):
            lab.run(["id"], user="someone", mounts=mounts, **options)
    assert len(lab.containers) == 0
    container = lab.run(["id", "-u"], mounts=mounts)
    assert (container.wait(patient(5)), container.logs()) == (0, "0\n")


@pytest.mark.parametrize("kind", TRAPS)
def test_files_that_the_lab_writes_are_a_trap(lab: Any, kind: str) -> None:
    """They are written again at the next start: the trap is replaced, and written through to nowhere."""
    names = ("hosts", "hostname", "resolv.conf")
    paths = [f"/etc/{name}" for name in names]
    container = lab.run(["sleep", "60"], name="web")
    right = container.exec(["cat", *paths]).check().stdout
    for name in names:
        set_trap(container, kind, name)
    container.kill()
    if kind == "folder":  # which may be full of what somebody needs
        with pytest.raises(CtlabError, match=r"^container web: .*/etc/.*(EISDIR|Is a directory)"):
            container.start()
        return
    container.start()
    assert container.exec(["cat", *paths]).check().stdout == right
    assert container.exec(["stat", "-c", "%F", *paths]).check().stdout == "regular file\n" * 3


@pytest.mark.parametrize(
    ("entry", "user"),
    [
        ("me:x:seven:7::/:/bin/sh", "me"),
        ("me:x:7:seven::/:/bin/sh", "me"),
        ("me:x:-7:7::/:/bin/sh", "me"),
        ("me:x:\N{SUPERSCRIPT TWO}:7::/:/bin/sh", "me"),
        (f"me:x:{10**30}:7::/:/bin/sh", "me"),
        ("me:x:4294967295:7::/:/bin/sh", "me"),
        ("me:x::7::/:/bin/sh", "me"),
        ("me:x:7:7::/:/bin/sh", f"me:{10**30}"),
        ("me:x:7:7::/:/bin/sh", str(10**12)),
        ("me:x:7:7::/:/bin/sh", "\N{SUPERSCRIPT TWO}"),
        ("me:x:7:7::/:/bin/sh", "me:\N{SUPERSCRIPT TWO}"),
    ],
)
def test_ids_that_are_none_are_refused_with_one_clear_line(lab: Any, entry: str, user: str) -> None:
    container = lab.run(name="web")
    container.write("/tmp/passwd", f"{entry}\n")
    container.exec(["sh", "-c", "rm -f /etc/passwd; cp /tmp/passwd /etc/passwd"]).check()
    with pytest.raises((BadInput, NotFound, Unsupported)) as caught:
        container.exec(["id"], user=user)
    text = str(caught.value)
    assert text.count("\n") == 0 and "Error:" not in text, text
    assert container.exec(["true"]).returncode == 0


def test_honest_accounts_still_count(lab: Any) -> None:
    need_ids(lab)
    container = lab.run(["sleep", "60"])
    container.write("/tmp/passwd", "# a comment\n\nbroken\nme:x:77:78::/srv:/bin/sh\n" + "x:x:1:1::/:/bin/sh\n" * 2000)
    container.write("/tmp/group", "me:x:78:\nmore:x:80:you,me\nodd:x:eight:me\n")
    container.exec(["sh", "-c", "cd /tmp; for f in passwd group; do rm -f /etc/$f; cp $f /etc/$f; done"]).check()
    script = ["sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME"]
    assert container.exec(script, user="me").check().stdout == "77 78 78 80 /srv\n"
    assert container.exec(script, user="me:more").check().stdout == "77 80 80 /srv\n"
