"""The root folder that the probe runs in, everywhere the same: an interpreter, what the probe imports, busybox.

The probe is a script of Python's standard library, not a compiled program, so that no test needs a compiler: the
interpreter that runs the tests is there in any case, and ctypes makes every system call.
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

PROBE = Path(__file__).resolve().parent / "probe"
INTERPRETER = os.path.realpath(sys.executable)
COMMAND = [INTERPRETER, "-I", "-S", "-B", "/probe"]  # and the order as JSON
_MODULES = (
    "__future__", "typing", "json", "ctypes", "mmap", "resource", "fcntl", "socket", "struct", "signal", "stat",
    "errno", "pathlib", "contextlib", "collections.abc", "runpy", "importlib.util", "importlib.machinery",
    "pkgutil",
)  # fmt: skip
_RECORD = """
import json, os, sys
for name in sys.argv[1:]:
    __import__(name)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
mapped = {line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/" in line}
print(json.dumps([sorted(filter(None, files)), sorted(path for path in mapped if ".so" in path)]))
"""
_FOLDERS = ("proc", "sys", "dev", "tmp", "run", "etc", "root", "usr", "data")
_TOPS = ("bin", "sbin", "lib", "lib64")


def build(root: Path) -> Path:
    """Fill an empty folder; returns it. Everyone may read it all."""
    done = subprocess.run(
        [INTERPRETER, "-I", "-S", "-B", "-c", _RECORD, *_MODULES], capture_output=True, text=True, check=True
    )
    sources, libraries = json.loads(done.stdout)
    for name in _FOLDERS:
        (root / name).mkdir()
    for name in _TOPS:  # as on this machine, so that every path leads where it leads there
        top = Path("/", name)
        if top.is_symlink():
            (root / name).symlink_to(os.readlink(top))
            (root / os.readlink(top).lstrip("/")).mkdir(parents=True, exist_ok=True)
    for path in {INTERPRETER, _loader(), *sources, *libraries}:
        _copy(root, Path(path))
    for path in sources:
        if path.endswith(".py"):
            py_compile.compile(str(root / path.lstrip("/")), doraise=True, quiet=1)
    shutil.copytree(PROBE, root / "probe", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (root / "probe").glob("*.py"):
        py_compile.compile(str(file), doraise=True)
    if busybox := shutil.which("busybox"):
        _copy(root, Path(os.path.realpath(busybox)), "usr/bin/busybox")
        (root / "usr/bin/sh").symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nme:x:1:1::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nme:x:1:\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)
    (root / "tmp").chmod(0o1777)
    return root


def _loader() -> str:
    """The program that loads the interpreter's libraries, by the name that the interpreter asks for."""
    from ctlab.vm.initramfs import _loader

    return _loader(Path(INTERPRETER).read_bytes()) or INTERPRETER


def _copy(root: Path, path: Path, name: str = "") -> None:
    """A file at its own place, and the links beside it by which others know it (a library's short name)."""
    target = root / (name or str(path).lstrip("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)
    if ".so" not in path.name:
        return
    real = os.path.realpath(path)
    for other in path.parent.glob(f"{path.name.partition('.so')[0]}.so*"):
        beside = target.parent / other.name
        if other.is_symlink() and os.path.realpath(other) == real and not os.path.lexists(beside):
            beside.symlink_to(target.name)
