"""A container that makes keys without end leaves the others at work, and its owner as the kernel's quota allows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from as_user import ordinary_user
from floods_help import at_work
from kernel_help import ROOT, patient, run_owner, wait_until
from keyring_help import KEYS, OWNERS_KEYS

import ctlab

pytestmark = pytest.mark.kernel

FLOOD_OF_KEYS = (
    KEYS
    + """
for ring in (-3, -4, -2):  # of the session, of the user, of the process
    made, answer = 0, settled(lambda: add("first", "x", ring), 20 if ring == -4 else 1)
    while made < 1000 and answer > 0:
        made += 1
        answer = settled(lambda: add(f"flood{made}", "x", ring))
    print(ring, made, errno.errorcode.get(-answer, "no end"), flush=True)
time.sleep(600)
"""
)


def test_keys(flooded: ctlab.Lab) -> None:
    """By default the filter lets nobody make one."""
    flood = flooded.run(["python3", "-c", FLOOD_OF_KEYS], name="flood")
    assert wait_until(lambda: len(flood.logs().splitlines()) == 3, 10)
    assert flood.logs().splitlines() == ["-3 0 EPERM", "-4 0 EPERM", "-2 0 EPERM"]
    at_work(flooded)
    for _ in range(8):  # slots that were not there before
        assert flooded.run(["true"], rm=True).wait(patient(5)) == 0


# The owner's side: prints what the flood printed, and what its owner then can do, a line each.
OWNER_OF_KEYS = (
    OWNERS_KEYS
    + """
from kernel_help import patient, wait_until
from floods_help import at_work
serial = add("mine", "kept")
def new(name):
    made = add(name, "x")
    return "made" if made > 0 else errno.errorcode[-made]
with ctlab.Lab("flooded", storage="32M") as lab:
    lab.run(["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done"], name="calm")
    flood = lab.run(["python3", "-c", sys.argv[1]], name="flood", security_opt="seccomp=unconfined")
    assert wait_until(lambda: len(flood.logs().splitlines()) == 3, 30), flood.logs()
    print(flood.logs(), end="")
    at_work(lab)
    for _ in range(8):
        assert lab.run(["true"], rm=True).wait(patient(5)) == 0
    assert flood.state == "running"
    print(read(serial), new("beside"))
    try:
        ctlab.Lab("second").stop()
        print("starts")
    except ctlab.CtlabError as error:
        print(error)
    flood.remove()
assert wait_until(lambda: new("after") == "made", 20), "with the lab the keys of its users are gone"
print(read(serial))
"""
)


def _of_keys(said: str, *, shared: bool) -> None:
    if said == "no keys\n":
        pytest.skip("this kernel has no keys (CONFIG_KEYS), or a filter forbids them here")
    session, of_user, of_process, own, second, after = said.splitlines()
    most = int(Path("/proc/sys/kernel/keys/maxkeys").read_text())
    assert session == "-3 0 EACCES", said  # the lab's, which nobody may use
    words = of_user.split() + of_process.split()
    assert (words[0], *words[2:4], words[5]) == ("-4", "EDQUOT", "-2", "EDQUOT"), said
    assert 0 < int(words[1]) + int(words[4]) <= most, said
    assert own == ("kept EDQUOT" if shared else "kept made"), said
    assert ("EDQUOT" in second and "/proc/key-users" in second) if shared else second == "starts", said
    assert after == "kept"


def test_keys_without_a_filter() -> None:
    """The kernel's quota of a user id ends it: in root's lab that of nobody else."""
    _of_keys(run_owner(OWNER_OF_KEYS, FLOOD_OF_KEYS), shared=os.geteuid() != 0)


@pytest.mark.long_in_guest
@pytest.mark.user
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an ordinary user")
@pytest.mark.parametrize("ids", [True, False])
def test_keys_without_a_filter_of_an_ordinary_user(ids: bool) -> None:
    """It is the user's own quota: what was there stays, and nothing new can be made until the lab has ended."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    with ordinary_user(ids=ids, cgroups=False) as user:
        done = user.run([sys.executable, "-B", "-c", OWNER_OF_KEYS, FLOOD_OF_KEYS], env={"PYTHONPATH": path})
        assert done.returncode == 0, done.stdout
        _of_keys(done.stdout, shared=True)
