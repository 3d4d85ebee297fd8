"""The keys of the person who started a lab: no container reads them, not even when it has used up a quota."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
from as_user import ordinary_user
from kernel_help import run_owner, wait_until
from keyring_help import KEYS, OWNERS_KEYS

pytestmark = pytest.mark.kernel

INSIDE = (
    KEYS
    + """
serial, ring = map(int, sys.argv[1:3])
before = session(), read(serial)
made = [add(f"filler{n}", "x") for n in range(250)]
join()
made += [add(f"filler{n}", "x") for n in range(250)]
found = [call(KEYCTL, 10, where, b"user", b"secret", 0) for where in (-3, -5, ring)]
linked = [call(KEYCTL, 8, serial, -3), call(KEYCTL, 8, ring, -3)]
print(errno.errorcode.get(-before[0], before[0] == ring), before[1], session() != ring, read(serial), max(found) < 0,
      max(linked) < 0)
"""
)
OWNER = (
    OWNERS_KEYS
    + """
serial, ring = add("secret", "hidden"), session()
assert read(serial) == "hidden"
with ctlab.Lab("keys") as lab:
    for options in ({}, {"security_opt": "seccomp=unconfined"}):  # behind the filter; behind the keyring alone
        for _ in range(3):  # the first ones use up whatever quota there is
            container = lab.run(**options)
            print(container.exec(["python3", "-c", sys.argv[1], str(serial), str(ring)]).check().stdout, end="")
assert read(serial) == "hidden" and session() == ring
"""
)


def _check(said: str) -> None:
    if said == "no keys\n":
        pytest.skip("this kernel has no keys (CONFIG_KEYS), or a filter forbids them here")
    lines = said.splitlines()
    assert len(lines) == 6
    assert lines[:3] == ["EPERM EPERM True EPERM True True"] * 3, said  # the filter refuses whatever is asked
    assert lines[3:] == ["EACCES EACCES True EACCES True True"] * 3, said  # the lab's keyring, which nobody may use


def test_no_container_reads_a_key_of_the_notebooks() -> None:
    _check(run_owner(OWNER, INSIDE))


@pytest.mark.long_in_guest
@pytest.mark.user
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an ordinary user")
@pytest.mark.parametrize("ids", [True, False])
def test_nor_one_of_an_ordinary_users(ids: bool) -> None:
    with ordinary_user(ids=ids, cgroups=False) as user:
        done = user.run([sys.executable, "-B", "-c", OWNER, INSIDE])
        assert done.returncode == 0, done.stdout
        _check(done.stdout)


def of_user(uid: int) -> list[str]:
    """The processes of a user that haven't ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
            )
            if int(status["Uid"].split()[0]) == uid and not status["State"].startswith("Z"):
                found.append(f"{folder.name} {status['Name']}")
    return found


FULL = (
    KEYS
    + """
import ctlab
if (joined := settled(join, 20)) in (-errno.ENOSYS, -errno.EPERM):
    print("no keys"); raise SystemExit
assert joined > 0, errno.errorcode[-joined]
for number in range(1000):
    if settled(lambda: add(f"filler{number}", "x")) < 0:
        break
try:
    ctlab.Lab("full")
except ctlab.CtlabError as error:
    print(type(error).__name__, error)
"""
)


@pytest.mark.long_in_guest
@pytest.mark.user
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an ordinary user")
def test_where_no_keyring_can_be_had_no_lab_starts() -> None:
    with ordinary_user(ids=False, cgroups=False) as user:
        done = user.python(FULL)
        if done.stdout == "no keys\n":
            pytest.skip("this kernel has no keys (CONFIG_KEYS), or a filter forbids them here")
        assert "the lab can't start: keyctl: join an empty session keyring: EDQUOT" in done.stdout, done.stdout
        assert "/proc/key-users" in done.stdout and len(done.stdout.splitlines()) == 1
        assert wait_until(lambda: not of_user(user.uid)), of_user(user.uid)
