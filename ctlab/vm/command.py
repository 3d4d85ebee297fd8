"""``python -m ctlab vm prepare|status``."""

from __future__ import annotations

import sys
import time

from .. import units
from ..errors import CtlabError
from . import accel, architecture, prepare, programs


def do_prepare() -> int:
    """Make ready what a VM boots from, compare checksums, find out about KVM; the exit status."""
    began = time.monotonic()
    try:
        prepared = prepare.prepare(thorough=True)
        took = time.monotonic() - began
        acceleration = accel.choose(programs.find().qemu, prepared.kernel, again=True)
    except CtlabError as error:
        print(error, file=sys.stderr)
        return 1
    for what in prepared.made:
        print(f"made: {what}")
    if not prepared.made:
        print("everything was there")
    print(f"kernel: {prepared.kernel} (Linux {prepared.release}, {prepared.origin})")
    print(f"initramfs: {prepared.initramfs} ({units.format_size(prepared.initramfs.stat().st_size, 3)})")
    if prepared.missing:
        print(f"this kernel has no module {', '.join(prepared.missing)}")
    print(f"acceleration: {_told(acceleration)}")
    print(f"{took:.1f} s, and {time.monotonic() - began - took:.1f} s to find out about KVM")
    return 0


def do_status() -> int:
    """Print what there is, and make nothing; the exit status: 0 if a VM lab can start."""
    try:
        here = architecture.here()
        rows = [(name, programs.path_of(name) or "missing") for name in (here.qemu, "virtiofsd", "busybox")]
        status = prepare.status()
        rows.append(("kernel", f"Linux {status.release}" if status.release else status.problem or "not prepared yet"))
        if status.missing:
            rows.append(("modules it lacks", ", ".join(status.missing)))
        lacking = programs.missing()
        if not lacking and status.release:
            rows.append(("acceleration", _told(status.acceleration)))
        rows.append(("cache", f"{status.folder} ({units.format_size(status.size_bytes, 3)})"))
    except CtlabError as error:
        print(error, file=sys.stderr)
        return 1
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    if lacking:
        print(f"to install: sudo apt install {' '.join(package for _, package in lacking)}")
    elif not status.release:
        print("to prepare it: python -m ctlab vm prepare")
    return 1 if lacking or status.problem else 0


def _told(acceleration: str) -> str:
    if not acceleration:
        return "not tried yet: the first start finds out whether KVM runs a guest here"
    return "KVM" if acceleration == accel.KVM else f"none (TCG emulates; {accel.why_not()})"
