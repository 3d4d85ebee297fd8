"""The supervisor: PID 1 of a lab's PID namespace. One thread, one loop, standard library only.

It is cloned (not exec'ed) by the keeper's seed, and imports everything that it needs while it still has its owner's
ids: as the lab's root the interpreter's own files may be out of reach. Calls come over SEQPACKET sockets and are
served by the verbs of `starts`, `ends`, `changes`, `execution`, `inspection` and `archive`; what happens by itself
goes out as events. Where it waits in the middle of one (a helper's answer, a freeze, the copy of the system) that has a
limit in seconds; only for what it has killed it waits as long as the kernel takes.
"""

from __future__ import annotations

import _socket
import base64
import contextlib
import errno
import gc
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..kernel import cgroup, launcher, netlink, syscalls
from ..plan import ops
from . import (
    admission,
    archive,
    changes,
    ends,
    execution,
    executor,
    foreground,
    inspection,
    messages,
    orders,
    packets,
    pool,
    protocol,
    room,
    services,
    slot,
    starts,
    storage,
    tree,
)
from .calls import Call, Refused
from .context import LAUNCHER, Context, Filter
from .descriptors import Descriptors
from .nursery import become_root
from .packets import Surprise
from .record import Record, Runner

if TYPE_CHECKING:
    from ..vm.channel import Channel
    from .seed import Start

_QUIET_SECONDS = 0.005  # after a call, before housekeeping
_MOST_LATER = 40  # pieces of housekeeping that are put off
_RENAME_AFTER_SECONDS = 0.004
_ROOM_TRIES, _ROOM_STEP_SECONDS = 100, 0.01  # a call waits so long for descriptors that others are about to close


Verb = Callable[["Supervisor", Call], None]
VERBS: dict[type, Verb] = {
    **admission.VERBS,
    **starts.VERBS,
    **ends.VERBS,
    **foreground.VERBS,
    **changes.VERBS,
    **execution.VERBS,
    **inspection.VERBS,
    **archive.VERBS,
}


class Supervisor(Descriptors):
    """The state of a lab's inside and its loop."""

    def __init__(
        self, start: Start, folders: cgroup.LabFolders | None, nursery: tuple[_socket.socket, int, int]
    ) -> None:
        super().__init__()
        self.start = start
        self.folders = folders
        self._first_nursery = nursery
        self.events = socket.socket(fileno=start.events)
        self.keeper = socket.socket(fileno=start.keeper)
        self.single_id = start.single_id
        self.records: dict[str, Record] = {}
        self.removed: dict[str, str] = {}  # of the last ones that were removed: id -> name, for who calls meanwhile
        self.tree = tree.Tree(start.host_top, start.storage_bytes, start.storage_inodes)
        self.full_until = 0.0  # by then no removal waits for room in the storage: one has, in vain
        self.freed_until = 0.0  # by then all is given back of what has ended
        self._renames: dict[int, tuple[str, str]] = {}  # links in use that may not have their names yet
        self._later: list[Callable[[], None]] = []
        self._quiet_at = 0.0  # when the last call is long enough ago for housekeeping
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.executions: dict[int, Runner] = {}
        self.inside: dict[int, int] = {}  # our own children in containers' PID namespaces: pid -> pidfd
        self.watching_orphans = False
        self.channel: Channel | None = None  # to an owner outside of this (virtual) machine
        self._untold: deque[bytes] = deque()  # events that the owner has no room for at present

    # -- the loop -------------------------------------------------------------------------------
    def _do(self, action: Callable[[], None]) -> None:
        """Housekeeping that fails (a bug of ours, a helper that died) is told and must not end the lab."""
        try:
            action()
        except Exception as error:
            self.tell(messages.Note(f"supervisor: {type(error).__name__}: {error}"))

    def later(self, action: Callable[[], None]) -> None:
        """Do something when nobody has called for a moment: housekeeping that no caller should pay for.

        A program that starts containers one after the other calls again within a millisecond, and would wait for it.
        """
        self._later.append(action)

    def catch_up(self) -> None:
        """Do what was put off: somebody waits for the room that it makes."""
        while self._later:
            self._do(self._later.pop(0))

    def _rest(self) -> float:
        """Seconds until housekeeping may be done; not put off when much of it has gathered."""
        if len(self._later) > _MOST_LATER:
            return 0.0
        return max(0.0, self._quiet_at - time.monotonic())

    @staticmethod
    def now() -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after a time."""
        self._timers.append((time.monotonic() + seconds, action))
        self._timers.sort(key=lambda timer: timer[0])

    def run(self) -> NoReturn:
        """Serve until the kernel ends us."""
        while True:
            timeout = -1.0
            if self._timers:
                timeout = max(0.0, self._timers[0][0] - time.monotonic())
            if self._later:
                rest = self._rest()
                timeout = rest if timeout < 0 else min(timeout, rest)
            if self.channel is not None:
                self.channel.flush()
            served = self.wait(timeout, self._do)
            now = time.monotonic()  # what is to be done at once from now on is for the next round
            while self._timers and self._timers[0][0] <= now:
                self._do(self._timers.pop(0)[1])
            if self._later and (len(self._later) > _MOST_LATER or (not served and not self._rest())):
                self._do(self._later.pop(0))

    # -- calls -----------------------------------------------------------------------------------
    def connect(self, connection: socket.socket) -> None:
        """Serve calls on one more connection."""
        self.on(connection.fileno(), lambda: self._serve(connection))

    def _serve(self, connection: socket.socket, tries: int = _ROOM_TRIES) -> None:
        if tries and room.left() < room.CALL - room.RESERVE:
            # What came with it would be lost. Others are being served, and end.
            self.off(connection.fileno())
            self.after(_ROOM_STEP_SECONDS, lambda: self._serve_again(connection, tries - 1))
            return
        try:
            body, descriptors, _ = packets.receive(connection)
        except OSError as error:
            if error.errno == errno.EMFILE:  # of what came along
                text = room.named("the call can't be taken", error.errno)
                Call(connection, None, []).fail("KernelError", text, error.errno)
                return
            body, descriptors = b"", []
        except Surprise as error:
            Call(connection, None, []).fail("CtlabError", f"the supervisor was sent {error}")
            return
        if not body:
            self.off(connection.fileno())
            connection.close()
            return
        self.request(Call(connection, None, descriptors), body)

    def _serve_again(self, connection: socket.socket, tries: int) -> None:
        self.connect(connection)
        self._serve(connection, tries)

    def request(self, call: Call, body: bytes) -> None:
        """Serve a call that has come as these bytes; what is no request is refused."""
        try:
            call.message = protocol.unpack(body, messages.REQUESTS)
        except Surprise as error:
            call.fail("CtlabError", f"the supervisor was sent {error}")
            call.close_descriptors()
            return
        self.dispatch(call)

    def dispatch(self, call: Call, verb: Verb | None = None) -> None:
        """Serve a call; `verb`: go on with one."""
        self._quiet_at = time.monotonic() + _QUIET_SECONDS
        try:
            (verb or VERBS.get(type(call.message)) or _OWN[type(call.message)])(self, call)
        except Exception as error:  # a bug of ours must not end the lab
            self.fail(call, error)
            call.close_descriptors()

    def fail(self, call: Call, error: Exception) -> None:
        """Answer a call with what went wrong in serving it."""
        if isinstance(error, Refused):
            call.fail(error.kind, str(error), error.errno)
        elif not isinstance(error, executor.Failure | OSError):
            call.fail("CtlabError", f"{type(error).__name__}: {error}")
        elif (record := self.records.get(getattr(call.message, "id", ""))) and (
            why := ends.why_gone(self, record, record.slot)
        ):
            call.fail("StateError", why)
        elif isinstance(error, executor.Failure):
            call.fail("KernelError", room.named(str(error), error.errno), error.errno)
        else:
            text = room.named(error.strerror or str(error), error.errno or 0)
            failure = {"error": "KernelError", "message": text, "errno": error.errno or 0}
            call.fail("KernelError", storage.named(failure)["message"], error.errno or 0)

    def tell(self, event: tuple[Any, ...]) -> None:
        """Send one of `messages.EVENTS` to the owner. One that doesn't listen (a busy notebook) holds nobody up."""
        body = protocol.pack(event)
        if self.channel is not None:
            self.channel.event(body)
            return
        self._untold.append(body)
        if len(self._untold) == 1:
            self._tell()

    def _tell(self) -> None:
        while self._untold:
            try:
                packets.send(self.events, self._untold[0], flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.after(_TELL_AGAIN_SECONDS, self._tell)
                return
            except OSError:
                self._untold.clear()  # nobody is there any more
                return
            self._untold.popleft()

    def record(self, container_id: str) -> Record:
        """The container of that id. Raises Refused."""
        record = self.records.get(container_id)
        if record is not None:
            return record
        if (name := self.removed.get(container_id)) is not None:
            raise Refused("StateError", f"container {name}: it was removed")
        raise Refused("NotFound", f"no container with id {container_id}")

    def detached_mount(self, path: str, idmap: bool) -> int:
        """A detached mount of a host path: from the keeper where it has the privilege, else from our own copy."""
        if not self.start.single_id and self.start_by_root:
            protocol.send(self.keeper, {"path": path, "idmap": idmap})
            answer, descriptors, _ = protocol.receive(self.keeper)
            if answer is None or "error" in answer:
                raise OSError((answer or {}).get("errno", 0), (answer or {}).get("message", "the keeper is gone"))
            if answer["refused"]:
                name = errno.errorcode.get(answer["refused"], "?")
                why = "its file system has no id-mapped mounts" if name == "EINVAL" else "it can't be mounted id-mapped"
                self.tell(messages.Note(f"{path}: {why} ({name}), so inside its files belong to nobody"))
            return descriptors[0]
        return self.tree.detached(path)

    # -- start-up -------------------------------------------------------------------------------
    def take_identity(self) -> None:
        """Become the lab's root, then tie our life to the keeper's (a credential change clears the signal)."""
        message, _, _ = protocol.receive(self.keeper)
        if message is None:
            os._exit(0)
        with open("/proc/self/uid_map", encoding="ascii") as file:
            outside = int(file.read().split()[1])
        self.start_by_root = self.start.by_root and outside != 0
        become_root(single_id=self.single_id)
        protocol.send(self.keeper, {"identity": True})
        message, _, _ = protocol.receive(self.keeper)
        if message is None:
            os._exit(0)

    def build(self) -> None:
        """The lab's own root, its default node, its helpers."""
        self.tree.build()
        self.context = Context(self.folders, self.single_id, launcher.Launcher(LAUNCHER))
        self.context.system = self.start.system  # until the nursery says that it has made the copy
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: so that is heard, and mended
            orders.send(self._first_nursery[0], {"enter": True}, [namespace])
        os.close(namespace)
        syscalls.sethostname("ctlab")
        self.node_link = netlink.Netlink()
        self.own_pidfd = os.pidfd_open(os.getpid())
        self.own_network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.node_link.run([netlink.set_link(1, up=True)])
        slot.set_up_network()
        gc.collect()
        gc.freeze()  # what was imported is never looked at again, so its pages stay shared with the children
        if self.start.port >= 0:
            self._open_channel()
        self.services = services.Services(self)
        control, pid, pidfd = self._first_nursery
        self.services.nursery.adopt(socket.socket(fileno=control.detach()), pid, pidfd)
        served = self.services
        self.node = executor.NodeExecutor(self.node_link, served.listen, served.stop_listening, self._rename)
        self.pool = pool.Pool(self)
        calls = socket.socket(fileno=self.start.calls)
        self.connect(calls)
        self.on(self.events.fileno(), self._owner_says)

    def _open_channel(self) -> None:
        """The owner is outside of this (virtual) machine: what helpers report to it goes through the channel, too."""
        from ..vm.channel import Channel

        channel = self.channel = Channel(self, self.start.port)
        self.events.close()
        ours, self.events = protocol.pair()

        def said() -> None:
            body, _, _ = packets.receive(ours)
            if body:
                channel.event(body)

        self.on(ours.fileno(), said)

    def _rename(self, number: int, name: str, alias: str) -> None:
        """Let the nursery rename a link, once its start no longer needs the kernel's network lock."""
        self._renames[number] = (name, alias)

        def rename() -> None:
            if number in self._renames and not self.pool.rename(number, name, alias):
                self.settle_names()

        self.after(_RENAME_AFTER_SECONDS, rename)

    def renamed(self, numbers: list[int]) -> None:
        """The nursery has done it."""
        for number in numbers:
            self._renames.pop(number, None)

    def settle_names(self) -> None:
        """Somebody is about to look at the node's links: those that may still wait for their names get them now."""
        for number, (name, alias) in self._renames.items():
            with contextlib.suppress(OSError):  # gone already
                self.node_link.run([netlink.set_link(number, name=name, alias=alias)])
        self._renames.clear()

    def _owner_says(self) -> None:
        """The owner sends one thing on the event socket: the far end of one more call connection."""
        message, descriptors, _ = protocol.receive(self.events)
        if message is None:
            self.off(self.events.fileno())
        for descriptor in descriptors:
            self.connect(socket.socket(fileno=descriptor))


_TELL_AGAIN_SECONDS = 0.01


def _configure(supervisor: Supervisor, call: Call) -> None:
    """What a slot is: operations, limits, the lab's filter of system calls (in base64); how many to keep ready."""
    message: messages.Configure = call.message
    early, late = map(base64.b64decode, message.filter)
    supervisor.pool.configure(message.operations, message.limits, message.slots, Filter(early, late))
    call.reply(messages.Ok())


def _perform(supervisor: Supervisor, call: Call) -> None:
    """Node operations: networks made and removed."""
    supervisor.node.perform(ops.decode(call.message.operations))
    call.reply(messages.Ok())


_OWN: dict[type, Verb] = {messages.Configure: _configure, messages.Perform: _perform}


def main(start: Start, folders: cgroup.LabFolders | None, nursery: tuple[_socket.socket, int, int]) -> NoReturn:
    """In the clone: become the supervisor. `nursery`: its control socket, pid and pidfd."""
    if start.port >= 0:
        from ..vm import channel  # noqa: F401 - now, with its owner's ids; see the module's text
    supervisor = Supervisor(start, folders, nursery)
    try:
        supervisor.take_identity()
        supervisor.build()
    except OSError as error:
        protocol.send(supervisor.keeper, protocol.failure(error))
        os._exit(1)
    protocol.send(supervisor.keeper, {"ready": True})
    supervisor.run()
