"""A virtual machine: virtiofsd, which shares this machine's files with it, and QEMU. One thread only.

All die with this process. Everything that they open is opened here and handed over as descriptors: where we are root
they run as `nobody`, and the files that the guest sees are those that an ordinary user may read.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import time
from collections.abc import Sequence

from ..errors import CtlabError, KernelError, StateError, describe
from ..kernel import process_end
from . import accel, architecture, command_line, prepare, process, programs, reader, shares
from .options import VmOptions

_CONSOLE = "console"
_LOG = "log"
_LARGEST_CONSOLE_BYTES = 4 << 20  # what more the guest or one of the programs says is lost
_TAIL_BYTES = 16 << 10
LAST_WORDS_SECONDS = 4.0  # for what a dying guest's kernel has still to say, and for QEMU to end
_MFD_CLOEXEC = 1
_SERVER_SECONDS = 60.0  # until virtiofsd serves, on a machine that is very busy; it takes some milliseconds
_GET_FEATURES = struct.pack("<III", 1, 1, 0)  # of vhost-user: request, flags (version 1), size
_FEATURES_BYTES = 20
# What is to be found on the console of a guest that has ended itself, the likeliest cause first, and what it means.
_REASONS = (
    (r"Kernel panic - (.+)", "its kernel panicked ({})"),
    (r"Out of memory: Killed process \d+ \((ctlab [^)]*)\)", "its memory was used up (its kernel killed {!r})"),
    (r"^ctlab: (the lab's keeper .+)", "{}"),
    (r"^ctlab: (.+)", "its first process failed ({})"),
)


class Machine:
    """One machine. `folder`: a private one, which is left as it is, with the console's text in it.

    `shown`: what the guest needs of this machine's files that it wouldn't see otherwise (`shares`).
    """

    def __init__(
        self,
        folder: str,
        options: VmOptions,
        *,
        program: str = "lab",
        lab_name: str = "lab",
        shown: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.options = options
        self.name = f"ctlab-{program}-{lab_name}".replace(",", ",,")  # a comma would end QEMU's -name
        self.pidfds: dict[str, int] = {}
        self.facts: dict[str, object] = {}
        self.started = 0.0
        self.shares: shares.Shares | None = None
        self._shown = shown
        self._pids: dict[str, int] = {}
        self._port: socket.socket | None = None

    def start(self, prepared: prepare.Prepared | None = None) -> None:
        """Prepare what is missing, start the programs. Raises CtlabError; nothing is left running then."""
        try:
            tools = programs.find()
            prepared = prepared or prepare.prepare()
            acceleration = accel.choose(tools.qemu, prepared.kernel)
            here = architecture.here()
            self.facts = {
                "acceleration": acceleration,
                "machine": here.machine_type,
                "kernel_release": prepared.release,
                "memory_bytes": self.options.memory_bytes,
                "cpus": self.options.cpus,
            }
            with contextlib.ExitStack() as ours:
                self._start(tools, here, prepared, acceleration, ours)
        except OSError as error:
            self.kill()
            raise KernelError(f"the VM can't start: {describe(error)}", error.errno or 0) from None
        except CtlabError:
            self.kill()
            raise

    def _start(
        self,
        tools: programs.Programs,
        here: architecture.Architecture,
        prepared: prepare.Prepared,
        acceleration: str,
        ours: contextlib.ExitStack,
    ) -> None:
        def opened(path: str | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
            descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
            ours.callback(os.close, descriptor)
            return descriptor

        log = opened(os.path.join(self.folder, _LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        console = opened(os.path.join(self.folder, _CONSOLE), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        served = {}
        view = self.shares = shares.make((*self._shown, *_place_of(tools.virtiofsd)))
        self.facts["shares"] = view.facts()
        squash = view.own_ids and programs.can_translate_ids(tools.virtiofsd)
        for name, follows in (("system", False), ("host", True)):
            listening, served[name] = self._sockets(ours)
            words = command_line.virtiofsd(tools.virtiofsd, listening, follows=follows, nobodys_to_root=squash)
            self._run(f"virtiofsd {name}", words, (listening,), log, view)  # writes only there
        memory = os.memfd_create("ctlab-vm", _MFD_CLOEXEC)
        ours.callback(os.close, memory)
        os.ftruncate(memory, self.options.memory_bytes)
        self._port, theirs = socket.socketpair()
        ours.callback(theirs.close)
        given = command_line.Descriptors(
            kernel=opened(prepared.kernel, os.O_RDONLY),
            initramfs=opened(prepared.initramfs, os.O_RDONLY),
            memory=memory,
            system=served["system"].fileno(),
            host=served["host"].fileno(),
            port=theirs.fileno(),
            console=console,
            kvm=opened(accel.DEVICE, os.O_RDWR) if acceleration == accel.KVM and reader.reader() else -1,
        )
        if view.covered:
            for server in served.values():
                _wait_for_server(server)
            view.cover_proc()
        filtered = programs.can_filter_calls(tools.qemu)
        words = command_line.qemu(tools.qemu, here, self.options, acceleration, given, self.name, filtered=filtered)
        self.started = time.monotonic()
        inherited = [descriptor for descriptor in given if descriptor >= 0]
        self._run("qemu", words, inherited, log)

    def _sockets(self, ours: contextlib.ExitStack) -> tuple[int, socket.socket]:
        """(listening, connected to it): virtiofsd accepts what already waits, so neither has to wait for the other."""
        directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        ours.callback(os.close, directory)
        listening = ours.enter_context(socket.socket(socket.AF_UNIX))
        connected = ours.enter_context(socket.socket(socket.AF_UNIX))
        place = f"/proc/self/fd/{directory}/files"  # a folder's path may be longer than a socket's may be
        listening.bind(place)
        try:
            listening.listen(1)
            connected.connect(place)
        finally:
            os.unlink(os.path.join(self.folder, "files"))
        return listening.fileno(), connected

    def _run(
        self, name: str, words: list[str], inherited: Sequence[int], log: int, view: shares.Shares | None = None
    ) -> None:
        self._pids[name], self.pidfds[name] = process.start(
            words, inherited, log, largest_file_bytes=_LARGEST_CONSOLE_BYTES, shares=view
        )

    def accept(self) -> socket.socket:
        """The port's stream, connected from the start; the caller's from now on. Raises StateError if it was given."""
        if self._port is None:
            raise StateError("the VM's port was given already, or the VM isn't started")
        port, self._port = self._port, None
        return port

    def console_tail(self, lines: int = 12) -> str:
        """The last lines that the guest's console has shown, after what QEMU and virtiofsd have complained of."""
        text = [line for name in (_LOG, _CONSOLE) for line in _last_lines(os.path.join(self.folder, name))]
        return "\n".join(text[-lines:])

    def ended(self, wait_seconds: float = 0.0) -> str:
        """Why it ended by itself, in one phrase; empty while all programs run.

        `wait_seconds`: the port is lost before a dying guest's kernel has said all, and before QEMU ends.
        """
        if "qemu" in self.pidfds:
            process.wait(self.pidfds["qemu"], wait_seconds)
        how = {name: process_end.how(pidfd) for name, pidfd in self.pidfds.items()}
        if not any(how.values()):
            return ""
        if not how.get("qemu"):
            first = next(status for status in how.values() if status)
            return f"the VM lost its files: virtiofsd ended ({first})"
        if how["qemu"] != "status 0":
            more = "; this machine may be short of memory: a smaller vm_memory?" if how["qemu"] == "SIGKILL" else ""
            return f"the VM ended: QEMU ended ({how['qemu']}{more})"
        return f"the VM ended: {_last_reason(os.path.join(self.folder, _CONSOLE))}"

    def kill(self) -> None:
        """End them, wait, close everything. Twice is no error."""
        for name in sorted(self._pids):  # QEMU first
            process.end(self._pids.pop(name), self.pidfds.pop(name))
        if self._port is not None:
            self._port.close()
            self._port = None
        if self.shares is not None:
            self.shares.close()


def _place_of(program: str) -> tuple[str, ...]:
    """Where a program has its libraries, if it isn't the system's: the folder that holds its own."""
    return (os.path.dirname(os.path.dirname(os.path.realpath(program))),)


def _wait_for_server(connected: socket.socket) -> None:
    """Until a server of a share serves, having opened all that it needs. Raises KernelError.

    It is asked what a machine asks it first anyway (vhost-user: GET_FEATURES), which changes nothing.
    """
    connected.settimeout(_SERVER_SECONDS)
    try:
        connected.sendall(_GET_FEATURES)
        answer = connected.recv(_FEATURES_BYTES, socket.MSG_WAITALL)
    except OSError as error:
        raise KernelError(f"virtiofsd doesn't answer: {describe(error)}", error.errno or 0) from None
    finally:
        connected.settimeout(None)
    if len(answer) != _FEATURES_BYTES:
        raise KernelError("virtiofsd has ended before it served", 0)


def _last_reason(console: str) -> str:
    """What the guest has said of its end: of a panic the first line, which registers and a trace follow."""
    lines = _last_lines(console)
    for sign, told in _REASONS:
        for line in reversed(lines):
            if found := re.search(sign, line):
                return told.format(found[1])
    return "its kernel stopped"


def _last_lines(path: str) -> list[str]:
    """The last lines of a file, without empty ones and signs that aren't text."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    shown = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text.replace("\r", ""))
    return [line.rstrip() for line in shown.splitlines() if line.strip()]
