"""What has to be brought into the guest so that ctlab runs there: found by importing it all, in a process for it."""

from __future__ import annotations

import ast
import ctypes
import importlib
import json
import sys
from pathlib import Path

# The side of a VM that is the host's.
_HOST_SIDE = {
    "accel", "architecture", "cache", "command", "command_line", "cpio", "deb", "guest_record", "initramfs",
    "kernel_image", "keeper", "machine", "modules", "options", "prepare", "preparing", "programs", "reader", "sources",
    "unpacking",
}  # fmt: skip
# Large, with libraries of their own, and nothing that a lab's start needs: read from the host's files when asked for.
_LEFT_OUT = {"_hashlib", "_ssl", "_decimal", "_lzma", "_bz2", "_curses", "readline", "_sqlite3"}
_ALWAYS = ("encodings.ascii", "encodings.latin_1", "encodings.idna", "traceback", "linecache", "os", "site")


class _Object(ctypes.Structure):
    _fields_ = [("address", ctypes.c_size_t), ("name", ctypes.c_char_p)]


def main() -> None:
    """Print, as JSON: `sources` and `extensions` (module → file), `libraries` (path → empty)."""
    from . import initramfs

    for name in _LEFT_OUT:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # what `import` takes for "there is none"

    for name, path in initramfs.package_files().items():
        module = name.removeprefix("ctlab.vm.")
        if name.startswith("ctlab.") and name.count(".") == 2 and module not in _HOST_SIDE:
            _import_all(name, path)
    for name in _ALWAYS:
        importlib.import_module(name)
    sources: dict[str, str] = {}
    extensions: dict[str, str] = {}
    for name, found in list(sys.modules.items()):
        origin = getattr(found, "__file__", None)
        if not origin or name.split(".")[0] in ("ctlab", "__main__"):
            continue
        (sources if origin.endswith(".py") else extensions)[name] = origin
    print(json.dumps({"sources": sources, "extensions": extensions, "libraries": dict.fromkeys(_libraries(), "")}))


def _import_all(name: str, path: Path) -> None:
    """Import a module, and what its functions import when they run."""
    importlib.import_module(name.removesuffix(".__init__"))
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for wanted in names:
            if wanted.split(".")[0] in sys.stdlib_module_names:
                try:
                    importlib.import_module(wanted)
                except ImportError:
                    pass  # of another system or version; whoever imports it there will say so


def _libraries() -> list[str]:
    """The shared objects in this process, by the names that the loader found them under."""
    found: list[str] = []
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.c_void_p)

    def note(item: ctypes._Pointer[_Object], size: int, data: int | None) -> int:
        name = (item.contents.name or b"").decode()
        if name.startswith("/") and "/lib-dynload/" not in name:
            found.append(name)
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(kind(note), None)
    return found
