"""The kernel tests again as an ordinary user: a range of ids and cgroup folders, a range alone, one id alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from as_user import ROOT, User, ordinary_user
from kernel_help import long_form, patient, tries, uses, wait_until
from user_legs import KINDS, LEAST_PASSED, files_for, may_skip

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.user,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an ordinary user"),
]


@pytest.fixture(params=list(KINDS))
def user(request: pytest.FixtureRequest) -> Iterator[tuple[str, User]]:
    ids, cgroups = KINDS[request.param]
    with ordinary_user(ids=ids, cgroups=cgroups) as made:
        if cgroups and not made.cgroups:
            pytest.skip("no cgroup tree on this machine to delegate folders of")
        yield request.param, made


WHO = """
import os, ctlab
with ctlab.Lab("who") as lab:
    facts = lab._client.facts
    print(os.getuid(), facts["single_id"], facts["cgroup"], lab.run().exec(["id", "-u"]).stdout.strip())
    print(*facts["controllers"])
"""


def test_the_kernel_tests_pass(user: tuple[str, User], request: pytest.FixtureRequest) -> None:
    kind, who = user
    ids, cgroups = KINDS[kind]
    done = who.python(WHO)
    assert done.returncode == 0, done.stdout
    uid, single, version, inside, *controllers = done.stdout.split()
    assert (int(uid), single, inside) == (who.uid, str(not ids), "0"), done.stdout
    assert (version != "none") == cgroups, done.stdout
    if cgroups:
        assert {"cpu", "memory", "pids"} <= set(controllers)
    files = [str(ROOT / "tests/kernel" / name) for name in files_for(kind)]
    done = who.second_look("-q", "-rsfE", *files, timeout=tries(420, 1800))
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-6000:]
    report = json.loads(who.report.read_text())
    for name, why in report["flaky"]:
        request.node.user_properties.append(("flaky", [f"as user {kind}: {name}", why]))
    tests = report["tests"].values()
    skipped = [test["reason"] for test in tests if test["outcome"] == "skipped"]
    unexpected = [reason for reason in skipped if not any(part in reason for part in may_skip(kind, version))]
    assert unexpected == [], "skipped without need"
    assert sum(test["outcome"] == "passed" for test in tests) >= LEAST_PASSED[kind][long_form()], done.stdout[-3000:]
    if cgroups:
        uses(f"ordinary user with cgroup {version}")


def test_nothing_of_the_user_is_left() -> None:
    with ordinary_user(ids=True, cgroups=True) as made:
        assert made.python("import ctlab; ctlab.Lab('x').run(['sleep', '60'])").returncode == 0
        running = [p for p in os.listdir("/proc") if p.isdigit() and _owner(p) == made.uid]
        assert running == []
    assert not made.home.exists() and made.name not in Path("/etc/passwd").read_text()
    assert made.name not in Path("/etc/subuid").read_text()
    assert not any(folder.exists() for folder in made.cgroups)


def test_what_a_user_left_running_is_ended_with_him() -> None:
    """As by a leg that took too long: it and the account would stay on the machine."""
    with ordinary_user(ids=False, cgroups=False) as made:
        left = subprocess.Popen(made.argv(["sleep", "600"]), cwd="/")
        assert wait_until(lambda: _owner(str(left.pid)) == made.uid)
    assert left.wait(patient(10)) == -signal.SIGKILL
    assert made.name not in Path("/etc/passwd").read_text()


def _owner(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def test_a_closed_home_is_no_obstacle(tmp_path: Path) -> None:
    """What the user can't reach is shown to it; here a file below a folder that is root's alone."""
    import as_user

    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "deep").mkdir()
    (closed / "deep/file").write_text("seen\n")
    needed = as_user.needed
    with ordinary_user(ids=False, cgroups=False) as made:
        assert made.run(["cat", str(closed / "deep/file")]).returncode != 0
        as_user.needed = lambda: [*needed(), str(closed / "deep")]
        try:
            assert made.run(["cat", str(closed / "deep/file")]).stdout == "seen\n"
        finally:
            as_user.needed = needed
    assert os.listdir(closed) == ["deep"]
