"""Whether a lab can have a kernel of its own, in a VM: a row of the report. Pure; nothing is booted for it."""

from __future__ import annotations

from collections.abc import Sequence

from .probe_checks import Finding

NAME = "vm-engine"
PREPARE = "python -m ctlab vm prepare"


# What follows the remedy of what this machine's kernel was built without, and of limits that nobody may set.
INSTEAD = "; a VM's kernel has it: %lab start --engine vm"
# Where nothing of this machine can be covered in what a VM sees of it (`vm.shares`).
VISIBLE = "; without user namespaces, who becomes its root can read all that you can here, /proc and home included"
LIMITS = "; in a VM limits need no one's leave: %lab start --engine vm"


def finding(
    missing: Sequence[tuple[str, str]],
    release: str = "",
    problem: str = "",
    acceleration: str = "",
    remedy: str | None = None,
) -> Finding:
    """The row.

    `missing`: (program, Debian's package) of what isn't installed. `release`: of the kernel that is prepared, ""
    where none is yet. `problem`: why none is and none can be had, in one line; `remedy`: what to do about that, if
    it isn't the usual. `acceleration`: "kvm" or "tcg" where it has been found out, "" before.
    """
    if missing:
        names = ", ".join(program for program, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        verb = "aren't" if len(missing) > 1 else "isn't"
        detail = f"{names} {verb} installed (to give a lab a kernel of its own)"
        return Finding(NAME, False, detail, f"sudo apt install {packages}, then: {PREPARE}")
    if not release and problem:
        usual = f"{PREPARE} says what to fetch and where to put it"
        return Finding(NAME, False, problem, usual if remedy is None else remedy)
    kernel = f"Linux {release}" if release else f"its kernel is fetched at the first start (or now: {PREPARE})"
    speed = {"kvm": "with KVM", "tcg": "emulated (TCG), so programs run many times slower", "": ""}[acceleration]
    return Finding(NAME, True, "; ".join(part for part in (kernel, speed, "engine='vm' takes it") if part))
