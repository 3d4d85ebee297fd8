"""A supervisor that answers with anything: whatever somebody does with a lab then, it works or is a CtlabError.

Seeded and short; longer with CTLAB_TEST_LONG=1. Another error, a hang, descriptors that stay open fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile_supervisor import DONE, Answer, Supervisor, hostile_lab
from kernel_help import no_hang, open_descriptors, tries, wait_until

from ctlab import asking
from ctlab.container import Container
from ctlab.errors import CtlabError, LabGone
from ctlab.lab import Lab
from ctlab.runtime import messages, protocol

TIMES = tries(1, 100)  # the short form takes some seconds
TEXTS = ("", "a", "running", "paused", "\x1b[2J\n", "\ud800", "x" * 3000, "<b>", "00" * 20, "zz", "BadInput", "LabGone")


def any_value(order: random.Random, annotation: str) -> Any:
    """Something of that type: an honest one would say other things."""
    if annotation.endswith(" | None"):
        return None if order.random() < 0.3 else any_value(order, annotation.removesuffix(" | None"))
    if annotation.startswith("list["):
        return [any_value(order, annotation[5:-1]) for _ in range(order.choice((0, 1, 2, 5)))]
    if annotation.startswith("dict[str, "):
        return {order.choice(TEXTS): any_value(order, annotation[10:-1]) for _ in range(order.randrange(3))}
    found: dict[str, Callable[[], Any]] = {
        "int": lambda: order.choice((0, 1, -1, 5, 255, 1 << 31, (1 << 63) - 1, order.getrandbits(40))),
        "float": lambda: order.choice((0.0, -1.5, 1e299, 7)),
        "str": lambda: order.choice(TEXTS),
        "bool": lambda: order.random() < 0.5,
        "Any": lambda: order.choice((None, 1, "x", [], {})),
    }
    return found[annotation]() if annotation in found else any_fields(order, getattr(messages, annotation))


def any_fields(order: random.Random, kind: Any) -> list[Any]:
    """The fields of a message of a kind."""
    return [any_value(order, annotation) for annotation in kind.__annotations__.values()]


class Liar:
    """Answers honestly, nearly so, or with anything."""

    def __init__(self, order: random.Random, supervisor: Supervisor) -> None:
        self._order, self._supervisor = order, supervisor
        self.honesty = order.choice((0.0, 0.5, 0.9, 0.97))
        self._master, self._slave = pty.openpty()
        fixed = os.memfd_create("fixed", os.MFD_ALLOW_SEALING)
        os.write(fixed, b'["Ok"]')
        fcntl.fcntl(fixed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        self._own = [self._master, self._slave, fixed, *os.pipe(), os.open("/", os.O_PATH), os.eventfd(0)]
        self.some = [*self._own, supervisor.log, *(ring.fd for ring in supervisor.rings)]
        for kind in messages.REQUESTS.values():
            supervisor.lies[kind] = self.answer

    def answer(self, request: Any) -> Answer:
        """One answer."""
        order = self._order
        honest, sent = self._supervisor.answer(request)
        kind, fields = type(honest), list(honest)
        if order.random() < self.honesty:
            return protocol.pack(honest), sent
        if order.random() < 0.6:
            fields = any_fields(order, kind)
        elif order.random() < 0.5:
            kind = order.choice(list(messages.ANSWERS.values()))
            fields = any_fields(order, kind)
            sent = [] if order.random() < 0.7 else sent
        if order.random() < 0.2:
            sent = [order.choice(self.some) for _ in range(order.randrange(4))]
        body = json.dumps([kind.__name__, *fields]).encode()
        if order.random() < 0.1:
            bad = bytearray(body)
            bad[order.randrange(len(bad))] = order.randrange(256)
            body = bytes(bad)
        return body, sent

    def tell(self) -> None:
        """An event."""
        order = self._order
        kind = order.choice(list(messages.EVENTS.values()))
        fields = any_fields(order, kind)
        if order.random() < 0.02:
            fields = fields[1:]
        with contextlib.suppress(OSError):
            self._supervisor.tell(json.dumps([kind.__name__, *fields]).encode())

    def close(self) -> None:
        """What it has open."""
        for descriptor in self._own:
            os.close(descriptor)


def things_to_do(lab: Lab, container: Container, folder: Path, order: random.Random) -> dict[str, Callable[[], Any]]:
    """All that asks the inside for something."""
    file = folder / "file"
    file.write_text("x")
    return {
        "run": lambda: lab.run(["true"], stdin="x"),
        "many": lambda: lab.run(["true"], count=3),
        "exec": lambda: container.exec(["true"], stdin="abc"),
        "tty": lambda: container.exec(["true"], tty=True),
        "detached": lambda: container.exec(["true"], detach=True),
        "neighbours": container.neighbours,
        "logs": lambda: container.logs(tail=3, timestamps=True),
        "follow": lambda: container.follow(lambda *_: None, timestamps=True),
        "stop": lambda: container.stop(timeout=0),
        "kill": lambda: container.kill("SIGUSR1"),
        "pause": container.pause,
        "unpause": container.unpause,
        "update": lambda: container.update(pids_limit=order.randrange(1, 99)),
        "rename": lambda: container.rename(f"n{order.randrange(1 << 30)}"),
        "start": container.start,
        "wait": lambda: container.wait(0.02),
        "top": container.top,
        "inspect": container.inspect,
        "cp out": lambda: container.copy_out("/etc/x", folder),
        "cp in": lambda: container.copy_in(file, "/tmp"),
        "write": lambda: container.write("/a/b", "text"),
        "network": lambda: lab.network(f"n{order.randrange(1 << 30)}"),
        "stats": lambda: lab.stats(last=None),
        "port": lambda: lab.wait_for(container, 80, timeout=0.01),
        "status": lab.status,
        "links": lambda: lab.nodes[0].links(),
        "routes": container.routes,
        "map": lambda: (lab.map_elements(), lab.details(f"container-{container.id}"), repr(container), repr(lab)),
        "html": lambda: (container._repr_html_(), lab._repr_html_()),
        "remove": container.remove,
    }


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """What takes longer than this hangs."""
    with no_hang(60 * TIMES):
        yield


@pytest.mark.filterwarnings("ignore:the lab.s sampler:RuntimeWarning")
def test_a_supervisor_that_answers_with_anything(tmp_path: Path) -> None:
    order = random.Random(41)
    before, done, refused, over = open_descriptors(), 0, 0, 0
    for _ in range(60 * TIMES):
        with contextlib.ExitStack() as after:
            lab, supervisor = after.enter_context(hostile_lab())
            container = lab.run(["sleep", "1"], name="web")
            os.pwrite(supervisor.log, (1).to_bytes(8, "little"), 8 * 6)  # it has ended: nobody follows for ever
            liar = Liar(order, supervisor)
            after.callback(liar.close)
            for _ in range(60):
                if order.random() < 0.3:
                    liar.tell()
                what, act = order.choice(list(things_to_do(lab, container, tmp_path, order).items()))
                try:
                    act()
                    done += 1
                except CtlabError as error:
                    refused += 1
                    assert "\n" not in str(error), (what, error)
                    str(error).encode()
                    over += isinstance(error, LabGone)
                except Exception as error:
                    raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
                if container._gone:
                    break
                if lab.gone:
                    assert wait_until(lambda lab=lab: lab._client._explained)
                    assert "its inside sent" in lab._client.why_gone, lab._client.why_gone
                    break
            assert all(note.isprintable() for note in lab.notes)
        del lab, supervisor, container, liar, act
    assert done > 50 and refused > 20 and over > 5
    assert wait_until(lambda: open_descriptors() <= before), (before, open_descriptors())


def test_a_dump_that_is_anything() -> None:
    """The kernel's tables come through the inside: what isn't the kernel's is refused, and never read for ever."""
    order = random.Random(42)
    refused = read = 0
    said = messages.Dumped("")
    lab: Any = SimpleNamespace(
        _call=lambda *_: SimpleNamespace(message=said), _client=SimpleNamespace(end_for=LabGone)
    )  # fmt: skip
    for _ in range(4000 * TIMES):
        data = bytearray()
        for _ in range(order.randrange(3)):
            body = bytearray(order.randbytes(order.choice((8, 12, 16))))
            for _ in range(order.randrange(5)):
                value = order.randbytes(order.randrange(0, 40, 4))
                length = 4 + len(value) if order.random() < 0.8 else order.randrange(1 << 16)
                body += struct.pack("=HH", length, order.randrange(60)) + value
            data += struct.pack("=IHHII", 16 + len(body), order.choice((16, 20, 24, 28)), 2, 1, 0) + body
        if data and order.random() < 0.2:
            data[order.randrange(len(data))] = order.randrange(256)
        said = messages.Dumped((data + DONE).hex())
        try:
            asking.ask(lab, None, order.choice(("routes", "neighbours", "links", "addresses")))
            read += 1
        except CtlabError:
            refused += 1
    assert read > 20 and refused > 5
