"""The table of system calls' numbers against the kernel's headers and libseccomp, for every name that both know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from seccomp_help import MARKS, Libseccomp, header_numbers

from ctlab.seccomp import docker
from ctlab.seccomp.numbers import names, numbers

ARCHITECTURES = list(MARKS)
LAST_COMMON = 469  # file_setattr, Linux 6.17: 6.18 added none
_ASM = [Path("/usr/include/x86_64-linux-gnu/asm"), Path("/usr/include/asm")]
_NO_CALLS = {"syscalls", "arch_specific_syscall", "llseek", "mmap2", "sync_file_range2"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_libseccomp_has_the_same_numbers(architecture: str) -> None:
    library = Libseccomp()
    ours = numbers(architecture)
    theirs = {name: number for name in names() if (number := library.number(architecture, name)) is not None}
    assert {name: number for name, number in theirs.items() if ours.get(name) != number} == {}
    assert len(theirs) > 300
    # What it doesn't know is newer than it; what it knows by another way are the calls that i386 also makes by two.
    missing = {name for name in ours if name not in theirs}
    assert all(name in ("uprobe", "uretprobe") or ours[name] > 460 or architecture == "i386" for name in missing)
    assert architecture != "i386" or {name for name in missing if ours[name] <= 460} <= set(docker.MULTIPLEXED)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_libseccomp_knows_no_call_that_is_missing_here(architecture: str) -> None:
    """Its names by number, so that a call which none of our tables has is found too."""
    import ctypes

    library = ctypes.CDLL("libseccomp.so.2") if Libseccomp() else None
    assert library is not None
    resolve = library.seccomp_syscall_resolve_num_arch
    resolve.restype, resolve.argtypes = ctypes.c_void_p, (ctypes.c_uint32, ctypes.c_int)
    library.free.argtypes = (ctypes.c_void_p,)
    ours = {number: name for name, number in numbers(architecture).items()}
    for number in (*range(LAST_COMMON + 1), *range(983041, 983050)):
        found = resolve(MARKS[architecture], number)
        if found:
            assert ours.get(number) == ctypes.string_at(found).decode(), number
            library.free(found)


@pytest.mark.parametrize(("architecture", "file"), [("x86_64", "unistd_64.h"), ("i386", "unistd_32.h")])
def test_the_kernels_x86_headers_have_the_same_numbers(architecture: str, file: str) -> None:
    path = next((folder / file for folder in _ASM if (folder / file).exists()), None)
    if path is None:
        pytest.skip(f"no {file} (linux-libc-dev for x86)")
    found = header_numbers(path)
    assert len(found) > 350
    newer = {name: number for name, number in found.items() if number > LAST_COMMON}
    assert {name: number for name, number in found.items() if numbers(architecture).get(name) != number} == newer


def test_the_kernels_generic_header_has_the_same_numbers() -> None:
    """What arm64 uses: names with __NR3264 have their 64-bit name at the end of the file."""
    path = Path("/usr/include/asm-generic/unistd.h")
    if not path.exists():
        pytest.skip("no asm-generic/unistd.h (linux-libc-dev)")
    text = path.read_text()
    numbered = dict(re.findall(r"#define __NR3264_(\w+)\s+(\d+)$", text, re.M))
    wide = re.findall(r"#define __NR_(\w+)\s+__NR3264_(\w+)", text.partition("__BITS_PER_LONG == 64 && !defined")[2])
    found = header_numbers(path) | {name: int(numbered[other]) for name, other in reversed(wide) if other in numbered}
    ours = numbers("aarch64")
    # What the generic table offers to 32-bit machines and to others than arm64.
    others = {name for name in found if name.endswith("64") and name not in ours} | _NO_CALLS
    assert {name: number for name, number in found.items() if name not in others and ours.get(name) != number} == {}
    assert len(found) > 300


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_number_has_two_names(architecture: str) -> None:
    found = numbers(architecture)
    assert len(set(found.values())) == len(found)
    assert found["file_setattr"] == LAST_COMMON


def test_the_common_numbers_are_common() -> None:
    newest = {name for name, number in numbers("x86_64").items() if number >= 424}
    assert len(newest) == LAST_COMMON - 424 + 1
    for architecture in ARCHITECTURES:
        for name in newest:
            if (architecture, name) != ("arm", "memfd_secret"):
                assert numbers(architecture)[name] == numbers("x86_64")[name]
