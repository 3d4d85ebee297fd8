"""Where the guest's kernel comes from: a package named by the user, one in the cache folder, Debian's, the host's own.

Nothing is installed: a package is fetched by apt into a folder of its own, and unpacked there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import CtlabError, Unsupported
from . import deb, kernel_image, modules
from .architecture import Architecture

VARIABLE = "CTLAB_VM_KERNEL_DEB"
_FETCH_SECONDS = 300.0
_ASK_SECONDS = 60.0


class Kernel(NamedTuple):
    """A kernel as it was delivered: the image, its modules (still compressed) by name, what is built in."""

    origin: str  # for people
    release: str
    image: bytes
    modules: Mapping[str, bytes]
    builtin: frozenset[str]


def from_packages(paths: list[Path], origin: str, architecture: Architecture) -> Kernel:
    """Read a kernel out of packages (some distributions have a package of their own for modules). Raises CtlabError."""
    image, release = b"", ""
    found: dict[str, bytes] = {}
    builtin: set[str] = set()
    for path in paths:
        try:
            package = path.read_bytes()
        except OSError as error:
            raise CtlabError(f"can't read the kernel package {path}: {error.strerror}") from None
        for name, data in deb.files(package, str(path)):
            base = name.rpartition("/")[2]
            if re.match(r"boot/vmlinu[xz]-", name):
                image, release = data, base.partition("-")[2]
            elif "/modules/" in f"/{name}" and ".ko" in base:
                found[modules.name_of(name)] = data
            elif base == "modules.builtin":
                builtin = modules.builtin_names(data.decode())
    if not image:
        names = ", ".join(path.name for path in paths)
        raise CtlabError(f"no kernel (boot/vmlinuz-...) in {names}: take a linux-image package")
    kernel_image.check(image, origin, architecture)
    return Kernel(origin, release, image, found, frozenset(builtin))


def from_folders(image: Path, folder: Path, release: str, origin: str, architecture: Architecture) -> Kernel:
    """Read a kernel from its file and the folder of its modules. Raises CtlabError."""
    try:
        data = image.read_bytes()
        found = {modules.name_of(path.name): path.read_bytes() for path in folder.rglob("*.ko*") if path.is_file()}
        builtin = modules.builtin_names((folder / "modules.builtin").read_text())
    except OSError as error:
        raise CtlabError(f"can't read {error.filename}: {error.strerror}") from None
    kernel_image.check(data, str(image), architecture)
    return Kernel(origin, release or kernel_image.release(data) or folder.name, data, found, frozenset(builtin))


def named() -> list[Path]:
    """The packages that the user has named by the variable."""
    return [Path(word) for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word]


def put(cache: Path) -> list[Path]:
    """What the user has put into the cache: packages, or else an image."""
    image = cache / "vmlinuz"
    return sorted(cache.glob("*.deb")) or ([image] if image.exists() else [])


def get(cache: Path, architecture: Architecture) -> Kernel:
    """The first kernel that can be had. Raises Unsupported with one line on what to fetch and where to put it."""
    if paths := named():
        return from_packages(paths, " ".join(path.name for path in paths), architecture)
    if (paths := put(cache)) and paths[0].suffix == ".deb":
        return from_packages(paths, " ".join(path.name for path in paths), architecture)
    if paths:
        return from_folders(cache / "vmlinuz", cache / "modules", "", str(cache / "vmlinuz"), architecture)
    tried: list[str] = []
    lacking: Unsupported | None = None
    if shutil.which("apt-get") and shutil.which("apt-cache"):
        try:
            return _fetched(architecture)
        except (CtlabError, subprocess.SubprocessError) as error:
            tried.append(f"apt: {error}")
            lacking = error if isinstance(error, Unsupported) else None
    try:
        return _of_this_machine(architecture)
    except CtlabError as error:
        tried.append(f"this machine's own: {error}")
    if lacking is not None:  # a package was there, and a program to unpack it isn't: it says which
        raise lacking
    wanted = architecture.kernel_packages[0]
    raise Unsupported(
        f"no kernel for the VM ({'; '.join(tried)}): fetch a Debian kernel package (the linux-image that {wanted} "
        f"depends on) and put the .deb into {cache}, or name it in {VARIABLE}"
    )


def can_get(cache: Path) -> bool:
    """Whether there is a place that `get` would take a kernel from: nothing is fetched for the answer."""
    there = named() or put(cache) or shutil.which("apt-get")
    return bool(there) or os.access(f"/boot/vmlinuz-{os.uname().release}", os.R_OK)


def _fetched(architecture: Architecture) -> Kernel:
    for wanted in architecture.kernel_packages:
        image = _dependency(wanted, r"linux-image-\S+")
        if image:
            break
    else:
        raise CtlabError(f"apt knows none of {', '.join(architecture.kernel_packages)} (apt-get update?)")
    names = [image]
    own_modules = _dependency(image, r"linux-modules-\S+")
    if own_modules:
        names.append(own_modules)
    with tempfile.TemporaryDirectory(prefix="ctlab-kernel-") as folder:
        paths = [_download(name, Path(folder)) for name in names]
        return from_packages(paths, paths[0].name, architecture)


def _dependency(package: str, pattern: str) -> str:
    for line in _ask("apt-cache", "depends", "--important", package).splitlines():
        found = re.fullmatch(rf"\s*Depends: ({pattern})", line)
        if found and not found[1].startswith("<"):
            return found[1]
    return ""


def _download(name: str, folder: Path) -> Path:
    """Fetch a package and hold it against the checksum that the package list gives. Raises CtlabError."""
    options = ["-q"]
    if os.getuid() == 0:
        options += ["-o", "APT::Sandbox::User=root"]  # its own user may not write here
    done = subprocess.run(
        ["apt-get", *options, "download", name],
        cwd=folder, capture_output=True, text=True, timeout=_FETCH_SECONDS, env=_environment(), check=False,
    )  # fmt: skip
    found = sorted(folder.glob(f"{name}_*.deb"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise CtlabError(f"apt-get download {name} failed: {said[-1] if said else 'no reason given'}")
    version = found[0].name.split("_")[1].replace("%3a", ":")
    wanted = re.search(r"^SHA256: ([0-9a-f]{64})$", _ask("apt-cache", "show", f"{name}={version}"), re.MULTILINE)
    got = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if wanted is None or wanted[1] != got:
        raise CtlabError(f"{found[0].name} has the checksum {got[:16]}..., not the one of the package list: try again")
    return found[0]


def _ask(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_ASK_SECONDS, env=_environment(), check=False
    )
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _of_this_machine(architecture: Architecture) -> Kernel:
    release = os.uname().release
    image, folder = Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}")
    if not os.access(image, os.R_OK):
        raise CtlabError(f"{image} can't be read")
    return from_folders(image, folder, release, f"this machine's own ({release})", architecture)
