"""The guest's first steps: the machine's own files under a private layer as the root, and the kernel's file systems.

Runs as the guest's PID 1, in the kernel's first root, where the initramfs lies. What is below /run/ctlab there (the
interpreter, its library, the kernel's modules) stays reachable at the same path in the new root. Lean, see
`kernel.lean`: the lab's nursery is a clone of a clone of this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat

from ..kernel import syscalls

HERE = "/run/ctlab"  # what the initramfs brings
SYSTEM = f"{HERE}/system"  # the host's files as they were when they were first looked at: what the root lies on
HOST = f"{HERE}/host"  # the host's files as they are there now, for mounts
MODULES = f"{HERE}/modules"
MODPROBE = f"{HERE}/bin/modprobe"
ORDER = f"{MODULES}/order"  # names, one a line: what is loaded at once
SYSTEM_TAG = "ctlabsystem"  # of the shares
HOST_TAG = "ctlabhost"
_ROOT = "/run/root"  # where the new root is put together
_LAYER = "/run/layer"
_MS_MOVE = 8192
_SYS_FINIT_MODULE = 313 if os.uname().machine == "x86_64" else 273
_KERNEL_LOG_BYTES = 256 << 10
_READ_ALL = 3  # syslog(2)
_RUN_INIT = b"as init process"
_OPEN_FILES = 1 << 19  # as systemd sets it; the kernel's own default is 4096
_NEIGHBOURS = 1 << 13  # half a kilobyte each
_RB_AUTOBOOT = 0x01234567

_libc = ctypes.CDLL(None, use_errno=True)


def load(path: str) -> None:
    """finit_module(2). Raises OSError; a module that is there already is no error."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(ctypes.c_long(_SYS_FINIT_MODULE), descriptor, b"", 0):
            number = ctypes.get_errno()
            if number != 17:  # EEXIST
                raise OSError(number, f"load the kernel module {path}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def load_early() -> None:
    """What every lab needs at once, in its order."""
    with open(ORDER, encoding="ascii") as file:
        for name in file.read().split():
            load(f"{MODULES}/{name}.ko")


def load_all() -> None:
    """Every module that was brought along, those that depend on others after them."""
    with open(f"{MODULES}/all", encoding="ascii") as file:
        for name in file.read().split():
            load(f"{MODULES}/{name}.ko")


def mount_root() -> None:
    """Make the host's files, read-only below and private above, the root. Raises OSError."""
    for path in (_ROOT, _LAYER, SYSTEM, HOST):
        os.makedirs(path)
    # Two shares of the same files: an overlay whose lower files are replaced answers ESTALE, so what the root lies on
    # is remembered (and needn't be asked for again), and what people mount from the host follows the host.
    syscalls.mount(SYSTEM_TAG, SYSTEM, "virtiofs", syscalls.MS_RDONLY)
    syscalls.mount(HOST_TAG, HOST, "virtiofs", syscalls.MS_RDONLY)
    syscalls.mount("layer", _LAYER, "tmpfs", 0, "mode=755")
    os.mkdir(f"{_LAYER}/upper")
    os.mkdir(f"{_LAYER}/work")
    _link_modules(f"{_LAYER}/upper")
    syscalls.mount("ctlab", _ROOT, "overlay", 0, f"lowerdir={SYSTEM},upperdir={_LAYER}/upper,workdir={_LAYER}/work")
    _mount_kernels(_ROOT)
    os.mkdir(f"{_ROOT}{HERE}")
    syscalls.mount(HERE, f"{_ROOT}{HERE}", None, syscalls.MS_BIND | syscalls.MS_REC)
    os.chdir(_ROOT)
    syscalls.mount(".", "/", None, _MS_MOVE)
    os.chroot(".")  # the root of the mount namespace, so this is no prison and user namespaces can be made
    os.chdir("/")


def _link_modules(upper: str) -> None:
    """Where programs look for modules there are those that were brought along, whatever the host has there.

    A link in the layer, not a mount: below a folder with a mount in it no container could have its overlay (a mount
    that a user namespace has inherited is locked, and the kernel refuses to clone what such a one covers).
    """
    library = "usr/lib" if os.path.islink(f"{SYSTEM}/lib") else "lib"
    os.makedirs(f"{upper}/{library}/modules")
    os.symlink(MODULES, f"{upper}/{library}/modules/{os.uname().release}")


def _mount_kernels(root: str) -> None:
    plain = syscalls.MS_NOSUID | syscalls.MS_NODEV
    for kind, place, flags, data in (
        ("proc", "/proc", plain | syscalls.MS_NOEXEC, None),
        ("sysfs", "/sys", plain | syscalls.MS_NOEXEC, None),
        ("devtmpfs", "/dev", syscalls.MS_NOSUID, "mode=755"),
        ("devpts", "/dev/pts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
        ("tmpfs", "/dev/shm", plain, "mode=1777"),
        ("cgroup2", "/sys/fs/cgroup", plain | syscalls.MS_NOEXEC, None),
        ("tmpfs", "/run", plain, "mode=755"),
        ("tmpfs", "/tmp", plain, "mode=1777"),
    ):
        os.makedirs(f"{root}{place}", exist_ok=True)
        syscalls.mount(kind, f"{root}{place}", kind, flags, data)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")


def settle() -> None:
    """What a distribution's own start would have set: controllers, limits, the name, who loads modules."""
    os.environ.pop("LD_LIBRARY_PATH", None)  # the interpreter's loader has read it; programs have the host's libraries
    syscalls.sethostname("ctlab-vm")
    with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as file:
        controllers = file.read().split()
    _write("/sys/fs/cgroup/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
    _write("/proc/sys/kernel/modprobe", MODPROBE)
    # A tunnel's module would put its gre0, sit0, … into every network namespace that is made from then on.
    _write("/proc/sys/net/core/fb_tunnels_only_for_init_net", "2")
    # A kernel counts the neighbours of all its networks together, and has room for 1,024.
    for family in ("ipv4", "ipv6"):
        for name, most in (("gc_thresh3", 2 * _NEIGHBOURS), ("gc_thresh2", _NEIGHBOURS)):
            with contextlib.suppress(OSError):
                _write(f"/proc/sys/net/{family}/neigh/default/{name}", str(most))
    # The kernel gives these to root alone, udev to everyone; opening the first loads its module.
    os.makedirs("/dev/net", exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mknod("/dev/net/tun", stat.S_IFCHR, os.makedev(10, 200))
    for device in ("/dev/net/tun", "/dev/fuse"):
        os.chmod(device, 0o666)
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, _OPEN_FILES))
    # The kernel's own (1,726 in 512 MB) counts all containers of a lab, and their lab, together.
    resource.setrlimit(resource.RLIMIT_NPROC, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def open_port(name: str) -> int:
    """The descriptor of the virtio-serial port of that name. Raises OSError."""
    ports = "/sys/class/virtio-ports"
    for port in os.listdir(ports):
        with open(f"{ports}/{port}/name", encoding="ascii") as file:
            if file.read().strip() == name:
                return os.open(f"/dev/{port}", os.O_RDWR | os.O_CLOEXEC)
    raise OSError(19, f"no virtio-serial port {name} in {ports}")


def kernel_seconds() -> float:
    """How long the kernel took until it ran its first process, by its own log; 0 if the log doesn't tell."""
    buffer = ctypes.create_string_buffer(_KERNEL_LOG_BYTES)
    size = _libc.klogctl(_READ_ALL, buffer, _KERNEL_LOG_BYTES)
    for line in buffer.raw[: max(size, 0)].splitlines():
        if _RUN_INIT in line:
            try:
                return float(line.partition(b"[")[2].partition(b"]")[0])
            except ValueError:
                return 0.0
    return 0.0


def end() -> None:
    """End the machine: a restart, which QEMU is told to take for the end; it needs no ACPI."""
    os.sync()
    _libc.reboot(_RB_AUTOBOOT)
