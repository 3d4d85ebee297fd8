"""The keeper of a lab in a VM: one thread outside, which boots the VM, passes on what is said, and clears up.

Started as the native keeper is (descriptors 3 = control, 4 = calls, 5 = events), watches the same things, and besides
them QEMU and virtiofsd, who die with it. The guest has a keeper of its own, which minds the guest's cgroups. What the
guest says is checked: a `Surprise` ends the lab.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

from ..errors import LINES_BELOW, BadInput, CtlabError, describe, describe_bug, one_line
from ..kernel import syscalls, title
from ..runtime import protocol, runtime_folder, seed, system_read
from ..runtime.packets import Surprise
from . import frames, preparing
from .guest_setup import HOST
from .loop import Loop
from .machine import LAST_WORDS_SECONDS, Machine
from .options import VmOptions
from .relay import Relay
from .wire import Wire

BOOT_SECONDS = 120.0  # on a busy machine, emulated; a boot takes a few
BOOT_VARIABLE = "CTLAB_VM_BOOT_SECONDS"  # for a machine that is busier still
_MOST_EARLY = 100  # frames of the guest's supervisor before it is listened to; a lab that does nothing says little
_UNREAD_BYTES = 16 << 10  # by the guest: calls wait with the owner, who waits for them, and not in between


class Keeper:
    """One VM lab, seen from outside."""

    def __init__(self, control: socket.socket, config: dict[str, Any], reader: system_read.Reader) -> None:
        self.control = control
        self.config = config
        self.reader = reader
        self.loop = Loop()
        self.owner_pidfd = os.pidfd_open(config["owner"])
        self.folder = runtime_folder.create(config["id"], config["name"], config["owner"])
        self.machine: Machine | None = None
        self.wire: Wire | None = None
        self.relay: Relay | None = None
        self._early: list[tuple[int, int, bytes]] = []  # what the guest's supervisor said before there was a relay
        self.boot: dict[str, float] = {}  # seconds from QEMU's start to: init, python, ready
        self.facts: dict[str, Any] | None = None
        self.over = False  # the owner has said so, or is gone
        self.died = ""  # why the VM ended by itself
        self.cleaned_up = False

    def start(self) -> None:
        """Boot; tell the owner. Raises CtlabError with the console's last lines."""
        self.loop.on(self.control.fileno(), self._owner_says)
        self.loop.first = self._owner_says  # what it allows comes before the call that needs it, on another socket
        self.loop.on(self.owner_pidfd, self._owner_died)
        place = self.folder.vm_folder()
        options = VmOptions(*self.config["vm"])
        limit_seconds = _boot_limit()
        machine = self.machine = Machine(place, options, lab_name=self.config["name"])
        prepared = preparing.ready(self.loop, lambda: self.over)
        if prepared is None:
            return
        machine.start(prepared)
        for pidfd in machine.pidfds.values():
            self.loop.on(pidfd, self._process_ended)
        port = machine.accept()
        port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
        wire = self.wire = Wire(self.loop, port.detach(), self._hear, self._port_lost)
        config = {key: self.config[key] for key in ("id", "name", "interval", "storage")}
        wire.send(frames.CONFIG, 0, json.dumps(config | {"program": "lab"}).encode())
        wire.send(frames.SYSTEM, 0, self.reader.whole())  # through its share each file would cost the guest much more
        booted = self.loop.run(lambda: bool(self.facts or self.died or self.over), limit_seconds, self._flush)
        if self.over:
            return
        if self.died:
            raise CtlabError(self.died)
        if not booted:
            more = f"{BOOT_VARIABLE}={2 * limit_seconds:g} gives it longer"
            raise CtlabError(f"the VM didn't get ready in {limit_seconds:g} s ({more}){self._tail()}")
        assert self.facts is not None
        self.relay = Relay(self.loop, wire, socket.socket(fileno=seed.CALLS), socket.socket(fileno=seed.EVENTS))
        for frame in self._early:
            self._hear(*frame)
        vm = {**machine.facts, "boot_seconds": self._boot_seconds()}
        mine = {"keeper": os.getpid(), "runtime_folder": self.folder.path, "cgroup_paths": [], "vm": vm}
        protocol.send(self.control, self.facts | mine)

    def _boot_seconds(self) -> dict[str, float]:
        """How long each part took: QEMU and the kernel to the first program, to Python, to the lab."""
        kernel, python = self.boot.get("init", 0.0), self.boot.get("python", 0.0)
        return {
            "kernel": round(kernel, 3),
            "python": round(python - kernel, 3),
            "lab": round(self.boot["ready"] - python, 3),
        }

    def watch(self) -> None:
        """Pass on until the owner's word, its death, or the VM's."""
        self.loop.run(lambda: self.over or bool(self.died), None, self._flush)

    def _flush(self) -> None:
        if self.relay is not None and not self.died:
            self.relay.flush()
        elif self.wire is not None and not self.died:
            self.wire.flush()

    # -- what happens -------------------------------------------------------------------------------
    def _hear(self, kind: int, number: int, body: bytes) -> None:
        if self.died:
            return
        try:
            self._heard(kind, number, body)
        except Surprise as error:
            self.died = f"the VM sent {one_line(str(error))}, so it was ended"

    def _heard(self, kind: int, number: int, body: bytes) -> None:
        if kind == frames.FATAL:
            message = _text(protocol.decode(body, protocol.MOST_VALUES), "message")
            self.died = f"the VM's lab failed: {one_line(message)}{self._tail()}"
        elif self.relay is not None:
            self.relay.hear(kind, number, body)
        elif kind == frames.BOOT:
            self._booted(protocol.decode(body, protocol.MOST_VALUES))
        elif len(self._early) < _MOST_EARLY:
            self._early.append((kind, number, body))
        else:
            raise Surprise(f"{_MOST_EARLY} frames before it was ready")

    def _booted(self, said: dict[str, Any]) -> None:
        """How far it is; with the last word come the facts of its own keeper."""
        assert self.machine is not None
        at, uptime = _text(said, "at"), said.get("uptime_seconds", -1)
        now = said.get("now", uptime)
        if at not in _STAGES or not all(type(one) in (int, float) and 0 <= one < 1e9 for one in (uptime, now)):
            raise Surprise("a frame of its boot that makes no sense")
        self.boot.setdefault(at, time.monotonic() - (now - uptime) - self.machine.started)
        if at == "ready":
            self.facts = _facts(said.get("facts"))

    def _process_ended(self) -> None:
        """One has ended, and the other follows: virtiofsd at once, or QEMU not at all."""
        self._port_lost(1.0)

    def _port_lost(self, wait_seconds: float = LAST_WORDS_SECONDS) -> None:
        """The guest's end is gone: QEMU ends too, or the supervisor has died and the guest ends itself."""
        if self.died:
            return
        machine = self.machine
        assert machine is not None
        why = machine.ended(wait_seconds) or "the VM ended: its lab did"
        self.died = f"{why}{self._tail()}"

    def _tail(self) -> str:
        lines = self.machine.console_tail().strip() if self.machine is not None else ""
        return f"{LINES_BELOW}{lines}" if lines else "; its console is empty"

    def _owner_says(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while not self.over and poll.poll(0):
            try:
                message, _, _ = protocol.receive(self.control)
            except OSError:
                message = None
            if message is None or message["do"] == "stop":
                self.over = True
            else:
                self._show(message["paths"])

    def _show(self, paths: list[str]) -> None:
        """The owner allows: let the guest see these of this machine's files, named as it sees them."""
        shares = self.machine.shares if self.machine is not None else None
        if shares is None or not shares.covered:
            return
        for path in paths:
            try:
                shares.show(path.removeprefix(HOST))
            except OSError as error:  # the guest will find nothing there
                sys.stderr.write(f"ctlab keeper: can't show {path}: {describe(error)}\n")

    def _owner_died(self) -> None:
        self.over = True

    # -- the end ------------------------------------------------------------------------------------
    def say(self, message: dict[str, Any]) -> None:
        """Tell the owner, if it is there."""
        with contextlib.suppress(OSError):
            protocol.send(self.control, message)

    def clean_up(self) -> None:
        """End the VM (everything in it ends with it) and remove the folder. Twice is no error."""
        if self.cleaned_up:
            return
        self.cleaned_up = True
        if self.machine is not None:
            self.machine.kill()
        self.folder.remove()


_STAGES = ("init", "python", "ready")
_FACTS = {  # of the guest's keeper that are told to the owner; the others are ours
    "ready": bool, "supervisor": int, "mapping": str, "single_id": bool, "cgroup": str, "controllers": list,
    "pids_by": str, "cgroup_reason": str, "cgroup_remedy": str,
}  # fmt: skip

_WORDS = {"cgroup": ("v1", "v2", "none"), "pids_by": ("cgroup", "rlimit", "none")}


def _text(said: dict[str, Any], name: str) -> str:
    text = said.get(name)
    if type(text) is not str:
        raise Surprise(f"no text as {name}")
    return text


def _facts(said: Any) -> dict[str, Any]:
    """What the guest says of its lab, if it has the types that it must have, and nothing more. Raises Surprise."""
    if type(said) is not dict:
        raise Surprise("no facts")
    for name, kind in _FACTS.items():
        value = said.get(name)
        if type(value) is not kind or (type(value) is list and not all(type(one) is str for one in value)):
            raise Surprise(f"facts without {name}")
    for name, words in _WORDS.items():
        if said[name] not in words:
            raise Surprise(f"facts whose {name} is {said[name][:20]!a}")
    return {name: one_line(said[name]) if kind is str else said[name] for name, kind in _FACTS.items()}


def _boot_limit() -> float:
    """How long a boot may take. Raises BadInput."""
    text = os.environ.get(BOOT_VARIABLE, "")
    try:
        seconds = float(text or BOOT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadInput(f"{BOOT_VARIABLE} is {text!r}: it is a number of seconds, as {BOOT_SECONDS:g}")
    return seconds


def main() -> None:
    """Run as the keeper; see the module's text for the descriptors."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the owner's word or death ends a lab
    syscalls.close_range(seed.EVENTS + 1)
    title.remember()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # every pipe of every call has an end here
    for descriptor in (seed.CONTROL, seed.CALLS, seed.EVENTS):
        os.set_inheritable(descriptor, False)
    control = socket.socket(fileno=seed.CONTROL)
    reader = system_read.start()
    config, _, _ = protocol.receive(control)
    if config is None:
        return
    title.set_title(f"ctlab keeper {config['name']} (vm)")
    keeper = None
    try:
        keeper = Keeper(control, config, reader)
        keeper.start()
    except BaseException as error:
        if not isinstance(error, OSError | CtlabError):
            import traceback

            traceback.print_exc()
            error = CtlabError(f"its keeper failed: {describe_bug(error)}")
        if keeper is not None:
            keeper.clean_up()
        with contextlib.suppress(OSError):
            protocol.send(control, protocol.failure(error))
        sys.exit(1)
    try:
        keeper.watch()
    except BaseException as error:  # a bug of ours, or a guest that makes no sense
        keeper.died = keeper.died or f"its keeper failed: {describe_bug(error)}"
    finally:
        keeper.clean_up()
        keeper.say({"gone": "died" if keeper.died else "stopped", "why": keeper.died})
