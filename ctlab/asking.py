"""Questions to a network namespace's kernel: the supervisor asks them inside, pyroute2's classes read the answer.

The request's bytes go in and the answer's bytes come out, so nothing that is open inside is held here, and a lab on a
kernel of its own, out of which no socket can be handed, answers in the same way.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

from .apart import ready
from .errors import CtlabError, KernelError
from .runtime import messages

if TYPE_CHECKING:
    from .lab import Lab

_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_DONE, _ERROR = 3, 2
_NAMES = ("IFLA_IFNAME", "IFLA_IFALIAS")  # whose bytes are whatever who may name a link has taken
_QUESTIONS = {"routes": (26, 12), "neighbours": (30, 12), "links": (18, 16), "addresses": (22, 8)}
_PARSERS = tuple(f"pyroute2.netlink.rtnl.{name}" for name in ("ifaddrmsg", "ifinfmsg", "ndmsg", "rtmsg"))


def ask(lab: Lab, container_id: str | None, question: str) -> list[dict[str, Any]]:
    """Dump a table: routes, neighbours, links or addresses; each entry with `attributes` by their kernel names.

    Raises KernelError for what the kernel refuses, StateError for a container that isn't running.
    """
    kind, body = _QUESTIONS[question]
    request = struct.pack("=IHHII", 16 + body, kind, _NLM_F_REQUEST_DUMP, 1, 0) + bytes(body)
    ready(*_PARSERS)  # here, since what fails below is the inside's fault
    reply = lab._call(messages.Dump(container_id, request.hex()), messages.Dumped)
    try:
        return decode(question, bytes.fromhex(reply.message.reply))
    except CtlabError:
        raise
    except Exception as error:  # the kernel's own messages are whole: somebody else has made these
        what = f"as the dump of {question} what can't be read ({type(error).__name__})"
        raise lab._client.end_for(what) from None


def decode(question: str, data: bytes) -> list[dict[str, Any]]:
    """The entries in a dump's messages, which end with DONE or ERROR. Raises KernelError, CtlabError (torn)."""
    ready(*_PARSERS)
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    parser = {"routes": rtmsg, "neighbours": ndmsg, "links": ifinfmsg, "addresses": ifaddrmsg}[question]
    found: list[dict[str, Any]] = []
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16 or offset + length > len(data):
            break
        if kind == _DONE:
            return found
        if kind == _ERROR:
            number = -struct.unpack_from("=i", data, offset + 16)[0] if length >= 20 else 0
            raise KernelError(f"netlink dump of {question}: {os.strerror(number)}", number)
        message = parser(data[offset : offset + length])
        message.decode()
        entry = {name: value for name, value in message.items() if name not in ("attrs", "header")}
        entry["attributes"] = {name: _text(value) if name in _NAMES else value for name, value in message["attrs"]}
        found.append(entry)
        offset += (length + 3) & ~3
    raise CtlabError(f"the answer to the dump of {question} is torn after {offset} of {len(data)} bytes")


def _text(name: str | bytes) -> str:
    """A name as text: of what isn't UTF-8 the parser gives the bytes."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name


def routes(lab: Lab, container_id: str | None, names: dict[int, str]) -> list[dict[str, Any]]:
    """The main table as `ip -j route` names things: dst, gateway, dev, prefsrc."""
    result = []
    for entry in ask(lab, container_id, "routes"):
        attributes = entry["attributes"]
        if attributes.get("RTA_TABLE", entry["table"]) != 254:
            continue
        destination = attributes.get("RTA_DST")
        result.append(
            {
                "dst": f"{destination}/{entry['dst_len']}" if destination else "default",
                "gateway": attributes.get("RTA_GATEWAY"),
                "dev": names.get(attributes.get("RTA_OIF", 0), "?"),
                "prefsrc": attributes.get("RTA_PREFSRC"),
            }
        )
    return result


def neighbours(lab: Lab, container_id: str | None, names: dict[int, str]) -> list[dict[str, Any]]:
    """The neighbour table: dst, lladdr, dev, state."""
    states = {
        1: "INCOMPLETE",
        2: "REACHABLE",
        4: "STALE",
        8: "DELAY",
        16: "PROBE",
        32: "FAILED",
        64: "NOARP",
        128: "PERMANENT",
    }
    return [
        {
            "dst": entry["attributes"].get("NDA_DST"),
            "lladdr": entry["attributes"].get("NDA_LLADDR"),
            "dev": names.get(entry["ifindex"], "?"),
            "state": states.get(entry["state"], str(entry["state"])),
        }
        for entry in ask(lab, container_id, "neighbours")
        if entry["state"] != 64
    ]


def link_names(lab: Lab, container_id: str | None) -> dict[int, str]:
    """Interface index → name."""
    return {entry["index"]: entry["attributes"].get("IFLA_IFNAME", "?") for entry in ask(lab, container_id, "links")}
