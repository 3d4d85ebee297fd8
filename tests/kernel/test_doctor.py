"""The doctor on this machine's kernel: as root, as an ordinary user, and under restrictions made for real.

Restrictions live in namespaces made for one run of the doctor: quotas in a user namespace, masks in a mount
namespace, filters and privileges on one process. The machine's own settings are never touched.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from as_user import account_files
from kernel_help import patient, uses, wait_until

import ctlab
from ctlab.doctor import Report, doctor
from ctlab.kernel import probe, probe_facts, probe_options

pytestmark = pytest.mark.kernel

ROOT = os.geteuid() == 0
PACKAGE = Path(probe.__file__).parents[1]
needs_root = pytest.mark.skipif(not ROOT, reason="needs root, to make an ordinary user")

Doctor = Callable[..., dict[str, Any]]


def _report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, f"no report: {done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["usable"] else 1), done.stderr
    report["by_name"] = {item["name"]: item for item in report["probes"]}
    return report


def run_doctor(*wrapper: str, path: str | None = None) -> dict[str, Any]:
    """``python -m ctlab doctor --json`` below a wrapping command, which gets it as its last arguments."""
    command = [*wrapper, sys.executable, "-B", "-m", "ctlab", "doctor", "--json"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | ({"PATH": path} if path is not None else {})
    return _report(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patient(30)))


def run_doctor_as_root_of(namespaces: str, script: str) -> dict[str, Any]:
    """The same inside `unshare NAMESPACES`, after the commands of `script`, which may only change what is inside."""
    return run_doctor("unshare", *namespaces.split(), "sh", "-ec", f'{script}\nexec "$@"', "sh")


@pytest.fixture(scope="module")
def user_doctor() -> Iterator[Doctor]:
    """Runs the doctor as an ordinary user made for it, from a copy of the package that this user can read."""
    name = f"ctlabdoc{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="ctlab-test-doctor-"))
    folder.chmod(0o755)
    shutil.copytree(PACKAGE, folder / "ctlab", ignore=shutil.ignore_patterns("__pycache__", "static"))
    account_files("useradd", "-M", "-d", "/nonexistent", "-s", "/usr/sbin/nologin", name)
    try:
        account = pwd.getpwnam(name)

        def run(*wrapper: str, path: str = "/usr/bin:/bin") -> dict[str, Any]:
            # The interpreter that runs the tests may lie where the user can't go.
            for python in (sys.executable, "/usr/bin/python3"):
                command = [*wrapper, python, "-B", "-m", "ctlab", "doctor", "--json"]
                try:
                    done = subprocess.run(
                        command,
                        cwd=folder,
                        env={"PATH": path},
                        user=account.pw_uid,
                        group=account.pw_gid,
                        extra_groups=[],
                        capture_output=True,
                        text=True,
                        timeout=patient(30),
                    )
                except PermissionError:
                    continue
                if done.stdout:
                    return _report(done)
            raise AssertionError(f"no interpreter that {name} can run: {done.stderr}")

        yield run
    finally:
        account_files("userdel", name)
        shutil.rmtree(folder)


def machine() -> dict[str, object]:
    """What a probe could have changed on this machine: interfaces, mounts, sysctls of namespaces, own children."""
    interfaces = {path.parent.name: path.read_text() for path in Path("/sys/class/net").glob("*/ifindex")}
    quotas = {name: probe_facts.read(f"/proc/sys/{name}") for name in probe_facts.SYSCTLS}
    children = "".join(probe_facts.read(f"/proc/self/task/{task}/children") for task in os.listdir("/proc/self/task"))
    return {
        "interfaces": interfaces,
        "mounts": probe_facts.read("/proc/self/mountinfo"),
        "quotas": quotas,
        "children": children,
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
        "cgroup": probe_facts.read("/proc/self/cgroup"),
        "cgroups": _dead_cgroups(),
        "files": {"made", "lower", "overlay", "pts", "null"} & set(os.listdir("/tmp")),
        "route": probe_facts.read("/proc/net/route"),
    }


def _dead_cgroups() -> list[str]:
    """Folders of a probe, ctlab-probe-PID…, whose process is gone (another one's probe may be running now)."""
    found = [
        Path(base, name)
        for base, names, _ in os.walk("/sys/fs/cgroup")  # which folders that vanish meanwhile don't stop
        for name in names
        if name.startswith("ctlab-probe-")
    ]
    return sorted(str(path) for path in found if not Path("/proc", path.name.split("-")[2]).exists())


@pytest.fixture(scope="module")
def here() -> Report:
    return doctor()


def test_nothing_is_changed_and_it_is_quick() -> None:
    before = machine()
    seconds = []
    until = time.monotonic() + patient(30)  # another suite may have the processors for a while
    while len(seconds) < 3 or (min(seconds) >= patient(1.0) and time.monotonic() < until):
        start = time.monotonic()
        doctor()
        seconds.append(time.monotonic() - start)
    assert wait_until(lambda: machine() == before), machine()
    assert min(seconds) < patient(1.0)


def test_every_step_was_reached(here: Report) -> None:
    names = here.keys()
    assert {step.name for step in probe.STEPS} < set(names)
    unreached = [item.name for item in here if "process ended" in item.detail]
    assert unreached == []
    assert here.usable == (here.why_not == "") == (here.ids != "")


def test_what_the_kernel_was_built_without_is_named(here: Report) -> None:
    options = probe_facts.gather().options
    if options is None:
        pytest.skip("the kernel's configuration can't be read here (/proc/config.gz, /boot/config-RELEASE)")
    checked = 0
    for name, option in probe_options.OPTIONS.items():
        config = f"CONFIG_{option.config}"
        # Its program is missing, or it needs something that is: then the option isn't what decides.
        if here[name].ok is None or (name.startswith("nft") and not here["nft"].ok):
            continue
        if options.get(config) == "y":
            if name == "tun" and here[name].ok is False:  # the kernel has it, and its device file isn't for everyone
                assert "its mode is" in here[name].detail and config not in here[name].detail, here[name]
                continue
            assert here[name].ok is True, here[name]
            checked += 1
        elif config not in options:
            assert here[name].ok is False, here[name]
            assert config in here[name].detail, here[name]
            assert config in here[name].remedy, here[name]
            checked += 1
    assert checked >= 5


def test_a_missing_delay_is_not_only_an_errno(here: Report) -> None:
    options = probe_facts.gather().options or {}
    if "CONFIG_NET_SCH_NETEM" in options or here["netem"].ok:
        pytest.skip("this kernel has netem, or is built to load it")
    assert "this kernel lacks sch_netem (CONFIG_NET_SCH_NETEM)" in here["netem"].detail
    assert "no delay and jitter" in here["netem"].remedy
    assert not here["netem"].essential


def test_as_whoever_runs_the_tests(here: Report) -> None:
    assert here.usable, here.why_not
    assert here["bridge"].ok and here["veth"].ok
    assert here.ids == ("root" if ROOT else here.ids)


@pytest.mark.user
@needs_root
def test_as_an_ordinary_user(user_doctor: Doctor, here: Report) -> None:
    report = user_doctor()
    assert report["usable"], report["why_not"]
    assert report["ids"] == "range"
    # The lab's user namespace is the same for both, so is what works in it.
    inside = [step.name for step in probe.STEPS if "cgroup-" not in step.name and step.name != "clone-into-cgroup"]
    assert {name: report["by_name"][name]["ok"] for name in inside} == {name: here[name].ok for name in inside}


@pytest.mark.user
@needs_root
def test_without_newuidmap(user_doctor: Doctor) -> None:
    report = user_doctor(path="/nowhere")
    assert report["usable"], report["why_not"]
    assert report["ids"] == "single"
    assert report["by_name"]["id-range"]["ok"] is False
    assert report["by_name"]["id-range"]["remedy"] == "sudo apt install uidmap"
    assert report["by_name"]["devpts"]["ok"] and report["by_name"]["overlay"]["ok"]


@pytest.mark.user
@needs_root
def test_without_new_privileges(user_doctor: Doctor) -> None:
    report = user_doctor("setpriv", "--no-new-privs")
    assert report["ids"] == "single"
    assert "NoNewPrivs" in report["by_name"]["id-range"]["remedy"]
    assert report["by_name"]["unconfined"]["ok"] is False


@pytest.mark.parametrize(
    ("kind", "failing", "untried"),
    [
        ("user", "user-namespace", "uid-map"),
        ("net", "network-namespace", "veth"),
        ("mnt", "mount-namespace", "overlay"),
    ],
)
def test_namespace_quota_of_zero(kind: str, failing: str, untried: str) -> None:
    sysctl = f"/proc/sys/user/max_{kind}_namespaces"
    before = Path(sysctl).read_text()
    # Written inside a user namespace, it is the quota of that one alone.
    report = run_doctor_as_root_of("-Ur", f"echo 0 > {sysctl}")
    assert Path(sysctl).read_text() == before
    found = report["by_name"][failing]
    assert not report["usable"]
    assert found["ok"] is False and found["detail"].startswith("ENOSPC")
    assert f"sudo sysctl -w user.max_{kind}_namespaces=" in found["remedy"]
    assert report["by_name"][untried]["ok"] is None
    assert report["by_name"]["namespace-quota"]["ok"] is False


@pytest.mark.parametrize(("folder", "name"), [("/proc/irq", "proc"), ("/sys/firmware", "sysfs")])
def test_masked_proc_and_sys(folder: str, name: str) -> None:
    if not Path(folder).is_dir():
        pytest.skip(f"this kernel has no {folder} to hide")
    report = run_doctor_as_root_of("-m" if ROOT else "-Urm", f"mount -t tmpfs none {folder}")
    found = report["by_name"][name]
    assert not report["usable"]
    assert found["ok"] is False and found["detail"].startswith("EPERM")
    assert folder in found["detail"] and folder in found["remedy"]
    assert report["by_name"]["overlay"]["ok"] is True


# Installs a filter that answers one system call, and becomes the doctor. Arguments: the call, the answer, the command.
_FILTER = """
import ctypes, os, struct, sys
call, answer = int(sys.argv[1]), int(sys.argv[2], 16)
rows = ((0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, answer), (0x06, 0, 0, 0x7fff0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
program = ctypes.create_string_buffer(struct.pack("@HP", len(rows), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for option, value, pointer in ((38, 1, 0), (22, 2, ctypes.addressof(program))):
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        sys.exit(f"prctl({option}): {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[3], sys.argv[3:])
"""
_CALLS = {"x86_64": {"unshare": 272, "mount": 165}, "aarch64": {"unshare": 97, "mount": 40}}
_REFUSE, _KILL = "50001", "80000000"  # SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_KILL_PROCESS


def _filtered(call: str, answer: str) -> dict[str, Any]:
    calls = _CALLS.get(platform.machine())
    if calls is None:
        pytest.skip(f"the filter of this test isn't written for {platform.machine()}")
    uses("seccomp")
    return run_doctor(sys.executable, "-c", _FILTER, str(calls[call]), answer)


def test_a_filter_that_refuses_namespaces() -> None:
    report = _filtered("unshare", _REFUSE)
    found = report["by_name"]["user-namespace"]
    assert not report["usable"] and report["why_not"].startswith("user-namespace: EPERM")
    assert found["ok"] is False
    assert "filter" in found["remedy"] or "container" in found["remedy"] or "pod" in found["remedy"]
    assert "Seccomp: 2" in report["by_name"]["unconfined"]["detail"]


def test_a_filter_that_kills_names_the_step() -> None:
    report = _filtered("mount", _KILL)
    found = report["by_name"]["mount-namespace"]
    assert found["ok"] is False and "SIGSYS" in found["detail"]
    assert report["by_name"]["user-namespace"]["ok"] is True
    assert report["why_not"].startswith("mount-namespace: ")


@pytest.mark.long_in_guest
def test_a_step_that_hangs_is_named_and_everything_is_ended() -> None:
    before = machine()["children"]
    duration = f"60.{os.getpid()}"  # tells this test's process from anyone else's
    # Neither below /tmp, which the probe covers, nor where a mapped root can't go.
    with tempfile.TemporaryDirectory(prefix="ctlab-test-doctor-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        sleeper = Path(name, "nft")
        sleeper.write_text(f"#!/bin/sh\nexec sleep {duration}\n")
        sleeper.chmod(0o755)
        for limit in (patient(1.0), patient(4.0), patient(12.0)):  # of the whole probe: the steps before must fit in
            found = {item.name: item for item in probe.run(probe.Plan(nft=str(sleeper)), seconds=limit)}
            if found["nftables"].ok is False:
                break
    assert (found["nftables"].ok, found["nftables"].detail) == (False, f"this step did not end within {limit:g} s")
    assert found["bridge"].ok is True
    assert found["nft-nat"].ok is None
    deadline = time.monotonic() + patient(5)
    while _running("sleep", duration) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _running("sleep", duration) == []
    assert machine()["children"] == before


def _running(*words: str) -> list[str]:
    wanted = "".join(f"{word}\0" for word in words)
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and probe_facts.read(f"/proc/{pid}/cmdline") == wanted]


@pytest.mark.parametrize(("words", "status"), [(["version"], 0), (["no-such-verb"], 2), ([], 2)])
def test_command_line(words: list[str], status: int) -> None:
    command = [sys.executable, "-m", "ctlab", *words]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patient(30))
    assert done.returncode == status, done.stderr
    assert (done.stdout.startswith("ctlab")) == (status == 0)


def test_module_is_also_the_function() -> None:
    entry: object = ctlab.doctor  # the module, or the function where the package hands that out
    assert callable(entry) and isinstance(entry(), Report)
