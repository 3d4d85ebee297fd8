"""Readers of option values: text in, a checked value out, BadInput (or AddressError) with one line otherwise.

What they return goes to Python's keywords as it is, and every keyword takes the same text too.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .. import ipam, names, units
from ..errors import BadInput

ExpectedStatus = str | tuple[int, ...]
"""What `--expect` gives: "any", "fail" or the statuses that are good."""


def _integer(text: str, what: str, low: int, high: int) -> int:
    if not re.fullmatch(r"-?\d{1,60}", text, re.ASCII):
        raise BadInput(f"{text!r} isn't a whole number ({what})")
    number = int(text)
    if low <= number <= high:
        return number
    raise BadInput(f"{text}: {what} goes from {low} to {high}")


def _seconds(text: str | float | timedelta) -> float:
    """A time; without a unit it is seconds, as Docker's stop -t has it."""
    plain = isinstance(text, str) and re.fullmatch(r"\d+", text, re.ASCII)
    return units.parse_duration(f"{text}s" if plain else text)


def _positive_duration(text: str) -> float:
    seconds = units.parse_duration(text)
    if seconds == 0:
        raise BadInput(f"{text!r} is no time at all")
    return seconds


def _memory(text: str) -> int:
    size = units.parse_size(text)
    if size == 0:
        raise BadInput("nothing could run in 0 bytes of memory; no limit is written none")
    return size


def _size(text: str) -> str:
    """A size, kept as it was typed for what the API says about it."""
    units.parse_size(text)
    return text


def _or_none(reader: Callable[[str], object], *also: str) -> Callable[[str], object]:
    """A limit's reader that lets `none` pass: no limit, said and not left to a number's meaning."""
    return lambda text: "none" if text in ("none", "-1", *also) else reader(text)


def _network(text: str) -> str:
    if text.startswith("name=") or "," in text:
        raise BadInput(f"docker's long form {text!r} isn't in ctlab; write --network NAME, and --ip ADDRESS next to it")
    mode, colon, container = text.partition(":")
    if colon:
        if mode != "container":
            raise BadInput(f"{text!r}: a network's name, none, host or container:NAME")
        names.check_name("container", container)
        return text
    return names.check_name("network", text)


def _ipv4(text: str) -> str:
    address = ipam.parse_address(text)
    if address.version != 4:
        raise BadInput(f"{text} is an IPv6 address: that is --ip6")
    return str(address)


def _ipv6(text: str) -> str:
    address = ipam.parse_address(text)
    if address.version != 6:
        raise BadInput(f"{text} is an IPv4 address: that is --ip")
    return str(address)


def _env(text: str) -> str:
    name, _, _ = text.partition("=")
    if not name:
        raise BadInput(f"{text!r} has no name: write NAME=VALUE, or NAME for the notebook's own value")
    return text


def _label(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name:
        raise BadInput(f"{text!r} has no name: write NAME=VALUE")
    return text if equals else f"{text}="


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise BadInput(f"{text!r} must start with '/': it is a path inside the container")
    return text


def _mount(text: str) -> str:
    """`SRC:DST` or `SRC:DST:ro`, also from Docker's `type=bind,source=…,target=…,readonly`."""
    if re.match(r"(type|source|src|target|dst|destination|readonly|ro)=", text):
        text = _long_mount(text)
    source, target, *modes = text.split(":")[:3] if text.count(":") in (1, 2) else ("", "")
    if not source or not target:
        raise BadInput(f"{text!r} isn't a mount: write SRC:DST or SRC:DST:ro")
    mode = modes[0] if modes else "rw"
    if mode not in ("ro", "rw"):
        raise BadInput(f"{text!r}: a mount is ro or rw, not {mode!r}")
    if target.startswith("/") and target.rstrip("/") == "":
        raise BadInput(f"{text!r}: / is the container's own")
    if not target.startswith("/"):
        raise BadInput(f"{text!r}: {target!r} must be a path below '/' inside the container")
    return f"{source}:{target}" + (":ro" if mode == "ro" else "")


def _long_mount(text: str) -> str:
    fields: dict[str, str] = {}
    aliases = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    for part in text.split(","):
        name, _, value = part.partition("=")
        name = aliases.get(name, name)
        if name not in ("type", "source", "target", "readonly"):
            raise BadInput(f"{text!r}: a mount has type, source, target and readonly, not {name!r}")
        fields[name] = value
    if fields.get("type", "bind") != "bind":
        raise BadInput(f"docker's --mount type={fields['type']} isn't in ctlab; there are bind mounts: SRC:DST[:ro]")
    if fields.get("readonly", "true") not in ("", "true", "1", "false", "0"):
        raise BadInput(f"{text!r}: readonly is true or false")
    read_only = "readonly" in fields and fields["readonly"] not in ("false", "0")
    return f"{fields.get('source', '')}:{fields.get('target', '')}" + (":ro" if read_only else "")


def parse_expect(text: str | int) -> ExpectedStatus:
    """`any`, `fail` or the statuses of `0`, `0,1`; BadInput outside 0..255."""
    text = str(text).strip()
    if text in ("any", "fail"):
        return text
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", text, re.ASCII):
        raise BadInput(f"{text!r}: a status such as 0 or 0,1, or fail, or any")
    numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    if max(numbers) > 255:
        raise BadInput(f"{text!r}: a status goes from 0 to 255 (128+n when signal n ended the program)")
    return numbers


def is_expected(returncode: int, expect: ExpectedStatus = (0,)) -> bool:
    """Whether a status is what `--expect` asked for."""
    if expect == "any":
        return True
    return returncode != 0 if expect == "fail" else returncode in expect


def _condition(text: str) -> tuple[str, int]:
    what, _, value = text.partition(":")
    if what != "port" or not value:
        raise BadInput(f"{text!r}: what can be waited for is port:80")
    return what, _integer(value, "a port", 1, 65535)


def _identifier(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise BadInput(f"{text!r} can't be the name of a Python variable")
    return text


def _tail(text: str) -> int | None:
    return None if text == "all" else _integer(text, "a number of lines", 0, 10**9)


def _globs(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise BadInput(f"{text!r}: names or patterns with commas between, for example cpu_*,memory_bytes")
    return found


def parse_moment(text: str) -> float | datetime:
    """A time ago in seconds (`30s`), or an instant in UTC (ISO 8601, local without a zone; or seconds since 1970)."""
    if re.fullmatch(r"\d{9,}(\.\d+)?", text, re.ASCII):
        return datetime.fromtimestamp(float(text), UTC)
    if re.match(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        # pandas and numpy write nanoseconds, datetime reads microseconds and would refuse the rest
        trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text)
        try:
            return datetime.fromisoformat(trimmed).astimezone(UTC)
        except ValueError:
            raise BadInput(f"{text!r} isn't a date and time: write 2030-01-31T14:02:11") from None
    try:
        return units.parse_duration(text)
    except BadInput as error:
        raise BadInput(f"{error}, or a date and time: 2030-01-31T14:02:11") from None


READERS: dict[str, Callable[[str], object]] = {
    "text": str,
    "path": str,
    "name": str,  # checked with --count, since 'w{n:02}' isn't a name by itself
    "lab": lambda text: names.check_name("lab", text),
    "node": lambda text: names.check_name("node", text),
    "network": _network,
    "memory": _or_none(_memory),
    "size": _size,
    "cpus": _or_none(units.parse_cpus),
    "cpuset": _or_none(lambda text: units.format_cpuset(units.parse_cpuset(text))),
    "shares": _or_none(lambda text: _integer(text, "the weight", 2, 262144)),
    "pids": _or_none(lambda text: _integer(text, "a number of processes", 1, 4194304), "0"),
    "count": lambda text: _integer(text, "a count", 1, names.MOST_AT_ONCE),
    "mtu": lambda text: _integer(text, "an MTU", 68, 65535),
    "duration": _positive_duration,
    "seconds": _seconds,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "address": lambda text: str(ipam.parse_address(text)),
    "subnet": lambda text: str(ipam.parse_subnet(text)),
    "mac": ipam.parse_mac,
    "env": _env,
    "label": _label,
    "absolute": _absolute,
    "mount": _mount,
    "signal": lambda text: names.signal_name(names.parse_signal(text)),
    "capability": names.check_capability,
    "expect": parse_expect,
    "condition": _condition,
    "identifier": _identifier,
    "tail": _tail,
    "globs": _globs,
    "moment": parse_moment,
}
