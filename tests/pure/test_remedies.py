"""What the doctor says on machines that aren't at hand: reports from made-up outcomes and facts, against golden files.

To write the golden files anew: ``UPDATE_GOLDEN=1 pytest tests/pure/test_remedies.py``, then read the difference.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctlab import doctor as doctor_module
from ctlab.doctor import Probe, Report, build
from ctlab.kernel import probe, probe_facts, probe_options, probe_place, probe_vm
from ctlab.kernel.cgroup_discover import Delegation
from ctlab.kernel.probe_checks import Finding
from ctlab.kernel.probe_facts import Facts

GOLDEN = Path(__file__).parents[1] / "golden" / "doctor"

CONTROLLERS = ["cpu", "memory", "pids", "cpuset", "io"]
SERVICE = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service"
DELEGATED = Delegation("v2", {"unified": SERVICE}, SERVICE, CONTROLLERS, "", "", None, "scope")
NOTHING = Delegation(
    "none", {}, None, [], "cgroup v2: no session bus of the user's systemd (/run/user/1000/bus)",
    "log in as this user, on the console or by ssh, with the package dbus-user-session installed",
)  # fmt: skip
READ_ONLY = Delegation(
    "none", {}, None, [], "cgroup v2: /sys/fs/cgroup: EROFS (Read-only file system)",
    "the cgroup file system is read-only here (a container): start it with a writable /sys/fs/cgroup",
)  # fmt: skip
QUOTAS = {f"user/max_{kind}_namespaces": 63000 for kind in ("user", "net", "mnt", "pid", "uts", "ipc", "cgroup")}

# An ordinary user on an ordinary Debian, on which everything works.
USER = Facts(
    release="6.12.0-amd64",
    machine="x86_64",
    user="alice",
    python="/usr/bin/python3.13",
    python_is_link=True,
    sysctls=QUOTAS,
    ids="range",
    next_subid=165536,
    programs={name: f"/usr/bin/{name}" for name in probe_facts.PROGRAMS},
    setuid=frozenset({"newuidmap", "newgidmap"}),
    options={f"CONFIG_{option.config}": "m" if option.module else "y" for option in probe_options.OPTIONS.values()},
    module_files=frozenset(option.module for option in probe_options.OPTIONS.values() if option.module),
    processes=63000,
    files=524288,
)
DOCKER = USER._replace(place="docker", uid=0, user="root", ids="root", options=None, module_files=None)
MASKS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/kcore", "/sys/firmware")


def outcomes(failures: dict[str, tuple[int, str]], died: str = "", ending: str = "") -> list[probe.Outcome]:
    """What a probing process would have written that failed in `failures` and ended in `died`, by a signal."""
    lines: list[dict[str, object]] = []
    lost: set[str] = set()
    for step in probe.STEPS:
        if lost & set(step.needs):
            lost.add(step.name)
            continue
        lines.append({"begin": step.name})
        if step.name == died:
            lines += [{"died": ending}] if ending else []
            break
        number, detail = failures.get(step.name, (0, ""))
        ok = step.name not in failures
        if not ok:
            lost.add(step.name)
        lines.append({"name": step.name, "ok": ok, "errno": number, "detail": detail or os.strerror(number)})
        if ok:
            lines[-1]["detail"] = ""
    return probe.parse("\n".join(json.dumps(line) for line in lines).encode(), "this step did not end within 8 s")


def refused(*names: str, number: int = errno.EPERM) -> dict[str, tuple[int, str]]:
    return dict.fromkeys(names, (number, ""))


ABSENT = refused("netem", number=errno.ENOENT) | refused("ipvlan", number=errno.EOPNOTSUPP)
RESTRICTED = USER._replace(sysctls=QUOTAS | {"kernel/apparmor_restrict_unprivileged_userns": 1})
ALL_SYSTEM_CALLS = DOCKER._replace(seccomp=2)

QEMU = [("qemu-system-x86_64", "qemu-system-x86"), ("virtiofsd", "virtiofsd"), ("busybox", "busybox-static")]
POD = ALL_SYSTEM_CALLS._replace(place="hub", uid=1000)
NO_KERNEL = "no kernel for a VM: this machine has no apt-get, and its own kernel in /boot can't be read"


def on_a_hub(vm: Finding) -> Report:
    return build(outcomes(refused("user-namespace")), POD, READ_ONLY, vm)


CASES: dict[str, Report] = {
    "all-well": build(outcomes({}), USER, DELEGATED),
    "ubuntu-apparmor": build(outcomes(refused("uid-map")), RESTRICTED, DELEGATED),
    "ubuntu-apparmor-copied-python": build(
        outcomes(refused("loopback")),
        RESTRICTED._replace(python="/home/alice/lab/bin/python3", python_is_link=False),
        DELEGATED,
    ),
    "docker-default": build(outcomes(refused("user-namespace")), ALL_SYSTEM_CALLS, READ_ONLY),
    "docker-masked-proc": build(outcomes(refused("proc")), DOCKER._replace(covered=MASKS), READ_ONLY),
    "podman-masked-proc": build(outcomes(refused("proc")), DOCKER._replace(place="podman", covered=MASKS), READ_ONLY),
    "kubernetes": build(outcomes(refused("user-namespace")), ALL_SYSTEM_CALLS._replace(place="kubernetes"), READ_ONLY),
    "hub": build(outcomes(refused("user-namespace")), ALL_SYSTEM_CALLS._replace(place="hub", uid=1000), READ_ONLY),
    "binder": build(
        outcomes(refused("user-namespace")), ALL_SYSTEM_CALLS._replace(place="binder", uid=1000), READ_ONLY
    ),
    "colab": build(outcomes(refused("user-namespace")), ALL_SYSTEM_CALLS._replace(place="colab"), READ_ONLY),
    "service-filter": build(outcomes(refused("user-namespace")), USER._replace(seccomp=2), DELEGATED),
    "chroot": build(outcomes(refused("user-namespace")), USER, DELEGATED),
    "masked-on-a-machine": build(outcomes(refused("proc")), USER._replace(covered=("/proc/kcore",)), DELEGATED),
    "no-user-namespaces": build(
        outcomes(refused("user-namespace", number=errno.ENOSPC)),
        USER._replace(sysctls=QUOTAS | {"user/max_user_namespaces": 0}),
        DELEGATED,
    ),
    "quota-used-up": build(outcomes(refused("network-namespace", number=errno.ENOSPC)), USER, DELEGATED),
    "userns-clone-sysctl": build(
        outcomes(refused("user-namespace")),
        USER._replace(sysctls=QUOTAS | {"kernel/unprivileged_userns_clone": 0}),
        DELEGATED,
    ),
    "kernel-without-user-namespaces": build(
        outcomes(refused("user-namespace", number=errno.EINVAL)), USER._replace(options={}), DELEGATED
    ),
    "no-subordinate-ids": build(
        outcomes({"id-range": (0, "no range for alice in /etc/subuid and /etc/subgid")}),
        USER._replace(ids="single", ids_problem="no range for alice in /etc/subuid and /etc/subgid"),
        DELEGATED,
    ),
    "no-newuidmap": build(
        outcomes({"id-range": (0, "newuidmap is missing: Debian package uidmap")}),
        USER._replace(ids="single", programs={"ip": "/usr/bin/ip", "nft": "/usr/sbin/nft", "ping": "/usr/bin/ping"}),
        DELEGATED,
    ),
    "newuidmap-not-setuid": build(
        outcomes({"id-range": (0, "newuidmap: write to uid_map failed: Operation not permitted")}),
        USER._replace(setuid=frozenset()),
        DELEGATED,
    ),
    "no-new-privs-on-a-hub": build(
        outcomes({"id-range": (0, "no_new_privs is set here, so newuidmap has no privilege")}),
        USER._replace(place="hub", ids="single", no_new_privs=True),
        DELEGATED,
    ),
    "no-delegation": build(outcomes({}), USER, NOTHING),
    "options-not-built": build(outcomes(ABSENT), USER._replace(options={}, loadable=False), DELEGATED),
    "modules-not-installed": build(outcomes(ABSENT), USER._replace(module_files=frozenset({"ipvlan"})), DELEGATED),
    "modules-below-a-container": build(outcomes(ABSENT), DOCKER, READ_ONLY),
    "old-kernel": build(
        outcomes(refused("openat2", number=errno.ENOSYS) | refused("overlay", number=errno.EINVAL)), USER, DELEGATED
    ),
    "killed-by-a-filter": build(outcomes({}, died="clone3", ending=signal.SIGSYS.name), ALL_SYSTEM_CALLS, READ_ONLY),
    "no-filters-built": build(outcomes(refused("seccomp", number=errno.EINVAL)), USER._replace(options={}), DELEGATED),
    "no-filters-in-a-sandbox": build(
        outcomes({"seccomp": (errno.ENOTSUP, "a filter of system calls is accepted, but nothing is filtered")}),
        USER,
        DELEGATED,
    ),
    "no-filters-for-this-processor": build(
        outcomes({"seccomp": (0, "there is no table of system calls for riscv64")}),
        USER._replace(machine="riscv64"),
        DELEGATED,
    ),
    "hangs": build(outcomes({}, died="overlay"), USER, DELEGATED),
    "tun-in-docker": build(outcomes(refused("tun", number=errno.ENOENT)), DOCKER, READ_ONLY),
    "tun-for-root-alone": build(
        outcomes(refused("tun", number=errno.EACCES)), USER._replace(tun_mode=0o600), DELEGATED
    ),
    "tun-not-built": build(outcomes(refused("tun", number=errno.ENOENT)), USER._replace(options={}), DELEGATED),
    "low-limits": build(
        outcomes({}),
        DOCKER._replace(sysctls=QUOTAS | {"user/max_net_namespaces": 100}, tasks=100, files=1024),
        DELEGATED,
    ),
    "vm-instead": on_a_hub(probe_vm.finding([], "6.12.107-cloud-amd64", "", "tcg")),
    "vm-with-kvm": build(outcomes({}), USER, DELEGATED, probe_vm.finding([], "6.12.107-cloud-amd64", "", "kvm")),
    "vm-has-what-is-missing": build(
        outcomes(ABSENT), USER._replace(options={}), NOTHING, probe_vm.finding([], "6.12.107-cloud-amd64", "", "kvm")
    ),
    "vm-not-prepared": on_a_hub(probe_vm.finding([])),
    "vm-without-programs": on_a_hub(probe_vm.finding(QEMU)),
    "vm-without-virtiofsd": build(outcomes({}), USER, DELEGATED, probe_vm.finding(QEMU[1:2])),
    "vm-without-kernel": on_a_hub(probe_vm.finding([], "", NO_KERNEL)),
    "macos": build((), Facts(system="Darwin", release="24.1.0", machine="arm64", place="macos"), None),
    "windows": build((), Facts(system="Windows", release="11", machine="AMD64", place="windows"), None),
    "wsl1": build((), Facts(release="4.4.0-19041-Microsoft", machine="x86_64", place="wsl1"), None),
}


@pytest.mark.parametrize("name", CASES)
def test_report_is_the_golden_one(name: str) -> None:
    report = CASES[name]
    text = f"{report.text(100)}\n\nwhy not: {report.why_not or '(it can)'}{report.instead}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_says_what_to_do(name: str) -> None:
    report = CASES[name]
    assert report.usable == (not report.why_not)
    assert "\n" not in report.why_not
    if not report.usable:
        first = next(item for item in report if item.essential and not item.ok)
        assert report.why_not.startswith(f"{first.name}: ")
        assert first.remedy.splitlines()[0] in report.why_not


def test_a_vm_is_offered_where_it_can_be_had_and_nothing_else_can() -> None:
    offered = {name for name, report in CASES.items() if report.offer}
    assert offered == {"vm-instead", "vm-not-prepared"}
    for name in offered:
        assert "but in a VM of its own: %lab start --engine vm" in CASES[name].summary
    assert CASES["vm-with-kvm"].usable and CASES["vm-with-kvm"].vm is not None
    assert CASES["all-well"].vm is None


def test_profile_names_this_interpreter_and_can_be_pasted() -> None:
    remedy = CASES["ubuntu-apparmor-copied-python"]["loopback"].remedy
    assert 'profile ctlab-python "/home/alice/lab/bin/python3" flags=(unconfined) {' in remedy.splitlines()
    assert "--copies" not in remedy
    assert "--copies" in CASES["ubuntu-apparmor"]["uid-map"].remedy


def test_report_is_a_sequence_and_a_mapping() -> None:
    report = CASES["options-not-built"]
    assert isinstance(report[0], Probe) and report[0] == report[report[0].name]
    assert report[1:3] == (report[1], report[2])
    assert len(report) == len(report.keys()) == len(list(report))
    there: tuple[object, ...] = ("netem", report["netem"])
    for key in there:
        assert key in report
    missing: object = "no-such-probe"
    assert missing not in report
    with pytest.raises(KeyError):
        report["no-such-probe"]


def test_html_is_plain_and_escaped() -> None:
    hostile = Probe("uid-map", False, "<script>alert(1)</script>", "a & b\n<b>", True)
    page = Report([hostile], USER, "")._repr_html_()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "a &amp; b\n&lt;b&gt;" in page
    assert "http" not in page and "color" not in page


def test_frame_has_a_row_per_probe() -> None:
    report = CASES["no-user-namespaces"]
    frame = report.frame()
    assert list(frame.columns) == ["ok", "essential", "detail", "remedy"]
    assert list(frame.index) == list(report.keys())
    assert frame["ok"].isna().sum() == sum(item.ok is None for item in report)
    assert not frame.loc["user-namespace", "ok"]


@pytest.mark.parametrize(
    ("place", "system", "release", "environment", "present"),
    [
        ("linux", "Linux", "6.12.0", {}, ()),
        ("docker", "Linux", "6.12.0", {}, ("/.dockerenv",)),
        ("podman", "Linux", "6.12.0", {"container": "podman"}, ("/run/.containerenv",)),
        ("container", "Linux", "6.12.0", {"container": "lxc"}, ()),
        ("kubernetes", "Linux", "6.12.0", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ("/.dockerenv",)),
        ("hub", "Linux", "6.12.0", {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JUPYTERHUB_API_URL": "x"}, ()),
        ("linux", "Linux", "6.12.0", {"JUPYTERHUB_API_URL": "x"}, ()),
        ("binder", "Linux", "6.12.0", {"KUBERNETES_SERVICE_HOST": "1", "BINDER_REPO_URL": "x"}, ()),
        ("colab", "Linux", "6.6.0", {"COLAB_RELEASE_TAG": "x"}, ("/.dockerenv",)),
        ("wsl2", "Linux", "5.15.153.1-microsoft-standard-WSL2", {}, ()),
        ("wsl1", "Linux", "4.4.0-19041-Microsoft", {}, ()),
        ("macos", "Darwin", "24.1.0", {}, ()),
        ("windows", "Windows", "11", {}, ()),
        ("other", "FreeBSD", "14", {}, ()),
    ],
)
def test_place(place: str, system: str, release: str, environment: dict[str, str], present: tuple[str, ...]) -> None:
    assert probe_place.place(system, release, environment, present) == place
    assert place in probe_place.NAMES


def test_covered_names_masks_but_not_what_belongs_there() -> None:
    mountinfo = """\
22 1 0:20 / /proc rw - proc proc rw
23 22 0:21 / /proc/acpi ro - tmpfs tmpfs ro
24 22 0:20 /irq /proc/irq ro - proc proc rw
25 22 0:22 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw
26 1 0:23 / /sys ro - sysfs sysfs ro
27 26 0:24 / /sys/fs/cgroup ro - tmpfs tmpfs ro
28 26 0:25 / /sys/kernel/debug rw - debugfs debugfs rw
29 26 0:26 / /sys/firmware ro - tmpfs tmpfs ro
"""
    assert probe_facts.covered(mountinfo) == ("/proc/acpi", "/proc/irq", "/sys/firmware")


def test_next_subid_is_above_every_range() -> None:
    assert probe_facts.next_subid("") == 100000
    assert probe_facts.next_subid("a:100000:65536\nb:300000:65536\n# c:900000:1:x\nbroken\n") == 365536


@pytest.mark.parametrize(
    ("safe", "change"),
    [
        (True, {"modules": frozenset({"ifb"})}),
        (False, {"modules": frozenset(), "options": {"CONFIG_IFB": "m"}}),
        (False, {"modules": frozenset(), "options": None}),
        (True, {"modules": frozenset(), "options": {"CONFIG_IFB": "y"}}),
        (True, {"modules": frozenset(), "options": None, "loadable": False}),
    ],
)
def test_ifb_is_tried_only_if_no_module_has_to_be_loaded(safe: bool, change: dict[str, Any]) -> None:
    assert probe_facts.ifb_is_safe(USER._replace(**change)) is safe


def test_parse_survives_a_torn_line_and_names_the_step() -> None:
    output = b'{"begin": "pidfd"}\n{"name": "pidfd", "ok": true, "errno": 0, "detail": ""}\n'
    output += b'{"begin": "clone3"}\n{"name": "clo'
    found = {item.name: item for item in probe.parse(output, "it ended")}
    assert found["pidfd"].ok is True
    assert (found["clone3"].ok, found["clone3"].detail) == (False, "it ended")
    assert found["clone-into-cgroup"].ok is None and found["clone-into-cgroup"].detail == "needs clone3"
    assert found["openat2"].ok is None and found["openat2"].detail == "the process ended in clone3"
    assert list(found) == [step.name for step in probe.STEPS]


def test_parse_of_nothing_names_the_reason_once() -> None:
    first, *others = probe.parse(b"", "could not be started", errno.ENOENT)
    assert (first.ok, first.number, first.detail) == (False, errno.ENOENT, "could not be started")
    assert {item.ok for item in others} == {None}


def test_every_precondition_comes_before_what_needs_it() -> None:
    seen: set[str] = set()
    for step in probe.STEPS:
        assert set(step.needs) <= seen
        seen.add(step.name)
    assert set(probe_options.OPTIONS) <= seen


def test_import_is_light_and_the_module_can_be_called() -> None:
    assert callable(doctor_module)
    code = (
        "import sys, ctlab.doctor, ctlab; "
        "assert callable(ctlab.doctor); "
        "print(sorted({'pandas', 'IPython', 'plotly', 'numpy', 'pyroute2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
