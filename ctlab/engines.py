"""Which kernel a lab runs on: this machine's (`native`), or one of its own in a microVM (`vm`), and what differs then.

``auto`` is this machine's kernel; only when that has failed is the doctor asked, so a machine that can pays nothing.
`ctlab.vm` is imported only where a VM is asked for.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from . import opening, units
from .errors import BadInput, CtlabError, Unsupported
from .names import did_you_mean
from .runtime.client import Client
from .spelling import option

if TYPE_CHECKING:
    from .lab import Lab
    from .spec import MountSpec
    from .vm.options import VmOptions

NAMES = ("auto", "native", "vm")
IF_NEEDED_VARIABLE = "CTLAB_VM_IF_NEEDED"
HOST_SHARE = "/run/ctlab/host"  # where a VM's guest has this machine's files, read-only
ARCHIVE_SHARE = 4  # a tar image may be as large as the VM's memory divided by this: it is copied there and unpacked


class Engine(NamedTuple):
    """What was asked for. `options`: of the VM, None where none of them was given."""

    name: str
    options: VmOptions | None
    if_needed: bool


def choose(engine: str, memory: str | int | None, cpus: int | None, if_needed: bool | None) -> Engine:
    """Check what goes together. `if_needed` None: for `auto` as the environment says. Raises BadInput."""
    if engine not in NAMES:
        near = did_you_mean(engine, NAMES) if isinstance(engine, str) else ""
        raise BadInput(f"no engine {engine!r}{near}; there are: {', '.join(NAMES)}")
    if if_needed and engine == "native":
        what = option("vm-if-needed").rstrip("=")
        raise BadInput(f"{what} goes with {option('engine', 'auto')}: 'native' is this machine's kernel or none")
    if if_needed is None:
        if_needed = engine == "auto" and if_needed_by_default()
    given = [name for name, value in (("vm_memory", memory), ("vm_cpus", cpus)) if value is not None]
    if given and engine != "vm" and not if_needed:
        what = option(given[0].replace("_", "-")).rstrip("=")
        raise BadInput(f"{what} is for a VM: add {option('engine', 'vm')}")
    return Engine(engine, _options(memory, cpus) if given else None, if_needed)


def ids_words(lab: Lab) -> str:
    """Whose ids the lab has; in a VM they are the guest's, whoever has started it."""
    words: str = lab._client.facts["mapping"]
    return words if vm_facts(lab) is None else f"in the VM, {words.removeprefix('started by root: ')}"


def if_needed_by_default() -> bool:
    """What `IF_NEEDED_VARIABLE` says: for a place (a hub's image) where labs are to take a VM. Raises BadInput."""
    text = os.environ.get(IF_NEEDED_VARIABLE, "")
    if text not in ("", "0", "1"):
        raise BadInput(f"{IF_NEEDED_VARIABLE} is {text!r}: 1 (a lab takes a VM where it needs one) or 0")
    return text == "1"


def _options(memory: str | int | None = None, cpus: int | None = None) -> VmOptions:
    from .vm import options

    return options.parse(memory, cpus)


def start(
    name: str,
    interval_seconds: float,
    engine: Engine,
    say: Callable[[str], None],
    storage_bytes: int | None,
    born: list[Client],
) -> Client:
    """The client of a lab that has been started. `say` takes a line for the person.

    Each client is in `born` before anything of it is, so that an interrupt between two instructions loses none.

    Raises Unsupported where this machine's kernel can't, with an offer where a VM could; what the start itself raised
    where the doctor finds nothing missing.
    """
    if engine.name == "vm":
        return _start_vm(name, interval_seconds, engine, say, storage_bytes, born)
    try:
        return Client(name, interval_seconds, storage_bytes=storage_bytes, born=born)
    except CtlabError as error:
        report = opening.examine(error)
        if report is None or report.usable:
            raise
    if engine.name == "native":
        raise Unsupported(report.why_not if report.offer else f"{report.why_not}{report.instead}")
    if not engine.if_needed:
        raise Unsupported(f"{report.why_not}{report.instead}")
    if report.vm is None or not report.vm.ok:
        vm = f"{report.vm.detail}; {report.vm.remedy}" if report.vm else "not on this system"
        raise Unsupported(f"{report.why_not}; and no VM can be had: {vm}{report.instead}")
    say(f"lab '{name}' gets a kernel of its own, in a VM, since this machine's can't: {report.why_not}")
    return _start_vm(name, interval_seconds, engine, say, storage_bytes, born)


def vm_memory_bytes(engine: Engine) -> int | None:
    """The memory of the VM that was asked for; None where this machine's kernel is tried."""
    return (engine.options or _options()).memory_bytes if engine.name == "vm" else None


def _start_vm(
    name: str,
    interval_seconds: float,
    engine: Engine,
    say: Callable[[str], None],
    storage_bytes: int | None,
    born: list[Client],
) -> Client:
    from .vm import prepare, programs

    options = engine.options or _options()
    opening.check_storage(storage_bytes, options.memory_bytes)
    with contextlib.suppress(CtlabError):  # the start will say it better
        if not prepare.status().release and programs.find():
            say(f"lab '{name}': a kernel for VMs is fetched and unpacked, once; the next start has it")
    client = Client(name, interval_seconds, vm=options, storage_bytes=storage_bytes, born=born)
    if why_not := client.facts["vm"].get("shares", {}).get("why_not"):
        say(
            f"lab '{name}': who becomes root of its VM can read all that you can read here, /proc and your home "
            f"included: nothing can be covered without a namespace ({why_not})"
        )
    return client


def imagined_vm() -> dict[str, Any] | None:
    """The VM that a lab with `vm_if_needed` would be in, for what is only planned; None where it'd be native."""
    try:
        from .doctor import doctor

        report = doctor()
    except Exception:  # nothing is made, so nothing is worth failing for
        return None
    if report.usable or report.vm is None or not report.vm.ok:
        return None
    options = _options()
    return {"memory_bytes": options.memory_bytes, "cpus": options.cpus}


# -- what differs in a VM ---------------------------------------------------------------------------------------------
def kernel_release(lab: Lab) -> str:
    """Of the kernel that a lab's containers run on, as uname(2) says it."""
    vm = vm_facts(lab)
    return os.uname().release if vm is None else str(vm["kernel_release"])


def vm_facts(lab: Lab) -> dict[str, Any] | None:
    """The VM that a lab runs in: acceleration, machine, kernel_release, memory_bytes, cpus, boot_seconds; or None."""
    facts: dict[str, Any] | None = lab._client.facts.get("vm")
    return facts


def describe(vm: dict[str, Any]) -> str:
    """A VM in one phrase, for status and card."""
    cpus = f"{vm['cpus']} CPU{'s' if vm['cpus'] != 1 else ''}"
    text = f"QEMU {vm['machine']}, {vm['acceleration']}, Linux {vm['kernel_release']}"
    text += f", {units.format_size(vm['memory_bytes'])}, {cpus}"
    boot = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in vm.get("boot_seconds", {}).items())
    return text + (f"; boot: {boot}" if boot else "")


def cpus(lab: Lab) -> Collection[int]:
    """The numbers of the CPUs that the lab may use."""
    vm = vm_facts(lab)
    if vm is not None:
        return range(vm["cpus"])
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()  # --explain works elsewhere, too


def guest_path(lab: Lab, path: str) -> str:
    """A path of this machine as the lab's inside finds it. Links are followed here: there, they'd lead elsewhere."""
    vm = vm_facts(lab)
    if vm is None:
        return path
    place = os.path.realpath(path)
    if vm.get("shares", {}).get("covered"):
        from .vm.shares import guest_place

        place = guest_place(place)
    return HOST_SHARE + place


def check_mounts(lab: Lab, mounts: Iterable[MountSpec]) -> None:
    """Unsupported for a mount that a VM can't have; before anything is made."""
    if vm_facts(lab) is None:
        return
    for mount in mounts:
        words = f"{mount.source}:{mount.target}"
        if not mount.read_only:
            raise Unsupported(
                f"mount {words}: a VM lab shares this machine's files read-only: write {words}:ro, "
                "or copy with %container cp"
            )
        _check_readable(f"mount {words}:ro", mount.source)


def check_image(lab: Lab, text: str, path: str) -> None:
    """Unsupported for an image folder that a VM can't read, and for a tar file that its memory can't hold."""
    vm = vm_facts(lab)
    if vm is None:
        return
    if os.path.isdir(path):
        _check_readable(f"image {text}", path)
        return
    check_archive(lab, text, os.stat(path).st_size)


def check_archive(lab: Lab, text: str, size: int) -> None:
    """Unsupported for so many bytes of a tar file, if they are more than a VM's memory can hold."""
    vm = vm_facts(lab)
    if vm is None:
        return
    memory = vm["memory_bytes"]
    if size > memory // ARCHIVE_SHARE:
        enough = 1 << (ARCHIVE_SHARE * size - 1).bit_length()
        raise Unsupported(
            f"image {text}: its {units.format_size(size, 3)} don't fit into a quarter of the VM's memory "
            f"({units.format_size(memory)}), where it is unpacked: %lab start --engine vm "
            f"--vm-memory {units.format_size(enough)}"
        )


def _check_readable(what: str, path: str) -> None:
    """Ask the kernel as who will read it: started by root, a VM runs as nobody and shows what an ordinary user sees."""
    from .vm.reader import reader

    ids = reader()
    if ids is None:
        return
    user, group = ids
    words = ["test", "-r", path, "-a", "-x", path] if os.path.isdir(path) else ["test", "-r", path]
    done = subprocess.run(
        words, user=user, group=group, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise Unsupported(
            f"{what}: a VM started by root reads this machine's files as nobody, who may not read {path} (EACCES): "
            "chmod o+rX it and the folders above, or copy with %container cp"
        )
