"""The VM leg's shares and reports: pure. That the leg notices a machine that dies or hangs: for real."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import leg
import leg_report
import legs
import pytest
from kernel_help import long_form, patient

from ctlab.vm import frames


def test_every_file_is_in_one_share() -> None:
    shares = legs.shares()
    assert set(shares) == set(legs.MACHINES)
    roots = [file for steps in shares.values() for step in steps if step.who == "root" for file in step.files]
    assert sorted(roots) == legs.kernel_files() and len(roots) > 15
    there = {path.name for path in legs.KERNEL_TESTS.glob("test_*.py")}
    out = {*legs.LEFT_OUT, *(() if long_form() else legs.LONG)}
    assert out <= there and set(roots) | out == there and not set(roots) & out
    users = [step for steps in shares.values() for step in steps if step.who == "user"]
    assert {(step.ids, step.cgroups, *step.files) for step in users} == {
        (ids, cgroups, *files) for ids, cgroups, files in legs.AS_USER
    }
    assert {file for step in users for file in step.files} <= there
    loads = [sum(legs.seconds(f, s.who) for s in steps for f in s.files) for steps in shares.values()]
    assert max(loads) - min(loads) <= max(map(legs.seconds, roots))


def test_times_are_of_files_that_are_there() -> None:
    there = {path.name for path in legs.KERNEL_TESTS.glob("test_*.py")}
    assert {name.split()[0] for name in legs.SECONDS} <= there


def report(leg_name: str, tests: dict[str, tuple[str, list[str], str]], **probes: bool) -> dict[str, Any]:
    return {
        "leg": leg_name, "kernel": "Linux", "user": "root", "flaky": [],
        "probes": {name: {"ok": ok, "detail": "" if ok else f"no {name} here"} for name, ok in probes.items()},
        "tests": {
            name: {"outcome": outcome, "uses": uses, "reason": reason, "seconds": 0.1}
            for name, (outcome, uses, reason) in tests.items()
        },
    }  # fmt: skip


def test_a_probe_alone_is_no_test() -> None:
    native = report("native", {"a": ("skipped", ["netem"], "no netem"), "b": ("passed", ["veth"], "")}, netem=False)
    guest = report("vm", {"c": ("failed", ["ipvlan"], "")}, netem=True, ipvlan=True)
    found = leg_report.cells([native, guest])
    assert found["veth", "native"].text() == "1 passed"
    assert found["netem", "native"].text() == "absent" and found["netem", "vm"].text() == "present, no test"
    assert found["ipvlan", "vm"].text() == "1 FAILED, 0 passed" and not found["ipvlan", "vm"].tested
    text = leg_report.table([native, guest])
    assert "netem: native: no netem; vm: present, no test" in text
    assert {"vm: netem", "vm: ipvlan", "vm: cgroup v2 memory"} <= set(leg_report.missing([native, guest]))
    assert leg_report.missing([native]) == []
    again = report("vm", {"d": ("passed", list(leg_report.REQUIRED["vm"]), "")})
    assert leg_report.missing([native, guest, again]) == []


def test_what_failed_is_said_last_with_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leg_report, "FLAKY", tmp_path / "flaky.txt")
    path = tmp_path / "vm.json"
    tests = {"a": ("failed", ["netem"], "ValueError: too few"), "b": ("skipped", [], "no"), "c": ("passed", [], "")}
    said = report("vm", tests | {"d": ("passed", list(leg_report.REQUIRED["vm"]), "")}, netem=True)
    path.write_text(json.dumps(said))
    assert leg_report.main([str(path)]) == 0  # what failed is the affair of who ran it
    assert capsys.readouterr().out.endswith("\nfailed:\n  vm (root): a: ValueError: too few\n")
    for count in (5, 6):
        said["flaky"] = [["b", "bad luck"]] * count
        path.write_text(json.dumps(said))
        assert leg_report.main([str(path)]) == (1 if count > leg_report.MOST_FLAKY else 0)
        assert capsys.readouterr().out.count("\nflaky b (bad luck)") == count
        assert (tmp_path / "flaky.txt").read_text() == "flaky b (bad luck)\n" * count
    assert leg_report.why("x = 1\n>  f()\nE   ValueError: too few\nE   more\n") == "ValueError: too few"
    assert leg_report.why("the test took longer than 60 s\n") == "the test took longer than 60 s"


def test_what_is_there_and_untested_is_named() -> None:
    said = report("native", {"a": ("passed", ["veth"], ""), "b": ("skipped", ["netem"], "no netem")},
                  veth=True, netem=True, ifb=False, ip=True, **{"packet-socket": True})  # fmt: skip
    assert leg_report.untested(said) == ["netem", "packet-socket"]
    assert leg_report.untested(said | {"user": "user"}) == ["netem"]
    assert set(leg_report.ROOTS) <= set(leg_report.CAPABILITIES)


def test_a_capability_that_is_not_listed_is_an_error() -> None:
    with pytest.raises(ValueError, match="uses 'nettem'"):
        leg_report.cells([report("vm", {"a": ("passed", ["nettem"], "")})])


TESTS = """
import pytest
def test_one(request): request.node.user_properties.append(("uses", "veth"))
def test_two(): pytest.skip("no such thing")
@pytest.fixture
def broken():
    yield
    assert False
def test_three(broken): pass
"""
RUN = "import pytest, sys, leg_report; pytest.main(sys.argv[2:], plugins=[leg_report.Recorder(sys.argv[1])])"


def test_the_recorder_writes_what_ran(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = [str(tmp_path / "report.json"), "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    path = os.pathsep.join([str(leg.ROOT), str(leg.ROOT / "tests")])
    subprocess.run(
        [sys.executable, "-c", RUN, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, check=True,
        capture_output=True,
    )  # fmt: skip
    said = json.loads((tmp_path / "report.json").read_text())
    found = {
        name.partition("::")[2]: (test["outcome"], test["reason"], test["uses"]) for name, test in said["tests"].items()
    }
    assert found == {
        "test_one": ("passed", "", ["veth"]), "test_two": ("skipped", "no such thing", []),
        "test_three": ("failed", "assert False", []),
    }  # fmt: skip
    assert said["probes"]["clone3"]["ok"] is True


RUN_ALL = """
import ctlab.doctor, leg_report, pytest, sys
from types import SimpleNamespace
ctlab.doctor.doctor = lambda: [SimpleNamespace(name=name, ok=True, detail="") for name in ("veth", "netem")]
sys.exit(pytest.main(sys.argv[2:], plugins=[leg_report.Recorder(sys.argv[1])]))
"""


@pytest.mark.parametrize(("words", "status"), [
    ((), 1), (("test_veth.py",), 0), (("-k", "veth"), 0), (("--numprocesses=2",), 1),
], ids=["all", "a file", "a choice", "several processes"])  # fmt: skip
def test_a_native_run_of_all_fails_for_what_it_has_not_tested(
    words: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    (tmp_path / "test_veth.py").write_text(
        'def test_veth(request): request.node.user_properties.append(("uses", "veth"))'
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(leg.ROOT), str(leg.ROOT / "tests")])}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    environment["CTLAB_TEST_LEG"] = "native"
    command = [sys.executable, "-c", RUN_ALL, "report.json", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("tested by no test that passed" in done.stdout and "netem\n" in done.stdout) == bool(status)
    assert "veth\n" not in done.stdout


# -- with a machine ---------------------------------------------------------------------------------------------------
def run(capfd: pytest.CaptureFixture[str], script: str, seconds: float = 50.0) -> tuple[int | str, str]:
    """A machine that runs this script: (the status or why it failed, what it said)."""
    command = ["/bin/sh", "-ec", leg.SHOW, "sh", str(leg.ROOT), sys.executable, "-B", "-c", script]
    try:
        status: int | str = leg.run_machine("test", command, {"PATH": "/usr/bin:/bin"}, time.monotonic() + seconds)
    except leg.LegFailed as error:
        status = str(error)
    return status, capfd.readouterr().out


PANIC = "import time; print('now', flush=True); time.sleep(2); open('/proc/sysrq-trigger', 'w').write('c')"


@pytest.fixture
def held_input(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Standard input as a leg's process has it: a pipe that its parent holds."""
    reading, writing = os.pipe()
    with open(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield
    os.close(writing)


@pytest.mark.long  # every machine of the leg is one
def test_a_program_in_a_machine(machine_programs: None, held_input: None, capfd: pytest.CaptureFixture[str]) -> None:
    status, said = run(capfd, "import os; print(os.getuid(), os.uname().nodename); raise SystemExit(3)")
    assert status == 3 and "0 ctlab-vm" in said


@pytest.mark.long
def test_a_machine_that_panics_fails_the_leg(
    machine_programs: None, held_input: None, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capfd, PANIC)
    assert "now" in said
    assert isinstance(status, str) and "the machine ended before its tests did" in status
    assert "sysrq" in status.lower() and "panic" in status.lower()  # of the console


def test_a_port_that_says_nothing_fails_the_leg(held_input: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(leg, "BOOT_SECONDS", 0.2)
    ours, guests = socket.socketpair()
    with ours, guests:
        guests.sendall(frames.pack(frames.DATA, 0, b"now"))
        said = leg.frames_of(ours, {}, time.monotonic() + 60)
        assert next(said) == (frames.DATA, b"now")
        with pytest.raises(leg.LegFailed, match=r"the machine has said nothing for 0\.3 s"):
            next(said)
        with pytest.raises(leg.LegFailed, match=r"the machine has said nothing for 0\.2 s"):
            next(leg.frames_of(ours, {}, time.monotonic() + 60))
        with pytest.raises(leg.LegFailed, match="the leg's time is over"):
            next(leg.frames_of(ours, {}, time.monotonic() - 1))


@pytest.mark.long
def test_a_machine_that_says_nothing_fails_the_leg(
    machine_programs: None, held_input: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leg, "SILENCE_SECONDS", 25)  # more than an interpreter takes to start there
    began = time.monotonic()
    before = set(Path("/tmp").glob("ctlab-leg-test-*"))
    status, said = run(capfd, "import time; print('now', flush=True); time.sleep(600)", patient(150))
    assert "now" in said and isinstance(status, str) and status.startswith("the machine has said nothing for 25 s")
    assert time.monotonic() - began < patient(120)  # not the 600 s of its sleep
    assert set(Path("/tmp").glob("ctlab-leg-test-*")) <= before
