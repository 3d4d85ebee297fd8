"""A kernel image: which architecture it is for, which release, and its ELF form where that boots faster.

An emulated processor takes half a second to unpack a compressed kernel, the host a tenth of that; QEMU starts an
uncompressed x86 kernel directly when it has a PVH entry (an ELF note).

Sources: Documentation/arch/x86/boot.rst, Documentation/arch/arm64/booting.rst, xen/include/public/elfnote.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..errors import CtlabError, Unsupported
from . import unpacking
from .architecture import Architecture, named

_PT_NOTE = 4
_XEN_ELFNOTE_PHYS32_ENTRY = 18
_X86_64 = 62
_ARM64 = 183
_ELF_HEADER_BYTES = 64
_X86_HEADER_BYTES = 0x250


def machine(image: bytes) -> int:
    """The e_machine number that `image` is for; 0 if it is no kernel image that we know."""
    if image[:4] == b"\x7fELF" and len(image) >= _ELF_HEADER_BYTES:
        return int(struct.unpack_from("<H", image, 18)[0])
    if image[0x202:0x206] == b"HdrS":
        return _X86_64
    if image[0x38:0x3C] == b"ARM\x64" or (image[:4] == b"MZ\0\0" and image[4:8] == b"zimg"):
        return _ARM64
    return 0


def check(image: bytes, what: str, architecture: Architecture) -> None:
    """Raise CtlabError unless `image` is a kernel of this architecture."""
    found = machine(unpacking.unpack(image, what) if unpacking.kind(image) == "gzip" else image)
    if not found:
        raise CtlabError(f"{what} isn't a kernel image: fetch it again")
    if found != architecture.elf_machine:
        raise CtlabError(
            f"{what} is a kernel for {named(found)} and this machine is {architecture.machine}: "
            f"take the package for {architecture.debian}"
        )
    if image[0x202:0x206] == b"HdrS" and len(image) < _least_bytes(image):
        raise CtlabError(f"{what} is cut off: {len(image)} bytes of at least {_least_bytes(image)}; fetch it again")


def _least_bytes(image: bytes) -> int:
    """How long an x86 image is by its own header (setup_sects, syssize)."""
    if len(image) < _X86_HEADER_BYTES:
        return _X86_HEADER_BYTES
    return int((image[0x1F1] or 4) + 1) * 512 + 16 * int(struct.unpack_from("<I", image, 0x1F4)[0])


def release(image: bytes) -> str:
    """The release (`uname -r`) that an x86 image names in its header; empty if it names none."""
    if image[0x202:0x206] != b"HdrS":
        return ""
    offset = struct.unpack_from("<H", image, 0x20E)[0] + 0x200
    text = image[offset : offset + 200].split(b"\0", 1)[0].decode("ascii", "replace")
    return text.split(" ", 1)[0]


def bootable(image: bytes, what: str) -> bytes:
    """The form of `image` that starts fastest: the ELF kernel inside an x86 image if QEMU can start it.

    `image` was found good by `check`. Raises CtlabError if what is inside is damaged.
    """
    if image[0x202:0x206] != b"HdrS":
        return image
    payload = _payload(image)
    compressed = unpacking.kind(payload)
    try:
        kernel = unpacking.unpack(payload, what)
    except Unsupported:
        return image  # no program to unpack it: the guest can
    # Behind what is compressed stands how long it was before (scripts/Makefile.lib, size_append; gzip has that itself).
    if compressed and len(kernel) & 0xFFFF_FFFF != int.from_bytes(payload[-4:], "little"):
        raise CtlabError(f"{what} is damaged: its kernel is another size than it says; fetch it again")
    return kernel if _has_pvh_entry(kernel) else image


def _payload(image: bytes) -> bytes:
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    if not length or start + length > len(image):
        return b""
    return image[start : start + length]


def _has_pvh_entry(kernel: bytes) -> bool:
    if kernel[:5] != b"\x7fELF\x02" or len(kernel) < _ELF_HEADER_BYTES:
        return False
    offset, size, count = struct.unpack_from("<Q14xHH", kernel, 32)
    for number in range(count):
        kind, _, where, _, _, length = struct.unpack_from("<IIQQQQ", kernel, offset + number * size)
        if kind == _PT_NOTE and _XEN_ELFNOTE_PHYS32_ENTRY in _notes(kernel[where : where + length]):
            return True
    return False


def _notes(data: bytes) -> Iterator[int]:
    """The types of the notes whose name is Xen."""
    position = 0
    while position + 12 <= len(data):
        name_bytes, body_bytes, kind = struct.unpack_from("<III", data, position)
        name = data[position + 12 : position + 12 + name_bytes]
        if name.rstrip(b"\0") == b"Xen":
            yield kind
        position += 12 + -(-name_bytes // 4) * 4 + -(-body_bytes // 4) * 4
