"""Caches for tests of what a VM boots from: a copy of the real one that may be damaged, and a source without a network.

The kernel itself is the prepared one, shown by a link, so that no test fetches it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_help import ROOT, patient

from ctlab.vm import cache, cpio, prepare, programs
from ctlab.vm import modules as kernel_modules
from ctlab.vm.guest_setup import HERE
from ctlab.vm.initramfs import INTERPRETER

BUSYBOX = f"{HERE}/bin/busybox"


def script(text: str) -> bytes:
    """A program for the guest's first root, where there is nothing but what the archive brings."""
    return f"#!{BUSYBOX} sh\n{text}\n".encode()


def changed_cache(above: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """A cache below `above` whose initramfs has these files over its own; the environment that takes it."""
    prepared = prepare.prepare()
    folder = above / "ctlab" / "vm"
    folder.mkdir(parents=True, mode=0o700)
    (folder / prepared.kernel.parent.name).symlink_to(prepared.kernel.parent)
    entries = [cpio.file(path.lstrip("/"), data, 0o755) for path, data in files.items()]
    entries.append(cpio.file(BUSYBOX.lstrip("/"), Path(programs.find().busybox).read_bytes(), 0o755))
    archive = folder / prepared.initramfs.name
    archive.write_bytes(prepared.initramfs.read_bytes() + cpio.archive(entries))
    archive.with_suffix(".json").write_text(json.dumps(cache.stamp(archive)))
    return {"XDG_CACHE_HOME": str(above)}


def first_program(text: str) -> dict[str, bytes]:
    """The files of an initramfs whose first process is a shell script."""
    return {INTERPRETER: script(text)}


def put_kernel(above: Path, *, without: Sequence[str] = (), image: bytes | None = None, link: bool = True) -> Path:
    """A cache below `above` with a kernel put ready, as the error's text says, but for some modules; the folder."""
    prepared = prepare.prepare()
    folder = above / "ctlab" / "vm"
    modules = folder / "modules"
    modules.mkdir(parents=True, mode=0o700)
    there = {path.name.partition(".")[0] for path in (prepared.kernel.parent / "modules").iterdir()}
    builtin = {*kernel_modules.ESSENTIAL, *kernel_modules.EARLY, *kernel_modules.WANTED} - there - set(prepared.missing)
    (modules / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in sorted(builtin)))
    for path in (prepared.kernel.parent / "modules").iterdir():
        if path.name.partition(".")[0] not in without:
            _put(path, modules / path.name, link)
    if image is None:
        _put(prepared.kernel, folder / "vmlinuz", link)
    else:
        (folder / "vmlinuz").write_bytes(image)
    return folder


def _put(path: Path, place: Path, link: bool) -> None:
    if link:
        place.symlink_to(path)
    else:
        place.write_bytes(path.read_bytes())


def listed(folder: Path) -> list[str]:
    """What is in a cache's folder, hidden files too, but for what `put_kernel` puts there."""
    return sorted(name for name in os.listdir(folder) if name not in ("vmlinuz", "modules"))


def apart(
    words: Sequence[str], *prepared: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a user and a mount namespace of its own, after shell lines that prepare its mounts there."""
    lines = "\n".join(["set -e", *prepared, 'exec "$@"'])
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", lines, "sh", *words], cwd="/", env=environment(env), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(100), check=False,
    )  # fmt: skip
    if done.stdout.startswith("unshare: "):
        pytest.skip(f"no user namespace to hide something in: {done.stdout.strip()}")
    return done


def need_covers(why_not: str) -> None:
    """Skip where no mount namespace can be had to cover folders in; where one can, something must be covered."""
    if why_not:
        tried = subprocess.run(
            ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "true"], capture_output=True, text=True
        )
        assert tried.returncode, why_not
        pytest.skip(f"nothing can be covered here: {tried.stderr.strip()}")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a process that uses this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **(more or {})}


# Starts a lab; prints what it said: the kind and the text of an error, or what a container's program wrote.
START = """
import json, sys, ctlab
try:
    with ctlab.Lab("asked", engine="vm", vm_memory="256M") as lab:
        print(json.dumps(["ready", lab.run().exec(sys.argv[1:] or ["echo", "hello"]).check().stdout]))
except ctlab.CtlabError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
START_WORDS = (sys.executable, "-B", "-c", START)


def said(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """What `START` printed."""
    assert done.returncode == 0, done.stdout
    kind, text = json.loads(done.stdout.splitlines()[-1])
    return kind, text


@contextmanager
def owner(text: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that owns labs, to be killed."""
    with subprocess.Popen(
        [sys.executable, "-B", "-c", text], cwd="/", env=environment(env), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
