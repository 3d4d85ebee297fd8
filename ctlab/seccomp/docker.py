"""Reads a profile in Docker's format, podman's and the OCI's beside it. Pure but for `read`.

Rules that name a call without conditions come before those with conditions, as libseccomp has it, the first such rule
deciding; of rules whose conditions both hold the stricter decides, where libseccomp's choice depends on how it sorts
them. What isn't understood is refused, never skipped: a key that is misspelt would leave a hole.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from ..errors import BadInput
from ..kernel.capabilities import NAMES
from ..names import did_you_mean
from . import numbers
from .profile import (
    ALL_BITS,
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    LOW_BITS,
    TRACE,
    TRAP,
    Condition,
    Profile,
    Rule,
    strictness,
)

MAX_BYTES = 1 << 20  # Docker's own has 13 KB

_ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_TRAP": TRAP,
}
_WITH_NUMBER = (ERRNO, TRACE)
_OPERATORS = {
    "SCMP_CMP_EQ": "==", "SCMP_CMP_NE": "!=", "SCMP_CMP_LT": "<", "SCMP_CMP_LE": "<=", "SCMP_CMP_GT": ">",
    "SCMP_CMP_GE": ">=", "SCMP_CMP_MASKED_EQ": "==",
}  # fmt: skip
_THIRTY_TWO = {"SCMP_ARCH_X86": "i386", "SCMP_ARCH_ARM": "arm"}
_GO_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Every architecture that libseccomp has a name for, in any version, whether this machine could be one or not.
_LIBRARYS = (
    "NATIVE X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC "
    "PARISC64 PPC PPC64 PPC64LE S390 S390X RISCV64 SH SHEB"
)
_ARCHITECTURES = tuple(f"SCMP_ARCH_{name}" for name in _LIBRARYS.split())
# The same as Go writes them (the library's binding, then GOARCH where that differs), and as uname does.
_GOS = (
    "x86 amd64 x32 arm arm64 loong64 m68k mips mips64 mips64n32 mipsel mipsel64 mipsel64n32 parisc parisc64 ppc ppc64 "
    "ppc64le s390 s390x riscv64 sh sheb 386 amd64p32 mipsle mips64le mips64p32 mips64p32le x86_64 aarch64"
)
_MACHINES = tuple(_GOS.split())
_CAPABILITIES = (*(f"CAP_{name}" for name in NAMES), *NAMES)
_FLAGS = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)  # the only one there is a use for, and every filter is loaded with it

_TOP = {
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "syscalls", "flags", "listenerPath",
    "listenerMetadata",
}  # fmt: skip
_RULE = {"names", "name", "action", "errnoRet", "errno", "args", "includes", "excludes", "comment"}
_ARGUMENT = {"index", "value", "valueTwo", "op"}
_FILTER = {"caps", "arches", "minKernel"}

# i386: the calls that socketcall and ipc also make, by their first argument: linux/net.h, linux/ipc.h.
_SOCKETCALLS = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown "
    "setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)  # fmt: skip
_IPC = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
    "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip
MULTIPLEXED = {
    **{name: ("socketcall", number) for number, name in enumerate(_SOCKETCALLS.split(), 1)},
    **{name: ("ipc", number) for name, number in _IPC.items()},
}
"""Call -> (the call that a 32-bit program may make instead, its first argument then)."""


def parse(text: bytes, name: str, kernel: tuple[int, int]) -> Profile:
    """The profile in the text of a file called `name`. Raises BadInput, which names the file and the place in it."""
    place = _Place(f"seccomp profile {name}")
    if len(text) > MAX_BYTES:
        place.refuse(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        value = json.loads(text.decode("utf-8-sig"))  # of bytes json guesses the encoding, and takes UTF-16 and UTF-32
    except json.JSONDecodeError as error:
        place.refuse(f"line {error.lineno}, column {error.colno}: {error.msg}")
    except UnicodeDecodeError as error:
        place.refuse(f"JSON in UTF-8 is expected, not byte 0x{text[error.start]:02x} at position {error.start}")
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, thousands of brackets in each other.
        place.refuse("nested too deep" if isinstance(error, RecursionError) else str(error))
    return _profile(value, name, place, kernel)


class _Place:
    """Where in the file something is, for messages: ``FILE: syscalls[3].args[0].op``."""

    def __init__(self, text: str, separator: str = ": ") -> None:
        self._text = text
        self._separator = separator

    def at(self, key: str | int) -> _Place:
        if isinstance(key, int):
            return _Place(f"{self._text}[{key}]", ".")
        return _Place(f"{self._text}{self._separator}{_shown(key)}", ".")

    def refuse(self, why: str) -> NoReturn:
        raise BadInput(f"{self._text}: {' '.join(why.split())}")

    def table(self, value: Any, keys: set[str]) -> Mapping[str, Any]:
        """A JSON object with none but these keys; null is an empty one."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(f"an object is expected, not {_json(value)}")
        for key in value:
            if key not in keys:
                self.refuse(f"unknown key {_shown(key)}; there are {', '.join(sorted(keys))}")
        return value

    def items(self, value: Any) -> Iterator[tuple[_Place, Any]]:
        """The items of a JSON list with their places; null is an empty one."""
        if not isinstance(value, list | None):
            self.refuse(f"a list is expected, not {_json(value)}")
        for index, item in enumerate(value or ()):
            yield self.at(index), item

    def texts(self, value: Any) -> list[str]:
        return [place.text(item) for place, item in self.items(value)]

    def names(self, value: Any, known: Collection[str], what: str) -> list[str]:
        """A JSON list of known names; a misspelt one would never count, and a deny list have a hole there."""
        return [place.name(item, known, what) for place, item in self.items(value)]

    def name(self, value: Any, known: Collection[str], what: str) -> str:
        if self.text(value) not in known:
            self.refuse(f"{_shown(value)} isn't {what} that is known here{did_you_mean(value, known)}")
        return str(value)

    def text(self, value: Any) -> str:
        if not isinstance(value, str):
            self.refuse(f"a text is expected, not {_json(value)}")
        return value

    def number(self, value: Any, highest: int, default: int | None = None) -> int:
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 <= value <= highest:
            self.refuse(f"a whole number from 0 to {highest} is expected, not {_json(value)}")
        return value

    def one_of(self, value: Any, choices: Mapping[str, Any]) -> Any:
        if not isinstance(value, str) or value not in choices:
            self.refuse(f"{_shown(value)} isn't one of {', '.join(choices)}")
        return choices[value]


def _shown(value: Any) -> str:
    """A name that somebody wrote, or `_json` of what isn't one."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.$-]{1,40}", value) else _json(value)


def _json(value: Any) -> str:
    """A short text of a JSON value, whatever it is; of a text in quotes, since its kind is what matters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _profile(value: Any, name: str, place: _Place, kernel: tuple[int, int]) -> Profile:
    if not isinstance(value, dict):
        place.refuse(f"an object is expected, not {_json(value)}")
    top = place.table({key: item for key, item in value.items() if key not in ("$schema", "comment")}, _TOP)
    default = _action(top, place, "defaultAction", "defaultErrno")
    if top.get("architectures") and top.get("archMap"):
        place.refuse("architectures and archMap exclude each other")
    for at, flag in place.at("flags").items(top.get("flags")):
        at.one_of(flag, dict.fromkeys(_FLAGS))
    for key in ("listenerPath", "listenerMetadata"):
        if top.get(key):
            place.at(key).refuse("there is no agent that a container's calls could be passed on to")
    rules: list[Rule] = []
    for at, item in place.at("syscalls").items(top.get("syscalls")):
        rules += _rule(item, at, default, kernel)
    # Stable: the first of equals stays the first.
    rules.sort(key=lambda rule: (bool(rule.conditions), strictness(rule.action) if rule.conditions else 0))
    return Profile(name, default, tuple(rules), _architectures(top, place))


def _architectures(top: Mapping[str, Any], place: _Place) -> frozenset[str]:
    known = _ARCHITECTURES, "an architecture"
    named = place.at("architectures").names(top.get("architectures"), *known)
    for at, entry in place.at("archMap").items(top.get("archMap")):
        table = at.table(entry, {"architecture", "subArchitectures"})
        at.at("architecture").name(table.get("architecture"), *known)
        named += at.at("subArchitectures").names(table.get("subArchitectures"), *known)
    return frozenset(_THIRTY_TWO[name] for name in named if name in _THIRTY_TWO)


def _action(table: Mapping[str, Any], place: _Place, key: str, errno_key: str) -> int:
    """The verdict of an action and the number that goes with it; EPERM if none does, as in Docker."""
    named = table.get(key)
    if named == "SCMP_ACT_NOTIFY":
        place.at(key).refuse("there is no agent that a container's calls could be passed on to")
    verdict: int = place.at(key).one_of(named, _ACTIONS)
    number = place.at(f"{errno_key}Ret").number(table.get(f"{errno_key}Ret"), 4095, errno.EPERM)
    word = table.get(errno_key)
    if word not in (None, ""):  # podman's: the same by name, which counts where both are there
        number = place.at(errno_key).one_of(word, {text: code for code, text in errno.errorcode.items()})
    return verdict | number if verdict in _WITH_NUMBER else verdict


def _rule(value: Any, place: _Place, default: int, kernel: tuple[int, int]) -> list[Rule]:
    """The rules that an entry of `syscalls` stands for."""
    table = place.table(value, _RULE)
    action = _action(table, place, "action", "errno")
    calls = place.at("names").texts(table.get("names"))
    if table.get("name") not in (None, ""):
        if calls:
            place.refuse("name and names exclude each other")
        calls = [place.at("name").text(table["name"])]
    if not calls:
        place.refuse("names no system call")
    unknown = [call for call in calls if call not in numbers.names()]
    if unknown and default in (ALLOW, LOG) and strictness(action) < strictness(default):
        # Where everything else is allowed, a call that is left out would be too.
        place.at("names").refuse(f"{_shown(unknown[0])} isn't a system call that is known here")
    includes = _filter(table.get("includes"), place.at("includes"))
    excludes = _filter(table.get("excludes"), place.at("excludes"))
    conditions = _conditions(table.get("args"), place.at("args"))
    left_out = includes.kernel > kernel or (0, 0) < excludes.kernel <= kernel
    if action == default or left_out:
        return []
    found = [Rule(tuple(calls), action, each) for each in conditions]
    if action != ALLOW or not conditions[0]:
        found += [Rule((call,), action, (each,)) for call, each in _multiplexed(calls)]
    return [
        rule._replace(
            needs=includes.capabilities, machines=includes.machines,
            unless=excludes.capabilities, not_machines=excludes.machines,
        )
        for rule in found
    ]  # fmt: skip


def _multiplexed(calls: list[str]) -> Iterator[tuple[str, Condition]]:
    """What stands for these calls where a 32-bit program makes them through socketcall or ipc.

    Their own arguments lie in memory then: what refuses some of a call's arguments refuses all of them there, and what
    allows some allows none.
    """
    for call in calls:
        if call in MULTIPLEXED:
            whole, number = MULTIPLEXED[call]
            yield whole, Condition(0, "==", number, 0xFFFF if whole == "ipc" else LOW_BITS)  # ipc: above, a version


class _Filter(NamedTuple):
    """`includes` or `excludes` of a rule: names without ``CAP_``, machines as uname has them, (0, 0) for any kernel."""

    capabilities: frozenset[str]
    machines: frozenset[str]
    kernel: tuple[int, int]


def _filter(value: Any, place: _Place) -> _Filter:
    table = place.table(value, _FILTER)
    capabilities = place.at("caps").names(table.get("caps"), _CAPABILITIES, "a capability")
    arches = place.at("arches").names(table.get("arches"), _MACHINES, "an architecture")
    kernel = (0, 0)
    if table.get("minKernel") not in (None, ""):
        at = place.at("minKernel")
        version = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", at.text(table["minKernel"]))
        if version is None:
            at.refuse(f"a version like 4.8 is expected, not {_json(table['minKernel'])}")
        kernel = int(version[1]), int(version[2])
    return _Filter(
        frozenset(name.removeprefix("CAP_") for name in capabilities),
        frozenset(_GO_MACHINES.get(name, name) for name in arches),
        kernel,
    )


def _conditions(value: Any, place: _Place) -> list[tuple[Condition, ...]]:
    """The alternatives: one, unless an argument is named twice, which by Docker's rule makes one of each condition."""
    found = []
    for at, item in place.items(value):
        table = at.table(item, _ARGUMENT)
        index = at.at("index").number(table.get("index"), 5)
        operator = at.at("op").one_of(table.get("op"), _OPERATORS)
        first = at.at("value").number(table.get("value"), ALL_BITS, 0)
        second = at.at("valueTwo").number(table.get("valueTwo"), ALL_BITS, 0)
        if table["op"] == "SCMP_CMP_MASKED_EQ":
            found.append(Condition(index, operator, second, first))
        else:
            found.append(Condition(index, operator, first))
    if len({condition.argument for condition in found}) < len(found):
        return [(condition,) for condition in found]
    return [tuple(found)]
