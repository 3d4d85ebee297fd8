"""Names: of what a lab holds (which are valid, which is near, which come next) and of signals and capabilities."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher

from .errors import BadInput

MAX_LENGTH = 63
MOST_AT_ONCE = 100_000
NODE = "host"  # what the node is called, in tables, on the map and by name
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", re.ASCII)
# `{n}`, `{n:2}`, `{n:02}`, `{n:03d}`: nothing of str.format beyond a width, so no attribute can be reached.
COUNTER = re.compile(r"\{n(?::(0?)([1-9]?)d?)?\}", re.ASCII)


def shorten(text: str, width: int = 40) -> str:
    """`text` as repr, cut in the middle of nothing: at most `width` characters of it are shown."""
    return repr(text) if len(text) <= width else f"{text[:width]!r}… ({len(text)} characters)"


def check_name(kind: str, name: object) -> str:
    """`name` if it is a valid name for a `kind` (container, network, lab, …); BadInput says why it isn't."""
    if not isinstance(name, str):
        raise BadInput(f"a {kind}'s name is text, not {type(name).__name__} ({name!r})")
    if NAME.fullmatch(name):
        if kind == "container" and key(name) == NODE:
            raise BadInput(f"container name '{name}' is the node's: choose another")
        return name
    shown = shorten(name)
    if not name:
        raise BadInput(f"a {kind}'s name can't be empty")
    if len(name) > MAX_LENGTH:
        raise BadInput(f"{kind} name {shown} is longer than {MAX_LENGTH} characters")
    wrong = next((c for c in name if not re.fullmatch(r"[a-zA-Z0-9_.-]", c, re.ASCII)), None)
    if wrong is None:
        raise BadInput(f"{kind} name {shown} starts with {name[0]!r}: it must start with a letter or a digit")
    raise BadInput(f"{kind} name {shown} has {wrong!r} in it: letters a-z A-Z, digits, '_', '.' and '-' only")


def is_pattern(name: str) -> bool:
    """Whether it is one for a shell, which would have made names of it."""
    return "*" in name or "?" in name or ("[" in name and "]" in name)


def key(name: str) -> str:
    """What two names that can't stand side by side have in common: names are unique without case."""
    return name.lower()


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` is most likely a slip of, None if none is near.

    A choice that continues `word` counts as near (`--mem` for `--memory`): nothing is abbreviated, but the
    message can say it. Ties go to the choice that comes first.
    """
    if len(word) > MAX_LENGTH:  # no slip of anything there is, and a comparison of a megabyte takes seconds
        return None
    folded = word.lower()
    best, best_score = None, 0.0
    for choice in choices:
        other = choice.lower()
        stem, other_stem = folded.lstrip("-"), other.lstrip("-")
        if not stem or not other_stem:
            continue
        score = SequenceMatcher(None, stem, other_stem).ratio()
        if len(stem) >= 2 and other_stem.startswith(stem):
            score = max(score, 0.9)
        if score > best_score:
            best, best_score = choice, score
    return best if best_score >= 0.65 else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'web'?` or the empty text: the end of a message."""
    near = nearest(word, choices)
    return f"; did you mean '{near}'?" if near is not None else ""


def has_counter(pattern: str) -> bool:
    """Whether a name holds `{n}` or `{n:02}`, the number of one of several."""
    return COUNTER.search(pattern) is not None


def expand_pattern(kind: str, pattern: str, count: int, first: int = 1) -> list[str]:
    """`count` names from a pattern: `w{n:02}`, 3 → w01 w02 w03, each valid, no two alike.

    BadInput if `count` < 1, a name isn't valid, or there is no `{n}` for more than one.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BadInput(f"a count is a whole number from 1, not {count!r}")
    if count > MOST_AT_ONCE:
        raise BadInput(f"a count goes from 1 to {MOST_AT_ONCE}, {count} is more")
    if count > 1 and not has_counter(pattern):
        ways = f"'{pattern}{{n}}' or '{pattern}{{n:02}}'"
        raise BadInput(f"{count} {kind}s need {count} names: put the number in, {ways}")

    def numbered(n: int) -> str:
        return COUNTER.sub(lambda match: format(n, f"{match[1] or ''}{match[2] or ''}d"), pattern)

    names = [numbered(n) for n in range(first, first + count)]
    for name in (names[0], names[-1]):  # the shortest and the longest: what holds for them holds for all
        check_name(kind, name)
    return names


def auto_names(prefix: str, taken: Collection[str], count: int = 1) -> list[str]:
    """The first `count` of `c1`, `c2`, … that are not in `taken` (compared without case)."""
    used = {key(name) for name in taken}
    free = (name for number in itertools.count(1) if key(name := f"{prefix}{number}") not in used)
    return list(itertools.islice(free, count))


# Linux's own numbers, so that a name is checked alike on every system that ctlab is imported on.
_SIGNAL_TEXT = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU "
    "URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_SIGNALS = _SIGNAL_TEXT.split()
_RTMIN, _RTMAX = 34, 64
SIGNALS = {name: number for number, name in enumerate(_SIGNALS, start=1)} | {"IOT": 6, "POLL": 29, "CLD": 17}


def parse_signal(value: str | int) -> int:
    """A signal's number from `TERM`, `SIGTERM`, `15`, `RTMIN+3` or 15; BadInput otherwise."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str):
        text = value.strip().upper().removeprefix("SIG")
        realtime = re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?", text, re.ASCII)
        if text in SIGNALS:
            return SIGNALS[text]
        if re.fullmatch(r"\d{1,3}", text, re.ASCII):
            number = int(text)
        elif realtime:
            offset = int(f"{realtime[2] or '+'}{realtime[3] or 0}")
            number = (_RTMIN if realtime[1] == "MIN" else _RTMAX) + offset
            if not _RTMIN <= number <= _RTMAX:
                number = None
        else:
            near = nearest(text, SIGNALS)
            raise BadInput(f"no signal {shorten(value)}" + (f"; did you mean 'SIG{near}'?" if near else ""))
    if number is None or not (1 <= number <= len(_SIGNALS) or _RTMIN <= number <= _RTMAX):
        raise BadInput(f"no signal {value!r}: they go from 1 to {len(_SIGNALS)} and from {_RTMIN} to {_RTMAX}")
    return number


def signal_name(number: int) -> str:
    """`SIGTERM` for 15, `SIGRTMIN+3` for 37; `signal 99` for one that doesn't exist."""
    if 1 <= number <= len(_SIGNALS):
        return f"SIG{_SIGNALS[number - 1]}"
    if _RTMIN <= number <= _RTMAX:
        return f"SIGRTMIN+{number - _RTMIN}" if number > _RTMIN else "SIGRTMIN"
    return f"signal {number}"


_CAPABILITY_TEXT = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
    "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = tuple(_CAPABILITY_TEXT.split())
"""In the kernel's order: the index of a name is its number."""


def check_capability(value: str) -> str:
    """`NET_ADMIN` from `net_admin`, `CAP_NET_ADMIN`; `ALL` as in Docker; BadInput names the nearest."""
    name = value.strip().upper().removeprefix("CAP_")
    if name == "ALL" or name in CAPABILITIES:
        return name
    raise BadInput(f"no capability {shorten(value)}{did_you_mean(name, CAPABILITIES)}")
