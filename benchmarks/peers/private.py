"""Private places for peers that want to own a machine: mounts and cgroup folders that the machine never sees.

Everything here runs inside `unshare -m -n` (`PRIVATE`): mounts vanish with the last process of that
namespace. Cgroup hierarchies can't be private, so peers get one folder of their own, removed at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from benchmarks.peers.worker import OUTSIDE, Missing, require

PRIVATE = ("unshare", "--mount", "--net", "--propagation", "private")
CGROUPS = Path("/sys/fs/cgroup")
MEMORY_BYTES = 64 << 20
CPU_QUOTA_US, CPU_PERIOD_US = 50_000, 100_000
PIDS = 64


def mount(*arguments: str) -> None:
    """`mount ARGUMENTS`. Raises Missing with what mount said."""
    done = subprocess.run([require("mount"), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def check_private() -> None:
    """Refuses to mount anything in the machine's own mount namespace. Raises Missing."""
    if os.geteuid() != 0:
        raise Missing("needs root")
    if os.environ.get(OUTSIDE, "") in ("", os.readlink("/proc/self/ns/mnt")):
        raise Missing("must run in a mount namespace of its own")


def cgroup_controllers_v1() -> list[str]:
    """The v1 controllers that are mounted on this machine; empty where all is v2."""
    names = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, _, kind, options, *_ = line.split()
        if kind == "cgroup":
            names += [option for option in options.split(",") if option not in ("rw", "relatime") and "=" not in option]
    return sorted({name for name in names if not name.startswith(("nosuid", "nodev", "noexec"))})


def cgroup_view() -> str:
    """A fresh sysfs and a cgroup tree that runtimes understand; returns "v1" or "v2".

    v1 is shown without the unified folder: with it, crun takes the machine for a hybrid one and asks for
    controllers that may be bound to neither version.
    """
    controllers = cgroup_controllers_v1()
    mount("-t", "sysfs", "sysfs", "/sys")
    if not controllers:
        mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
        return "v2"
    mount("-t", "tmpfs", "tmpfs", str(CGROUPS))
    for controller in controllers:
        folder = CGROUPS / controller
        folder.mkdir()
        mount("-t", "cgroup", "-o", controller, "cgroup", str(folder))
    (CGROUPS / "systemd").mkdir()
    mount("-t", "cgroup", "-o", "none,name=systemd", "cgroup", str(CGROUPS / "systemd"))
    return "v1"


def remove_cgroup(name: str, patience: float = 5.0) -> None:
    """Removes the folder `name` and all below it from every hierarchy; waits `patience` seconds for who is in it."""
    deadline = time.monotonic() + patience
    while True:
        busy = False
        for top in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    busy = True
        if not busy or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def root_file_system(folder: Path) -> Path:
    """A root in `folder` that has this machine's /usr, so that peers run the same /bin/true."""
    for name in ("usr", "proc", "sys", "dev", "tmp", "etc", "run"):
        (folder / name).mkdir(parents=True)
    mount("--bind", "/usr", str(folder / "usr"))
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (folder / name).symlink_to(os.readlink(f"/{name}"))
        elif Path("/", name).is_dir():
            (folder / name).mkdir()
            mount("--bind", f"/{name}", str(folder / name))
    return folder


def bundle(runtime: str, folder: Path, cgroup: str, *, network_namespace: bool) -> Path:
    """An OCI bundle whose process is /bin/true with the limits of the comparison; `runtime spec` writes the rest."""
    folder.mkdir(parents=True)
    root_file_system(folder / "rootfs")
    subprocess.run([require(runtime), "spec"], cwd=folder, check=True, capture_output=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/bin/true"]
    linux = config["linux"]
    linux["cgroupsPath"] = cgroup
    linux["resources"] = {
        "memory": {"limit": MEMORY_BYTES},
        "cpu": {"quota": CPU_QUOTA_US, "period": CPU_PERIOD_US},
        "pids": {"limit": PIDS},
    }
    if not network_namespace:
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    path.write_text(json.dumps(config))
    return folder
