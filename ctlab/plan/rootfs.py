"""Images become root file systems: the mounts of a container, in order."""

from __future__ import annotations

from . import ops

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where programs are looked for
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

# runtime-spec's default masked and read-only paths, as podman and Docker use them.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
    "/sys/devices/virtual/powercap", "/sys/fs/selinux",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Files of /etc that every container gets its own of.
OWN_FILES = ("hostname", "hosts", "resolv.conf")
# Files of /etc that the copy of a system has its own of, whoever may read this machine's.
PASSWORD_FILES = ("shadow", "gshadow", "shadow-", "gshadow-")
_OVERLAID = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt")

NAMESPACES = ["mount", "uts", "ipc", "net", "pid", "cgroup"]


def _kernel_file_systems() -> list[ops.Operation]:
    operations: list[ops.Operation] = [
        ops.Folder("/proc", 0o555),
        ops.Mount("proc", "/proc", ["nosuid", "nodev", "noexec"], ""),
        ops.Folder("/sys", 0o555),
        ops.Mount("sysfs", "/sys", ["nosuid", "nodev", "noexec", "ro"], ""),
        ops.Folder("/dev", 0o755),
        ops.Mount("tmpfs", "/dev", ["nosuid", "noexec"], "mode=755,size=64k,nr_inodes=1k"),
        *(ops.Device(name) for name in DEVICES),
        ops.Folder("/dev/pts", 0o755),
        ops.Mount("devpts", "/dev/pts", ["nosuid", "noexec"], "newinstance,ptmxmode=0666,mode=0620,max=256"),
        ops.SymbolicLink("/dev/ptmx", "pts/ptmx"),
        ops.SymbolicLink("/dev/fd", "/proc/self/fd"),
        ops.SymbolicLink("/dev/stdin", "/proc/self/fd/0"),
        ops.SymbolicLink("/dev/stdout", "/proc/self/fd/1"),
        ops.SymbolicLink("/dev/stderr", "/proc/self/fd/2"),
        ops.Folder("/dev/shm", 0o1777),
        ops.Mount("tmpfs", "/dev/shm", ["nosuid", "nodev", "noexec"], "mode=1777,size=64m,nr_inodes=16k"),
    ]
    operations += [ops.Mask(path) for path in MASKED]
    operations += [ops.ReadOnly(path) for path in READ_ONLY]
    return operations


def skeleton(top: dict[str, str]) -> tuple[list[tuple[str, int]], list[tuple[str, str]]]:
    """What a system's root has whatever this machine has: (path, mode) of folders, (path, target) of links.

    `top` maps the names of this machine's top-level entries to what they are: a link's target, ``"folder"``. What
    overlays of its own folders and the kernel's file systems are mounted on is among them, so that no container has
    to make it.
    """
    folders = [
        ("/etc", 0o755), ("/home", 0o755), ("/root", 0o700), ("/run", 0o755), ("/srv", 0o755), ("/mnt", 0o755),
        ("/media", 0o755), ("/tmp", 0o1777), ("/var", 0o755), ("/var/lib", 0o755), ("/var/cache", 0o755),
        ("/var/log", 0o755), ("/var/spool", 0o755), ("/var/tmp", 0o1777), ("/proc", 0o555), ("/sys", 0o555),
        ("/dev", 0o755),
    ]  # fmt: skip
    folders += [(f"/{name}", 0o755) for name in _OVERLAID if top.get(name) == "folder"]
    links = [(f"/{name}", top[name]) for name in _OVERLAID if top.get(name, "folder") != "folder"]
    return folders, [*links, ("/var/run", "/run"), ("/var/lock", "/run/lock")]


def system(top: dict[str, str]) -> list[ops.Operation]:
    """The machine's own system: the lab's copy of what is changed in one, the rest read-only below, private above.

    What is personal or changes at run time (``/home /root /run /srv …``) is an empty folder instead.
    """
    folders, links = skeleton(top)
    named = [list(one) for one in folders], [list(one) for one in links]
    operations: list[ops.Operation] = [ops.SystemRoot(*named, [f"/etc/{name}" for name in OWN_FILES])]
    operations += [ops.Overlay(f"/{name}", f"/{name}") for name in _OVERLAID if top.get(name) == "folder"]
    return [*operations, *_kernel_file_systems(), ops.PivotRoot()]


def scratch() -> list[ops.Operation]:
    """Nothing but the kernel's own file systems and /tmp."""
    return [ops.RootFolder(), ops.Folder("/tmp", 0o1777), *_kernel_file_systems(), ops.PivotRoot()]


def folder(lower: str) -> list[ops.Operation]:
    """An overlay over an image folder that the lab has prepared under the key `lower`."""
    own = [ops.WriteFile(f"/etc/{name}", "", 0o644) for name in OWN_FILES]
    return [
        ops.RootOverlay(lower),
        ops.Folder("/tmp", 0o1777),
        *_kernel_file_systems(),
        ops.PivotRoot(),
        ops.Folder("/etc", 0o755),
        *own,
    ]


def prepare(image: str, top: dict[str, str]) -> list[ops.Operation]:
    """What makes the root of `image` (``system``, ``scratch`` or the key of a prepared image folder)."""
    unshare: list[ops.Operation] = [ops.Unshare(list(NAMESPACES))]
    if image == "system":
        return unshare + system(top)
    if image == "scratch":
        return unshare + scratch()
    return unshare + folder(image)
