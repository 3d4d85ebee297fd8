"""Where a lab may make its cgroup folders: found on this machine, in the texts of others, with and without systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cgroup_world import need_root
from kernel_help import uses

from ctlab.kernel import cgroup_discover, cgroup_mounts
from ctlab.kernel.cgroup_discover import discover

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parents[2]


def folder_tree() -> set[str]:
    """The folders that this process has made to probe, in all hierarchies, for "nothing is left"."""
    found = set()
    for mount in cgroup_mounts.mounts(Path("/proc/self/mountinfo").read_text()):
        for base, names, _ in os.walk(mount.point):
            found |= {os.path.join(base, name) for name in names if name.startswith(f"ctlab-probe-{os.getpid()}-")}
    return found


def test_discover_as_root_finds_writable_parents_and_leaves_nothing() -> None:
    need_root()
    before = Path("/proc/self/cgroup").read_text()
    found = discover(probe=True)
    assert folder_tree() == set()
    assert Path("/proc/self/cgroup").read_text() == before
    assert found.version in ("v1", "v2"), found.reason
    assert {"cpu", "memory", "pids"} <= set(found.controllers)
    assert all(os.path.isdir(path) for path in found.parents.values()) or found.how == "scope"
    if found.version == "v1":
        own = cgroup_mounts.own_paths(before)
        assert found.parents["memory"].endswith(own["memory"].rstrip("/"))


def test_discovery_reads_the_texts_of_other_machines() -> None:
    # systemd's version 2, a hybrid with controllers mounted together, and a container's read-only view.
    unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
    both = "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    inside = "40 39 0:28 /docker/ab /sys/fs/cgroup/my\\040memory ro,nosuid - cgroup cgroup rw,memory\n"
    one, two, three = cgroup_mounts.mounts("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + unified + both + inside)
    assert (one.version, one.point, one.controllers, one.read_only) == (2, "/sys/fs/cgroup", frozenset(), False)
    assert two.controllers == {"cpu", "cpuacct"}
    assert (three.point, three.read_only) == ("/sys/fs/cgroup/my memory", True)
    own = cgroup_mounts.own_paths("4:cpu,cpuacct:/a\n3:memory:/docker/ab/x\n0::/user.slice/s.scope\n")
    assert own == {"cpu": "/a", "cpuacct": "/a", "memory": "/docker/ab/x", "": "/user.slice/s.scope"}
    assert cgroup_mounts.folders(one, own[""]) == [
        "/sys/fs/cgroup/user.slice/s.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup",
    ]  # fmt: skip
    assert cgroup_mounts.folders(three, own["memory"]) == [three.point + "/x", three.point]
    assert cgroup_mounts.folders(three, "/elsewhere") == [three.point]
    assert cgroup_mounts.folders(one, "/../x") == ["/sys/fs/cgroup"]


def test_discover_says_why_there_is_none_in_a_mount_namespace_without_cgroups() -> None:
    need_root()
    script = (
        "import os; from ctlab.kernel import syscalls as s; s.unshare(s.CLONE_NEWNS);"
        "s.mount(None, '/', None, s.MS_REC | s.MS_PRIVATE); s.umount2('/sys/fs/cgroup', s.MNT_DETACH);"
        "from ctlab.kernel.cgroup_discover import discover; print(discover().reason)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "no cgroup file system is mounted here\n", done.stderr


def test_discover_says_read_only() -> None:
    need_root()
    script = (
        "import os, ctypes; from ctlab.kernel import syscalls as s; s.unshare(s.CLONE_NEWNS)\n"
        "from ctlab.kernel.cgroup_discover import discover; from ctlab.kernel.cgroup_mounts import mounts\n"
        "s.mount(None, '/', None, s.MS_REC | s.MS_PRIVATE)\n"
        "for m in mounts(open('/proc/self/mountinfo').read()):\n"
        "    s.mount(None, m.point, None, s.MS_REMOUNT | s.MS_BIND | s.MS_RDONLY)\n"
        "d = discover(); print(d.version, '|', d.reason, '|', d.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("none | "), done.stderr
    assert "EROFS (Read-only file system)" in done.stdout
    assert "read-only here (a container)" in done.stdout


def test_a_scope_is_had_from_systemd_and_the_process_stays_where_it_is() -> None:
    need_root()
    uses("systemd scope")
    if not os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd is not running here, so there is no one to ask for a scope")
    before = Path("/proc/self/cgroup").read_text()
    found, why = cgroup_discover.scope(probe=True)
    assert found is not None, why
    assert (found.version, found.how) == ("v2", "scope")
    assert {"cpu", "memory", "pids"} <= set(found.controllers)
    assert Path("/proc/self/cgroup").read_text() == before


def test_a_session_bus_without_systemd_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real bus with no one on it: the call is well-formed as far as the bus can tell, and refused by name."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon here (package dbus-daemon)")
    if shutil.which("busctl") is None:
        pytest.skip("no busctl here (package systemd)")
    address = f"unix:path={tmp_path}/bus"
    config = tmp_path / "bus.conf"
    config.write_text(
        f"<busconfig><type>session</type><listen>{address}</listen><policy context='default'>"
        "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>"
    )
    bus = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"],
                           stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert bus.stdout is not None and bus.stdout.readline()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        why = cgroup_discover._start_scope("--user", "ctlab-test.scope", os.getpid(), dict(os.environ))
        assert why.startswith("refused a scope: "), why
        assert "org.freedesktop.systemd1" in why
    finally:
        bus.terminate()
        bus.wait()
        if bus.stdout is not None:
            bus.stdout.close()
