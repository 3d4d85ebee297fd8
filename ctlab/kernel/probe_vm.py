"""Whether a lab can have a kernel of its own, in a VM: a row of the report. Pure; nothing is booted for it."""

from __future__ import annotations

from collections.abc import Sequence

from .probe_checks import Finding

NAME = "vm-engine"
PREPARE = "python -m ctlab vm prepare"


def finding(
    missing: Sequence[tuple[str, str]], release: str = "", problem: str = "", acceleration: str = ""
) -> Finding:
    """The row.

    `missing`: (program, Debian's package) of what isn't installed. `release`: of the kernel that is prepared, ""
    where none is yet. `problem`: why none is and none can be had, in one line. `acceleration`: "kvm" or "tcg" where
    it has been found out, "" before.
    """
    if missing:
        names = ", ".join(program for program, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        verb = "aren't" if len(missing) > 1 else "isn't"
        detail = f"{names} {verb} installed (to give a lab a kernel of its own)"
        return Finding(NAME, False, detail, f"sudo apt install {packages}, then: {PREPARE}")
    if not release and problem:
        return Finding(NAME, False, problem, f"{PREPARE} says what to fetch and where to put it")
    kernel = f"Linux {release}" if release else f"its kernel is fetched at the first start (or now: {PREPARE})"
    speed = {"kvm": "with KVM", "tcg": "emulated (TCG): processes take 13 to 17 times as long", "": ""}[acceleration]
    return Finding(NAME, True, "; ".join(part for part in (kernel, speed, "engine='vm' takes it") if part))
