"""The printed commands of a container make what the lab makes: the same program looks around in both.

One is started by a lab, the other by its script in a root shell with namespaces of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from explain_help import comparable
from kernel_help import need_controller, need_ids, patient

pytestmark = pytest.mark.kernel
NEW_NODE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc"]
NEW_NODE += ["--fork", "--kill-child"]

# Other tests make accounts meanwhile: theirs, and what `useradd` leaves beside its files, are no difference.
# What a program sees from inside, by the tools of the system image; sh's own words where an image may lack the tool.
PROBE = r"""
section() { echo "==== $1"; }
# The kernel says "up" of a link a moment after it is.
for link in /sys/class/net/eth*; do
  for turn in 1 2 3 4 5 6 7 8 9; do [ ! -e $link ] || [ $(cat $link/operstate) = up ] || sleep 0.1; done; done
section mounts; cat /proc/self/mountinfo
section privileges; grep -E '^(Cap|NoNewPrivs|Uid|Gid|Umask)' /proc/self/status
section first process; grep -E '^(Cap|NoNewPrivs|Uid|Gid)' /proc/1/status
section place; pwd; echo below $PPID; readlink /proc/self/cwd
section ids; id
section environment; env | grep -v -e '^_=' -e '^SHLVL=' | sort
section names; cat /proc/sys/kernel/hostname /etc/hostname /etc/hosts /etc/resolv.conf
section devices; ls -A /dev | sort; ls -A /dev/pts
section descriptors; ls /proc/self/fd
section folders; stat -c '%A %n' / /* /dev/* /var/* | grep -v ' /dev/pts/'
section copied; (find /etc /var -printf '%y %m %p %l\n' | sort; cat /etc/shadow /etc/gshadow) 2> /dev/null |
  grep -v -e '^ctlabt' -e '^[^:]* /etc/\(passwd\|group\|g\?shadow\|sub[ug]id\)[^ ]\+ $'
section writing; for file in /etc/x /x /usr/x /opt/x /tmp/x /dev/shm/x /proc/sys/x /sys/x; do
  if (: > $file) 2> /dev/null; then echo "$file yes"; else echo "$file no"; fi; done
section links; ip -j -d link
section addresses; ip -j -d addr
section routes; ip -j -d route show table all; ip -j -d -6 route show table all
section sockets; cat /proc/net/tcp | wc -l
"""
IMAGE_PROBE = r"""
section() { echo "==== $1"; }
section mounts; cat /proc/self/mountinfo
section privileges; grep -E '^(Cap|NoNewPrivs|Uid|Gid|Umask)' /proc/self/status
section place; pwd
section environment; env | grep -v -e '^_=' -e '^SHLVL=' | sort
section names; cat /proc/sys/kernel/hostname /etc/hostname /etc/hosts /etc/resolv.conf /marker
section folders; ls -a / /etc /dev /dev/pts
"""


def sections(text: str) -> dict[str, Any]:
    """A probe's output: what can be compared, by section."""
    found: dict[str, Any] = {}
    for part in text.split("==== ")[1:]:
        name, _, body = part.partition("\n")
        if name == "mounts":
            found[name] = mounts(body)
        elif name in ("links", "addresses", "routes"):
            found[name] = [comparable(json.loads(line)) for line in body.splitlines()]
        else:
            found[name] = body.splitlines()
    return found


def mounts(text: str) -> list[tuple[str, ...]]:
    """mountinfo in order: (mount point, mounted on, root, options, kind, source, options of the file system)."""
    lines = [line.split() for line in text.splitlines()]
    points = {fields[0]: fields[4] for fields in lines}
    found: list[tuple[str, ...]] = []
    for fields in lines:
        _, parent, _, root, point, options, *rest = fields
        rest = rest[rest.index("-") + 1 :]
        # Private folders have names of their own: the lab's are /work/NUMBER, the script's lie on a covered folder;
        # the lower folder of an overlay is a bind of the machine's there, and the machine's own here.
        root = re.sub(r"^/work/\d+/", "/", root)
        kind, source, inner = rest
        inner = re.sub(r"(upper|work)dir=[^,]*/", r"\1dir=", inner)
        inner = re.sub(r"lowerdir=(/lower(?=/)|/images/\w+|[^,]*/(image|system)(?=,))", "lowerdir=", inner)
        # A tmpfs and a devpts name the owner as numbered outside: the lab has a range of ids, the shell has root's.
        inner = re.sub(r",[ug]id=\d+", "", inner)
        # The lab's storage is all its containers' together, and bounded; the script's is this one's.
        if source == "ctlab":
            inner = re.sub(r",(size|nr_inodes)=\w+", "", inner)
        # For the same reason the lab shows what the machine's root owns through an id mapping, and the shell needn't.
        options = options.replace(",idmapped", "")
        found.append((point, points.get(parent, ""), root, options, kind, source, inner))
    return found


def run_script(before: list[str], container: str, wait: str = "wait") -> str:
    """What the container's program wrote when all is typed into a root shell with namespaces of its own."""
    script = "\n".join(["ip link set lo up", *before, container, wait, ""])
    done = subprocess.run([*NEW_NODE, "sh", "-e"], input=script, text=True, capture_output=True, timeout=patient(60))
    assert done.stderr == "", script
    assert done.returncode == 0, script
    return done.stdout


def both(lab: Any, probe: str, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the probe sees in a lab's container, and in the one that the printed commands make."""
    container = lab.run(["sh", "-c", probe], name=f"explained-{os.getpid()}", **keywords)
    assert container.wait(patient(20)) == 0, container.logs()
    made = [net.explain() for net in lab.networks]
    return sections(container.logs().stdout), sections(run_script(made, container.explain()))


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Section by section, so that a difference is shown where it is."""
    assert len(ours["mounts"]) > 15 and ours["privileges"], "the probe saw nothing"
    for name in ours:
        assert lines_of(theirs[name]) == lines_of(ours[name]), name
    assert theirs.keys() == ours.keys()


def lines_of(section: Any) -> list[str]:
    """A section as lines, so that a difference is a line of its own."""
    return json.dumps(section, indent=0, sort_keys=True).splitlines()


@pytest.fixture
def blue(lab: Any) -> Any:
    return lab.network("blue", subnet=["10.10.0.0/24", "fd00:10::/64"], mtu=1400)


@pytest.mark.long_in_guest
def test_a_container_on_a_network(lab: Any, blue: Any) -> None:
    compare(*both(lab, PROBE, networks=["blue"]))


@pytest.mark.long_in_guest
def test_a_container_on_two_networks_one_internal(lab: Any, blue: Any) -> None:
    lab.network("green", subnet="10.20.0.0/24", internal=True)
    compare(*both(lab, PROBE, networks=["green", "blue"], hostname="other.example"))


@pytest.mark.long_in_guest
def test_a_container_without_a_network(lab: Any, blue: Any) -> None:
    ours, theirs = both(lab, PROBE, networks=["none"])
    assert [link["ifname"] for link in ours["links"][0]] == ["lo"]
    compare(ours, theirs)


@pytest.mark.long_in_guest
def test_a_container_on_the_nodes_network(lab: Any) -> None:
    ours, theirs = both(lab, PROBE, networks=["host"])
    for seen in (ours, theirs):
        # The lab's node is in use: spare pairs come and go, and a resolver listens.
        for name in ("links", "addresses", "routes", "sockets"):
            del seen[name]
        # The lab's node has a writable sysfs of this network namespace already, and the two share a superblock; the
        # mount itself is read-only in both.
        seen["mounts"] = [mount[:-1] if mount[4] == "sysfs" else mount for mount in seen["mounts"]]
    compare(ours, theirs)


@pytest.mark.long_in_guest
def test_a_container_on_anothers_network(lab: Any, blue: Any) -> None:
    first = lab.run(name="first", networks=["blue"])
    container = lab.run(["sh", "-c", PROBE], name="second", networks=["container:first"])
    assert container.wait(patient(20)) == 0, container.logs()
    # Not its only child: a shell has another one write a long here-document.
    wait = "until pid=$(pgrep -P $! -x sleep); do sleep 0.02; done"
    theirs = sections(run_script([blue.explain(), first.explain(), wait], container.explain(), "wait $!"))
    ours = sections(container.logs().stdout)
    assert [link["ifname"] for link in ours["links"][0]] == ["lo", "eth0"]
    compare(ours, theirs)


@pytest.mark.long_in_guest
def test_mounts_workdir_environment_and_a_read_only_root(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "a file.txt").write_text("x")
    (tmp_path / "sub").mkdir()
    tmp_path.chmod(0o755)
    ours, theirs = both(
        lab, PROBE, mounts=[f"{tmp_path}:/srv/www", f"{tmp_path}/a file.txt:/etc/a file:ro", f"{tmp_path}/sub:/-s:ro"],
        env={"A": "b c", "B": "it's $HOME"}, workdir="/srv/www", read_only=True, networks=["none"],
    )  # fmt: skip
    assert "/etc/x no" in ours["writing"] and "A=b c" in ours["environment"]
    for seen in (ours, theirs):
        # mountinfo goes by age; the lab fetches these mounts while the root is made, the script makes them after it.
        seen["mounts"].sort(key=lambda mount: mount[0] in ("/srv/www", r"/etc/a\040file", "/-s"))
    assert len(ours["mounts"][-3:]) == 3 and ours["mounts"][-1][0] == "/-s"
    compare(ours, theirs)


@pytest.mark.long_in_guest
def test_capabilities_added_and_dropped(lab: Any) -> None:
    ours, theirs = both(lab, PROBE, cap_drop=["ALL"], cap_add=["NET_RAW", "KILL"], networks=["none"])
    assert f"CapEff:\t{1 << 13 | 1 << 5:016x}" in ours["privileges"]
    compare(ours, theirs)


@pytest.mark.long_in_guest
def test_a_program_below_an_init(lab: Any) -> None:
    ours, theirs = both(lab, PROBE, init=True, networks=["none"])
    assert ours["place"][1] == "below 1"
    compare(ours, theirs)


@pytest.mark.long_in_guest
def test_a_user_has_its_ids_and_no_capability(lab: Any) -> None:
    need_ids(lab)
    if os.geteuid() != 0:
        pytest.skip("needs root: the script's shell has one id only, as --map-root-user gives an ordinary user")
    container = lab.run(["sh", "-c", PROBE], name="explained-user", user="daemon", networks=["none"])
    assert container.wait(patient(20)) == 0, container.logs()
    # A root shell that keeps the machine's ids, since one id alone can't become another; it needs no user namespace.
    node = [word for word in NEW_NODE if word not in ("--user", "--map-root-user")]
    script = f"{container.explain()}\nwait\n"
    done = subprocess.run([*node, "sh", "-e"], input=script, text=True, capture_output=True, timeout=patient(60))
    assert (done.returncode, done.stderr) == (0, ""), script
    ours, theirs = sections(container.logs().stdout), sections(done.stdout)
    assert "uid=1(daemon)" in ours["ids"][0] and f"CapEff:\t{0:016x}" in ours["privileges"]
    for name in ("privileges", "ids", "environment", "place", "writing"):
        assert theirs[name] == ours[name], name


def copy_program(root: Path, name: str) -> None:
    """A program and the libraries it names, into an image folder."""
    found = shutil.which(name)
    assert found, name
    files = [found, *re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", found], capture_output=True, text=True).stdout)]
    for file in files:
        target = root / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(file), target)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image folder: a shell and a few tools, no setpriv, no mount."""
    root = tmp_path / "image"
    root.mkdir()
    for program in ("sh", "cat", "grep", "env", "sort", "ls"):
        copy_program(root, program)
    (root / "marker").write_text("of the image\n")
    for folder in (root, *tmp_path.parents[:3]):
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    return root


@pytest.mark.long_in_guest
@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_an_image_that_holds_none_of_the_tools(lab: Any, blue: Any, image: Path, archive: bool) -> None:
    path = image
    if archive:
        path = Path(shutil.make_archive(str(image), "tar", image))
    ours, theirs = both(lab, IMAGE_PROBE, image=str(path), networks=["blue"], workdir="/etc")
    assert "of the image" in ours["names"]
    compare(ours, theirs)


CGROUP_FILES = {
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares", "cpu.max", "cpu.weight"),
    "memory": (
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max", "memory.oom.group",
    ),
    "pids": ("pids.max",), "cpuset": ("cpuset.cpus", "cpuset.mems"),
}  # fmt: skip


def cgroup_state(folders: dict[str, Path]) -> dict[str, str]:
    """The limits that are set in a container's folders."""
    return {
        name: (folder / name).read_text().strip()
        for controller, folder in folders.items()
        for name in CGROUP_FILES[controller]
        if (folder / name).exists()
    }


def lab_folders(lab: Any, pid: int) -> dict[str, Path]:
    """Where a lab's container is, by controller."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in CGROUP_FILES:
            if name in names.split(",") or not names:
                for base in lab._client.facts["cgroup_paths"]:
                    if f"/{name}/" in base or not names:
                        folder = Path(base) / path.rsplit("/", 1)[1]
                        if folder.is_dir() and any((folder / file).exists() for file in CGROUP_FILES[name]):
                            found[name] = folder
    return found


def test_limits(lab: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: the script makes folders in hierarchies that belong to root")
    limits = {"cpus": 0.5, "cpu_shares": 512, "memory": "64M", "pids_limit": 1, "cpuset_cpus": "0"}
    for controller in ("cpu", "memory", "pids", "cpuset"):
        need_controller(lab, controller)
    name = f"explained-{os.getpid()}"
    container = lab.run(["sleep", "33.25"], name=name, networks=["none"], **limits)
    ours = cgroup_state(lab_folders(lab, container.pid))
    script = container.explain()
    made = {Path(path) for path in re.findall(r"(/sys/fs/cgroup/[^ ;']*" + name + r")\b", script)}
    one = next(iter(made)) if len(made) == 1 else None
    folders = {c: one or next(p for p in made if c in p.parts) for c in CGROUP_FILES}
    typed_shell = subprocess.Popen([*NEW_NODE, "sh", "-e"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert typed_shell.stdin is not None
        typed_shell.stdin.write(script + "\nwait\n")
        typed_shell.stdin.close()
        until = time.monotonic() + patient(20)
        running: list[str] = []
        while time.monotonic() < until and running != ["sleep"]:
            time.sleep(0.02)
            procs = folders["pids"] / "cgroup.procs"
            with contextlib.suppress(OSError):
                running = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in procs.read_text().split()]
        assert running == ["sleep"], "the program alone is in the container's cgroup"
        assert cgroup_state(folders) == ours
        assert ours["pids.max"] == "1" and ours["cpuset.cpus"] == "0"
        (pid,) = (folders["pids"] / "cgroup.procs").read_text().split()
        enter = ["nsenter", "--target", pid, "--cgroup", "cat", f"/proc/{pid}/cgroup"]
        lines = subprocess.run(enter, check=True, capture_output=True, text=True).stdout.splitlines()
        if one is None:  # version 1: those of the controllers that were asked for
            lines = [line for line in lines if set(line.split(":")[1].split(",")) & set(folders)]
        joined = [line.split(":", 2) for line in lines]
        inside = {path for _, _, path in joined}
        assert inside == {"/"}, "its cgroup namespace begins at its own folders"
    finally:
        typed_shell.kill()
        typed_shell.wait()
        until = time.monotonic() + patient(5)
        while any(path.exists() for path in made) and time.monotonic() < until:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            time.sleep(0.02)
    assert not [path for path in made if path.exists()]
