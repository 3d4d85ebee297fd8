"""The guest's first root: the interpreter, its library and ctlab compiled, the kernel's modules, busybox.

An emulated processor reads files of the host slowly (each goes through virtio-fs) and compiles slowly, so what the
lab's processes need lies in the guest's memory, ready to be run; whatever else the guest wants it finds in the host's
file system. Two archives, one after the other: `base` changes with kernel and interpreter, `package` with ctlab.
"""

from __future__ import annotations

import importlib.machinery
import json
import marshal
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from ..errors import CtlabError
from . import cpio, modules
from .guest_setup import HERE, MODPROBE, MODULES

INTERPRETER = f"{HERE}/bin/python3"
LIBRARIES = f"{HERE}/lib/system"
_PACKAGE = Path(__file__).resolve().parents[1]
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY = f"{HERE}/lib/{_VERSION}"
_RECORD_SECONDS = 60.0
# What of ctlab runs in the guest.
_FOLDERS = ("kernel", "runtime", "metrics", "plan", "vm")
_NOT_THERE = {"metrics.frame"}  # the notebook's side, with pandas
_PT_INTERP = 3


def package_files() -> dict[str, Path]:
    """Every module of ctlab that is brought along: its name → its file."""
    files = {f"ctlab.{path.stem}": path for path in sorted(_PACKAGE.glob("*.py"))}
    for folder in _FOLDERS:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            if f"{folder}.{path.stem}" not in _NOT_THERE:
                files[f"ctlab.{folder}.{path.stem}"] = path
    return files


def package() -> bytes:
    """The archive of ctlab, compiled."""
    entries = []
    for name, path in package_files().items():
        inside = name.replace(".", "/")
        entries.append(_compiled(f"{_LIBRARY}/{inside}.pyc", name, str(path)))
    return cpio.archive(entries)


def _compiled(path: str, name: str, source: str) -> cpio.Entry:
    code = importlib.machinery.SourceFileLoader(name, source).get_code(name)
    return cpio.file(path.lstrip("/"), MAGIC_NUMBER + struct.pack("<III", 0, 0, 0) + marshal.dumps(code))


def interpreter() -> str:
    """This interpreter's program, with no link in its path."""
    return os.path.realpath(sys.executable)


def base(busybox: str, selection: modules.Selection, contents: Mapping[str, bytes], early: Iterable[str]) -> bytes:
    """The archive of all but ctlab. `contents`: a module's name → the module. Raises CtlabError."""
    entries = [
        cpio.folder("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file(MODPROBE.lstrip("/"), Path(busybox).read_bytes(), 0o755),
        *_python(),
    ]
    folder = MODULES.lstrip("/")
    entries += [cpio.file(f"{folder}/{one.name}.ko", contents[one.name]) for one in selection.modules]
    entries += [
        cpio.file(f"{folder}/{name}", text.encode()) for name, text in modules.tables(selection.modules).items()
    ]
    entries += [
        cpio.file(f"{folder}/all", "\n".join(one.name for one in selection.modules).encode()),
        cpio.file(f"{folder}/order", "\n".join(early).encode()),
    ]
    return cpio.archive(entries)


def _python() -> Iterable[cpio.Entry]:
    found = _recorded()
    program = interpreter()
    yield cpio.file(INTERPRETER.lstrip("/"), Path(program).read_bytes(), 0o755)
    loader = _loader(Path(program).read_bytes())
    for path in found["libraries"]:
        data = Path(path).read_bytes()
        if path == loader:
            yield cpio.file(path.lstrip("/"), data, 0o755)
        else:
            yield cpio.file(f"{LIBRARIES}/{os.path.basename(path)}".lstrip("/"), data, 0o755)
    for path in found["extensions"].values():
        yield cpio.file(f"{_LIBRARY}/lib-dynload/{os.path.basename(path)}".lstrip("/"), Path(path).read_bytes(), 0o755)
    yield cpio.folder(f"{_LIBRARY}/lib-dynload".lstrip("/"))
    for name, path in found["sources"].items():
        inside = name.replace(".", "/")
        if os.path.basename(path) == "__init__.py":
            inside += "/__init__"
        yield _compiled(f"{_LIBRARY}/{inside}.pyc", name, path)


def _loader(program: bytes) -> str:
    """The dynamic loader that a program asks for; empty if it is static."""
    offset, size, count = struct.unpack_from("<Q14xHH", program, 32)
    for number in range(count):
        kind, _, where, _, _, length = struct.unpack_from("<IIQQQQ", program, offset + number * size)
        if kind == _PT_INTERP:
            return program[where : where + length].rstrip(b"\0").decode()
    return ""


def _recorded() -> dict[str, dict[str, str]]:
    """What an interpreter loads that runs the guest's part of ctlab: tried in one (see `guest_record`)."""
    parent = str(_PACKAGE.parent)
    script = f"import sys;sys.path.insert(0,{parent!r});from ctlab.vm import guest_record;guest_record.main()"
    done = subprocess.run(
        [interpreter(), "-I", "-S", "-B", "-c", script], capture_output=True, timeout=_RECORD_SECONDS, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise CtlabError(f"the interpreter {interpreter()} can't run ctlab's part in a VM: {said[-1] if said else ''}")
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found
