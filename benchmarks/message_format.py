"""Which message format? A typical start message (about 1.5 KB), encoded and decoded: json, marshal, pickle, struct.

This decided the protocol: json, unless another is decisive beside what a start costs. json is readable in a
trace, safe to decode whoever sent it (pickle runs code, marshal may crash), and the same for every version.
`struct` is the floor: strings with lengths in front, for a message whose shape both sides know by heart.

The last two rows are one start of the lab's own, as JSON with names and unchecked, and as it travels: `messages.Start`,
a list without names, whose every field is checked when it arrives.
"""

from __future__ import annotations

import json
import marshal
import pickle
import struct
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import Report, Row, Series, interleave, main
from ctlab.runtime import messages, protocol

TURN_MESSAGES = 400
START_SECONDS = 0.003
"""What a start takes, roughly: the measure of what is decisive."""

Message = dict[str, Any]


def start_message() -> Message:
    """Nested lists and strings as a plan has them: mounts, links, addresses, limits, environment, argv."""
    folders = ("usr", "etc", "var", "opt")
    return {
        "call": "start",
        "id": 4711,
        "container": {"id": "c0ffee12", "name": "web-001", "hostname": "web-001", "node": "host"},
        "mounts": [
            ["overlay", f"/{name}", f"lowerdir=/lower/{name},upperdir=/up/{name}/u,workdir=/up/{name}/w,userxattr"]
            for name in folders
        ]
        + [["proc", "/proc", "nosuid,nodev,noexec"], ["tmpfs", "/tmp", "mode=1777,size=64m"], ["sysfs", "/sys", "ro"]],
        "links": [["veth", "v4711a", "eth0", "02:42:0a:0a:00:05", "blue", 1500]],
        "addresses": [["eth0", "10.10.0.5", 24], ["eth0", "fd00:10:10::5", 64]],
        "routes": [["default", "10.10.0.1", "eth0"], ["default", "fd00:10:10::1", "eth0"]],
        "limits": {"memory": 67108864, "cpu": [50000, 100000], "pids": 64, "shares": 1024},
        "capabilities": [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31],
        "masked": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"],
        "environment": {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "TERM": "xterm",
            "HOSTNAME": "web-001",
        },
        "binds": [["/srv/site", "/srv", "ro"], ["/srv/data", "/data", "rw"]],
        "labels": {"lab": "demo", "cell": "5", "course": "networks-2", "role": "server"},
        "command": ["python3", "-m", "http.server", "80", "--directory", "/srv"],
        "user": [0, 0, []],
        "workdir": "/",
        "stdin": "null",
    }


def _struct_encode(message: Message) -> bytes:
    """Every value in order: a tag, then an integer of 8 bytes, or a length of 4 and what it counts."""
    parts: list[bytes] = []
    pack_number, pack_length = struct.Struct("<cq").pack, struct.Struct("<cI").pack

    def put(value: Any) -> None:
        if isinstance(value, str):
            data = value.encode()
            parts.append(pack_length(b"s", len(data)))
            parts.append(data)
        elif isinstance(value, int):
            parts.append(pack_number(b"i", value))
        elif isinstance(value, list):
            parts.append(pack_length(b"l", len(value)))
            for item in value:
                put(item)
        else:
            parts.append(pack_length(b"d", len(value)))
            for key, item in value.items():
                put(key)
                put(item)

    put(message)
    return b"".join(parts)


def _struct_decode(data: bytes) -> Message:
    unpack_number, unpack_length = struct.Struct("<q").unpack_from, struct.Struct("<I").unpack_from
    at = 0

    def get() -> Any:
        nonlocal at
        tag = data[at]
        if tag == 105:
            (number,) = unpack_number(data, at + 1)
            at += 9
            return number
        (length,) = unpack_length(data, at + 1)
        at += 5
        if tag == 115:
            at += length
            return data[at - length : at].decode()
        if tag == 108:
            return [get() for _ in range(length)]
        return {get(): get() for _ in range(length)}

    message: Message = get()
    return message


_JSON = json.JSONEncoder(separators=(",", ":"))


def _json_encode(message: Message) -> bytes:
    return _JSON.encode(message).encode()


def own_start() -> messages.Start:
    """A start as the owner sends it: three operations for the network, nine mounts, the program."""
    message = start_message()
    links = [["AddAddress", "eth0", "10.10.0.5", 24], ["AddRoute", "eth0", "default", "10.10.0.1"]]
    variables = [f"{name}={value}" for name, value in message["environment"].items()]
    execute = ["Execute", message["command"], variables, "/", "0", ["CHOWN", "KILL", "SETUID"], False, False, False]
    return messages.Start(
        id="c0ffee12c0ff", key=7, name="web-001", prepare=None, filter=None, prepare_again=None, network="own",
        node_operations=[["MakeVeth", "v4711a", "eth0", "02:42:0a:0a:00:05", 1500, "blue", "web-001"]],
        inside=[["Hostname", "web-001"], *links, *message["mounts"], execute],
        limits=[["memory", "memory.max", "67108864", False], ["pids", "pids.max", "64", False]],
        mounts=["/srv/site", "/srv/data"], idmap=True, endpoints=[["blue", ["10.10.0.5"]]], links=[[3, "v4711a"]],
        processes=0, remove_at_exit=False, start=5, body="",
    )  # fmt: skip


def _as_object(body: Any) -> Any:
    return protocol.encode({"do": "start", **dict(zip(body._fields, body, strict=True))})


def _from_object(data: bytes) -> Any:
    found = protocol.decode(data)
    del found["do"]
    return messages.Start(**found)


def _from_list(data: bytes) -> Any:
    return protocol.unpack(data, messages.REQUESTS)


FORMATS: dict[str, tuple[Callable[[Message], bytes], Callable[[bytes], Any]]] = {
    "json": (_json_encode, json.loads),
    "marshal": (marshal.dumps, marshal.loads),
    "pickle": (lambda message: pickle.dumps(message, protocol=5), pickle.loads),
    "struct": (_struct_encode, _struct_decode),
    "own start, object": (_as_object, _from_object),
    "own start, typed": (protocol.pack, _from_list),
}


def measure(quick: bool) -> Report:
    """Seconds of one encode + decode, and json's share of a start against the fastest."""
    report = Report("message_format")
    sent = {name: own_start() if name.startswith("own") else start_message() for name in FORMATS}

    def side(name: str) -> Callable[[int], list[float]]:
        (encode, decode), message = FORMATS[name], sent[name]
        if decode(encode(message)) != message:
            raise ValueError(f"{name} doesn't give back what it got")

        def sample(count: int) -> list[float]:
            taken = []
            for _ in range(count):
                begin = time.perf_counter()
                for _ in range(TURN_MESSAGES):
                    decode(encode(message))
                taken.append((time.perf_counter() - begin) / TURN_MESSAGES)
            return taken

        return sample

    found: dict[str, Series] = interleave({name: side(name) for name in FORMATS}, rounds=5 if quick else 15, turn=1)
    report.series = found
    for name, (encode, _) in FORMATS.items():
        size = len(encode(sent[name]))
        report.rows.append(Row("", f"message, {name}", found[name].median * 1e6, unit="us", ours=f"{size} bytes"))
    fastest = min(series.median for name, series in found.items() if not name.startswith("own"))
    share = (found["json"].median - fastest) / START_SECONDS * 100
    report.rows.append(Row("", "json over the fastest, of a 3 ms start", share, unit="%"))
    return report


if __name__ == "__main__":
    main(measure)
