"""The command lines of QEMU, of virtiofsd and of the guest's kernel. Pure: the same for the same input."""

from __future__ import annotations

from typing import NamedTuple

from .architecture import Architecture
from .frames import PORT_NAME
from .guest_setup import HOST_TAG, SYSTEM_TAG
from .initramfs import INTERPRETER, LIBRARIES
from .options import VmOptions

# What a guest that breaks out of QEMU is not to do: start programs, become somebody else, use old calls. Its processes
# are killed by the kernel then.
_SANDBOX = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
_OVERFLOW_ID = 65534  # what an id that isn't mapped in a user namespace is called there
_START = "from ctlab.vm.guest import main;main()"


class Descriptors(NamedTuple):
    """What QEMU inherits: each is a descriptor's number there."""

    kernel: int
    initramfs: int
    memory: int  # a memfd of the guest's size
    system: int  # connected to the virtiofsd of the root's files
    host: int  # and to that of what is mounted from the host
    port: int
    console: int
    kvm: int = -1  # an open /dev/kvm, where it is used and QEMU, as another user, couldn't open it


def kernel_words(architecture: Architecture) -> str:
    """What the kernel is told.

    Figures are seconds of an emulated boot. What helps: `quiet` (a serial line is slow: 0.4), `tsc=reliable` and `lpj`
    (nothing is calibrated), `random.trust_cpu` (the interpreter asks for random numbers at once). A word that the
    kernel doesn't know would become an argument of the first process, so there is none; the loader's variable becomes
    part of its environment. `panic=-1`: restart at once, which QEMU takes for the end.
    """
    words = [
        f"console={architecture.console}", "quiet", "loglevel=4", "panic=-1", "mitigations=off", "audit=0",
        "random.trust_cpu=on", "rcupdate.rcu_expedited=1", "cgroup_no_v1=all", "nowatchdog",
    ]  # fmt: skip
    if architecture.machine == "x86_64":
        words += ["tsc=reliable", "lpj=10000000", "8250.nr_uarts=1"]
    words += [f"LD_LIBRARY_PATH={LIBRARIES}", f"rdinit={INTERPRETER}", "--", "-I", "-S", "-B", "-c", f'"{_START}"']
    return " ".join(words)


def processor(architecture: Architecture, acceleration: str) -> str:
    """QEMU's -cpu: under TCG the simplest that has all that the guest needs, which is a tenth quicker than `max`."""
    if acceleration == "kvm":
        return "host"
    return "Nehalem,+rdrand" if architecture.machine == "x86_64" else "max"


def qemu(
    program: str,
    architecture: Architecture,
    options: VmOptions,
    acceleration: str,
    given: Descriptors,
    name: str,
    *,
    filtered: bool,
) -> list[str]:
    """The words that start the machine. What it opens it gets as descriptors: as another user it could open nothing.

    `filtered`: with a filter of system calls, where this QEMU has one.
    """
    size = f"{options.memory_bytes >> 20}M"
    machine = f"{_machine(architecture, acceleration)},memory-backend=memory"
    words = [
        program, "-name", name, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        *(_SANDBOX if filtered else ()),
        "-machine", machine, "-accel", _kvm(given.kvm) if acceleration == "kvm" else "tcg",
        "-cpu", processor(architecture, acceleration), "-smp", str(options.cpus), "-m", size,
        "-object", f"memory-backend-file,id=memory,share=on,size={size},mem-path={_path(given.memory)}",
        "-kernel", _path(given.kernel), "-initrd", _path(given.initramfs), "-append", kernel_words(architecture),
        "-add-fd", f"fd={given.console},set={given.console}",
        "-chardev", f"file,id=console,append=on,path=/dev/fdset/{given.console}", "-serial", "chardev:console",
        "-chardev", f"socket,id=system,fd={given.system}",
        "-device", f"vhost-user-fs-pci,chardev=system,tag={SYSTEM_TAG},queue-size=1024",
        "-chardev", f"socket,id=host,fd={given.host}",
        "-device", f"vhost-user-fs-pci,chardev=host,tag={HOST_TAG},queue-size=1024",
        "-device", "virtio-serial-pci,max_ports=2",
        "-chardev", f"socket,id=port,fd={given.port}", "-device", f"virtserialport,chardev=port,name={PORT_NAME}",
    ]  # fmt: skip
    if given.kvm >= 0:
        words += ["-add-fd", f"fd={given.kvm},set={given.kvm}"]
    return words


def _machine(architecture: Architecture, acceleration: str) -> str:
    """QEMU's -machine; of Arm's interrupt controllers one that all hosts and any number of CPUs can have."""
    if architecture.machine != "aarch64":
        return architecture.machine_type
    return f"{architecture.machine_type},gic-version={'host' if acceleration == 'kvm' else 'max'}"


def _kvm(descriptor: int) -> str:
    """QEMU's -accel: it opens the device itself, as every version can, where its user may."""
    return f"kvm,device=/dev/fdset/{descriptor}" if descriptor >= 0 else "kvm"


def trial(
    program: str, architecture: Architecture, kernel: int, console: int, kvm: int, *, filtered: bool
) -> list[str]:
    """The words that start a machine with KVM which only boots its kernel, finds no first process and ends."""
    words = f"console={architecture.console} panic=-1 loglevel=7 rdinit=/none root=none"
    given = ["-add-fd", f"fd={kvm},set={kvm}"] if kvm >= 0 else []
    return [
        program, "-name", "ctlab-trial", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        *(_SANDBOX if filtered else ()),
        "-machine", _machine(architecture, "kvm"), *given, "-accel", _kvm(kvm), "-cpu", "host", "-m", "256M",
        "-kernel", _path(kernel), "-append", words, "-add-fd", f"fd={console},set={console}",
        "-chardev", f"file,id=console,append=on,path=/dev/fdset/{console}", "-serial", "chardev:console",
    ]  # fmt: skip


def virtiofsd(program: str, listening: int, *, follows: bool, nobodys_to_root: bool = False) -> list[str]:
    """The words that share this machine's files, read-only, with what its own user may read.

    `follows`: what changes here is seen there within a second; else a file stays what it was when it was looked up.
    `nobodys_to_root`: what is nobody's here, having an owner that isn't mapped, is root's there.
    """
    cache = "auto" if follows else "always"
    ids = [f"--translate-{kind}=squash-host:{_OVERFLOW_ID}:0:1" for kind in ("uid", "gid")] if nobodys_to_root else []
    return [
        program, f"--fd={listening}", "--shared-dir=/", "--readonly", "--sandbox=none", "--no-announce-submounts",
        "--inode-file-handles=never", f"--cache={cache}", "--rlimit-nofile=0", "--log-level=warn",
        *ids,
    ]  # fmt: skip


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
