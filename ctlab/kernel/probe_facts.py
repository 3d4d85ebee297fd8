"""The facts of the machine that explain a failed probe: read once, changed never, serialisable.

`gather` works on every operating system; everything below the system's name is empty outside Linux.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import platform
import shutil
import stat
import sys
from collections.abc import Mapping
from typing import NamedTuple

from . import probe_place

PROGRAMS = ("ip", "nft", "newuidmap", "newgidmap", "ping", "iperf3", "tcpdump")

SYSCTLS = (
    "user/max_user_namespaces",
    "user/max_net_namespaces",
    "user/max_mnt_namespaces",
    "user/max_pid_namespaces",
    "user/max_uts_namespaces",
    "user/max_ipc_namespaces",
    "user/max_cgroup_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
)

# Administration programs lie outside an ordinary user's PATH on Debian.
_ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


class Facts(NamedTuple):
    """What is known of the machine and of this process on it.

    `place`: a key of `probe_place.NAMES`. `sysctls`: those of `SYSCTLS` that exist. `seccomp`: mode 0, 1, 2.
    `label`: the AppArmor or SELinux label of this process. `covered`: mount points below /proc and /sys.
    `ids`, `ids_problem`: kind and reason of the `idmap.IdMap` that a lab would have. `next_subid`: the first id
    above every range of /etc/subuid and /etc/subgid.
    `programs`: path by name, of those of `PROGRAMS` that are here. `setuid`: those of them that gain
    privileges when run. `options`: kernel configuration, ``{"CONFIG_VETH": "y"}``; None: it can't be read.
    `loadable`: whether the kernel can load modules at all. `module_files`: the module names of this kernel's
    module folder; None: no such folder. `modules`: module names in /sys/module. `processes`, `files`, `tasks`:
    limits on processes (RLIMIT_NPROC), descriptors (hard RLIMIT_NOFILE), tasks (the cgroup's pids.max); 0: none.
    `tun_mode`: the permission bits of /dev/net/tun; None: it isn't there.
    """

    system: str = "Linux"
    release: str = ""
    machine: str = ""
    place: str = "linux"
    uid: int = 1000
    user: str = ""
    python: str = ""
    python_is_link: bool = False
    sysctls: Mapping[str, int] = {}
    seccomp: int = 0
    no_new_privs: bool = False
    label: str = ""
    covered: tuple[str, ...] = ()
    ids: str = "single"
    ids_problem: str = ""
    next_subid: int = 100000
    programs: Mapping[str, str] = {}
    setuid: frozenset[str] = frozenset()
    options: Mapping[str, str] | None = None
    loadable: bool = True
    module_files: frozenset[str] | None = None
    modules: frozenset[str] = frozenset()
    processes: int = 0
    files: int = 0
    tasks: int = 0
    tun_mode: int | None = None


def gather() -> Facts:
    """The facts of this machine, now."""
    system, release = platform.system(), platform.release()
    present = [mark for mark in probe_place.MARKS if os.path.exists(mark)]
    base = Facts(
        system=system,
        release=release,
        machine=platform.machine(),
        place=probe_place.place(system, release, os.environ, present),
        python=os.path.realpath(sys.executable) if sys.executable else "",
        python_is_link=os.path.islink(sys.executable or ""),
    )
    return _linux(base) if system == "Linux" else base


def _linux(base: Facts) -> Facts:
    # Imported here: neither module exists on Windows.
    import pwd
    import resource

    from . import idmap

    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), _ADMIN_PATH))
    programs = {name: path for name in PROGRAMS if (path := shutil.which(name, path=search))}
    mapping = idmap.choose()
    return base._replace(
        uid=uid,
        user=user,
        sysctls={name: int(text) for name in SYSCTLS if (text := read(f"/proc/sys/{name}").strip()).isdigit()},
        seccomp=int(status.get("Seccomp", "0")),
        no_new_privs=status.get("NoNewPrivs", "0").strip() == "1",
        label=read("/proc/self/attr/current").strip().rstrip("\0"),
        covered=covered(read("/proc/self/mountinfo")),
        ids=mapping.kind,
        ids_problem=mapping.reason,
        next_subid=next_subid(read("/etc/subuid") + "\n" + read("/etc/subgid")),
        programs=programs,
        setuid=frozenset(name for name, path in programs.items() if _gains(path)),
        options=_options(base.release),
        loadable=os.path.exists("/proc/modules"),
        module_files=_module_files(base.release),
        modules=frozenset(os.listdir("/sys/module")) if os.path.isdir("/sys/module") else frozenset(),
        processes=_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0]),
        files=_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        tasks=_tasks(),
        tun_mode=_mode("/dev/net/tun"),
    )


def _mode(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return stat.S_IMODE(os.stat(path).st_mode)
    return None


def read(path: str) -> str:
    """A small text file, empty where it can't be read."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def next_subid(text: str) -> int:
    """The first id above every range in the text of /etc/subuid and /etc/subgid; 100000 at least. Pure."""
    ends = [100000]
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            ends.append(int(parts[1]) + int(parts[2]))
    return max(ends)


def _limit(value: int) -> int:
    return max(value, 0)  # RLIM_INFINITY is -1


def _gains(path: str) -> bool:
    """Whether running the file gives privileges: owned by root and setuid, or with file capabilities."""
    try:
        found = os.stat(path)
        if found.st_mode & 0o4000 and found.st_uid == 0:
            return not os.statvfs(path).f_flag & os.ST_NOSUID
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def covered(mountinfo: str) -> tuple[str, ...]:
    """The mount points below /proc and /sys other than file systems with a place of their own there.

    Those are what hides parts of /proc or /sys from a container. Pure; format: proc_pid_mountinfo(5).
    """
    own = {"cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf", "configfs", "pstore", "efivarfs", "fusectl"}
    own |= {"binfmt_misc", "autofs", "selinuxfs", "nfsd"}
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split(" ")[0]
        # A tmpfs at /sys/fs/cgroup only holds the cgroup mounts.
        place = fields[4] if len(fields) > 4 else ""
        if kind not in own and place.startswith(("/proc/", "/sys/")) and not place.startswith("/sys/fs/cgroup"):
            found.append(place)
    return tuple(dict.fromkeys(found))


def _options(release: str) -> Mapping[str, str] | None:
    """The kernel's configuration, from the running kernel or from the file that its package put into /boot."""
    text = ""
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="ascii", errors="replace") as file:
            text = file.read()
    except (OSError, EOFError):
        text = read(f"/boot/config-{release}") or read(f"/lib/modules/{release}/config")
    if not text:
        return None
    rows = (line.split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_") and "=" in line)
    return {name: value for name, value in rows if value in ("y", "m")}


def _module_files(release: str) -> frozenset[str] | None:
    """Names of the modules that could be loaded, from modules.dep; None where there is no module folder."""
    text = read(f"/lib/modules/{release}/modules.dep")
    if not text:
        return None
    paths = (line.partition(":")[0] for line in text.splitlines())
    return frozenset(os.path.basename(path).split(".")[0].replace("-", "_") for path in paths)


def _tasks() -> int:
    """The lowest pids.max on the way from this process's cgroup to the root; 0: no limit to be seen."""
    lowest = 0
    for line in read("/proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif "pids" in controllers.split(","):
            roots = ["/sys/fs/cgroup/pids"]
        else:
            continue
        while True:
            for root in roots:
                text = read(f"{root}{path.rstrip('/')}/pids.max").strip()
                if text.isdigit():
                    lowest = min(lowest or int(text), int(text))
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
    return lowest


def ifb_is_safe(facts: Facts) -> bool:
    """Whether making an ifb interface loads no module: the module, when loaded, adds ifb0 and ifb1 to the machine."""
    if "ifb" in facts.modules or not facts.loadable:
        return True
    return facts.options is not None and facts.options.get("CONFIG_IFB") != "m"
