"""What tests of the filters of system calls share: the kernel's interpreter of them in Python, and libseccomp."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctlab.kernel.capabilities import DEFAULT
from ctlab.seccomp.compile import MACHINES, Decision
from ctlab.seccomp.numbers import names, numbers
from ctlab.seccomp.profile import Condition

MARKS = dict(pair for pairs in MACHINES.values() for pair in pairs)
USUAL = frozenset(DEFAULT)
ARCHITECTURES = [(machine, architecture) for machine, pairs in MACHINES.items() for architecture, _ in pairs]

# Public profiles that may be on this machine; CTLAB_TEST_PROFILES: further files, for a run by hand.
PODMAN = Path("/usr/share/containers/seccomp.json")
PUBLIC = [path for path in (PODMAN, *map(Path, os.environ.get("CTLAB_TEST_PROFILES", "").split())) if path.is_file()]


class Program:
    """A filter as the kernel runs it: linux/filter.h, the instructions that seccomp_check_filter lets through."""

    def __init__(self, program: bytes) -> None:
        self.rows = list(struct.iter_unpack("=HBBI", program))

    def __len__(self) -> int:
        return len(self.rows)

    def verdict(self, number: int, mark: int, arguments: Sequence[int] = (0,) * 6) -> int:
        """What it says to call `number` of the architecture with that AUDIT_ARCH; IndexError where it runs away."""
        data = struct.pack("=IIQ6Q", number, mark, 0, *arguments)
        accumulator = place = 0
        memory = [0] * 16
        while True:
            operation, yes, no, operand = self.rows[place]
            place += 1
            if operation == 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            elif operation == 0x06:
                return int(operand)
            elif operation == 0x05:
                place += operand
            elif operation == 0x15:
                place += yes if accumulator == operand else no
            elif operation == 0x25:
                place += yes if accumulator > operand else no
            elif operation == 0x35:
                place += yes if accumulator >= operand else no
            elif operation == 0x45:
                place += yes if accumulator & operand else no
            elif operation == 0x54:
                accumulator &= operand
            elif operation == 0x02:
                memory[operand] = accumulator
            elif operation == 0x60:
                accumulator = memory[operand]
            else:
                raise ValueError(f"no such operation: {operation:#x}")


def all_numbers(architecture: str) -> list[int]:
    """Every number that has a call, and those around: gaps, what comes after, what is negative."""
    known = set(numbers(architecture).values())
    return sorted({near for number in known for near in (number - 1, number, number + 1) if near >= 0} | {
        600, 4096, 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFE,
    })  # fmt: skip


def name_of(architecture: str) -> dict[int, str]:
    return {number: name for name, number in numbers(architecture).items()}


def arguments_for(conditions: Iterable[Condition], bits: int = 64) -> Iterator[tuple[int, ...]]:
    """Six arguments each, for all combinations of values at, below and above what the conditions compare with."""
    values: dict[int, set[int]] = {index: {0} for index in range(6)}
    for condition in conditions:
        # What each condition masks out is set as well: it must make no difference, or the difference that it makes.
        near = {condition.value + step for step in (-1, 0, 1)} | {condition.value | (~condition.mask & 0xFFFFFFFF)}
        near |= {value | 1 << 32 for value in near} | {condition.mask, 1 << 63}
        values[condition.argument] |= {value for value in near if 0 <= value < 1 << bits}
    return itertools.product(*(sorted(values[index]) for index in range(6)))


def conditions_of(decision: Decision) -> list[Condition]:
    return [condition for conditions, _ in decision for condition in conditions]


# -- libseccomp -------------------------------------------------------------------------------------------------------
class _Comparison(ctypes.Structure):  # struct scmp_arg_cmp
    _fields_ = (
        ("arg", ctypes.c_uint), ("op", ctypes.c_int), ("first", ctypes.c_uint64), ("second", ctypes.c_uint64),
    )  # fmt: skip


_NAMES = {"x86_64": b"x86_64", "i386": b"x86", "aarch64": b"aarch64", "arm": b"arm"}
_OPERATORS = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6}
_MASKED = 7


class Libseccomp:
    """The library, by its C interface."""

    def __init__(self) -> None:
        try:
            self._c = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError as error:
            pytest.skip(f"no libseccomp to compare with: {error}")
        self._c.seccomp_init.restype = ctypes.c_void_p
        self._c.seccomp_init.argtypes = (ctypes.c_uint32,)
        self._c.seccomp_release.argtypes = (ctypes.c_void_p,)
        self._c.seccomp_arch_add.argtypes = self._c.seccomp_arch_remove.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        self._c.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        self._c.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._c.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison),
        )  # fmt: skip
        self._c.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)

    def number(self, architecture: str, name: str) -> int | None:
        """None where it doesn't know the name, or the architecture has no such call."""
        token = self._c.seccomp_arch_resolve_name(_NAMES[architecture])
        number: int = self._c.seccomp_syscall_resolve_name_arch(token, name.encode())
        return number if number >= 0 else None

    def knows(self, name: str) -> bool:
        return bool(self._c.seccomp_syscall_resolve_name(name.encode()) != -1)

    def program(
        self, default: int, rules: Iterable[tuple[str, int, Sequence[Condition]]], architectures: Sequence[str]
    ) -> Program:
        """Its filter for rules (call, action, conditions), added in order; OSError where it refuses one."""
        context = self._c.seccomp_init(default)
        try:
            for architecture in architectures:
                self._c.seccomp_arch_add(context, self._c.seccomp_arch_resolve_name(_NAMES[architecture]))
            native = MACHINES[os.uname().machine][0][0]
            if native not in architectures:
                self._c.seccomp_arch_remove(context, self._c.seccomp_arch_resolve_name(_NAMES[native]))
            for call, action, conditions in rules:
                compared = (_Comparison * max(1, len(conditions)))(*map(_comparison, conditions))
                number = self._c.seccomp_syscall_resolve_name(call.encode())
                failed = self._c.seccomp_rule_add_array(context, action, number, len(conditions), compared)
                if failed:
                    raise OSError(-failed, f"{call}: {os.strerror(-failed)}")
            descriptor = os.memfd_create("filter")
            try:
                if self._c.seccomp_export_bpf(context, descriptor):
                    raise OSError("seccomp_export_bpf")
                size = os.fstat(descriptor).st_size
                return Program(os.pread(descriptor, size, 0))
            finally:
                os.close(descriptor)
        finally:
            self._c.seccomp_release(context)


def _comparison(condition: Condition) -> _Comparison:
    argument, operator, value, mask = condition
    if mask == 0xFFFFFFFF_FFFFFFFF:
        return _Comparison(argument, _OPERATORS[operator], value, 0)
    assert operator == "=="
    return _Comparison(argument, _MASKED, mask, value)


# -- a profile in Docker's format, read once more and as simply as can be ---------------------------------------------
_JSON_OPERATORS = {"EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}
_JSON_ACTIONS = {"ALLOW": 0x7FFF0000, "ERRNO": 0x50000, "LOG": 0x7FFC0000, "TRAP": 0x30000, "KILL_PROCESS": 0x80000000}


def json_rules(
    path: Path, capabilities: frozenset[str], machine: str
) -> tuple[int, list[tuple[str, int, list[Condition]]]]:
    """(default action, rules) of a public profile for a recent kernel, as a runtime hands them to libseccomp."""
    profile: Mapping[str, Any] = json.loads(path.read_text())
    go = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    default = _json_action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    rules = []
    for item in profile["syscalls"]:
        includes, excludes = item.get("includes") or {}, item.get("excludes") or {}
        has = {f"CAP_{name}" for name in capabilities}
        if not set(includes.get("caps", [])) <= has or (includes.get("arches") and go not in includes["arches"]):
            continue
        if set(excludes.get("caps", [])) & has or go in excludes.get("arches", []):
            continue
        action = _json_action(item["action"], item.get("errnoRet"))
        conditions = [_json_condition(argument) for argument in item.get("args") or []]
        if action != default:
            rules += [(name, action, conditions) for name in item["names"]]
    return default, rules


def _json_action(name: str, number: int | None) -> int:
    action = _JSON_ACTIONS[name.removeprefix("SCMP_ACT_")]
    return action | (1 if number is None else number) if action == 0x50000 else action


def _json_condition(argument: Mapping[str, Any]) -> Condition:
    operator = argument["op"].removeprefix("SCMP_CMP_")
    if operator == "MASKED_EQ":
        return Condition(argument["index"], "==", argument.get("valueTwo", 0), argument["value"])
    return Condition(argument["index"], _JSON_OPERATORS[operator], argument["value"])


def header_numbers(path: Path) -> dict[str, int]:
    """Name -> number of a kernel header of system calls."""
    return {found[1]: int(found[2]) for found in re.finditer(r"#define __NR_(\w+)\s+(\d+)$", path.read_text(), re.M)}


def unknown_to(library: Libseccomp) -> frozenset[str]:
    """Calls of our table that this version of the library doesn't know."""
    return frozenset(name for name in names() if not library.knows(name))
