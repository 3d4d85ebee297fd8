"""What a VM boots from, made ready: a kernel, and an initramfs for it, for this interpreter and this ctlab.

All of it lies in the cache (`cache`), and is made when it is missing, out of date or damaged. With everything there,
the answer takes about 10 ms.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CtlabError
from . import accel, architecture, cache, initramfs, kernel_image, modules, programs, sources, unpacking

_FORMAT = 3  # of what is kept; a change makes everything anew
_KEEP = 4  # initramfs archives of other versions of ctlab or of the interpreter


class Prepared(NamedTuple):
    """What to boot."""

    kernel: Path
    initramfs: Path
    release: str
    origin: str  # of the kernel, for people
    missing: tuple[str, ...]  # wanted modules that this kernel doesn't have
    made: tuple[str, ...]  # what had to be made for it now


class Status(NamedTuple):
    """What there is, without making anything."""

    release: str  # of the prepared kernel; empty if there is none yet
    missing: tuple[str, ...]
    folder: str
    size_bytes: int
    acceleration: str  # "kvm", "tcg", or empty: not tried yet
    problem: str  # why there is no kernel and none can be fetched, in one line; empty otherwise


def prepare(*, thorough: bool = False) -> Prepared:
    """Make what is missing; `thorough`: also compare checksums. Raises CtlabError, and nothing half-made is left."""
    tools = programs.find()
    folder = cache.folder()
    made: list[str] = []
    try:
        with _held(folder):
            place, facts = _kernel(folder, thorough, made)
            archive = _initramfs(folder, place, facts, tools.busybox, thorough, made)
    except OSError as error:
        raise cache.refused(Path(error.filename or folder), error) from None
    return _prepared(place, facts, archive, made)


def ready() -> Prepared | None:
    """What `prepare` would answer if it had nothing to make; else None. Raises CtlabError."""
    tools = programs.find()
    folder = cache.place()
    found = _newest(folder, thorough=False)
    if found is None:
        return None
    archive = folder / _archive_name(_base_key(found[0], tools.busybox))
    if not cache.whole(archive, cache.read_json(archive.with_suffix(".json"))):
        return None
    _used(archive)
    return _prepared(*found, archive, [])


def _prepared(place: Path, facts: Mapping[str, Any], archive: Path, made: list[str]) -> Prepared:
    return Prepared(
        place / facts["image"], archive, facts["release"], facts["origin"], tuple(facts["missing"]), tuple(made)
    )


def status() -> Status:
    """What is prepared; nothing is made for the answer. Raises CtlabError when the cache can't be used."""
    folder = cache.place()
    found = _newest(folder, thorough=False)
    problem = ""
    if found is None and not sources.can_get(folder):
        problem = f"no kernel for the VM, and no apt to fetch one: put a Debian kernel package (.deb) into {folder}"
    release = found[1]["release"] if found else ""
    missing = tuple(found[1]["missing"]) if found else ()
    return Status(release, missing, str(folder), cache.size(folder), accel.known(), problem)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One at a time: another that prepares is waited for."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        except BaseException:  # an interrupt comes between two instructions: what was just begun nobody else removes
            cache.clear_unfinished(folder)
            raise
    finally:
        os.close(descriptor)


def _newest(folder: Path, *, thorough: bool) -> tuple[Path, dict[str, Any]] | None:
    """The kernel that was prepared last and is whole."""
    wanted = _wanted_key(folder)
    places = sorted(folder.glob("kernel-*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for place in places:
        facts = cache.read_json(place / cache.FACTS)
        if facts.get("format") != _FORMAT or facts.get("machine") != architecture.here().machine:
            continue
        if wanted and facts.get("named") != wanted:
            continue
        names = facts.get("files", {})
        if all(cache.whole(place / name, known, thorough=thorough) for name, known in names.items()):
            return place, facts
    return None


def _wanted_key(folder: Path) -> str:
    """What the user has named by the variable or put into the cache: a kernel of something else isn't taken then."""
    wanted = sources.named() or sources.put(folder)
    return " ".join(programs.version(str(path)) if path.exists() else str(path) for path in wanted)


def _kernel(folder: Path, thorough: bool, made: list[str]) -> tuple[Path, dict[str, Any]]:
    found = _newest(folder, thorough=thorough)
    if found is not None:
        return found
    here = architecture.here()
    cache.clear_unfinished(folder)
    kernel = sources.get(folder, here)
    image = kernel_image.bootable(kernel.image, kernel.origin)
    contents = _Modules(kernel)
    selection = modules.select(contents, set(kernel.builtin), (*modules.EARLY, *modules.WANTED), kernel.origin)
    early = modules.select(contents, set(kernel.builtin), modules.EARLY, kernel.origin)
    place = folder / f"kernel-{kernel.release}-{cache.digest(kernel.image)[:12]}"
    with cache.new_folder(place) as new:
        cache.write(new / "vmlinux", image)
        (new / "modules").mkdir(0o700)
        for one in selection.modules:
            cache.write(new / "modules" / f"{one.name}.ko", contents.unpacked(one.name))
        names = ["vmlinux", *(f"modules/{one.name}.ko" for one in selection.modules)]
        facts: dict[str, Any] = {
            "format": _FORMAT,
            "machine": here.machine,
            "release": kernel.release,
            "origin": kernel.origin,
            "named": _wanted_key(folder),
            "image": "vmlinux",
            "modules": [one.name for one in selection.modules],
            "early": [one.name for one in early.modules],
            "missing": list(selection.missing),
            "files": {name: cache.stamp(new / name) for name in names},
        }
        cache.write_json(new / cache.FACTS, facts)
    for old in sorted(folder.glob("kernel-*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)[_KEEP:]:
        cache.remove(old)  # a VM that runs has opened what it needs of it
    made.append(f"kernel {kernel.release} from {kernel.origin}")
    return place, facts


class _Modules(dict[str, modules.Info]):
    """What the kernel's modules say of themselves, each unpacked when it is asked for."""

    def __init__(self, kernel: sources.Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self._unpacked: dict[str, bytes] = {}

    def unpacked(self, name: str) -> bytes:
        if name not in self._unpacked:
            self._unpacked[name] = unpacking.unpack(self._kernel.modules[name], f"the kernel module {name}")
        return self._unpacked[name]

    def __contains__(self, name: object) -> bool:
        return name in self._kernel.modules

    def get(self, name: str, default: Any = None) -> Any:
        """The module of that name."""
        if name not in self._kernel.modules:
            return default
        if not super().__contains__(name):
            self[name] = modules.info(name, self.unpacked(name))
        return self[name]


def _initramfs(
    folder: Path, place: Path, facts: Mapping[str, Any], busybox: str, thorough: bool, made: list[str]
) -> Path:
    """The archive, made if ctlab, the interpreter, the kernel or busybox is another one than it was made from."""
    base_key = _base_key(place, busybox)
    path = folder / _archive_name(base_key)
    known = cache.read_json(path.with_suffix(".json"))
    if cache.whole(path, known, thorough=thorough):
        _used(path)
        return path
    cache.clear_unfinished(folder)
    base_path = folder / f"base-{base_key[:16]}.cpio"
    if not cache.whole(base_path, cache.read_json(base_path.with_suffix(".json")), thorough=thorough):
        contents = {name: (place / "modules" / f"{name}.ko").read_bytes() for name in facts["modules"]}
        selected = tuple(modules.info(name, contents[name]) for name in facts["modules"])
        selection = modules.Selection(selected, tuple(facts["missing"]))
        _keep(base_path, initramfs.base(busybox, selection, contents, facts["early"]))
        made.append(f"base of the initramfs ({selection_text(facts)})")
    _keep(path, base_path.read_bytes() + initramfs.package())
    made.append("initramfs")
    for pattern in ("initramfs-*.json", "base-*.json"):
        _forget_old(folder, pattern)
    return path


def _archive_name(base_key: str) -> str:
    key = cache.digest("\n".join((base_key, _package_key())).encode())[:16]
    return f"initramfs-{key}.cpio"


def _used(archive: Path) -> None:
    """What was used last is kept longest."""
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(archive.with_suffix(".json"))


def selection_text(facts: Mapping[str, Any]) -> str:
    """For people: how many modules."""
    return f"{len(facts['modules'])} modules, {os.path.basename(initramfs.interpreter())}"


def _keep(path: Path, data: bytes) -> None:
    cache.write(path, data)
    cache.write_json(path.with_suffix(".json"), cache.stamp(path))


def _forget_old(folder: Path, pattern: str) -> None:
    for note in sorted(folder.glob(pattern), key=lambda one: one.stat().st_mtime_ns, reverse=True)[_KEEP:]:
        cache.remove(note)  # first: without it the archive is none
        cache.remove(note.with_suffix(".cpio"))


def _base_key(place: Path, busybox: str) -> str:
    """Of all that the archive's first part is made from; what records the library's modules is part of it."""
    interpreter = initramfs.interpreter()
    words = [str(_FORMAT), place.name, programs.version(busybox), sys.version, programs.version(interpreter)]
    words += [programs.version(os.__file__)]
    here = Path(__file__).parent
    words += [cache.digest((here / f"{name}.py").read_bytes()) for name in ("initramfs", "guest_record", "cpio")]
    words += sorted(_imports())
    return cache.digest("\n".join(words).encode())


def _imports() -> set[str]:
    """Every line of ctlab that imports from the library: another one may need another module there."""
    found: set[str] = set()
    for path in initramfs.package_files().values():
        for line in path.read_bytes().splitlines():
            text = line.strip()
            if text.startswith((b"import ", b"from ")) and not text.startswith(b"from ."):
                found.add(text.decode(errors="replace"))
    return found


def _package_key() -> str:
    parts = []
    for name, path in initramfs.package_files().items():
        try:
            parts.append(f"{name} {cache.digest(path.read_bytes())}")
        except OSError as error:
            raise CtlabError(f"can't read {path}: {error.strerror}") from None
    return "\n".join(parts)
